"""Mesh refinement by gradients of the network: onet refine --workdir=W --mesh=M --input=X --output=O.

--workdir is a folder written by onet train, the name of weights of the package, or hf://USER/REPO. M is any mesh file (ply,
obj, off, stl, glb) in the frame of X, the input that it was reconstructed from with the same --up, --keep_outliers,
--remove_outliers and --threshold: an output of `onet reconstruct`, perhaps edited in another program. With --simplify_faces it
is simplified first (paper, section 3.3); then its vertices are moved so that random points of its faces lie on the level set,
and normals along the gradient.
"""

from absl import flags

from . import run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Trained network.', required=True)
MESH = flags.DEFINE_string('mesh', None, 'The mesh to refine.', required=True)
INPUT = flags.DEFINE_string('input', None, 'The point cloud, picture or voxels it was made from.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'The refined mesh; its suffix is its format.', required=True)
UP = flags.DEFINE_enum('up', None, ['x', 'y', 'z', 'auto'], 'Clouds: the axis that points up; auto: find it.')
KEEP_OUTLIERS = flags.DEFINE_bool('keep_outliers', False, 'Clouds: stray points belong to the object.')
REMOVE_OUTLIERS = flags.DEFINE_bool('remove_outliers', False, 'Clouds: points far from their neighbours are left out.')
THRESHOLD = flags.DEFINE_float('threshold', None, 'Probability of the surface; that of the workdir by default.')
STEPS = flags.DEFINE_integer('steps', 30, 'Steps of RMSprop.', lower_bound=0)
SIMPLIFY_FACES = flags.DEFINE_integer(
    'simplify_faces', None, 'Faces that are left; all of them by default.', lower_bound=4
)


def main(_):
    from onet_jax.data.fields import has_cloud
    from onet_jax.inference.refine import refine_file
    from onet_jax.run import at_threshold, for_clouds, load_run

    run = for_clouds(
        load_run(WORKDIR.value), keep_outliers=KEEP_OUTLIERS.value, remove_outliers=REMOVE_OUTLIERS.value, up=UP.value
    )
    if THRESHOLD.value is not None:
        run = at_threshold(run, THRESHOLD.value, 'the flag --threshold')
    before, after = refine_file(
        run.method.model,
        run.params,
        run.config,
        MESH.value,
        INPUT.value,
        OUTPUT.value,
        steps=STEPS.value,
        num_faces=SIMPLIFY_FACES.value,
    )
    done = f'{MESH.value} -> {OUTPUT.value}: loss {before:.3g} before, {after:.3g} after {STEPS.value} steps'
    beside = [f'--input={INPUT.value}'] if has_cloud(run.config.data) else []
    tell_next(done, 'onet', 'view', OUTPUT.value, *beside)


if __name__ == '__main__':
    run_command(main)
