"""Pictures of views of a shape, and the points of its surface that a depth map shows.

V views, H, W pixels; colours are sRGB.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.geometry.cameras import Camera, unproject

NUM_TILED = 4  # views of a shape that are shown


class Pictures(NamedTuple):
    """What a network predicts that renders a shape: a picture of each view, on white."""

    rgb: np.ndarray  # [V, H, W, 3] float32 in [0, 1]; once it is scored uint8, as files hold it

    def as_bytes(self) -> 'Pictures':
        """The same in the 8 bits of a file."""
        return Pictures(np.round(255 * np.clip(self.rgb, 0, 1)).astype(np.uint8))


def tile(pictures: Pictures) -> np.ndarray:
    """The first views as one square picture [K H, K W, 3] uint8, row by row; K = 1 of fewer than four views."""
    rgb = pictures.rgb if pictures.rgb.dtype == np.uint8 else pictures.as_bytes().rgb
    side = int(min(len(rgb), NUM_TILED) ** 0.5)
    _, height, width, _ = rgb.shape
    grid = rgb[: side * side].reshape(side, side, height, width, 3)
    return grid.swapaxes(1, 2).reshape(side * height, side * width, 3)


def unproject_depth(camera: Camera, depth: np.ndarray) -> np.ndarray:
    """The point of the surface in the centre of each pixel, [..., H, W, 3]; where depth [..., H, W] is 0 it has no meaning.

    camera: matrices [..., 3, 4] and [..., 3, 3] for the pixels of `depth`, which is measured along its axis.
    """
    height, width = depth.shape[-2:]
    pixels = np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1).reshape(-1, 2)
    pixels = np.broadcast_to(pixels, (*depth.shape[:-2], *pixels.shape))
    return unproject(camera, pixels, depth.reshape(*depth.shape[:-2], -1)).reshape(*depth.shape, 3)


def on_white(rgb: jax.Array, depth: jax.Array) -> jax.Array:
    """rgb [..., 3] where there is depth [...], white elsewhere."""
    return jnp.where(depth[..., None] > 0, rgb, 1)


def draw_pixels(key: jax.Array, depth: jax.Array, num_pixels: int) -> jax.Array:
    """The numbers [num_pixels] of random pixels that show the object, with replacement; depth [pixels], 0 is background.

    Where none does, they are of the background.
    """
    seen = jnp.cumsum(depth > 0)
    ranks = jax.random.randint(key, (num_pixels,), 0, jnp.maximum(seen[-1], 1))
    return jnp.minimum(jnp.searchsorted(seen, ranks, side='right'), len(depth) - 1)
