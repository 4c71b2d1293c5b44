"""Diagnose this machine, above all why a GPU is not used: onet doctor.

Prints versions, devices, precision, memory and caches. Exit code 1 where something is broken; a GPU that is absent or
switched off is not.
"""

import sys

from . import run_command


def main(_):
    from onet_jax.training.machine import examine

    lines, problems = examine()
    print('\n'.join(lines))
    for problem in problems:
        print(f'broken: {problem}')
    sys.exit(1 if problems else 0)


if __name__ == '__main__':
    run_command(main)
