"""Subsampling and noise of clips: what fields draw from the stored frames of a moving shape. Jittable functions of a key.

L frames of a row, T labelled points and N surface samples of a frame, P points of an input cloud. What is drawn is in object
coordinates of the first frame of the clip: later frames may leave the unit cube. Both kinds of points are stored in random
order, so a contiguous slice of them is a random subset. `data` is the group `config.data`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.draws import as_float, resize_view, window_start


def to_first_frame(points: jax.Array, row: dict, frames: np.ndarray | jax.Array) -> jax.Array:
    """points [..., n, 3] of the frames [...], each in its own object coordinates -> in those of the first frame."""
    loc, scale = as_float(row['loc_seq']), as_float(row['scale_seq'])
    frames = jnp.asarray(frames)
    shift, zoom = (loc[frames] - loc[0]) / scale[0], scale[frames] / scale[0]
    return shift[..., None, :] + zoom[..., None, None] * as_float(points)


def times(num_frames: int) -> np.ndarray:
    """The times of the frames of a clip: [L] from 0 to 1."""
    return np.linspace(0, 1, num_frames, dtype=np.float32)


def draw_start_points(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """`num_points_per_step` distinct labelled points of the first frame."""
    points, occ = _draw_labelled(key, row, data, jnp.zeros((), jnp.int32))
    return {'points': points, 'occ': occ}


def all_start_points(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """All labelled points of the first frame."""
    return {name: array[0] for name, array in all_volume_clip(key, row, data).items()}


def draw_later_points(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """`num_points_per_step` distinct labelled points of one random frame, the first among them, and its time in [0, 1]."""
    frame_key, points_key = jax.random.split(key)
    frame = jax.random.randint(frame_key, (), 0, data.num_frames)
    points, occ = _draw_labelled(points_key, row, data, frame)
    return {'later_points': points, 'later_occ': occ, 'time': jnp.asarray(times(data.num_frames))[frame]}


def _draw_labelled(key: jax.Array, row: dict, data: ConfigDict, frame: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Points [T, 3] of a frame and their occupancies [T], T = `num_points_per_step`."""
    start = window_start(key, row['points_seq'].shape[1], data.num_points_per_step, 'labelled points')
    points = jax.lax.dynamic_slice_in_dim(row['points_seq'][frame], start, data.num_points_per_step)
    labels = as_float(jnp.unpackbits(row['occ_seq'][frame]))
    occ = jax.lax.dynamic_slice_in_dim(labels, start, data.num_points_per_step)
    return to_first_frame(points, row, frame), occ


def all_volume_clip(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """All labelled points of each frame [L, T, 3], and their occupancies [L, T]."""
    points = row['points_seq']
    occ = jnp.unpackbits(row['occ_seq'], axis=1, count=points.shape[1])
    return {'points': to_first_frame(points, row, np.arange(len(points))), 'occ': as_float(occ)}


def draw_trajectories(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """`num_trajectories` places of the surface in all frames: [L, M, 3]."""
    return _draw_places(key, row, np.arange(data.num_frames), data.num_trajectories, corresponding=True)


def all_trajectories(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """All surface samples in all frames: [L, N, 3]."""
    return to_first_frame(row['pcl_seq'], row, np.arange(data.num_frames))


def draw_clip(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """`num_input_points` surface samples of each frame [L, P, 3] with Gaussian noise of standard deviation `noise_std`.

    The same places in all frames, or without `corresponding` others in each.
    """
    places_key, noise_key = jax.random.split(key)
    points = _draw_places(places_key, row, np.arange(data.num_frames), data.num_input_points, data.corresponding)
    return points + data.noise_std * jax.random.normal(noise_key, points.shape)


def draw_end_clouds(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """`num_input_points` surface samples of the first and of the last frame [2, P, 3]; as of `draw_clip`, without noise."""
    return _draw_places(key, row, np.array([0, data.num_frames - 1]), data.num_input_points, data.corresponding)


def _draw_places(key: jax.Array, row: dict, frames: np.ndarray, num_points: int, corresponding: bool) -> jax.Array:
    """Surface samples [len(frames), num_points, 3] of frames: the same places in all of them, or no place in two."""
    num_drawn = num_points if corresponding else num_points * len(frames)
    start = window_start(key, row['pcl_seq'].shape[1], num_drawn)
    points = jax.lax.dynamic_slice_in_dim(row['pcl_seq'][frames], start, num_drawn, axis=1)
    if not corresponding:
        points = jnp.stack([points[k, k * num_points : (k + 1) * num_points] for k in range(len(frames))])
    return to_first_frame(points, row, frames)


def draw_image_clip(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """One view of each frame [L, S, S, 3], resized to S = `image_size` px, RGB in [0, 1]."""
    return jax.vmap(lambda view: resize_view(view, data.image_size))(row['image_seq'])
