"""A mesh moved onto the surface of its network: python -m launch.refine --workdir=W --mesh=M --input=X --output=O.

Any mesh file (ply, obj, off, stl, glb) in the frame of the input X from which the network of W predicts the field: what
`launch.reconstruct` writes, or the same after a visit to another program. With --simplify_faces it gets fewer faces first
(paper, section 3.3); then random points of the faces are pulled to the level set and the faces turned along its gradient.
"""

from absl import flags

import launch

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by launch.train.', required=True)
MESH = flags.DEFINE_string('mesh', None, 'The mesh to refine.', required=True)
INPUT = flags.DEFINE_string('input', None, 'The point cloud, picture or voxels it was made from.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'The refined mesh; its suffix is its format.', required=True)
THRESHOLD = flags.DEFINE_float('threshold', None, 'Probability of the surface; that of the workdir by default.')
STEPS = flags.DEFINE_integer('steps', 30, 'Steps of RMSprop.', lower_bound=0)
SIMPLIFY_FACES = flags.DEFINE_integer(
    'simplify_faces', None, 'Faces that are left; all of them by default.', lower_bound=4
)


def main(_):
    from onet_jax.inference.refine import refine_file
    from onet_jax.run import at_threshold, load_run

    run = load_run(WORKDIR.value)
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
    print(f'{MESH.value} -> {OUTPUT.value}: loss {before:.3g} before, {after:.3g} after {STEPS.value} steps')


if __name__ == '__main__':
    launch.run(main)
