import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import draw_weights

from onet_jax.geometry.grid import PADDING
from onet_jax.networks import feature_planes


def test_sampling_is_bilinear_and_trilinear():
    """A linear function is sampled as it is; the first axis of a map is the last axis of its array."""
    resolution = 5
    axis = np.linspace(0, 1, resolution, dtype=np.float32)
    third, second, first = np.meshgrid(axis, axis, axis, indexing='ij')
    unit = np.random.default_rng(0).uniform(0, 0.99, (1, 40, 3)).astype(np.float32)
    volume = (first + 10 * second + 100 * third)[None, ..., None]
    sample = jax.jit(feature_planes.sample_features)
    np.testing.assert_allclose(sample(volume, unit)[0, :, 0], unit[0] @ [1, 10, 100], rtol=1e-5)
    plane = (first + 10 * second)[None, 0, ..., None]
    np.testing.assert_allclose(sample(plane, unit[..., :2])[0, :, 0], unit[0, :, :2] @ [1, 10], rtol=1e-5)


def test_points_outside_of_the_cube_are_put_to_its_border():
    points = np.array([[-9, 0.1, 9], [0.2, 0.3, 0.4]], np.float32)
    for name in feature_planes.FEATURE_MAPS:
        unit = feature_planes.normalise_coordinates(points, name)
        assert (unit >= 0).all()
        assert (unit < 1).all()
        assert feature_planes.find_cells(points, name, 8).max() < 8 ** unit.shape[-1]


@pytest.mark.parametrize('name', feature_planes.FEATURE_MAPS)
def test_coordinates_and_cells_are_the_official_ones(golden, name):
    data = golden('conv/conv_onet/helpers.npz')
    kind = 'normalize_3d_coordinate/pad0.1' if name == 'grid' else f'normalize_coordinate/pad0.1/{name}'
    np.testing.assert_allclose(feature_planes.normalise_coordinates(data['in/p'], name), data[f'out/{kind}'], atol=1e-7)
    with jax.enable_x64(True):
        exact = feature_planes.normalise_coordinates(jnp.asarray(data['in/p'], jnp.float64), name)
        np.testing.assert_allclose(exact, data[f'out64/{kind}'], atol=1e-12)
    for resolution in (8, 32, 64) if name == 'grid' else (8, 64, 128):
        cells = feature_planes.find_cells(data['in/p'], name, resolution)
        np.testing.assert_array_equal(cells, data[f'out/coordinate2index/pad0.1/{name}/r{resolution}'][:, 0])


def test_the_nearest_value_of_a_map_is_sampled():
    plane = np.arange(25, dtype=np.float32).reshape(1, 5, 5, 1)
    unit = np.array([[[0.1, 0.2], [0.13, 0.99], [0.125, 0.375]]], np.float32)
    np.testing.assert_array_equal(
        feature_planes.sample_features(plane, unit, interpolation='nearest')[0, :, 0], [5, 21, 10]
    )


@pytest.mark.parametrize('name', ['xz', 'grid'])
def test_without_align_corners_maps_are_sampled_where_points_were_scattered(name):
    """A map of what its points are is the identity between the outermost centres; with align_corners half a cell off."""
    resolution, half = 8, (1 + PADDING) / 2
    centres = (np.arange(resolution) + 0.5) / resolution * 2 * half - half
    points = (
        np.stack(np.meshgrid(centres, centres, centres, indexing='ij'), axis=-1).reshape(1, -1, 3).astype(np.float32)
    )
    queries = np.random.default_rng(0).uniform(centres[0], centres[-1], (1, 50, 3)).astype(np.float32)
    axes = list(feature_planes.FEATURE_MAPS[name])

    @jax.jit
    def sample(points):
        features = {name: feature_planes.scatter_to_map(points, points, name, resolution)}
        decoders = (feature_planes.LocalDecoder(align_corners=align_corners) for align_corners in (False, True))
        return [decoder.sample(queries, features)[1][0][:, axes] for decoder in decoders]

    found, aligned = sample(points)
    np.testing.assert_allclose(found, queries[0][:, axes], atol=2e-3)
    deviation = np.abs(aligned - queries[0][:, axes]).max() / (2 * half / resolution)
    assert 0.35 < deviation < 0.5


@pytest.mark.parametrize('align_corners, border', [(True, 0.0), (False, 0.5 / 8)])
def test_beyond_the_outermost_values_the_value_is_that_of_the_border(align_corners, border):
    unit = jnp.asarray([[[-0.5], [0.0], [border], [1 - border], [0.9999], [2.0]]])
    values = feature_planes.sample_features(jnp.arange(8.0)[None, :, None], unit, align_corners=align_corners)[0, :, 0]
    np.testing.assert_allclose(values, [0, 0, 0, 7, 7, 7], atol=1e-3)


def test_the_place_within_a_cell_is_what_the_cell_does_not_tell():
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 50, 3)).astype(np.float32)
    for name, axes in feature_planes.FEATURE_MAPS.items():
        place = np.asarray(feature_planes.find_cell_coordinates(points, name, 16))
        assert place.min() >= -1
        assert place.max() < 1
        unit = np.asarray(feature_planes.normalise_coordinates(points, name))
        cells = np.floor(unit * 16)
        np.testing.assert_allclose((cells + (place + 1) / 2) / 16, unit, atol=1e-6)
        assert place.shape[-1] == len(axes)


@pytest.mark.slow
def test_the_encoder_can_see_where_in_its_cell_a_point_lies():
    """One point that stays in its cells: far from any other, all that its neighbours tell it is its coordinates."""
    maps = feature_planes.FeatureMaps(('xz', 'grid'), resolution=8, grid_resolution=8, unet_depth=0, unet3d_levels=0)
    corner, moved = (np.full((1, 1, 3), place, np.float32) for place in (0.001, 0.1))
    for name in maps.names:
        assert (feature_planes.find_cells(corner, name, 8) == feature_planes.find_cells(moved, name, 8)).all()
    blind, seeing = (feature_planes.LocalPointnet(4, 8, maps, cell_coordinates=seen) for seen in (False, True))
    blind_shapes, shapes = (jax.eval_shape(encoder.init, jax.random.key(0), corner) for encoder in (blind, seeing))
    weights, encode = draw_weights(shapes), jax.jit(seeing.apply)
    kernel = weights['params']['fc_pos']['kernel']
    assert len(blind_shapes['params']['fc_pos']['kernel']) == 3
    assert len(kernel) == 3 + 2 + 3
    kernel[:3] = 0  # without what the coordinates of the box tell
    for seen in (True, False):
        here, there = (encode(weights, points)['grid'] for points in (corner, moved))
        assert (np.abs(here - there).max() > 1e-3) == seen
        kernel[3:] = 0
