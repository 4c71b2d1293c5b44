"""Pictures of a scene along a path: onet render --workdir=W --output=DIR [--path=orbit].

W is a folder written by onet train with a config of scenes (nerf). The path is an orbit around what the cameras look at, the
spiral of forward-facing scenes, or a JSON file of poses as transforms_train.json has them. Writes DIR/000.png, ..., their
depth, DIR/path.gif, and DIR/path.mp4 where imageio-ffmpeg is installed (pip install 'onet_jax[video]').
"""

from absl import flags

from onet_jax.errors import InputError

from . import run_command, tell_next

WORKDIR = flags.DEFINE_string('workdir', None, 'Folder written by onet train.', required=True)
OUTPUT = flags.DEFINE_string('output', None, 'Folder for the pictures.', required=True)
PATH = flags.DEFINE_string('path', None, 'orbit, spiral or a JSON file; by default what suits the scene.')
NUM_FRAMES = flags.DEFINE_integer('num_frames', 60, 'Pictures of an orbit or a spiral.', lower_bound=2)
WIDTH = flags.DEFINE_integer('width', None, 'Of a picture in px; that of training by default.', lower_bound=1)
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Posed pictures; those of the training run by default.')


def main(_):
    from pathlib import Path

    from onet_jax.data.datasets import open_dataset
    from onet_jax.inference.render import choose_path, depth_range, render_path, save_frames
    from onet_jax.run import load_run

    run = load_run(WORKDIR.value)
    if not hasattr(run.method.model, 'render_jitted'):
        raise InputError(f'--workdir: expected a network of a scene, found {run.config.model.name}')
    scene = open_dataset(DATA_DIR.value or run.data_dir)
    width, height = scene.views.size
    wanted = WIDTH.value or max(round(width / run.config.data.downscale), 1)
    path = PATH.value or ('spiral' if run.config.data.ndc else 'orbit')
    cameras = choose_path(scene, path, NUM_FRAMES.value)
    size = (wanted, max(round(height * wanted / width), 1))
    frames = list(render_path(run.method.model, run.params, run.config, scene, cameras, size))
    written = save_frames(frames, Path(OUTPUT.value), *depth_range(run.config.data, scene))
    mesh = ['onet', 'reconstruct', f'--workdir={WORKDIR.value}', '--output=meshes']
    tell_next(f'{OUTPUT.value}: {len(written)} files, path.gif among them', *mesh)


if __name__ == '__main__':
    run_command(main)
