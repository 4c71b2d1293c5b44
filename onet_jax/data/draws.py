"""Subsampling, noise and augmentation: what fields draw from the stored arrays of a shape. Jittable functions of a key.

T labelled points and N surface samples of a row, P points of an input cloud. In training a row has whole chunks of stored
points, in evaluation all of a shape. `data` is the group `config.data`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.schema import CHUNK_POINTS, NUM_VOXELS
from onet_jax.errors import InputError
from onet_jax.geometry.grid import BOX


def as_float(x: jax.Array) -> jax.Array:
    """The array as float32."""
    return x.astype(jnp.float32)


def occupancies(row: dict) -> jax.Array:
    """Occupancies [T] f32 in {0, 1} of the labelled points of a row."""
    return as_float(jnp.unpackbits(row['occ'].ravel(), count=len(row['points'])))


def draw_points(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """`num_points_per_step` distinct labelled points, stratified by their distance to the surface.

    `num_near_points` of them are the nearest to the surface, which decide where the boundary lies; the others are one from
    each of shells that hold equally many points. Every chunk of the row gives an equal share. num_near_points = 0 keeps the
    distribution of the dataset, in the paper the uniform one (section 3.1).
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
    """All labelled points; 'subset' int32 [num_points_per_step]: indices of as many as training draws, from the whole cube."""
    # The first chunk is a sample of the whole cube, sorted by the distance to the surface.
    num_drawn = data.get('num_points_per_step', CHUNK_POINTS)
    last = min(len(row['points']), max(CHUNK_POINTS, num_drawn)) - 1
    subset = np.linspace(0, last, num_drawn).round().astype(np.int32)
    return {'points': as_float(row['points']), 'occ': occupancies(row), 'subset': jnp.asarray(subset)}


def draw_samples(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """`num_target_points` distinct surface samples with their normals."""
    start = window_start(key, len(row['surface']), data.num_target_points)
    return {
        'surface': as_float(jax.lax.dynamic_slice_in_dim(row['surface'], start, data.num_target_points)),
        'normals': as_float(jax.lax.dynamic_slice_in_dim(row['normals'], start, data.num_target_points)),
    }


def all_samples(key: jax.Array, row: dict, data: ConfigDict) -> dict:
    """All surface samples with their normals."""
    return {'surface': as_float(row['surface']), 'normals': as_float(row['normals'])}


def window_start(key: jax.Array, num_stored: int, num_drawn: int, what: str = 'surface samples') -> jax.Array:
    """Uniform start of a contiguous slice of num_drawn out of num_stored samples. Raises InputError when there are too few."""
    if num_drawn > num_stored:
        raise InputError(f'config.data: expected at most the {num_stored} {what} of a shape, found {num_drawn} to draw')
    return jax.random.randint(key, (), 0, num_stored - num_drawn + 1)


def draw_scene(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """With `random_scans` as `draw_scan`, of at least a third of the points; else as `draw_clean_scene`."""
    if data.get('random_scans'):
        return draw_scan(key, row, data, data.num_input_points // 3, SCENE_NOISE)
    return draw_clean_scene(key, row, data)


def draw_clean_scene(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """`num_input_points` distinct surface samples [P, 3] with Gaussian noise of standard deviation `noise_std`."""
    window_key, noise_key = jax.random.split(key)
    start = window_start(window_key, len(row['surface']), data.num_input_points)
    points = as_float(jax.lax.dynamic_slice_in_dim(row['surface'], start, data.num_input_points))
    return points + data.noise_std * jax.random.normal(noise_key, points.shape)


def draw_cloud(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """With `random_scans` as `draw_scan`, else as `draw_clean_cloud`."""
    if data.get('random_scans'):
        return draw_scan(key, row, data, FEWEST_POINTS, MOST_NOISE)
    return draw_clean_cloud(key, row, data)


def draw_clean_cloud(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """As `draw_clean_scene`; with `partial` from a part of the shape alone."""
    if not data.partial:
        return draw_clean_scene(key, row, data)
    part_key, noise_key = jax.random.split(key)
    points = _draw_part(part_key, as_float(row['surface']), data.num_input_points)
    return points + data.noise_std * jax.random.normal(noise_key, points.shape)


def _draw_part(key: jax.Array, surface: jax.Array, num_points: int) -> jax.Array:
    """num_points of those surface samples [N, 3] that lie in the lower 70 to 100 % of the extent along a random axis.

    With replacement, as the official code draws partial clouds (Peng et al., ECCV 2020).
    """
    axis_key, share_key, points_key = jax.random.split(key, 3)
    place = surface[:, jax.random.randint(axis_key, (), 0, 3)]
    beyond = place - place.min() > jax.random.uniform(share_key, minval=0.7) * (place.max() - place.min())
    kept = jnp.argsort(beyond)  # those that are kept come first
    return surface[kept[jax.random.randint(points_key, (num_points,), 0, (~beyond).sum())]]


# Random scans: points of a cloud (at most `num_input_points`), standard deviation of their noise in units of the longest edge,
# share of outliers; share of the clouds that lack a side, and what is left of their extent.
FEWEST_POINTS, MOST_NOISE, SCENE_NOISE, MOST_OUTLIERS = 100, 0.02, 0.01, 0.02
SHARE_CUT, LEAST_LEFT = 0.3, 0.6
SMALLEST = 0.75  # factor of `pose`; the largest, BOX, fills the sampled box


def draw_scan(key: jax.Array, row: dict, data: ConfigDict, fewest: int, most_noise: float) -> jax.Array:
    """A cloud [P, 3] as scanners give them: of random density and noise, some with outliers or without a side.

    A sparse cloud has each of its points several times, as that of a user who has too few.
    """
    direction_key, cut_key, points_key, count_key, noise_key, outliers_key = jax.random.split(key, 6)
    surface, num_points = as_float(row['surface']), data.num_input_points
    place = surface @ jax.random.normal(direction_key, (3,))
    is_cut, left = jax.random.uniform(cut_key, (2,))
    left = jnp.where(is_cut < SHARE_CUT, LEAST_LEFT + (1 - LEAST_LEFT) * left, 1.0)
    beyond = place - place.min() > left * (place.max() - place.min())
    kept = jnp.argsort(beyond)  # those that are kept come first
    points = surface[kept[jax.random.randint(points_key, (num_points,), 0, (~beyond).sum())]]

    fewest = min(fewest, num_points)
    count_share, noise_share, outliers_share = jax.random.uniform(count_key, (3,))
    count = jnp.round(fewest * (num_points / fewest) ** count_share).astype(jnp.int32)
    points += most_noise * noise_share**2 * jax.random.normal(noise_key, points.shape)
    where_key, which_key = jax.random.split(outliers_key)
    is_outlier = jax.random.uniform(which_key, (num_points, 1)) < MOST_OUTLIERS * jnp.maximum(2 * outliers_share - 1, 0)
    points = jnp.where(is_outlier, jax.random.uniform(where_key, points.shape, minval=-0.5, maxval=0.5), points)
    return points[jnp.arange(num_points) % count]


def pose(key: jax.Array, row: dict) -> dict:
    """The row with its points and normals in a random pose and size: a symmetry of the cube, a stretch of each axis, a shift.

    The shape stays in the sampled box, and each labelled point stays on its side of the surface.
    """
    axes_key, signs_key, stretch_key, shift_key = jax.random.split(key, 4)
    axes, signs = jax.random.permutation(axes_key, 3), jax.random.rademacher(signs_key, (3,), jnp.float32)
    stretch = jax.random.uniform(stretch_key, (3,), minval=SMALLEST, maxval=BOX)
    shift = jax.random.uniform(shift_key, (3,), minval=-1.0) * (BOX - stretch) / 2
    names = [name for name in ('points', 'surface') if name in row]
    posed = {name: signs * stretch * as_float(row[name])[:, axes] + shift for name in names}
    if 'normals' in row:
        normals = signs / stretch * as_float(row['normals'])[:, axes]
        posed['normals'] = normals / jnp.linalg.norm(normals, axis=-1, keepdims=True)
    return {**row, **posed}


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
    """Crop and resize a view [H, H, 3] uint8 -> [size, size, 3] in [0, 1]: the square from `corner` (row, column) with edge
    `side`, as fractions of the image."""
    view = as_float(view) / 255
    scale = size / (side * len(view))
    shift = jnp.broadcast_to(-corner * len(view) * scale, (2,))
    scale = jnp.broadcast_to(scale, (2,))
    return jax.image.scale_and_translate(view, (size, size, 3), (0, 1), scale, shift, 'linear')


def unpack_voxels(row: dict) -> jax.Array:
    """Occupancies [32, 32, 32] f32 in {0, 1} of the voxels of a row."""
    return as_float(jnp.unpackbits(row['voxels'])).reshape((NUM_VOXELS,) * 3)


def draw_labels(key: jax.Array, row: dict, data: ConfigDict) -> jax.Array:
    """The first half of the labelled points with their occupancies [T / 2, 4]; the other is scored (`fields.held_out`)."""
    labelled = jnp.concatenate([as_float(row['points']), occupancies(row)[:, None]], axis=1)
    return labelled[: len(labelled) // 2]
