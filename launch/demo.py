"""Meshes from weights of the package, then a training and its evaluation, in one command: onet demo [--output=demo].

First noisy point clouds of held-out solids and of a room become meshes: OUTPUT/index.html, in a minute on two CPU cores. Then
configs/conv_onet.py:tiny (feature planes) is trained for --minutes on an embedded dataset (built once, cached) and evaluated on
held-out shapes: OUTPUT/trained/index.html.
"""

from pathlib import Path

from absl import flags

from . import run_command, tell_next

OUTPUT = flags.DEFINE_string('output', 'demo', 'Folder for everything that the demo writes.')
MINUTES = flags.DEFINE_float('minutes', 3.0, 'Of a new training: how many steps this machine makes is measured.', 0.1)
NUM_STEPS = flags.DEFINE_integer('num_steps', None, 'Training steps, instead of --minutes.', lower_bound=1)
NUM_SHOWN = flags.DEFINE_integer(
    'num_shown', 18, 'Shapes of the evaluation to write as meshes and to show.', lower_bound=1
)


def main(_):
    from onet_jax.configs import conv_onet
    from onet_jax.demo import show

    output = Path(OUTPUT.value)
    show(conv_onet('tiny'), output, MINUTES.value, NUM_STEPS.value, NUM_SHOWN.value)
    done = f'{output}/index.html and {output}/trained/index.html show the shapes'
    tell_next(done, 'onet', 'reconstruct', 'scan.ply', f'--output={output}/mine')


if __name__ == '__main__':
    run_command(main)
