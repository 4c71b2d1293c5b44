"""Build the embedded dataset of procedural solids: python -m launch.prepare --data_dir=D [--families=a,b].

An interrupted run goes on where it stopped. Train on it with `python -m launch.train ... --data_dir=D`.
"""

from absl import flags

import launch

DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of the dataset.', required=True)
FAMILIES = flags.DEFINE_list('families', [], 'Families of solids; all of them by default.')
NUM_SHAPES_PER_FAMILY = flags.DEFINE_integer('num_shapes_per_family', 100, 'Shapes of each family.', lower_bound=1)
NUM_POINTS = flags.DEFINE_integer('num_points', 100_000, 'Volume points of a shape, and surface points.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'The same seed gives the same dataset.', lower_bound=0)
VAL_FRACTION = flags.DEFINE_float('val_fraction', 0.1, 'Share of each family for validation.')
TEST_FRACTION = flags.DEFINE_float('test_fraction', 0.1, 'Share of each family for testing.')


def main(_):
    from onet_jax.data.prepare import prepare_procedural

    index = prepare_procedural(
        DATA_DIR.value,
        families=FAMILIES.value,
        num_shapes_per_family=NUM_SHAPES_PER_FAMILY.value,
        num_points=NUM_POINTS.value,
        seed=SEED.value,
        val_fraction=VAL_FRACTION.value,
        test_fraction=TEST_FRACTION.value,
    )
    counts = ', '.join(f'{split} {len(shapes)}' for split, shapes in index.splits.items())
    print(f'{DATA_DIR.value}: {counts} shapes; {len(index.rejected)} rejected')


if __name__ == '__main__':
    launch.run(main)
