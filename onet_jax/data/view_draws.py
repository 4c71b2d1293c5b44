"""Posed views and oriented points (points with normals) of a shape, drawn from its stored columns. Jittable functions of a key.

V views of a row, V = 1 in training; P points, S = `config.data.view_size` pixels along each side. Views are stored with 137 px;
they are drawn with S px, and their cameras with them, so that all three stay one view. Colour and depth of a pixel are those of
one stored pixel, as in the paper: a mean over some would mix background into the colours along the outline.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.draws import as_float
from onet_jax.data.schema import DEPTH_STEPS, VIEW_SIZE


def draw_oriented_cloud(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """`num_surface_points` surface samples with their outward unit normals [P, 6], with replacement (Oechsle et al., 2019)."""
    drawn = jax.random.randint(key, (data.num_surface_points,), 0, len(row['surface']))
    return as_float(jnp.concatenate([row['surface'][drawn], row['normals'][drawn]], axis=1))


def depth_views(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """'view_depth' [V, S, S] along the axis of the camera, 0 is background; the cameras 'view_world_mat' [V, 3, 4] and
    'view_camera_mat' [V, 3, 3], whose pixels are those of S px."""
    size = data.view_size
    shrunk = np.array([size / VIEW_SIZE, size / VIEW_SIZE, 1], np.float32)[:, None]
    return {
        'view_depth': as_float(resize_nearest(row['depth'], size, size)) / DEPTH_STEPS,
        'view_world_mat': row['world_mat'],
        'view_camera_mat': shrunk * row['camera_mat'],
    }


def views(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """'rgb' [V, S, S, 3] in [0, 1], on white."""
    return {'rgb': as_float(resize_nearest(row['image'], data.view_size, data.view_size)) / 255}


def resize_nearest(pictures: jax.Array, height: int, width: int) -> jax.Array:
    """Pictures [V, H, W, ...] -> [V, height, width, ...]: each pixel is the one there that holds its centre ("order 0")."""
    rows, columns = (
        ((np.arange(size) + 0.5) * stored / size).astype(int)
        for size, stored in zip((height, width), pictures.shape[1:3], strict=True)
    )
    return pictures[:, rows][:, :, columns]
