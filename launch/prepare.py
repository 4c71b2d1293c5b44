"""Make a dataset: of your meshes, still or moving, of a collection in its official layout, or of embedded solids.

    onet prepare --meshes=DIR --data_dir=D      # off, obj, ply, stl, glb, gltf; first folder = category
    onet prepare --sequences=DIR --data_dir=D   # folders of numbered meshes, animations; or the layout of D-FAUST
    onet prepare --shapenet=DIR --data_dir=D    # points.npz, pointcloud.npz, model.binvox, ...
    onet prepare --texture_fields=DIR --data_dir=D  # views with depth: image, depth, visualize, pointcloud.npz
    onet prepare --data_dir=D                   # ten families of solids; rooms_04, ..., blobs, ..., human, ... on request

An interrupted run resumes where it stopped.
"""

from inspect import signature

from absl import flags

from onet_jax.errors import InputError

from . import run_command, tell_next

DATA_DIR = flags.DEFINE_string('data_dir', None, 'Folder of the dataset.', required=True)
flags.DEFINE_string('meshes', None, 'Folder tree of mesh files.')
flags.DEFINE_string('sequences', None, 'Folder tree of moving meshes, or of D-FAUST.')
flags.DEFINE_string('shapenet', None, 'Folder in the official layout.')
flags.DEFINE_string('texture_fields', None, 'Folder in the layout of Texture Fields.')
flags.DEFINE_integer('num_points', 100_000, 'Labelled points, and surface samples.', lower_bound=1)
flags.DEFINE_integer('num_views', 0, 'Rendered pictures of a shape, such as 24, 137 px.', lower_bound=0)
flags.DEFINE_integer('num_fixed_views', 0, 'After these, pictures evenly around, such as 5.', lower_bound=0)
flags.DEFINE_bool('depth', False, 'Also the depth of the pictures.')
flags.DEFINE_bool('coloured', False, 'Solids: with the colours and patterns of their families.')
flags.DEFINE_integer('seed', 0, 'The same seed gives the same dataset.', lower_bound=0)
flags.DEFINE_float('val_fraction', 0.1, 'Share of each category for validation.')
flags.DEFINE_float('test_fraction', 0.1, 'Share of each category for testing.')
flags.DEFINE_string('lists', None, 'Meshes: folder of <category>/{train,val,test}.lst instead of fractions.')
flags.DEFINE_string('sampling', 'uniform', 'Training points: uniform, equal or surface.')
flags.DEFINE_string('up', 'y', 'Meshes: the axis that points up in the files, x, y or z.')
flags.DEFINE_integer('num_frames', None, 'Sequences: of each; all by default.', lower_bound=2)
FAMILIES = flags.DEFINE_list('families', [], 'Solids: families; all of objects by default.')
flags.DEFINE_integer('num_shapes_per_family', 100, 'Solids: of each family.', lower_bound=1)
NUM_WORKERS = flags.DEFINE_integer('num_workers', None, 'Processes; one for each core by default.', lower_bound=1)
RUNNER = flags.DEFINE_enum('runner', 'processes', ['processes', 'beam'], 'On this machine, or an Apache Beam pipeline.')
BEAM_OPTIONS = flags.DEFINE_list('beam_options', [], 'Beam: options of the pipeline, as --runner=FlinkRunner.')
EXCLUSIVE = ('meshes', 'sequences', 'shapenet', 'texture_fields')
flags.mark_flags_as_mutual_exclusive(EXCLUSIVE)
OPTIONS = ('num_points', 'num_views', 'depth', 'seed', 'val_fraction', 'test_fraction', 'lists', 'sampling', 'up')
OPTIONS += ('num_frames', 'families', 'num_shapes_per_family', 'num_fixed_views', 'coloured')


def main(_):
    from onet_jax.prepare.embedded import MOVING_FAMILIES
    from onet_jax.prepare.kinds import KINDS
    from onet_jax.prepare.runners import beam, processes

    given, data_dir = flags.FLAGS, DATA_DIR.value
    folders = {kind: given[kind].value for kind in EXCLUSIVE if given[kind].value}
    kind = next(iter(folders), 'moving solids' if set(FAMILIES.value) & set(MOVING_FAMILIES) else 'solids')
    used = [name for name in OPTIONS if name in signature(KINDS[kind]).parameters]  # what its function takes
    for name in OPTIONS:
        if given[name].present and name not in used:
            raise InputError(f'--{name}: expected no such flag for a dataset of {kind}, found one')
    run = processes(NUM_WORKERS.value) if RUNNER.value == 'processes' else beam(f'{data_dir}/beam', BEAM_OPTIONS.value)
    index = KINDS[kind](*folders.values(), data_dir, run=run, **{name: given[name].value for name in used})
    counts = ', '.join(f'{split} {len(names)}' for split, names in index.splits.items())
    for name, reason in index.rejected.items():
        print(f'rejected: {name}: {reason}')
    done = f'{data_dir}: {counts} {index.layout}; {len(index.rejected)} rejected'
    tell_next(done, 'onet', 'check', f'--data_dir={data_dir}', f'--picture={data_dir}/picture.png')


if __name__ == '__main__':
    run_command(main)
