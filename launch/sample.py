"""New shapes from an unconditional model: onet sample --workdir=W --output=DIR [--num_samples=8] [--seed=0].

Writes DIR/sample_000.ply, ... and DIR/contact_sheet.png. Sample number i is a function of the seed and i. None of
the files may be there already.
"""

from absl import flags

from . import run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by onet train or onet convert.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'Folder for the meshes and the contact sheet.', required=True)
NUM_SAMPLES = flags.DEFINE_integer('num_samples', 8, 'How many shapes.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'The same seed gives the same shapes.', lower_bound=0)
FORMAT = flags.DEFINE_enum('format', 'ply', ['ply', 'obj', 'off', 'stl', 'glb'], 'Of the meshes.', case_sensitive=False)


def main(_):
    from onet_jax.inference.generate import sample_files
    from onet_jax.run import load_run

    run = load_run(WORKDIR.value)
    paths = sample_files(
        run.method.model, run.params, run.config, NUM_SAMPLES.value, SEED.value, OUTPUT.value, FORMAT.value
    )
    ends = [f'--workdir={WORKDIR.value}', f'--seed={SEED.value}', '--start=0', '--end=1', '--output=FOLDER']
    tell_next(f'{OUTPUT.value}: {len(paths)} meshes and contact_sheet.png', 'onet', 'interpolate', *ends)


if __name__ == '__main__':
    run_command(main)
