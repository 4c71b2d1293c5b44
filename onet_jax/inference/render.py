"""Pictures of a scene along a path of cameras: PNG frames with their depth, a GIF, and an MP4 where imageio-ffmpeg is there.

H, W pixels, L frames.
"""

import importlib.util
import io
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from onet_jax.data.fields import input_names, make_evaluation_transform
from onet_jax.data.posed_views import MATRIX
from onet_jax.data.scenes import LoadedViews, Scene, resize_camera
from onet_jax.errors import InputError
from onet_jax.files import write_atomically
from onet_jax.geometry.camera_paths import orbit, spiral, to_cameras
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.volume_rendering import Rays, Rendering
from onet_jax.json_files import read_json
from onet_jax.models.method import Model
from onet_jax.progress import track

PATHS = ('orbit', 'spiral')
FRAME_MS = 60  # that an animation shows a frame
FRAMES_A_SECOND = 30  # of a video
FAR = 0.99  # of the way from near to far: what is seen there is background


def choose_path(scene: Scene, path: str, num_frames: int) -> Camera:
    """The cameras [L] of a path: 'orbit', 'spiral', or a JSON file with poses in the layout of Blender.

    Raises InputError for another word, and as `read_json` for a file.
    """
    camera = scene.views.camera
    if path == 'orbit':
        return orbit(camera, num_frames)
    if path == 'spiral':
        return spiral(camera, scene.views.bounds, num_frames)
    if not path.endswith('.json'):
        raise InputError(f'--path: expected one of {PATHS} or a JSON file of poses, found {path!r}')
    frames = read_json(path, {'frames': [{'transform_matrix': MATRIX}]})['frames']
    poses = [np.array(frame['transform_matrix'], np.float64)[:3] for frame in frames]
    if not poses or any(pose.shape != (3, 4) for pose in poses):
        raise InputError(f'{path}: expected frames with 4 x 4 numbers each, found others')
    return to_cameras(np.stack(poses), camera.camera_mat[:1])


def render_path(
    model: Model, params: dict, config: ConfigDict, scene: Scene, cameras: Camera, size: tuple[int, int]
) -> Iterator[Rendering]:
    """Render each camera [L] at a size (width, height): rgb [H, W, 3], depth, disparity and opacity [H, W] of each."""
    width, height = size
    transform = jax.jit(make_evaluation_transform(config.data, input_names(config.data), ()))
    resized, blank = resize_camera(cameras, scene.views.size, size), np.zeros((1, height, width, 4), np.uint8)
    bounds = scene.views.bounds.mean(axis=0)
    y, x = np.mgrid[:height, :width]
    for i in track(range(len(cameras.world_mat)), 'rendering', 'frames'):
        extrinsic, intrinsic, ends = (
            part[None].astype(np.float32) for part in (resized.world_mat[i], resized.camera_mat[i], bounds)
        )
        view = LoadedViews(blank, extrinsic, intrinsic, ends)
        batch = transform(jax.random.key(0), view.whole(x, y))  # which draws nothing
        rays = Rays(*(np.asarray(batch['inputs'][name]) for name in Rays._fields))
        seen = model.render(params, rays)
        yield Rendering(*(part.reshape(height, width, *part.shape[1:]) for part in seen[:4]))


def depth_range(data: ConfigDict, scene: Scene) -> tuple[float, float]:
    """Near and far of the depths that `render_path` gives."""
    if data.ndc:
        return 0.0, 1.0
    near, far = scene.views.bounds.mean(axis=0).tolist()
    return data.near or near, data.far or far


def save_frames(frames: Sequence[Rendering], output: Path, near: float, far: float) -> list[Path]:
    """Write OUTPUT/000.png, ..., OUTPUT/depth_000.png (near is white, background black), OUTPUT/path.gif, OUTPUT/path.mp4.

    The last interval of a ray has no end, so that a ray which meets nothing may be opaque at far: that is background too.
    """
    output.mkdir(parents=True, exist_ok=True)
    pictures, written = [], []
    for i, frame in enumerate(frames):
        rgb = np.round(255 * np.clip(frame.rgb, 0, 1)).astype(np.uint8)
        depth = frame.depth / np.maximum(frame.opacity, 1e-6)
        share = (depth - near) / (far - near)
        shade = np.where((frame.opacity > 0.5) & (share < FAR), 1 - np.clip(share, 0, 1) * 0.9, 0)
        for name, pixels in ((f'{i:03d}', rgb), (f'depth_{i:03d}', np.round(255 * shade).astype(np.uint8))):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, 'png')
            write_atomically(output / f'{name}.png', stream.getvalue())
            written.append(output / f'{name}.png')
        pictures.append(rgb)
    stream = io.BytesIO()
    first, *others = [Image.fromarray(rgb).quantize(256) for rgb in pictures]
    first.save(stream, 'gif', save_all=True, append_images=others, duration=FRAME_MS, loop=0)
    write_atomically(output / 'path.gif', stream.getvalue())
    written.append(output / 'path.gif')
    if importlib.util.find_spec('imageio_ffmpeg') and min(pictures[0].shape[:2]) > 1:
        written.append(write_video(pictures, output / 'path.mp4'))
    return written


def write_video(pictures: Sequence[np.ndarray], path: Path) -> Path:
    """Write pictures [H, W, 3] uint8 as an MP4 (H.264), by the program ffmpeg that imageio-ffmpeg brings.

    An odd edge loses a pixel, which the codec asks for. Raises InputError where ffmpeg fails.
    """
    import imageio_ffmpeg

    height, width = (edge // 2 * 2 for edge in pictures[0].shape[:2])
    raw = np.stack([rgb[:height, :width] for rgb in pictures]).tobytes()
    given = ('-f', 'rawvideo', '-pix_fmt', 'rgb24', '-s', f'{width}x{height}', '-r', str(FRAMES_A_SECOND), '-i', '-')
    wanted = ('-c:v', 'libx264', '-crf', '18', '-pix_fmt', 'yuv420p', '-movflags', '+faststart')
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / path.name
        # Not by its own functions: they fork, which is not safe beside the threads of JAX.
        program = (imageio_ffmpeg.get_ffmpeg_exe(), '-v', 'error', *given, *wanted, str(video))
        done = subprocess.run(program, input=raw, capture_output=True)
        if done.returncode != 0:
            message = done.stderr.decode(errors='replace').strip()
            raise InputError(f'{path}: expected a video by ffmpeg, found an error: {message}')
        write_atomically(path, video.read_bytes())
    return path
