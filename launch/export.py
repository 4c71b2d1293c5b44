"""What others can use: weights or functions of a workdir, or a dataset in the layout of the original code.

    onet export --workdir=W --output=FOLDER    config.json and model.safetensors, which every --workdir takes, also as hf://USER/REPO
    onet export --workdir=W --format=stablehlo --output=FOLDER    encode, occupancy, ..., which JAX runs without this package
    onet export --workdir=W --format=onnx --functions=occupancy --output=FOLDER    one of them, for ONNX Runtime
    onet export --data_dir=D --output=ROOT     of shapes that of ShapeNet, of sequences that of D-FAUST

The original code reads the dataset. docs/exports.md has an example of ten lines for each format.
"""

from absl import flags

from onet_jax.errors import InputError

from . import making_shapes, run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by onet train.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of a dataset.')
FORMAT = flags.DEFINE_enum(
    'format',
    'safetensors',
    ['safetensors', 'stablehlo', 'onnx'],
    'Of a workdir: its weights, or its functions with them.',
)
FUNCTIONS = flags.DEFINE_list('functions', [], 'Names of functions, as in encode,occupancy; by default all.')
OUTPUT = flags.DEFINE_string('output', None, 'New or empty folder.', required=True)


def main(_):
    if (WORKDIR.value is None) == (DATA_DIR.value is None):
        raise InputError('expected --workdir or --data_dir, found both or neither')
    if FUNCTIONS.value and FORMAT.value == 'safetensors':
        raise InputError('--functions: expected --format=stablehlo or --format=onnx, found the format of weights')
    if FORMAT.value != 'safetensors' and WORKDIR.value is None:
        raise InputError(f'--format={FORMAT.value}: expected --workdir, found --data_dir')
    if FORMAT.value != 'safetensors':
        from onet_jax.convert.exported import export_functions
        from onet_jax.run import load_run

        run = load_run(WORKDIR.value)
        files = export_functions(run.method, run.params, run.config.data, OUTPUT.value, FUNCTIONS.value, FORMAT.value)
        print(
            f'{WORKDIR.value}, step {run.step} -> {", ".join(map(str, files))}; docs/exports.md has ten lines that call them'
        )
    elif WORKDIR.value is not None:
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
