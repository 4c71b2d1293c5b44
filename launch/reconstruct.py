"""Meshes from your own files: onet reconstruct scan.ply, or onet reconstruct FOLDER --workdir=W --output=DIR.

Without --workdir the input is a point cloud, or a folder of them, and the weights `objects` or `scenes` of the package are
taken, by the density of the points. With it, what the model was trained on: point clouds (ply, obj, off, stl, glb, gltf, pcd,
las, laz, e57, xyz, txt, csv, pts, npy, npz), pictures (jpg, png, ...; also KITTI and Online Products folders) or 32^3 voxels
(binvox); of sequences folders of numbered clouds or meshes, or animations (glb, gltf); of a scene nothing: it is
DIR/scene.ply. --workdir is a folder written by onet train, the name of weights of the package, or hf://USER/REPO. Meshes come
back in the frame of the input; those of pictures and voxels in object coordinates, longest edge about 1 and centre 0.
DIR/index.html shows them and the surface that no point supports. After an interruption the same command resumes. A few stray
points that triple the box of a cloud are left out; --keep_outliers keeps them. A sequence becomes NAME.glb and NAME.gif.
"""

from functools import partial

from absl import flags

from onet_jax.errors import InputError

from . import refining, run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Trained network; else weights of the package that suit the cloud.')
INPUT = flags.DEFINE_string('input', None, 'Cloud, picture or voxels, or a folder of them; also without --input=.')
OUTPUT = flags.DEFINE_string('output', 'meshes', 'Folder for the meshes.')
UP = flags.DEFINE_enum('up', None, ['x', 'y', 'z', 'auto'], 'Clouds: the axis that points up; auto: find it.')
SMOOTH = flags.DEFINE_integer('smooth', 0, 'Steps of Taubin smoothing.')
SIMPLIFY = flags.DEFINE_integer('simplify', None, 'Faces of a mesh, at most.')
COLORS = flags.DEFINE_bool('colors', False, 'Clouds: vertices get the colours of the nearest points.')
RESOLUTION = flags.DEFINE_enum('resolution', None, ['64', '128', '256', '512'], 'Cells of the grid along an axis.')
THRESHOLD = flags.DEFINE_float('threshold', None, 'Probability of the surface; that of the workdir by default.')
MAX_MEMORY_GB = flags.DEFINE_float('max_memory_gb', None, 'Memory of a mesh; by default that of the machine.', 1e-3)
CELL = flags.DEFINE_float('cell', None, 'Scenes: edge of a cell, in the unit of the input.', lower_bound=1e-9)
KEEP_OUTLIERS = flags.DEFINE_bool('keep_outliers', False, 'Clouds: stray points belong to the object.')
REMOVE_OUTLIERS = flags.DEFINE_bool('remove_outliers', False, 'Clouds: points far from their neighbours are left out.')
FORMAT = flags.DEFINE_enum('format', 'ply', ['ply', 'obj', 'off', 'stl', 'glb'], 'Of the meshes.', case_sensitive=False)


def main(argv):
    given = [*filter(None, [INPUT.value]), *argv[1:]]
    if len(given) != 1 and (given or not WORKDIR.value):
        raise InputError(f'expected one file or folder to reconstruct, found {given or "none"}; several go in a folder')

    from onet_jax.geometry.extract import check_memory
    from onet_jax.inference.finish import Finish
    from onet_jax.inference.out_of_distribution import workdir_domain
    from onet_jax.inference.reconstruct import reconstruct_files
    from onet_jax.inference.scene_mesh import reconstruct_scene
    from onet_jax.ready_made import load_for
    from onet_jax.run import at_resolution, at_threshold, describe_training, for_clouds, load_run

    if not given:
        made = reconstruct_scene(load_run(WORKDIR.value), OUTPUT.value, FORMAT.value, RESOLUTION.value)
        return tell_next(made, 'onet', 'render', f'--workdir={WORKDIR.value}', '--output=FOLDER')
    outliers = {'keep_outliers': KEEP_OUTLIERS.value, 'remove_outliers': REMOVE_OUTLIERS.value}
    run = load_run(WORKDIR.value) if WORKDIR.value else load_for(given[0], OUTPUT.value, **outliers)
    if THRESHOLD.value is not None:
        run = at_threshold(run, THRESHOLD.value, 'the flag --threshold')
    run = for_clouds(run, cell=CELL.value, up=UP.value, **outliers)
    if RESOLUTION.value is not None:
        run = at_resolution(run, int(RESOLUTION.value))
    if 'resolution' in run.config.mesh:
        check_memory(run.config.mesh.resolution << run.config.mesh.upsampling_steps, MAX_MEMORY_GB.value)
    find_domain = partial(workdir_domain, run.workdir, run.method.model, run.params, run.config, run.data_dir)
    finish, told = Finish(SMOOTH.value, SIMPLIFY.value, COLORS.value), describe_training(run)
    network, into = (run.method, run.params, run.config), (OUTPUT.value, FORMAT.value)
    made = reconstruct_files(*network, given[0], *into, find_domain, finish, told)
    tell_next(f'meshes: {len(made)}, in {OUTPUT.value}/index.html', *refining(run, WORKDIR.value, given[0], made[0]))


if __name__ == '__main__':
    run_command(main, takes_arguments=True)
