"""From the stored bytes of a batch to what a network sees: unpacking, subsampling and noise, jitted and on the device.

B batch, T query points, N volume points and M surface points of a raw row, P input points. Both feeds and evaluation
use the same functions. Every row draws from its own key, so a part of a batch gives the same rows as the whole. Query
points are the stored float16 values, never jittered: their labels are exact for these values.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.records import CHUNK_POINTS, NUM_VOXELS
from onet_jax.errors import InputError

ROW_KEYS = ('points', 'occ', 'surface', 'voxels', 'view', 'index', 'row')


def make_transform(data_config: ConfigDict) -> Callable[[jax.Array, dict], dict]:
    """transform(key, raw training batch) -> {'points' f32 [B, T, 3], 'occ' f32 [B, T], 'inputs', 'row' [B]}.

    T is `num_points_per_step`: the `num_near_points` of the record's 2048 that are nearest to the surface, which decide
    where the boundary lies, and one from each of T - num_near_points equal shells of the others. num_near_points = 0 takes
    the points as the dataset draws them, in the paper uniformly (section 3.1). An input of more points than a record has
    repeats some of them, each time with other noise. With `partial` a cloud lacks a part of the shape (see `_draw_part`). With
    `augment` a picture is a random square crop of 75 to 100 % of the
    area of its view. With `crop_size` the points are of one random cube of that edge, moved to the origin, the input with them
    (see `_crop`). 'inputs' as in `make_evaluation_transform`. Raises ValueError for a config that a record cannot satisfy.
    """
    num_points, num_near = data_config.num_points_per_step, data_config.num_near_points
    draw_inputs = _make_inputs(data_config, training=True)
    for name, most in (('num_points_per_step', CHUNK_POINTS), ('num_input_points', 8 * CHUNK_POINTS)):
        if not 1 <= data_config.get(name, 1) <= most:
            raise InputError(
                f'config.data.{name}: expected 1 to {most}, of the {CHUNK_POINTS} points of one training record, '
                f'found {data_config[name]}'
            )
    if not 0 <= num_near <= num_points:
        raise InputError(
            f'config.data.num_near_points: expected 0 to config.data.num_points_per_step = {num_points}, found {num_near}'
        )
    # A chunk is stored from the surface outwards (`records.py`): the near points come first, and shells are slices.
    crop_size = data_config.get('crop_size', 0.0)
    if crop_size and (num_near or data_config.input != 'points'):
        raise InputError(
            'config.data.crop_size: expected points as input and config.data.num_near_points = 0, found '
            f'{data_config.input!r} and {num_near}'
        )
    near = np.arange(num_near)
    shells = np.linspace(num_near, CHUNK_POINTS, num_points - num_near + 1).astype(int)

    def transform_row(key, row):
        points_key, inputs_key = jax.random.split(key)
        if crop_size:
            return _crop(points_key, row, draw_inputs(inputs_key, row), crop_size, num_points)
        far = jax.random.randint(points_key, shells[1:].shape, shells[:-1], shells[1:])
        drawn = jnp.concatenate([near, far])
        return {
            'points': row['points'][drawn].astype(jnp.float32),
            'occ': jnp.unpackbits(row['occ'])[drawn].astype(jnp.float32),
            'inputs': draw_inputs(inputs_key, row),
            'row': row['row'],
        }

    return _for_each_row(transform_row)


def make_evaluation_transform(data_config: ConfigDict) -> Callable[[jax.Array, dict], dict]:
    """transform(key, raw evaluation batch) -> {'points' f32 [B, N, 3], 'occ' f32 [B, N], 'inputs', 'row' [B], ...}.

    All volume points are kept. 'subset' int32 [B, T] are the positions among them of `num_points_per_step` points
    everywhere in the cube, 'voxels' f32 [B, 32, 32, 32] {0, 1} the occupied voxels. 'inputs' is, by `config.data.input`,
        'points'   f32 [B, P, 3]: P = `num_input_points` surface points, Gaussian noise of `noise_std` added
        'voxels'   as above
        'image'    f32 [B, S, S, 3]: the view resized to S = `image_size` px, RGB in [0, 1]
        'index'    int32 [B]: the number of the shape in its split
        'none'     f32 [B, 0]
    """
    draw_inputs = _make_inputs(data_config)

    def transform_row(key, row):
        _, inputs_key = jax.random.split(key)
        num_points = len(row['points'])
        # The first chunk is a sample of the whole cube, in it the points are ordered by their distance to the surface.
        last = min(num_points, CHUNK_POINTS) - 1
        return {
            'points': row['points'].astype(jnp.float32),
            'occ': jnp.unpackbits(row['occ'], count=num_points).astype(jnp.float32),
            'subset': np.linspace(0, last, data_config.num_points_per_step).round().astype(np.int32),
            'voxels': _unpack_voxels(inputs_key, row),
            'inputs': draw_inputs(inputs_key, row),
            'row': row['row'],
        }

    return _for_each_row(transform_row)


def _draw_part(key: jax.Array, surface: jax.Array, num_points: int) -> jax.Array:
    """Of points [P, 3] those in the lower part of the extent along a random axis, 70 to 100 % of it: num_points of them, with
    replacement, as the official code draws partial clouds (Peng et al., ECCV 2020)."""
    axis_key, share_key, points_key = jax.random.split(key, 3)
    place = surface[:, jax.random.randint(axis_key, (), 0, 3)]
    beyond = place - place.min() > jax.random.uniform(share_key, minval=0.7) * (place.max() - place.min())
    kept = jnp.argsort(beyond)  # stable: first those that are kept
    return surface[kept[jax.random.randint(points_key, (num_points,), 0, (~beyond).sum())]]


def _crop(key: jax.Array, row: dict, inputs: jax.Array, size: float, num_points: int) -> dict:
    """A row in a cube of edge `size` whose centre, uniform in the bounding box of the inputs [P, 3], becomes the origin.

    `num_points` are drawn, with replacement, of the points in the cube; where there is none, the nearest one to it is. All
    inputs stay: it is for the network to drop what is outside of its window.
    """
    centre_key, points_key = jax.random.split(key)
    low, high = inputs.min(axis=0), inputs.max(axis=0)
    centre = low + (high - low) * jax.random.uniform(centre_key, (3,))
    points = row['points'].astype(jnp.float32) - centre
    beyond = jnp.maximum(jnp.abs(points).max(axis=-1) - size / 2, 0)
    count = jnp.maximum((beyond == 0).sum(), 1)
    drawn = jnp.argsort(beyond)[jax.random.randint(points_key, (num_points,), 0, count)]
    occ = jnp.unpackbits(row['occ'])[drawn].astype(jnp.float32)
    return {'points': points[drawn], 'occ': occ, 'inputs': inputs - centre, 'row': row['row']}


def evaluation_key(seed: int) -> jax.Array:
    """The key of all evaluations of a run: rows fold their position into it. Weights and training use other keys."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def _for_each_row(transform_row: Callable) -> Callable:
    def transform(key, raw):
        rows = {name: jnp.asarray(raw[name]) for name in ROW_KEYS if name in raw}
        return jax.vmap(lambda row: transform_row(jax.random.fold_in(key, row['row']), row))(rows)

    return transform


def _make_inputs(data_config: ConfigDict, training: bool = False) -> Callable:
    """(key, row of a raw batch) -> what the encoder sees of it."""

    def draw_points(key, row):
        num_points, noise_std = data_config.num_input_points, data_config.noise_std
        window_key, noise_key = jax.random.split(key)
        surface = row['surface']
        if data_config.get('partial', False):
            points = _draw_part(window_key, surface.astype(jnp.float32), num_points)
        else:
            if training:
                surface = jnp.tile(surface, (-(-num_points // len(surface)), 1))
            start = _window_start(window_key, len(surface), num_points)
            points = jax.lax.dynamic_slice_in_dim(surface, start, num_points).astype(jnp.float32)
        return points + noise_std * jax.random.normal(noise_key, points.shape)

    def resize_view(key, row):
        if 'view' not in row:
            raise InputError(
                "config.data.input: expected a dataset with views for 'image', found one without; "
                'prepare it with --num_views=24'
            )
        view, size = row['view'].astype(jnp.float32) / 255, data_config.image_size
        side, corner = 1.0, jnp.zeros(2)  # of the part that is seen, as shares of the picture
        if training and data_config.get('augment', False):
            side_key, corner_key = jax.random.split(key)
            side = jnp.sqrt(jax.random.uniform(side_key, minval=0.75, maxval=1.0))
            corner = jax.random.uniform(corner_key, (2,), maxval=1 - side)
        scale = size / (side * len(view))
        shift = -corner * len(view) * scale
        return jax.image.scale_and_translate(view, (size, size, 3), (0, 1), jnp.full(2, scale), shift, 'linear')

    inputs = {
        'points': draw_points,
        'voxels': _unpack_voxels,
        'image': resize_view,
        'index': lambda key, row: row['index'],
        'none': lambda key, row: jnp.zeros(0),
    }
    if data_config.input not in inputs:
        raise InputError(
            f'config.data.input: expected one of {sorted(inputs)} to learn from, found {data_config.input!r}'
        )
    return inputs[data_config.input]


def _unpack_voxels(key: jax.Array, row: dict) -> jax.Array:
    return jnp.unpackbits(row['voxels']).astype(jnp.float32).reshape((NUM_VOXELS,) * 3)


def _window_start(key: jax.Array, num_stored: int, num_drawn: int) -> jax.Array:
    """Where a window of num_drawn of num_stored points starts, uniformly. Raises ValueError when there are too few."""
    if num_drawn > num_stored:
        raise InputError(
            f'config.data.num_input_points: expected at most the {num_stored} surface points of a shape, '
            f'found {num_drawn}'
        )
    return jax.random.randint(key, (), 0, num_stored - num_drawn + 1)
