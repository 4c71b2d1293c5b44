"""A table of the paper, trained, evaluated and written as one page: onet reproduce TABLE [--tiny].

TABLE is single_image, completion, local_features, super_resolution, representation, generation, ablation_sampling,
ablation_architecture, or all. Without --data_dir the embedded datasets are used. --tiny is for two CPU cores: small
networks, and the ablations on completion instead of single images. What is trained already is not trained again: the rows
of a table can be run one at a time, by --rows, and the last command without it writes the page of all.
"""

import shlex
import sys
from pathlib import Path

from absl import flags

from onet_jax.configs import load_config
from onet_jax.errors import InputError

from . import making_shapes, run_command, tell_next

TINY = flags.DEFINE_bool('tiny', False, 'Small networks, for a laptop.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Dataset written by onet prepare; the embedded ones by default.')
OUTPUT = flags.DEFINE_string('output', 'results', 'Folder of the pages.')
RUNS = flags.DEFINE_string('runs', 'runs/reproduce', 'Folder of the workdirs.')
SEEDS = flags.DEFINE_integer('seeds', 3, 'Repetitions of each row of an ablation.', lower_bound=1)
ROWS = flags.DEFINE_list('rows', None, 'Labels of the rows of the table, such as PSGN,ONet; all by default.')
NUM_STEPS = flags.DEFINE_integer('num_steps', None, 'Training steps; those of the configs by default.', lower_bound=1)


def make_row(table, label: str, num_seeds: int):
    """A row with the configs of its stages: each starts from the workdir of the one before."""
    from onet_jax.data.fields import input_names
    from onet_jax.evaluation.published import published_row
    from onet_jax.reproduce import Row

    seeds = {}
    for seed in range(num_seeds):
        stages: dict = {}
        for stage in table.rows[label]:
            own, _, variant = stage.config.rpartition(':')
            file = own or table.configs[0 if TINY.value else -1]
            words = ','.join(filter(None, ['tiny' * TINY.value, variant]))
            config = load_config(f'{file}:{words}')
            steps = NUM_STEPS.value or (stage.tiny_steps if TINY.value else None)
            with config.unlocked():
                config.seed, config.train.num_steps = seed, steps or config.train.num_steps
                config.train.init_from = str(Path(RUNS.value) / list(stages)[-1]) if stages else config.train.init_from
            stages['-'.join(filter(None, [file, words, steps and f'{steps}steps', str(seed)]))] = config
        seeds[list(stages)[-1]] = stages
    return Row(label, seeds, published_row(input_names(config.data), label), label == 'Input')


def main(argv):
    from onet_jax.reproduce import TABLES, Page

    if len(argv) != 2 or argv[1] not in (*TABLES, 'all'):
        raise InputError(f'expected one table of {(*TABLES, "all")}, found {argv[1:]}')
    options = [word for word in sys.argv[1:] if word != argv[1]]
    for name in TABLES if argv[1] == 'all' else argv[1:]:
        table, labels = TABLES[name], ROWS.value or list(TABLES[name].rows)
        if not set(labels) <= set(table.rows):
            raise InputError(f'--rows: expected some of {list(table.rows)}, the rows of {name}, found {labels}')
        rows = [make_row(table, label, SEEDS.value if 'ablation' in name else 1) for label in labels]
        page = Page(name, table.title, rows, shlex.join(['onet', 'reproduce', name, *options]))
        path = table.write(page, Path(OUTPUT.value), Path(RUNS.value), DATA_DIR.value and Path(DATA_DIR.value))
        folder, stages = next(iter(rows[-1].seeds.items()))
        tell_next(f'{path}: written', *making_shapes(stages[folder], f'{RUNS.value}/{folder}'))


if __name__ == '__main__':
    run_command(main, takes_arguments=True)
