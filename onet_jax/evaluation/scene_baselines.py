"""Baselines of scenes: what the training pictures say of a view that is held out, without a model of the scene.

V views, H, W pixels.
"""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.scenes import Scene, load_views
from onet_jax.geometry.camera_paths import to_poses
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.views import Pictures
from onet_jax.geometry.volume_rendering import BACKGROUNDS

MEAN, NEAREST = 'mean of the training pictures, pixel by pixel', 'training picture of the nearest camera'


def make_baselines(scene: Scene, data: ConfigDict, split: str) -> Callable[[tuple[str, str]], dict[str, Pictures]]:
    """predict((scene, picture) of a split) -> the pictures of both baselines, by their names; {} for all of the training split.

    The mean is the best picture that is the same for all views, by the squared error on the training views; it exists, for the
    pictures of a scene have one size. Reads the training pictures, at the size of `config.data.downscale`.
    """
    views = scene.views
    if split == 'train':  # where the nearest picture is the true one
        return lambda name: {}
    rgba = load_views(views, views.splits['train'], data.downscale).rgba
    # A colour times alpha is at most alpha, but for its rounding.
    rgb = np.minimum(rgba[..., :3], rgba[..., 3:]) + np.uint8(BACKGROUNDS[data.background]) * (255 - rgba[..., 3:])
    mean = (rgb.mean(axis=0, dtype=np.float64) / 255).astype(np.float32)
    nearest = find_nearest(views.camera, views.bounds, views.splits[split], views.splits['train'])
    chosen = dict(zip(scene.names(split), nearest, strict=True))

    def predict(name):
        return {MEAN: Pictures(mean[None]), NEAREST: Pictures((rgb[chosen[name]] / np.float32(255))[None])}

    return predict


def find_nearest(camera: Camera, bounds: np.ndarray, views: tuple[int, ...], others: tuple[int, ...]) -> np.ndarray:
    """For each of some `views` which of the `others` has the nearest camera: positions in `others`.

    camera, bounds: of all views of a scene, [V, ...]. What counts is the squared distance of the eyes plus that of the points
    one depth before them, along the axes of the cameras; the depth is the harmonic mean of near and far of the view.
    """
    poses = to_poses(camera)
    depth = (2 * bounds.prod(axis=1) / bounds.sum(axis=1))[list(views), None]
    eyes, axes = (array[list(views), None] - array[None, list(others)] for array in (poses[:, :, 3], poses[:, :, 2]))
    return (np.square(eyes).sum(axis=-1) + depth**2 * np.square(axes).sum(axis=-1)).argmin(axis=1)
