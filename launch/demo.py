"""The whole road in one command: python -m launch.demo [--output=demo].

Builds an embedded dataset (cached), trains configs/onet_points.py:tiny, evaluates it on held-out shapes and writes meshes,
a contact sheet, a page to turn them in 3D, and metrics.json. Less than five minutes on two CPU cores.
"""

import time
from pathlib import Path

from absl import flags

import launch

OUTPUT = flags.DEFINE_string('output', 'demo', 'Folder for everything that the demo writes.')
NUM_SHOWN = flags.DEFINE_integer('num_shown', 18, 'Held-out shapes to write as meshes and to show.', lower_bound=1)


def main(_):
    from configs import onet_points
    from onet_jax.data.prepare import embedded_dataset
    from onet_jax.data.procedural import make_shape
    from onet_jax.evaluation import tables
    from onet_jax.evaluation.evaluate import evaluate
    from onet_jax.evaluation.report import write_report
    from onet_jax.files import write_json
    from onet_jax.training.checkpoints import load_run
    from onet_jax.training.log import read_log
    from onet_jax.training.loop import train

    start = time.monotonic()
    output, config = Path(OUTPUT.value), onet_points.get_config('tiny')
    data_dir = embedded_dataset(config.data)
    train(config, output / 'run', data_dir)
    # From the log: a demo that is run again goes on with the training it finds.
    seconds_train = sum(seconds for _, seconds in read_log(output / 'run', 'train/seconds'))

    run = load_run(output / 'run')
    results = list(evaluate(run.method, run.params, run.config, data_dir, 'test'))
    write_report(
        output,
        results,
        lambda result: make_shape(config.data.dataset_seed, result.category, int(result.name)).mesh(),
        title='Occupancy networks from 300 noisy points',
        lead=f'{len(results)} shapes that the network has never seen, after {seconds_train:.0f} seconds of training.',
        num_shown=NUM_SHOWN.value,
        curves=[
            ('training loss (nats a shape)', read_log(output / 'run', 'train/loss'), True),
            ('validation IoU', read_log(output / 'run', 'val/iou'), False),
        ],
    )
    seconds = {'seconds_total': time.monotonic() - start, 'seconds_train': seconds_train}
    write_json(output / 'metrics.json', {**tables.summary(results), **seconds})
    print(tables.to_markdown(*tables.make_table(results)))
    print(f'{seconds["seconds_total"]:.0f} seconds in all; open {output / "index.html"}')


if __name__ == '__main__':
    launch.run(main)
