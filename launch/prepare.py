"""Make a dataset: of your meshes, of a ShapeNet folder in the official layout, or of embedded procedural solids.

    onet prepare --meshes=DIR --data_dir=D      # off, obj, ply, stl, glb, gltf; first folder = category
    onet prepare --shapenet=DIR --data_dir=D    # points.npz, pointcloud.npz, model.binvox, ...
    onet prepare --data_dir=D                   # ten families of solids; rooms_04, ... and blobs, ... on request

An interrupted run resumes where it stopped. Train on the dataset with `onet train ... --data_dir=D`.
"""

from absl import flags

from onet_jax.errors import InputError

from . import run_command, tell_next

DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of the dataset.', required=True)
MESHES = flags.DEFINE_string('meshes', None, 'Folder tree of mesh files.')
SHAPENET = flags.DEFINE_string('shapenet', None, 'Folder in the official layout.')
NUM_POINTS = flags.DEFINE_integer('num_points', 100_000, 'Labelled points, and surface samples.', lower_bound=1)
NUM_VIEWS = flags.DEFINE_integer('num_views', 0, 'Rendered pictures of a shape, such as 24, 137 px.', lower_bound=0)
DEPTH = flags.DEFINE_bool('depth', False, 'Also the depth of the pictures.')
SEED = flags.DEFINE_integer('seed', 0, 'The same seed gives the same dataset.', lower_bound=0)
VAL_FRACTION = flags.DEFINE_float('val_fraction', 0.1, 'Share of each category for validation.')
TEST_FRACTION = flags.DEFINE_float('test_fraction', 0.1, 'Share of each category for testing.')
LISTS = flags.DEFINE_string('lists', None, 'Meshes: folder of <category>/{train,val,test}.lst instead of fractions.')
SAMPLING = flags.DEFINE_string('sampling', 'uniform', 'Training points: uniform, equal or surface.')
UP = flags.DEFINE_string('up', 'y', 'Meshes: the axis that points up in the files, x, y or z.')
FAMILIES = flags.DEFINE_list('families', [], 'Solids: families; all of objects by default.')
NUM_SHAPES_PER_FAMILY = flags.DEFINE_integer('num_shapes_per_family', 100, 'Solids: of each family.', lower_bound=1)
NUM_WORKERS = flags.DEFINE_integer('num_workers', None, 'Processes; one for each core by default.', lower_bound=1)
RUNNER = flags.DEFINE_enum('runner', 'processes', ['processes', 'beam'], 'On this machine, or an Apache Beam pipeline.')
BEAM_OPTIONS = flags.DEFINE_list('beam_options', [], 'Beam: options of the pipeline, as --runner=FlinkRunner.')
# Flags that a kind of dataset does not use.
MESHES_ONLY, SOLIDS_ONLY = ('lists', 'up'), ('families', 'num_shapes_per_family')
OFFICIAL = ('num_points', 'num_views', 'depth', 'val_fraction', 'test_fraction')
UNUSED = {'meshes': SOLIDS_ONLY, 'solids': MESHES_ONLY, 'shapenet': (*OFFICIAL, *MESHES_ONLY, *SOLIDS_ONLY)}


def main(_):
    from onet_jax.prepare.embedded import prepare_procedural
    from onet_jax.prepare.own_meshes import prepare_meshes
    from onet_jax.prepare.runners import beam, processes
    from onet_jax.prepare.shapenet import import_shapenet

    if MESHES.value and SHAPENET.value:
        raise InputError('--meshes, --shapenet: expected one of them, found both')
    data_dir, kind = DATA_DIR.value, 'meshes' if MESHES.value else 'shapenet' if SHAPENET.value else 'solids'
    for name in UNUSED[kind]:
        if flags.FLAGS[name].present:
            raise InputError(f'--{name}: expected no such flag for a dataset of {kind}, found one')
    run = processes(NUM_WORKERS.value) if RUNNER.value == 'processes' else beam(f'{data_dir}/beam', BEAM_OPTIONS.value)
    options = {'sampling': SAMPLING.value, 'seed': SEED.value, 'run': run}
    sizes = {'num_points': NUM_POINTS.value, 'num_views': NUM_VIEWS.value, 'depth': DEPTH.value}
    sizes |= {'val_fraction': VAL_FRACTION.value, 'test_fraction': TEST_FRACTION.value}
    if MESHES.value:
        index = prepare_meshes(MESHES.value, data_dir, lists=LISTS.value, up=UP.value, **sizes, **options)
    elif SHAPENET.value:
        index = import_shapenet(SHAPENET.value, data_dir, **options)
    else:
        families = {'families': FAMILIES.value, 'num_shapes_per_family': NUM_SHAPES_PER_FAMILY.value}
        index = prepare_procedural(data_dir, **families, **sizes, **options)
    counts = ', '.join(f'{split} {len(shapes)}' for split, shapes in index.splits.items())
    for name, reason in index.rejected.items():
        print(f'rejected: {name}: {reason}')
    done, looks = f'{data_dir}: {counts} shapes; {len(index.rejected)} rejected', f'--picture={data_dir}/picture.png'
    tell_next(done, 'onet', 'check', f'--data_dir={data_dir}', looks)


if __name__ == '__main__':
    run_command(main)
