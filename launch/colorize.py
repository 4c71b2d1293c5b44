"""Colours for a mesh by Texture Fields: onet colorize --workdir=W --photo=P --mesh=M --output=coloured.glb.

M is any mesh file (ply, obj, off, stl, glb, gltf) in any unit and frame, of which --up points up; the coloured mesh is in the
same frame. P is a picture of such an object, best on white or transparent ground. Without M a network of pictures makes the
shape first: onet colorize --workdir=W --photo=P --shape_workdir=S. With a network that samples textures, a VAE or a GAN, P is
left out: --num_samples=8 gives NAME_000.glb, ..., and --start=0 --end=1 --num_steps=8 moves between two of these samples.

--texture_size=0 writes colours of vertices, subdivided so that edges are at most --max_edge, and --texture_size=1024 a baked
texture (glb or obj; needs pip install -e '.[texture]'). Colours of vertices in a GLB are linear, as its standard wants, and
textures sRGB, so that viewers show both alike; PLY and OBJ hold sRGB. NAME.html shows the photo, the mesh and its own colours.
"""

from functools import partial
from pathlib import Path

from absl import flags

from onet_jax.errors import InputError

from . import run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Trained network of Texture Fields.', required=True)
MESH = flags.DEFINE_string('mesh', None, 'The mesh to colour.')
PHOTO = flags.DEFINE_string('photo', None, 'The picture whose colours it gets.')
SHAPE_WORKDIR = flags.DEFINE_string(
    'shape_workdir', None, 'Without --mesh: the network that makes a mesh of the photo.'
)
OUTPUT = flags.DEFINE_string('output', 'coloured.glb', 'The coloured mesh: glb, obj or ply, by its suffix.')
TEXTURE_SIZE = flags.DEFINE_integer('texture_size', 0, 'Texels along a side of the texture; 0: colours of vertices.')
MAX_EDGE = flags.DEFINE_float('max_edge', 0.01, 'Edges whose ends are coloured, at most, in longest edges of the mesh.')
UP = flags.DEFINE_enum('up', 'y', ['x', 'y', 'z', 'auto'], 'The axis of the mesh that points up; auto: find it.')
SEED = flags.DEFINE_integer('seed', 0, 'The same seed gives the same samples.', lower_bound=0)
NUM_SAMPLES = flags.DEFINE_integer('num_samples', 8, 'How many textures without a photo.', lower_bound=1)
START = flags.DEFINE_integer('start', None, 'Number of the sample that an interpolation begins with.', lower_bound=0)
END = flags.DEFINE_integer('end', None, 'Number of the sample that it ends with.', lower_bound=0)
NUM_STEPS = flags.DEFINE_integer('num_steps', 8, 'How many textures it has, start and end among them.')


def main(_):
    from onet_jax.inference.colorize import Colouring, colorize_photo, colorize_samples, reconstruct_photo
    from onet_jax.run import load_run

    if (START.value is None) != (END.value is None):
        raise InputError('--start, --end: expected both or none, found one')
    if bool(MESH.value) == bool(SHAPE_WORKDIR.value) or not (MESH.value or PHOTO.value):
        raise InputError('expected --mesh, or --photo with --shape_workdir, found neither or both')
    run = load_run(WORKDIR.value)
    network = run.method.model, run.params, run.config
    asked = Colouring(Path(OUTPUT.value), TEXTURE_SIZE.value, MAX_EDGE.value, UP.value)
    if PHOTO.value:
        shape = load_run(SHAPE_WORKDIR.value) if SHAPE_WORKDIR.value else None
        make_shape = shape and partial(reconstruct_photo, shape.method, shape.params, shape.config)
        made = [colorize_photo(*network, asked, PHOTO.value, MESH.value, make_shape)]
    else:
        ends = None if START.value is None else (START.value, END.value)
        numbers, steps = ends or range(NUM_SAMPLES.value), NUM_STEPS.value if ends else None
        made = colorize_samples(*network, asked, MESH.value, seed=SEED.value, numbers=numbers, num_steps=steps)
    page, finer = asked.output.with_suffix('.html'), f'--texture_size={min(2 * TEXTURE_SIZE.value or 1024, 4096)}'
    given = [flags.FLAGS[name] for name in ('mesh', 'photo', 'shape_workdir', 'up') if flags.FLAGS[name].present]
    same = [f'--{flag.name}={flag.value}' for flag in given]
    done = f'{page} shows {made[0]}' + (f' and {len(made) - 1} more' if len(made) > 1 else '')
    tell_next(done, 'onet', 'colorize', f'--workdir={WORKDIR.value}', *same, finer, '--output=finer.glb')


if __name__ == '__main__':
    run_command(main)
