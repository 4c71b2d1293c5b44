"""The whole road in one command: python -m launch.demo [--output=demo].

Builds an embedded dataset (cached), trains configs/onet_points.py:tiny, evaluates it on held-out shapes and writes meshes,
a contact sheet, a page to turn them in 3D, and metrics.json. About five minutes on two CPU cores.
"""

import time
from pathlib import Path

from absl import flags

import launch

OUTPUT = flags.DEFINE_string('output', 'demo', 'Folder for everything that the demo writes.')
NUM_SHOWN = flags.DEFINE_integer('num_shown', 16, 'Held-out shapes to write as meshes and to show.')


def main(_):
    from configs import onet_points
    from onet_jax.data.prepare import embedded_dataset
    from onet_jax.evaluation.evaluate import evaluate
    from onet_jax.evaluation.report import write_report
    from onet_jax.training.checkpoints import load_run
    from onet_jax.training.loop import train

    start = time.monotonic()
    output, config = Path(OUTPUT.value), onet_points.get_config('tiny')
    data_dir = embedded_dataset(config.data)
    trained = time.monotonic()
    train(config, output / 'run', data_dir)
    seconds_train = time.monotonic() - trained
    run = load_run(output / 'run')
    results = list(evaluate(run.method, run.params, run.config, data_dir, 'test'))
    write_report(
        output,
        output / 'run',
        results,
        num_shown=NUM_SHOWN.value,
        seconds={'seconds_train': seconds_train, 'seconds_total': lambda: time.monotonic() - start},
    )
    print(f'open {output / "index.html"}')


if __name__ == '__main__':
    launch.run(main)
