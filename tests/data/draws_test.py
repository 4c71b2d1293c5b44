"""What fields draw, of shapes whose points carry their numbers; `feeds_test.py` has both feeds and the fields together."""

from functools import reduce
from operator import getitem

import jax
import numpy as np
import pytest
from model_configs import small_data
from numbered_shapes import NUM_SAMPLES, decode, make_rows, make_shape
from PIL import Image

from onet_jax.data import fields
from onet_jax.data.fields import make_evaluation_transform, make_transform
from onet_jax.data.records import CHUNK_POINTS, Need
from onet_jax.errors import InputError

KEY = jax.random.key(0)


def compiled(transform, *path):
    """The part of the batches of a transform that lies at `path`, compiled without the others."""
    return jax.jit(lambda key, raw: reduce(getitem, path, transform(key, raw)))


def draw(num_rows, *path, **changes):
    """Part of a training batch of a config."""
    data = small_data(**changes)
    return compiled(make_transform(data), *path)(KEY, make_rows(fields.find_need(data), num_rows))


def repeat(raw, num_rows):
    """The first row again and again: the same shape, drawn from other keys."""
    rows = {name: np.repeat(value[:1], num_rows, axis=0) for name, value in raw.items()}
    return rows | {'row': np.arange(num_rows, dtype=np.int32)}


@pytest.mark.parametrize('num_points, num_near', [(100, 1), (2048, 0), (5001, 5001), (5000, 416)])
def test_the_nearest_points_of_each_chunk_are_drawn_and_the_others_spread_over_its_shells(num_points, num_near):
    targets = draw(2, 'targets', num_points_per_step=num_points, num_near_points=num_near)
    shapes, numbers = decode(targets['points'])
    assert shapes.tolist() == [[0] * num_points, [1] * num_points]
    num_chunks = -(-num_points // CHUNK_POINTS)
    for number, row in enumerate(numbers):
        assert len(set(row)) == num_points
        np.testing.assert_array_equal(targets['occ'][number], make_shape(number).occ[row])
        for chunk in range(num_chunks):
            first, last = (n * num_points // num_chunks for n in (chunk, chunk + 1))
            num_near_here = (chunk + 1) * num_near // num_chunks - chunk * num_near // num_chunks
            near, far = np.split(row[first:last] - chunk * CHUNK_POINTS, [num_near_here])
            np.testing.assert_array_equal(near, np.arange(num_near_here))
            shells = np.linspace(num_near_here, CHUNK_POINTS, len(far) + 1)
            assert ((np.floor(shells[:-1]) <= far) & (far < shells[1:])).all()


def test_points_without_near_ones_come_equally_often():
    data = small_data(num_points_per_step=256, num_near_points=0)
    points = compiled(make_transform(data), 'targets', 'points')(KEY, repeat(make_rows(fields.find_need(data), 1), 400))
    counts = np.bincount(decode(points)[1].ravel(), minlength=CHUNK_POINTS)
    assert len(counts) == CHUNK_POINTS
    np.testing.assert_array_less(np.abs(counts - 50), 36)  # the standard deviation is below 7


def test_a_cloud_is_a_window_of_the_samples_with_noise_of_the_stated_size():
    quiet, noisy = (
        draw(3, 'inputs', 'scene', inputs=('scene',), num_input_points=3000, noise_std=noise) for noise in (0.0, 0.005)
    )
    shapes, numbers = decode(quiet)
    np.testing.assert_array_equal(shapes, np.tile(np.arange(3), (3000, 1)).T)
    np.testing.assert_array_equal(np.diff(numbers), 1)
    assert len(set(numbers[:, 0])) == 3
    noise = np.asarray(noisy - quiet)
    assert abs(noise.std() - 0.005) < 1e-4
    assert abs(noise.mean()) < 1e-4


def test_a_partial_cloud_is_the_lower_part_along_one_axis():
    """In training and in evaluation alike."""
    data = small_data(num_input_points=1500, partial=True)
    raw = repeat(make_rows(fields.find_need(data), 1), 64)
    raw['surface'][:] = np.random.default_rng(0).uniform(-0.5, 0.5, raw['surface'].shape[1:])
    evaluation = make_evaluation_transform(data, ('cloud',), ('volume_points',))
    clouds, evaluated = (
        np.asarray(compiled(f, 'inputs', 'cloud')(KEY, raw)) for f in (make_transform(data), evaluation)
    )
    np.testing.assert_array_equal(clouds, evaluated)
    np.testing.assert_allclose(clouds.min(axis=1), -0.5, atol=0.02)
    extents = np.ptp(clouds, axis=1)
    assert (np.sort(extents, axis=1)[:, 1:] > 0.98).all(), 'two axes are whole'
    assert extents.min() > 0.68
    short = extents.argmin(axis=1)[extents.min(axis=1) < 0.95]
    assert len(short) > 40
    assert set(short) == {0, 1, 2}
    assert {tuple(point) for point in clouds[0]} <= {tuple(point) for point in raw['surface'][0].astype(np.float32)}


@pytest.mark.parametrize('size', [224, 64])
def test_views_are_resized_as_pillow_does(size):
    """Noise, edges and a gradient; in evaluation, and in training where nothing is augmented."""
    data, rng = small_data(inputs=('image',), image_size=size), np.random.default_rng(0)
    raw = make_rows(fields.find_need(data), 3)
    raw['image'][:2] = rng.integers(0, 256, (2, 137, 137, 3))
    raw['image'][1, 30:90, 20:110] = rng.integers(0, 256, 3)
    for transform in (make_transform(data), make_evaluation_transform(data, ('image',), ('volume_points',))):
        images = np.asarray(compiled(transform, 'inputs', 'image')(KEY, raw))
        assert images.shape == (3, size, size, 3)
        assert images.min() >= 0
        assert images.max() <= 1
        for view, found in zip(raw['image'], images, strict=True):
            expected = Image.fromarray(view).resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(found, np.asarray(expected, np.float32) / 255, rtol=0, atol=1.5 / 255)


def test_augmented_views_are_crops_of_three_quarters_and_more():
    """A picture that carries its own coordinates tells which part of it is seen."""
    data = small_data(inputs=('image',), image_size=137, augment=True)
    raw = repeat(make_rows(fields.find_need(data), 1), 64)
    raw['image'][..., 0], raw['image'][..., 1] = np.arange(137)[:, None], np.arange(137)
    seen = np.asarray(compiled(make_transform(data), 'inputs', 'image')(KEY, raw))[:, 3:-3, 3:-3, :2] * 255
    sides = (seen[:, -1, -1] - seen[:, 0, 0]) / 130
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=2e-2, err_msg='square')
    assert 0.865 < sides.min() < 0.89
    assert 0.97 < sides.max() < 1.005
    assert np.ptp(seen[:, 0, 0], axis=0).min() > 8, 'anywhere in the picture, in both directions'
    plain = compiled(make_evaluation_transform(data, ('image',), ('volume_points',)), 'inputs', 'image')(KEY, raw)
    np.testing.assert_allclose(plain * 255, raw['image'], atol=1e-2, err_msg='evaluation sees the whole view')


@pytest.mark.parametrize('num_drawn, last', [(64, CHUNK_POINTS - 1), (2400, 2399), (9999, 2500)])
def test_an_evaluation_has_all_of_a_shape_also_where_labels_do_not_fill_a_byte(num_drawn, last):
    """And the places of as many points as a step draws: in the first chunk, which is a sample of the whole cube, if it is
    enough."""
    raw = make_rows(Need(('points', 'occ', 'surface', 'normals', 'voxels')), 3, whole=True)
    occ = np.unpackbits(raw['occ'], axis=1)[:, :2501]
    raw |= {'points': raw['points'][:, :2501], 'occ': np.packbits(occ, axis=1), 'mask': np.array([True, True, False])}
    targets = ('volume_points', 'surface_samples', 'voxels')
    transform = make_evaluation_transform(small_data(num_points_per_step=num_drawn), ('voxels',), targets)
    batch = jax.jit(transform)(KEY, raw)
    targets = batch['targets']
    assert targets.keys() == {'points', 'occ', 'subset', 'surface', 'normals', 'voxels'}
    for name in ('points', 'surface', 'normals'):
        np.testing.assert_array_equal(targets[name], raw[name])
    np.testing.assert_array_equal(targets['occ'], occ)
    np.testing.assert_array_equal(batch['mask'], raw['mask'])
    np.testing.assert_array_equal(targets['voxels'], [make_shape(number).voxels for number in range(3)])
    np.testing.assert_array_equal(targets['subset'], np.tile(np.linspace(0, last, num_drawn).round(), (3, 1)))


def test_an_evaluation_of_too_few_surface_samples_is_refused():
    raw = make_rows(Need(('surface',)), 1, whole=True)
    transform = make_evaluation_transform(small_data(num_input_points=20_000), ('cloud',), ('voxels',))
    with pytest.raises(InputError, match=f'expected at most the {NUM_SAMPLES} surface samples of a shape, found 20000'):
        transform(KEY, raw)


def test_random_scans_are_of_the_posed_shape():
    """The cloud of a ball lies on the ball that the labelled points describe, whatever its pose and stretch."""
    rng = np.random.default_rng(0)
    data = small_data(random_scans=True, num_input_points=300, num_points_per_step=2048, num_near_points=0)
    need, num_rows = fields.find_need(data), 64
    rows = make_rows(need, 1)
    points = rng.uniform(-0.55, 0.55, rows['points'].shape).astype(np.float16)
    directions = rng.normal(size=rows['surface'].shape)
    surface = 0.5 * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    is_inside = np.linalg.norm(points.astype(np.float32), axis=-1) < 0.5
    rows |= {'points': points, 'surface': surface.astype(np.float16), 'occ': np.packbits(is_inside, axis=-1)}
    batch = compiled(make_transform(data))(KEY, repeat(rows, num_rows))
    num_distinct, errors = [], []
    for cloud, points, occ in zip(batch['inputs']['cloud'], *map(batch['targets'].get, ('points', 'occ')), strict=True):
        cloud, inside = np.unique(cloud, axis=0), np.asarray(points)[np.asarray(occ) > 0]
        low, high = inside.min(axis=0), inside.max(axis=0)
        assert (np.abs(inside) < 0.56).all()
        radii = np.linalg.norm((cloud - (low + high) / 2) / ((high - low) / 2), axis=-1)
        num_distinct.append(len(cloud))
        errors.append(np.median(np.abs(radii - 1)))
        assert (high - low).min() > 0.7
        assert (high - low).max() < 1.11
    assert min(num_distinct) >= 100
    assert max(num_distinct) <= 300
    assert len(set(num_distinct)) > 10
    # The extent of the points inside is a little less than that of the ball.
    assert np.median(errors) < 0.1
    assert max(errors) < 0.2
    evaluated = compiled(make_evaluation_transform(data, ('cloud',), ('volume_points',)))(KEY, repeat(rows, 2))
    np.testing.assert_allclose(np.linalg.norm(evaluated['inputs']['cloud'], axis=-1), 0.5, atol=1e-3)
