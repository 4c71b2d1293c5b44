"""Interpolation between two shapes: onet interpolate --workdir=W --output=DIR --start=A --end=B.

A and B are, for a model with a latent code, numbers of samples (those of onet sample with the same seed) or shapes of
the dataset as CATEGORY/NAME; for another model, input files (see onet reconstruct). The interpolation is linear in the code.
Writes DIR/000.ply, ... in object coordinates, DIR/strip.png, all steps side by side, and the animation DIR/strip.gif. None of
them may be there already.

Of shapes that move each step is 000.glb, animated, 000.gif and the meshes 000/000.ply, ...; strip.gif shows them side by side.
A and B may then be files of any model. onet sample --shape=A --motion=B makes the shape of A move as B.
"""

from absl import flags

from . import making_shapes, run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by onet train or onet convert.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'Folder for the meshes and the pictures.', required=True)
START = flags.DEFINE_string('start', None, 'Number of a sample, CATEGORY/NAME, or a file.', required=True)
END = flags.DEFINE_string('end', None, 'As --start.', required=True)
NUM_STEPS = flags.DEFINE_integer('num_steps', 8, 'How many shapes, start and end among them.')
SEED = flags.DEFINE_integer('seed', 0, 'Of numbered samples.', lower_bound=0)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Dataset of CATEGORY/NAME; the one of the training run by default.')
FORMAT = flags.DEFINE_enum('format', 'ply', ['ply', 'obj', 'off', 'stl', 'glb'], 'Of the meshes.', case_sensitive=False)


def main(_):
    from onet_jax.inference.generate import interpolate_files
    from onet_jax.run import load_run

    run = load_run(WORKDIR.value)
    paths = interpolate_files(
        run.method.model,
        run.params,
        run.config,
        START.value,
        END.value,
        num_steps=NUM_STEPS.value,
        seed=SEED.value,
        data_dir=DATA_DIR.value or run.data_dir,
        output=OUTPUT.value,
        file_format=FORMAT.value,
    )
    done = f'{OUTPUT.value}: {len(paths)} meshes, strip.png and strip.gif'
    tell_next(done, *making_shapes(run.config, WORKDIR.value))


if __name__ == '__main__':
    run_command(main)
