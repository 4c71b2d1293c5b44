"""A page with shapes to turn, in the browser: onet view WHAT [--input=FILE].

WHAT is a mesh or a point cloud; a folder that onet reconstruct has written; a sequence, as a folder of numbered meshes or
clouds or an animation (glb, gltf), which plays; a folder of posed pictures, with their cameras and rays; or a trained network,
as a workdir, the name of weights of the package, or hf://USER/REPO. It prints the link of the page.

Beside a mesh --input is the cloud that it was made from: colours show how far its points are from the mesh, and the surface
that none of them supports. Of a network --input is a file, or a folder of them, that it makes shapes of; without it these are
shapes of the validation split. Sliders set the level and walk between samples of a network without input; each change extracts
a new mesh. A network of scenes is shown with the pictures that it was trained on, one of Texture Fields on --mesh.

The page is for this machine alone, unless --host names another one of its addresses; needs pip install -e '.[view]'.
"""

import os
from functools import partial

from absl import flags

from onet_jax.errors import InputError
from onet_jax.progress import mute

from . import run_command

INPUT = flags.DEFINE_string('input', None, 'What a mesh was made from, or what a network makes shapes of.')
MESH = flags.DEFINE_string('mesh', None, 'Networks of Texture Fields: the mesh to colour.')
UP = flags.DEFINE_enum('up', None, ['x', 'y', 'z', 'auto'], 'Files: the axis that points up; it is found by default.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Networks: the dataset; the one of the training run by default.')
SEED = flags.DEFINE_integer('seed', 0, 'Networks without input: the same seed gives the same samples.', lower_bound=0)
HOST = flags.DEFINE_string('host', '127.0.0.1', 'Address of this machine that serves the page; 0.0.0.0 is all of them.')
PORT = flags.DEFINE_integer('port', 8080, 'The first one that is free, from this one on.', 0, 65_535)


def main(argv):
    from onet_jax.inference.displays.files import choose_display
    from onet_jax.training.portable import is_network
    from onet_jax.viz.viewer import Viewer

    if len(argv) != 2:
        raise InputError(f'expected one file, folder or network to view, found {argv[1:] or "none"}')
    what = argv[1]
    read = partial(read_network, what) if is_network(what) else choose_display(what, INPUT.value, UP.value or 'auto')
    with Viewer(os.path.basename(os.path.normpath(what)), HOST.value, PORT.value) as viewer:
        print(f'{viewer.link} shows {what}; control-C ends it', flush=True)
        display = read()
        mute()  # the page says what is being worked on
        viewer.serve(display)


def read_network(what: str):
    """The display of a trained network."""
    from onet_jax.data.datasets import open_dataset
    from onet_jax.data.fields import input_names, sees_rays
    from onet_jax.inference.displays.networks import display_network
    from onet_jax.inference.displays.scenes import display_radiance
    from onet_jax.inference.displays.textures import display_textures
    from onet_jax.run import for_clouds, load_run

    run = load_run(what)
    data_dir, network = DATA_DIR.value or run.data_dir, (run.method.model, run.params, run.config)
    if sees_rays(run.config.data):
        return display_radiance(*network, open_dataset(data_dir))
    if 'oriented_cloud' in input_names(run.config.data) and (MESH.value or INPUT.value):
        return display_textures(*network, MESH.value, INPUT.value, SEED.value, UP.value or 'y')
    run = for_clouds(run, up=UP.value)
    return display_network(run.method, run.params, run.config, INPUT.value, data_dir, SEED.value)


if __name__ == '__main__':
    run_command(main, takes_arguments=True)
