"""Meshes from your own files: onet reconstruct --workdir=W --input=cloud.ply --output=DIR.

--input is a file or a folder, of what the model was trained on: point clouds (ply, obj, off, stl, glb, gltf, pcd, xyz, txt,
csv, pts, npy, npz; y up), pictures (jpg, png, ...; also KITTI and Online Products folders) or 32^3 voxels (binvox). The
meshes come back in the frame of the input; those of pictures and voxels in object coordinates, longest edge about 1 and
centre 0. DIR/index.html shows inputs and meshes side by side, and says which inputs are out of distribution.

The sliding-window network (configs/conv_onet_crops.py) takes clouds of scenes of any size: --cell is the edge of its cells in
their unit, by default such that a cell has as many points as in training. After an interruption the same command resumes.

A few stray points of a cloud, such as invalid returns at (0, 0, 0), are left out where they would make its box three times as
large or more, with a message; --keep_outliers keeps them.
"""

from functools import partial

from absl import flags

from onet_jax.errors import InputError

from . import run_command

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by onet train.', required=True)
INPUT = flags.DEFINE_string('input', None, 'Point cloud, picture or voxels, or a folder of them.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'Folder for the meshes.', required=True)
RESOLUTION = flags.DEFINE_enum(
    'resolution',
    None,
    ['64', '128', '256', '512'],
    'Cells of the finest grid along an axis; those of the config by default.',
)
THRESHOLD = flags.DEFINE_float('threshold', None, 'Probability of the surface; that of the workdir by default.')
MAX_MEMORY_GB = flags.DEFINE_float(
    'max_memory_gb', None, 'What a mesh may take; by default the memory of the machine.', lower_bound=1e-3
)
CELL = flags.DEFINE_float('cell', None, 'Scenes: edge of a cell, in the unit of the input.', lower_bound=1e-9)
KEEP_OUTLIERS = flags.DEFINE_bool('keep_outliers', False, 'Clouds: stray points belong to the object.')
FORMAT = flags.DEFINE_enum('format', 'ply', ['ply', 'obj', 'off', 'stl', 'glb'], 'Of the meshes.', case_sensitive=False)


def main(_):
    from onet_jax.data.fields import input_names
    from onet_jax.geometry.extract import check_memory
    from onet_jax.inference.out_of_distribution import workdir_domain
    from onet_jax.inference.reconstruct import reconstruct_files
    from onet_jax.run import at_resolution, at_threshold, change, load_run

    run = load_run(WORKDIR.value)
    if THRESHOLD.value is not None:
        run = at_threshold(run, THRESHOLD.value, 'the flag --threshold')
    if CELL.value is not None:
        if 'scan_cell' not in run.config.data:
            raise InputError(
                f'--cell: expected a network of scenes, found one of {", ".join(input_names(run.config.data))}'
            )
        run = change(run, 'data', scan_cell=CELL.value)
    if KEEP_OUTLIERS.value:
        run = change(run, 'data', keep_outliers=True)
    if RESOLUTION.value is not None:
        run = at_resolution(run, int(RESOLUTION.value))
    if 'resolution' in run.config.mesh:
        check_memory(run.config.mesh.resolution << run.config.mesh.upsampling_steps, MAX_MEMORY_GB.value)
    find_domain = partial(workdir_domain, WORKDIR.value, run.method.model, run.params, run.config, run.data_dir)
    reconstruct_files(run.method, run.params, run.config, INPUT.value, OUTPUT.value, FORMAT.value, find_domain)


if __name__ == '__main__':
    run_command(main)
