"""Weights of a workdir in one folder, or a dataset in the layout of the original code: what others can use.

    onet export --workdir=W --output=FOLDER    config.json and model.safetensors, which every --workdir takes, also as hf://USER/REPO
    onet export --data_dir=D --output=ROOT     of shapes that of ShapeNet, of sequences that of D-FAUST

The original code reads the dataset.
"""

from absl import flags

from onet_jax.errors import InputError

from . import making_shapes, run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by onet train.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of a dataset.')
OUTPUT = flags.DEFINE_string('output', None, 'New or empty folder.', required=True)


def main(_):
    if (WORKDIR.value is None) == (DATA_DIR.value is None):
        raise InputError('expected --workdir or --data_dir, found both or neither')
    if WORKDIR.value is not None:
        from onet_jax.run import export_weights, load_run

        run = load_run(WORKDIR.value)
        export_weights(run, OUTPUT.value)
        done = f'{WORKDIR.value}, step {run.step} -> {OUTPUT.value}'
        tell_next(done, *making_shapes(run.config, OUTPUT.value))
    else:
        from onet_jax.data.records import read_layout
        from onet_jax.prepare.dfaust import export_dfaust
        from onet_jax.prepare.shapenet import export_shapenet

        moves = read_layout(DATA_DIR.value).name == 'sequences'
        export, flag = (export_dfaust, 'sequences') if moves else (export_shapenet, 'shapenet')
        export(DATA_DIR.value, OUTPUT.value)
        tell_next(f'{OUTPUT.value}: written', 'onet', 'prepare', f'--{flag}={OUTPUT.value}', '--data_dir=FOLDER')


if __name__ == '__main__':
    run_command(main)
