import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.golden import find_golden, read_golden
from onet_jax.geometry.grid import PADDING
from onet_jax.networks import feature_planes


@pytest.fixture
def rows():
    """Values of 50 points in 7 cells, some of them equal."""
    rng = np.random.default_rng(0)
    return rng.integers(-3, 4, (50, 3)).astype(np.float32), rng.integers(0, 7, 50).astype(np.int32) * 100


@pytest.mark.parametrize('operation', ['sum', 'max'])
@pytest.mark.parametrize('way', [feature_planes._reduce_in_order, feature_planes._reduce_sorted])
def test_both_ways_of_reducing_cells_are_the_slow_one(rows, operation, way):
    values, cells = rows
    slow = np.stack([getattr(values[cells == cell], operation)(axis=0) for cell in cells])
    np.testing.assert_array_equal(way(values, cells, operation), slow)


def test_the_first_of_equal_maxima_has_the_gradient(rows):
    values, cells = rows
    weights = np.random.default_rng(1).normal(size=values.shape).astype(np.float32)
    found = jax.grad(lambda v: (feature_planes.pool_cells(v, cells) * weights).sum())(values)
    expected = np.zeros_like(values)
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        for channel in range(3):
            winner = members[np.argmax(values[members, channel])]
            expected[winner, channel] = weights[members, channel].sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_means_are_written_to_their_cells_and_have_their_gradient(rows):
    values, cells = rows
    found = feature_planes.write_means(values, cells, 1000)
    for cell in range(1000):
        expected = values[cells == cell].mean(axis=0) if cell in cells else np.zeros(3)
        np.testing.assert_allclose(found[cell], expected, rtol=1e-6)
    weights = np.random.default_rng(1).normal(size=found.shape).astype(np.float32)
    gradient = jax.grad(lambda v: (feature_planes.write_means(v, cells, 1000) * weights).sum())(values)
    counts = (cells[:, None] == cells).sum(axis=1)
    np.testing.assert_allclose(gradient, weights[cells] / counts[:, None], rtol=1e-6)


def test_features_between_the_values_of_a_map_are_linear():
    """A linear function is read as it is; the first axis of a map is the last axis of its array."""
    resolution = 5
    axis = np.linspace(0, 1, resolution, dtype=np.float32)
    third, second, first = np.meshgrid(axis, axis, axis, indexing='ij')
    unit = np.random.default_rng(0).uniform(0, 0.99, (1, 40, 3)).astype(np.float32)
    volume = (first + 10 * second + 100 * third)[None, ..., None]
    np.testing.assert_allclose(feature_planes.sample(volume, unit)[0, :, 0], unit[0] @ [1, 10, 100], rtol=1e-5)
    plane = (first + 10 * second)[None, 0, ..., None]
    np.testing.assert_allclose(
        feature_planes.sample(plane, unit[..., :2])[0, :, 0], unit[0, :, :2] @ [1, 10], rtol=1e-5
    )


def test_points_outside_of_the_cube_are_put_to_its_border():
    points = np.array([[-9, 0.1, 9], [0.2, 0.3, 0.4]], np.float32)
    for name in feature_planes.MAPS:
        unit = feature_planes.normalise(points, name)
        assert (unit >= 0).all()
        assert (unit < 1).all()
        assert feature_planes.find_cells(points, name, 8).max() < 8 ** unit.shape[-1]


@pytest.mark.skipif(find_golden('conv/conv_onet/helpers.npz') is None, reason='the official outputs are not here')
@pytest.mark.parametrize('name', feature_planes.MAPS)
def test_coordinates_and_cells_are_the_official_ones(name):
    data = read_golden('conv/conv_onet/helpers.npz')
    kind = 'normalize_3d_coordinate/pad0.1' if name == 'grid' else f'normalize_coordinate/pad0.1/{name}'
    np.testing.assert_allclose(feature_planes.normalise(data['in/p'], name), data[f'out/{kind}'], atol=1e-7)
    with jax.enable_x64(True):
        exact = feature_planes.normalise(jnp.asarray(data['in/p'], jnp.float64), name)
        np.testing.assert_allclose(exact, data[f'out64/{kind}'], atol=1e-12)
    for resolution in (8, 32, 64) if name == 'grid' else (8, 64, 128):
        cells = feature_planes.find_cells(data['in/p'], name, resolution)
        np.testing.assert_array_equal(cells, data[f'out/coordinate2index/pad0.1/{name}/r{resolution}'][:, 0])


@pytest.mark.skipif(find_golden('conv/conv_onet/scatter.npz') is None, reason='the official outputs are not here')
def test_pooling_and_writing_are_the_official_ones():
    data = read_golden('conv/conv_onet/scatter.npz')
    for values, cells, mean, most, winner in zip(
        *(data[f'in/{key}'] for key in ('src', 'index')),
        *(data[f'out/{key}_n12'] for key in ('mean', 'max', 'argmax')),
        strict=True,
    ):
        values, cells = values.T, cells[0]
        np.testing.assert_allclose(feature_planes.write_means(values, cells, 12), mean.T, atol=1e-6)
        np.testing.assert_allclose(feature_planes.average_cells(values, cells), mean.T[cells], atol=1e-6)
        np.testing.assert_array_equal(feature_planes.pool_cells(values, cells), most.T[cells])
        gradient = jax.grad(lambda x, cells=cells: feature_planes.pool_cells(x, cells).sum())(values)
        expected = np.zeros_like(values)
        for cell in np.unique(cells):
            expected[winner[:, cell], np.arange(3)] = (cells == cell).sum()
        np.testing.assert_allclose(gradient, expected)


def test_the_gradient_of_means_is_the_mean_gradient(rows):
    values, cells = rows
    weights = np.random.default_rng(1).normal(size=values.shape).astype(np.float32)
    found = jax.grad(lambda v: (feature_planes.average_cells(v, cells) * weights).sum())(values)
    np.testing.assert_allclose(found, [weights[cells == cell].mean(axis=0) for cell in cells], rtol=1e-5, atol=1e-6)


def test_the_nearest_value_of_a_map_is_read():
    plane = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    unit = np.array([[[0.1, 0.2], [0.13, 0.99], [0.125, 0.375]]], np.float32)
    np.testing.assert_array_equal(feature_planes.sample_nearest(plane, unit)[0, :, 0], [5, 21, 10])


@pytest.mark.parametrize('name', ['xz', 'grid'])
def test_centred_maps_are_read_where_they_were_written(name):
    """A map of what its points are is the identity between the outermost centres; the official one is half a cell off."""
    resolution, half = 8, (1 + PADDING) / 2
    centres = (np.arange(resolution) + 0.5) / resolution * 2 * half - half
    points = (
        np.stack(np.meshgrid(centres, centres, centres, indexing='ij'), axis=-1).reshape(1, -1, 3).astype(np.float32)
    )
    features = feature_planes.make_map(jnp.asarray(points), jnp.asarray(points), name, resolution)
    queries = np.random.default_rng(0).uniform(centres[0], centres[-1], (1, 50, 3)).astype(np.float32)
    axes = list(feature_planes.MAPS[name])

    def read(centred):
        decoder = feature_planes.LocalDecoder(centred=centred)
        return np.asarray(decoder.look_up(features, feature_planes.normalise(jnp.asarray(queries), name)))[0][:, axes]

    np.testing.assert_allclose(read(True), queries[0][:, axes], atol=2e-3)
    deviation = np.abs(read(False) - queries[0][:, axes]).max() / (2 * half / resolution)
    assert 0.35 < deviation < 0.5


def test_the_place_within_a_cell_is_what_the_cell_does_not_tell():
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 50, 3)).astype(np.float32)
    for name, axes in feature_planes.MAPS.items():
        place = np.asarray(feature_planes.within_cells(jnp.asarray(points), name, 16))
        assert place.min() >= -1
        assert place.max() < 1
        unit = np.asarray(feature_planes.normalise(jnp.asarray(points), name))
        cells = np.floor(unit * 16)
        np.testing.assert_allclose((cells + (place + 1) / 2) / 16, unit, atol=1e-6)
        assert place.shape[-1] == len(axes)


def test_beyond_the_outermost_centres_the_value_is_that_of_the_border():
    unit = jnp.asarray([0.0, 0.5 / 8, 7.5 / 8, 0.9999])
    place = np.asarray(feature_planes.from_centres(unit, 8)) * 7
    np.testing.assert_allclose(place, [0, 0, 7, 7], atol=1e-4)
    assert place.max() < 7


def test_centred_encoders_see_where_in_its_cell_a_point_lies():
    """One point that stays in its cells: far from any other, all that its neighbours tell it is its coordinates."""
    maps = feature_planes.Maps(('xz', 'grid'), resolution=8, grid_resolution=8, unet_depth=0, unet3d_levels=0)
    corner, moved = (jnp.full((1, 1, 3), place) for place in (0.001, 0.1))
    for name in maps.names:
        assert (feature_planes.find_cells(corner, name, 8) == feature_planes.find_cells(moved, name, 8)).all()
    for centred, num_inputs in ((False, 3), (True, 3 + 2 + 3)):
        encoder = feature_planes.LocalPointnet(4, 8, maps, centred=centred)
        params = encoder.init(jax.random.key(0), corner)
        kernel = params['params']['fc_pos']['kernel']
        assert kernel.shape[0] == num_inputs
        # Without what the coordinates of the box tell.
        params['params']['fc_pos']['kernel'] = kernel.at[:3].set(0)
        here, there = (encoder.apply(params, points)['grid'] for points in (corner, moved))
        assert (jnp.abs(here - there).max() > 1e-3) == centred
