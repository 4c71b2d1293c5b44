"""Frames of a path: pictures, their depth, and the files that show them moving."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from onet_jax.errors import InputError
from onet_jax.geometry.volume_rendering import Rendering
from onet_jax.inference.render import depth_range, save_frames, write_video

SCENE = SimpleNamespace(views=SimpleNamespace(bounds=np.array([[1.0, 5], [3, 7]])))


def test_depth_is_white_near_and_black_where_nothing_is_met(tmp_path):
    """Also where a ray that meets nothing is opaque at far, as that of a trained network."""
    rgb, depth, opacity = np.full((1, 4, 3), 0.5), np.array([[2.0, 4.0, 6.0, 0.0]]), np.array([[1.0, 1, 1, 0]])
    save_frames([Rendering(rgb, depth, None, opacity)], tmp_path, 2, 6)
    with Image.open(tmp_path / 'depth_000.png') as image:
        assert np.asarray(image).tolist() == [[255, 140, 0, 0]]
    with Image.open(tmp_path / '000.png') as image:
        assert (np.asarray(image) == 128).all()
    assert not list(tmp_path.glob('*.mp4')), 'a picture of one row has no video'


def test_depths_are_in_the_coordinates_in_which_rays_are_sampled():
    data = ConfigDict({'ndc': False, 'near': 0.0, 'far': 0.0})
    assert depth_range(data, SCENE) == (2, 6)
    assert depth_range(ConfigDict({**data, 'far': 4.0}), SCENE) == (2, 4)
    assert depth_range(ConfigDict({**data, 'ndc': True}), SCENE) == (0, 1)


def test_a_video_plays_and_has_the_frames(tmp_path, monkeypatch):
    ffmpeg = pytest.importorskip('imageio_ffmpeg', reason='imageio-ffmpeg is not installed')
    monkeypatch.setenv('IMAGEIO_FFMPEG_NO_PREVENT_SIGINT', '1')  # else it forks beside the threads of JAX
    shades = np.linspace(0, 255, 7).astype(np.uint8)
    pictures = [np.full((25, 33, 3), shade) for shade in shades]
    path = write_video(pictures, tmp_path / 'path.mp4')
    assert ffmpeg.count_frames_and_secs(str(path)) == (7, pytest.approx(7 / 30, abs=0.02))
    decode = (ffmpeg.get_ffmpeg_exe(), '-v', 'error', '-i', str(path), '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-')
    raw = subprocess.run(decode, capture_output=True, check=True).stdout
    frames = np.frombuffer(raw, np.uint8).reshape(7, 24, 32, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), shades, atol=4)
    assert [file.name for file in tmp_path.iterdir()] == ['path.mp4']
    with pytest.raises(InputError, match=r'empty.mp4: expected a video by ffmpeg, found an error'):
        write_video([np.zeros((1, 1, 3), np.uint8)], tmp_path / 'empty.mp4')
