"""New shapes from an unconditional model: onet sample --workdir=W --output=DIR [--num_samples=8] [--seed=0].

Writes DIR/sample_000.ply, ... and DIR/contact_sheet.png. Sample number i is a function of the seed and i. None of
the files may be there already. A network that has learned one shape gives this one. Textures of a mesh are sampled by
onet colorize.

Samples of shapes that move are DIR/sample_000.glb, animated, sample_000.gif and the meshes sample_000/000.ply, ... All have the
shape of the sequence --shape=A, or move as --motion=B does: with both the shape of A moves as B (motion transfer), also of a
network of clips. A and B are sequences of the dataset as CATEGORY/NAME, files or folders (see onet reconstruct), or numbers of
samples.
"""

from absl import flags

from . import run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by onet train or onet convert.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'Folder for the meshes and the contact sheet.', required=True)
NUM_SAMPLES = flags.DEFINE_integer('num_samples', 8, 'How many shapes.', lower_bound=1)
SHAPE = flags.DEFINE_string('shape', None, 'Moving shapes: the sequence whose shape the samples have.')
MOTION = flags.DEFINE_string('motion', None, 'Moving shapes: the sequence whose motion the samples have.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Dataset of CATEGORY/NAME; the one of the training run by default.')
SEED = flags.DEFINE_integer('seed', 0, 'The same seed gives the same shapes.', lower_bound=0)
FORMAT = flags.DEFINE_enum('format', 'ply', ['ply', 'obj', 'off', 'stl', 'glb'], 'Of the meshes.', case_sensitive=False)


def main(_):
    from onet_jax.inference.generate import sample_files
    from onet_jax.run import load_run

    run = load_run(WORKDIR.value)
    network, asked = (run.method.model, run.params, run.config), (NUM_SAMPLES.value, SEED.value)
    of = {'shape': SHAPE.value, 'motion': MOTION.value, 'data_dir': DATA_DIR.value or run.data_dir}
    paths = sample_files(*network, *asked, OUTPUT.value, FORMAT.value, **of)
    start, end = SHAPE.value or '0', MOTION.value or '1'
    ends = [f'--workdir={WORKDIR.value}', f'--seed={SEED.value}', f'--start={start}', f'--end={end}', '--output=FOLDER']
    tell_next(f'{OUTPUT.value}: {len(paths)} meshes and contact_sheet.png', 'onet', 'interpolate', *ends)


if __name__ == '__main__':
    run_command(main)
