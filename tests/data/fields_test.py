import jax
import numpy as np
import pytest
from model_configs import small_config
from PIL import Image

from onet_jax.data.fields import make_evaluation_transform, make_transform
from onet_jax.data.records import CHUNK_POINTS


def make_raw(batch_size, num_points=CHUNK_POINTS):
    """Points that carry their own number, so that those drawn can be recognised."""
    rng = np.random.default_rng(0)
    points = np.zeros((batch_size, num_points, 3), np.float16)
    points[..., 0] = np.arange(num_points) / 2048
    points[..., 1] = np.arange(batch_size)[:, None] / 64
    occ = rng.integers(0, 2, (batch_size, num_points))
    voxels = rng.integers(0, 2, (batch_size, 32**3))
    raw = {
        'points': points,
        'occ': np.packbits(occ, axis=1),
        'surface': rng.uniform(-0.5, 0.5, (batch_size, num_points, 3)).astype(np.float16),
        'voxels': np.packbits(voxels, axis=1),
        'row': np.arange(batch_size, dtype=np.int32),
    }
    return raw, occ, voxels


def config(**data):
    result = small_config().data
    with result.unlocked():
        result.update(data)
    return result


def test_points_keep_their_labels_and_their_shape():
    raw, occ, _ = make_raw(4)
    batch = jax.jit(make_transform(config(num_points_per_step=100)))(jax.random.key(0), raw)
    number = np.round(np.asarray(batch['points'][..., 0]) * 2048).astype(int)
    np.testing.assert_allclose(batch['points'][..., 1], np.repeat(np.arange(4)[:, None] / 64, 100, axis=1))
    np.testing.assert_array_equal(batch['occ'], np.take_along_axis(occ, number, axis=1))
    assert batch['points'].dtype == batch['occ'].dtype == batch['inputs'].dtype == np.float32


def test_uniform_sampling_draws_every_point_as_often_and_none_twice():
    raw, _, _ = make_raw(1)
    raw = {k: np.repeat(v, 400, axis=0) for k, v in raw.items()} | {'row': np.arange(400, dtype=np.int32)}
    points = make_transform(config(num_points_per_step=256, num_near_points=0))(jax.random.key(0), raw)['points']
    number = np.round(np.asarray(points[..., 0]) * 2048).astype(int)
    assert all(len(np.unique(row)) == 256 for row in number)
    counts = np.bincount(number.ravel(), minlength=CHUNK_POINTS)
    np.testing.assert_array_less(np.abs(counts - 50), 36)  # the standard deviation is below 7
    whole = make_transform(config(num_points_per_step=CHUNK_POINTS, num_near_points=0))(jax.random.key(0), raw)
    np.testing.assert_array_equal(whole['points'], raw['points'].astype(np.float32))


@pytest.mark.parametrize(('num_points', 'num_near'), [(256, 208), (256, 256), (100, 1)])
def test_near_points_are_all_drawn_and_the_others_spread_over_the_rest(num_points, num_near):
    raw, _, _ = make_raw(2)
    transform = make_transform(config(num_points_per_step=num_points, num_near_points=num_near))
    number = np.round(np.asarray(transform(jax.random.key(0), raw)['points'][..., 0]) * 2048).astype(int)
    np.testing.assert_array_equal(number[:, :num_near], np.tile(np.arange(num_near), (2, 1)))
    bounds = np.linspace(num_near, CHUNK_POINTS, num_points - num_near + 1)
    assert (number[:, num_near:] >= np.floor(bounds[:-1])).all()
    assert (number[:, num_near:] < bounds[1:]).all()


def test_inputs_are_surface_points_with_noise_of_the_stated_size():
    raw, _, _ = make_raw(8)
    settings = config(num_input_points=CHUNK_POINTS, noise_std=0.005)
    batch = make_transform(settings)(jax.random.key(0), raw)
    noise = np.asarray(batch['inputs']) - raw['surface'].astype(np.float32)
    assert abs(noise.std() - 0.005) < 1e-4
    assert abs(noise.mean()) < 1e-4
    quiet = make_transform(config(num_input_points=300, noise_std=0.0))(jax.random.key(0), raw)['inputs']
    stored = {tuple(p) for p in raw['surface'][0].astype(np.float32).tolist()}
    assert all(tuple(p) in stored for p in np.asarray(quiet[0]).tolist())
    many = make_transform(config(num_input_points=3000, noise_std=0.0))(jax.random.key(0), raw)['inputs']
    _, counts = np.unique(many[0], axis=0, return_counts=True)
    assert (counts.sum(), counts.min(), counts.max()) == (3000, 1, 2), (
        'more than are stored: all, and some of them twice'
    )


def test_a_part_of_a_batch_equals_the_same_rows_of_the_whole():
    """Every row draws from its own key: what makes two devices equal one."""
    raw, _, _ = make_raw(6)
    transform = jax.jit(make_transform(config()))
    whole = transform(jax.random.key(3), raw)
    part = transform(jax.random.key(3), {k: v[4:] for k, v in raw.items()})
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:], b), whole, part)
    other = transform(jax.random.key(4), raw)
    assert not np.array_equal(whole['inputs'], other['inputs'])
    assert not np.array_equal(whole['inputs'][0], whole['inputs'][1])


def test_evaluation_keeps_all_points_also_where_they_do_not_fill_a_byte():
    raw, occ, voxels = make_raw(3, num_points=2501)
    batch = make_evaluation_transform(config(num_input_points=300))(jax.random.key(0), raw)
    assert batch['points'].shape == (3, 2501, 3)
    np.testing.assert_array_equal(batch['occ'], occ)
    grids = make_evaluation_transform(config(input='voxels'))(jax.random.key(0), raw)['inputs']
    np.testing.assert_array_equal(grids, voxels.reshape(3, 32, 32, 32))


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ({'num_points_per_step': 4096}, r'config.data.num_points_per_step: expected 1 to 2048.*found 4096'),
        ({'num_near_points': 65}, r'config.data.num_near_points: expected 0 to .*per_step = 64, found 65'),
        ({'num_input_points': 0}, r'config.data.num_input_points: expected 1 to 16384.*found 0'),
        ({'input': 'smell'}, r"config.data.input: expected one of \['image', 'index', .*found 'smell'"),
    ],
)
def test_a_config_that_no_record_satisfies_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        make_transform(config(**data))


def add_views(raw):
    """Noise, edges and a gradient."""
    rng = np.random.default_rng(0)
    views = rng.integers(0, 256, (len(raw['row']), 137, 137, 3), dtype=np.uint8)
    views[1:, 30:90, 20:110] = rng.integers(0, 256, 3)
    views[2:] = (np.arange(137)[:, None] * np.array([1.8, 0.9, 0.3])).astype(np.uint8)
    return raw | {'view': views}


@pytest.mark.parametrize('size', [224, 137, 64])
def test_views_are_resized_as_pillow_does(size):
    raw = add_views(make_raw(3)[0])
    settings = config(input='image', image_size=size)
    for transform in (make_transform(settings), make_evaluation_transform(settings)):
        inputs = np.asarray(transform(jax.random.key(0), raw)['inputs'])
        assert inputs.shape == (3, size, size, 3)
        assert inputs.dtype == np.float32
        assert inputs.min() >= 0
        assert inputs.max() <= 1
        for view, found in zip(raw['view'], inputs, strict=True):
            expected = Image.fromarray(view).resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(found, np.asarray(expected, np.float32) / 255, rtol=0, atol=1.5 / 255)


def test_augmented_views_are_crops_of_three_quarters_and_more():
    """A picture that carries its own coordinates tells which part of it is seen."""
    pixels = np.zeros((64, 137, 137, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(137)[:, None], np.arange(137)
    raw = add_views(make_raw(64)[0]) | {'view': pixels}
    settings = config(input='image', image_size=137, augment=True)
    seen = np.asarray(make_transform(settings)(jax.random.key(0), raw)['inputs'])[:, 3:-3, 3:-3, :2] * 255
    sides = (seen[:, -1, -1] - seen[:, 0, 0]) / 130
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=2e-2, err_msg='square')
    assert 0.865 < sides.min() < 0.89
    assert 0.97 < sides.max() < 1.005
    assert np.ptp(seen[:, 0, 0], axis=0).min() > 8, 'anywhere in the picture, in both directions'
    plain = make_evaluation_transform(settings)(jax.random.key(0), raw)['inputs']
    np.testing.assert_allclose(plain * 255, pixels, atol=1e-2, err_msg='evaluation sees the whole view')


def test_a_dataset_without_views_has_no_pictures_to_learn_from():
    settings = config(input='image', image_size=64)
    for transform in (make_transform(settings), make_evaluation_transform(settings)):
        with pytest.raises(ValueError, match=r"expected a dataset with views for 'image', .* with --num_views=24"):
            transform(jax.random.key(0), make_raw(1)[0])


def test_evaluation_with_too_few_surface_points_is_refused():
    raw, _, _ = make_raw(1, num_points=200)
    transform = make_evaluation_transform(config(num_input_points=300))
    with pytest.raises(ValueError, match='expected at most the 200 surface points of a shape, found 300'):
        transform(jax.random.key(0), raw)


def test_a_crop_is_a_cube_around_the_origin_and_keeps_its_labels():
    raw, _, _ = make_raw(8)
    rng = np.random.default_rng(1)
    raw['points'] = rng.uniform(-0.5, 0.5, raw['points'].shape).astype(np.float16)
    raw['occ'] = np.packbits(raw['points'][..., 0] > raw['points'][..., 1], axis=1)
    crop = config(crop_size=0.3, num_near_points=0, num_points_per_step=64, num_input_points=500, noise_std=0.0)
    batch = jax.jit(make_transform(crop))(jax.random.key(0), raw)
    assert batch['points'].shape == (8, 64, 3)
    assert batch['inputs'].shape == (8, 500, 3)
    assert np.abs(batch['points']).max() <= 0.15
    whole = make_transform(config(num_near_points=0, num_input_points=500, noise_std=0.0))(jax.random.key(0), raw)
    for row in range(8):
        shift = np.asarray(batch['inputs'][row, 0] - whole['inputs'][row, 0])
        np.testing.assert_allclose(batch['inputs'][row] - whole['inputs'][row], np.tile(shift, (500, 1)), atol=1e-6)
        places = np.asarray(batch['points'][row]) - shift
        np.testing.assert_array_equal(batch['occ'][row], places[:, 0] > places[:, 1])
    with pytest.raises(ValueError, match=r'config.data.crop_size: expected points as input and .*num_near_points = 0'):
        make_transform(config(crop_size=0.3, num_near_points=8))


def test_a_crop_without_points_takes_the_nearest_one():
    raw, _, _ = make_raw(1)
    raw['points'][:] = 0.5
    raw['points'][0, 7] = -0.4
    raw['surface'][:] = -0.45
    crop = config(crop_size=0.05, num_near_points=0, num_points_per_step=16, num_input_points=10, noise_std=0.0)
    batch = make_transform(crop)(jax.random.key(0), raw)
    np.testing.assert_allclose(batch['points'], 0.05, atol=1e-3)


@pytest.mark.parametrize('make', [make_transform, make_evaluation_transform])
def test_a_partial_cloud_is_the_lower_part_along_one_axis(make):
    raw, _, _ = make_raw(64)
    settings = config(num_points_per_step=8, num_near_points=0, num_input_points=1500, noise_std=0.0, partial=True)
    inputs = np.asarray(jax.jit(make(settings))(jax.random.key(0), raw)['inputs'])
    assert inputs.shape == (64, 1500, 3)
    np.testing.assert_allclose(inputs.min(axis=1), -0.5, atol=0.02)
    extents = np.ptp(inputs, axis=1)
    assert (np.sort(extents, axis=1)[:, 1:] > 0.98).all(), 'two axes are whole'
    assert extents.min() > 0.68
    short = extents.argmin(axis=1)[extents.min(axis=1) < 0.95]
    assert len(short) > 40
    assert set(short) == {0, 1, 2}
    of_the_shape = {tuple(point) for point in raw['surface'][0].astype(np.float32)}
    assert {tuple(point) for point in inputs[0]} <= of_the_shape
