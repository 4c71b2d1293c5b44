from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import draw_weights

from onet_jax.convert import names, official
from onet_jax.networks import sliding_window

HELPERS = 'conv/conv_onet/helpers.npz'
UNIT, LEVELS = 0.05, 2  # of the official scene
LOW = np.full((1, 1, 3), -0.5, np.float32)  # of the window around the origin


def test_windows_have_the_official_sizes():
    assert sliding_window.window_cells(25, 4) == 88
    assert sliding_window.window_cells(90, 4) == 160
    assert sliding_window.window_cells(5, 2) == 20
    assert sliding_window.cube_cells(0.005, 4) == 288
    assert sliding_window.cube_cells(0.025, 2) == 60


def test_cells_and_coordinates_are_the_official_ones(golden):
    data = golden(HELPERS)
    low, high = data['in/crop/vol']
    points = data['in/crop/p']
    cells = np.asarray(sliding_window.find_window_cells(points[None], low, float((high - low)[0]) / 16, 16))[0]
    inside = ((points >= low) & (points < high)).all(axis=1)
    np.testing.assert_array_equal(cells[inside], data['out/coord2index_numpy/grid'][0][inside])
    assert (cells[~inside] == 16**3).all()
    assert (~inside).any()
    for metric, _, unit, levels in data['in/decide_total_volume_range'][:4]:
        row = (data['in/decide_total_volume_range'] == (metric, 1 << int(levels) + 2, unit, levels)).all(axis=1)
        expected = data['out/decide_total_volume_range/reso'][row][0]
        assert sliding_window.window_cells(int(np.ceil(metric / unit - 1e-6)), int(levels)) == expected


def test_local_coordinates_are_the_official_ones(golden):
    data = golden(HELPERS)
    for kind, sin_cos in (('linear', False), ('sincos', True)):
        with jax.enable_x64(True):
            found = sliding_window.local_coordinates(jnp.asarray(data['in/p'], jnp.float64), 0.1, sin_cos)
        np.testing.assert_allclose(found, data[f'out64/map2local_{kind}_s0.1'], atol=1e-9)


@pytest.fixture(scope='module')
def network():
    """The encoder of a window, compiled for as many points as the official scene has, random parameters, and points in it."""
    module = sliding_window.CropPointnet(8, 16, UNIT, sliding_window.window_cells(5, LEVELS), LEVELS, 8)
    points = np.random.default_rng(0).uniform(-0.45, 0.45, (1, 500, 3)).astype(np.float32)
    params = draw_weights(jax.eval_shape(module.init, jax.random.key(1), points))
    return module, jax.jit(module.apply), params, points


def test_what_is_outside_of_the_window_does_not_matter(network):
    _, encode, params, points = network
    alone, crowded = (
        encode(params, np.concatenate([points[:, 50:], points[:, :50] + move], axis=1), LOW)['grid'] for move in (3, -4)
    )
    assert alone.shape == (1, 20, 20, 20, 8)
    np.testing.assert_allclose(crowded, alone, atol=1e-5)


def test_a_window_is_as_good_as_another_one(network):
    """Moved by whole cells, points and queries give the same features and logits."""
    module, encode, params, points = network
    shift = 7 * UNIT
    decoder = sliding_window.CropDecoder(6, unit=UNIT)
    queries = 0.2 * points[:, :30]
    here, there = encode(params, points, LOW), encode(params, points + shift, LOW + shift)
    np.testing.assert_allclose(there['grid'], here['grid'], atol=1e-4)
    around_origin = jax.jit(lambda *arguments: module.apply(*arguments)['low'])(params, points)
    np.testing.assert_allclose(around_origin, LOW, atol=1e-6)
    weights = draw_weights(jax.eval_shape(decoder.init, jax.random.key(2), queries, here))
    decode = jax.jit(decoder.apply)
    logits = decode(weights, queries, here)
    np.testing.assert_allclose(decode(weights, queries + shift, there), logits, atol=1e-3)
    assert np.abs(decode(weights, queries + 0.53 * shift, there) - logits).max() > 1e-2


def test_the_weights_serve_windows_of_any_size(network):
    module, _, params, points = network
    larger = module.clone(num_cells=sliding_window.cube_cells(0.1, LEVELS))
    cond, shapes = jax.eval_shape(larger.init_with_output, jax.random.key(1), points)
    assert cond['grid'].shape == (1, 26, 26, 26, 8)
    assert cond['low'].shape == (1, 1, 3)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


@pytest.mark.slow
def test_windows_over_a_scene_have_the_official_values(golden, network):
    """Twenty-seven windows, in the official lattice; 4 values along an axis of each."""
    data, stored = golden('conv/conv_onet/crop_sliding.npz'), golden('conv/conv_onet/model_crop_grid.npz')
    (encoder, encode, *_), decoder, cloud = network, sliding_window.CropDecoder(16, unit=UNIT), data['in/inputs']

    def init():
        cond, variables = encoder.init_with_output(jax.random.key(0), cloud)
        return {
            'params': {
                'encoder': variables['params'],
                'decoder': decoder.init(jax.random.key(0), cloud, cond)['params'],
            }
        }

    state = {key.removeprefix('param/'): x for key, x in stored.items() if key.startswith('param/')}
    tables = {'encoder': names.LOCAL, 'decoder': names.LOCAL}
    params, decode = official.read_weights(state, jax.eval_shape(init), tables)['params'], jax.jit(decoder.apply)

    def values_of(low, queries):
        cond = encode({'params': params['encoder']}, cloud, low)
        return decode({'params': params['decoder']}, queries, cond)[0].reshape(4, 4, 4)

    expected = data['out/up0/value_grid'].reshape(3, 4, 3, 4, 3, 4).transpose(0, 2, 4, 1, 3, 5).reshape(27, 4, 4, 4)
    for query_vol, input_vol, values in zip(data['out/query_vol'], data['out/input_vol'], expected, strict=True):
        axes = [low + (high - low) / 4 * np.arange(4, dtype=np.float32) for low, high in query_vol.T]
        queries = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(1, -1, 3)
        np.testing.assert_allclose(values_of(input_vol[None, :1], queries), values, atol=1e-4)


def test_without_align_corners_windows_agree_on_a_field_that_is_linear():
    """Where two windows overlap they sample the same of volumes that hold the same; else up to half a cell off."""
    unit, num_cells = 0.1, 12
    queries = np.random.default_rng(0).uniform(0, 0.3, (1, 40, 3)).astype(np.float32)

    @partial(jax.jit, static_argnums=1)
    def sample(low, align_corners):
        centres = low + unit * (jnp.arange(num_cells) + 0.5)
        z, y, x = jnp.meshgrid(centres, centres, centres, indexing='ij')
        window = {'grid': jnp.stack([x, y, z], axis=-1)[None], 'low': jnp.full((1, 1, 3), low)}
        return sliding_window.CropDecoder(unit=unit, align_corners=align_corners).sample(queries, window)[1]

    found = sample(-0.8, False)
    np.testing.assert_allclose(found, sample(-0.1, False), atol=1e-5)
    np.testing.assert_allclose(found, queries, atol=1e-5)
    assert np.abs(sample(-0.8, True) - sample(-0.1, True)).max() > 0.5 * unit
