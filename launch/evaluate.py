"""Evaluate a workdir by the paper's protocol: python -m launch.evaluate --workdir=W [--split=test] [--data_dir=D].

Writes W/evaluation/SPLIT/{rows.csv,table.md} and prints the table.
"""

from pathlib import Path

from absl import flags

import launch

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by launch.train.', required=True)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Dataset; the one of the training run by default.')
SPLIT = flags.DEFINE_string('split', 'test', "'train', 'val' or 'test'.")


def main(_):
    from tqdm import tqdm

    from onet_jax.evaluation.evaluate import evaluate
    from onet_jax.evaluation.tables import make_table, to_markdown, write_results
    from onet_jax.training.checkpoints import load_run

    run = load_run(WORKDIR.value)
    data_dir = DATA_DIR.value or run.data_dir
    if data_dir is None:
        raise ValueError('--data_dir: expected a dataset, for this workdir was not trained here; found none')
    results = list(tqdm(evaluate(run.method, run.params, run.config, data_dir, SPLIT.value), unit='shape'))
    folder = Path(WORKDIR.value) / 'evaluation' / SPLIT.value
    write_results(folder, results)
    print(
        f'dataset {data_dir}, checkpoint of step {run.step}, threshold {run.config.eval.threshold}, written to {folder}\n'
    )
    print(to_markdown(*make_table(results)))


if __name__ == '__main__':
    launch.run(main)
