"""Dataset, training, evaluation and meshes in one command: onet demo [--output=demo].

Builds an embedded dataset (cached), trains configs/conv_onet.py:tiny (feature planes) and, for about as long,
configs/onet_points.py:tiny (one code), evaluates both on held-out shapes, and writes meshes, a contact sheet, a page that shows
them in 3D, and metrics.json. Four to seven minutes on two CPU cores, a quarter of an hour on slow ones.
"""

import time
from pathlib import Path

from absl import flags

from . import run_command

OUTPUT = flags.DEFINE_string('output', 'demo', 'Folder for everything that the demo writes.')
NUM_SHOWN = flags.DEFINE_integer('num_shown', 18, 'Held-out shapes to write as meshes and to show.', lower_bound=1)


def main(_):
    from onet_jax.configs import conv_onet, onet_points
    from onet_jax.data.datasets import open_dataset
    from onet_jax.evaluation import tables
    from onet_jax.evaluation.evaluate import evaluate
    from onet_jax.evaluation.report import write_report
    from onet_jax.files import write_json
    from onet_jax.prepare.procedural import make_shape
    from onet_jax.run import load_run
    from onet_jax.training.log import read_log
    from onet_jax.training.loop import train

    start, output = time.monotonic(), Path(OUTPUT.value)
    results, curves, seconds_train = {}, [], {}
    for title, (folder, file, num_steps, learning_rate) in {
        'features on planes': ('run_planes', conv_onet, 300, 5e-3),  # few steps, at a high rate
        'one code': ('run_one_code', onet_points, 1000, 1e-2),
    }.items():
        config, workdir = file('tiny'), output / folder
        with config.unlocked():
            config.train.num_steps, config.optim.learning_rate = num_steps, learning_rate
            config.train.eval_every_steps = config.train.checkpoint_every_steps = num_steps // 4
        train(config, workdir)
        # From the log: a demo that is run again resumes the training that it finds.
        seconds_train[title] = sum(seconds for _, seconds in read_log(workdir, 'train/seconds'))
        curves += [
            (f'training loss (nats a shape), {title}', read_log(workdir, 'train/loss'), True),
            (f'validation IoU, {title}', read_log(workdir, 'val/iou'), False),
        ]
        run = load_run(workdir)
        results[title] = list(evaluate(run.method, run.params, run.config, open_dataset(run.data_dir), 'test'))
    after = ' and '.join(f'{seconds:.0f} ({title})' for title, seconds in seconds_train.items())
    write_report(
        output,
        results,
        lambda result: make_shape(config.data.dataset_seed, result.category, int(result.name)).mesh(),
        title='Occupancy networks from 300 noisy points',
        lead=f'{len(results[title])} shapes that the networks have never seen, after {after} seconds of training.',
        num_shown=NUM_SHOWN.value,
        curves=curves,
    )
    planes, one_code = ({**tables.summary(results[title]), 'seconds_train': seconds_train[title]} for title in results)
    planes |= {'seconds_total': time.monotonic() - start, 'one_code': one_code}
    write_json(output / 'metrics.json', planes)
    for title, rows in results.items():
        print(title, tables.to_markdown(*tables.make_table(rows)), sep='\n\n')
    print(f'{planes["seconds_total"]:.0f} seconds in all; open {output / "index.html"}')


if __name__ == '__main__':
    run_command(main)
