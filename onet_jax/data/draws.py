"""What fields draw of the stored arrays of a shape: subsampling, noise, augmentation. Jitted, on the device, from a key.

T query points, N labelled points and M surface samples of a row, P points of a cloud, S pixels on each side of a picture. In
training a row has whole chunks of stored samples, in evaluation all of a shape. `data` is the group of a config.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.records import CHUNK_POINTS, NUM_VOXELS
from onet_jax.errors import InputError


def as_float(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32)


def occupancies(row: dict) -> jax.Array:
    """Occupancies [N] f32 {0, 1} of a row's labelled points."""
    return as_float(jnp.unpackbits(row['occ'].ravel(), count=len(row['points'])))


def draw_points(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """`num_points_per_step` different ones: from each chunk the `num_near_points` nearest to the surface, which decide where
    the boundary lies, and one from each of equal shells of the others; of several chunks each gives its share.

    num_near_points = 0 takes the points as the dataset draws them, in the paper uniformly (section 3.1).
    """
    num_chunks = len(row['points']) // CHUNK_POINTS
    shares = [
        np.diff(np.linspace(0, n, num_chunks + 1).astype(int)) for n in (data.num_points_per_step, data.num_near_points)
    ]
    drawn = []
    # A chunk is stored from the surface outwards (`records.py`): the near points come first, and shells are slices.
    for chunk, (num_points, num_near) in enumerate(zip(*shares, strict=True)):
        chunk_key = jax.random.fold_in(key, chunk)
        shells = np.linspace(num_near, CHUNK_POINTS, num_points - num_near + 1).astype(int)
        far = jax.random.randint(chunk_key, shells[1:].shape, shells[:-1], shells[1:])
        drawn.append(chunk * CHUNK_POINTS + jnp.concatenate([np.arange(num_near), far]))
    drawn = jnp.concatenate(drawn)
    return {'points': as_float(row['points'][drawn]), 'occ': occupancies(row)[drawn]}


def all_points(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """All of them; 'subset' int32 [T] are the places among them of as many points as training draws, everywhere in the cube."""
    # The first chunk is a sample of the whole cube, in it the points are ordered by their distance to the surface.
    num_drawn = data.get('num_points_per_step', CHUNK_POINTS)
    last = min(len(row['points']), max(CHUNK_POINTS, num_drawn)) - 1
    subset = np.linspace(0, last, num_drawn).round().astype(np.int32)
    return {'points': as_float(row['points']), 'occ': occupancies(row), 'subset': jnp.asarray(subset)}


def draw_samples(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """`num_target_points` of them with their normals."""
    start = _window_start(key, len(row['surface']), data.num_target_points)
    return {
        'surface': as_float(jax.lax.dynamic_slice_in_dim(row['surface'], start, data.num_target_points)),
        'normals': as_float(jax.lax.dynamic_slice_in_dim(row['normals'], start, data.num_target_points)),
    }


def all_samples(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    return {'surface': as_float(row['surface']), 'normals': as_float(row['normals'])}


def _window_start(key: jax.Array, num_stored: int, num_drawn: int) -> jax.Array:
    """Where a window of num_drawn of num_stored samples starts, uniformly. Raises InputError when there are too few."""
    if num_drawn > num_stored:
        raise InputError(
            f'config.data: expected at most the {num_stored} surface samples of a shape, found {num_drawn} to draw'
        )
    return jax.random.randint(key, (), 0, num_stored - num_drawn + 1)


def draw_scene(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """`num_input_points` different surface samples [P, 3] with Gaussian noise of `noise_std`."""
    window_key, noise_key = jax.random.split(key)
    start = _window_start(window_key, len(row['surface']), data.num_input_points)
    points = as_float(jax.lax.dynamic_slice_in_dim(row['surface'], start, data.num_input_points))
    return points + data.noise_std * jax.random.normal(noise_key, points.shape)


def draw_cloud(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """As of a scene; with `partial` of a part of the shape."""
    if not data.partial:
        return draw_scene(key, row, data)
    part_key, noise_key = jax.random.split(key)
    points = _draw_part(part_key, as_float(row['surface']), data.num_input_points)
    return points + data.noise_std * jax.random.normal(noise_key, points.shape)


def _draw_part(key: jax.Array, surface: jax.Array, num_points: int) -> jax.Array:
    """Of points [P, 3] those in the lower part of the extent along a random axis, 70 to 100 % of it: num_points of them, with
    replacement, as the official code draws partial clouds (Peng et al., ECCV 2020)."""
    axis_key, share_key, points_key = jax.random.split(key, 3)
    place = surface[:, jax.random.randint(axis_key, (), 0, 3)]
    beyond = place - place.min() > jax.random.uniform(share_key, minval=0.7) * (place.max() - place.min())
    kept = jnp.argsort(beyond)  # stable: first those that are kept
    return surface[kept[jax.random.randint(points_key, (num_points,), 0, (~beyond).sum())]]


def draw_image(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """The view resized to `image_size` px, RGB in [0, 1]; with `augment` a random square crop of 75 to 100 % of its area."""
    if not data.augment:
        return resize_view(row['image'], data.image_size)
    side_key, corner_key = jax.random.split(key)
    side = jnp.sqrt(jax.random.uniform(side_key, minval=0.75, maxval=1.0))
    return resize_view(row['image'], data.image_size, side, jax.random.uniform(corner_key, (2,), maxval=1 - side))


def resize_view(
    view: jax.Array, size: int, side: jax.Array | float = 1.0, corner: jax.Array | float = 0.0
) -> jax.Array:
    """A view [H, H, 3] uint8 -> [size, size, 3] in [0, 1], of its part from `corner` on with edge `side`, shares of the
    picture."""
    view = as_float(view) / 255
    scale = size / (side * len(view))
    shift = jnp.broadcast_to(-corner * len(view) * scale, (2,))
    scale = jnp.broadcast_to(scale, (2,))
    return jax.image.scale_and_translate(view, (size, size, 3), (0, 1), scale, shift, 'linear')


def unpack_voxels(row: dict) -> jax.Array:
    return as_float(jnp.unpackbits(row['voxels'])).reshape((NUM_VOXELS,) * 3)


def draw_labels(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """The first half of the labelled points with their occupancies [N / 2, 4]; the other half is for the score."""
    labelled = jnp.concatenate([as_float(row['points']), occupancies(row)[:, None]], axis=1)
    return labelled[: len(labelled) // 2]
