"""Compile a config for a slice of TPUs without having one: memory, time and communication of every program.

    onet compile --config=onet_points --topology=v5e:16x16 [--batch_size=256]

Needs `pip install 'onet_jax[tpu]'`, and minutes: initial weights, the training step, validation, the functions of the model and
the extraction of a batch of meshes are compiled one after the other. A line of the table says of one chip

    compiled             seconds of CPUs
    HLO                  bytes of the text of the compiled program
    held, temporaries    memory of arguments, results and program; of all else, and the share of both in what a chip allows
    GFLOP, GB moved      matrix products; bytes read from the memory and written to it. '>': loops of unknown length count once
    matrix, memory       the time of either at the peak of the chip: together they need at least the longer one
    links                the time of the all-reduces, by a model of the links
    expected             cycles that the compiler expects, and links

and the last line the largest batch that fits. What the compiler dies over, or does not finish in time, is a line that says so.
docs/tpu_pod.md has these figures of all configs.
"""

from absl import flags
from ml_collections import config_flags

from . import run_command

CONFIG = config_flags.DEFINE_config_file('config', None, 'File of the config, optionally with a variant: FILE.py:tiny.')
TOPOLOGY = flags.DEFINE_string(
    'topology', None, 'Kind of TPU and chips along each axis, such as v5e:16x16 or v5p:4x4x4.'
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Of all chips; by default that of the config.', lower_bound=1)
TIME_LIMIT_S = flags.DEFINE_float('time_limit_s', 1200.0, 'Of the compilation of one program.', lower_bound=1.0)
flags.mark_flags_as_required(['config', 'topology'])


def main(_):
    from onet_jax.training.compile_report import report

    for line in report(CONFIG.value, TOPOLOGY.value, BATCH_SIZE.value, TIME_LIMIT_S.value):
        print(line, flush=True)


if __name__ == '__main__':
    run_command(main)
