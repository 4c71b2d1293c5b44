import ast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.conv_parity import crop_config
from benchmarks.golden import find_golden, read_golden
from benchmarks.module_parity import under
from onet_jax.convert import official
from onet_jax.models.conv_onet import build_module
from onet_jax.networks import sliding_window

HELPERS = 'conv/conv_onet/helpers.npz'
needs_golden = pytest.mark.skipif(find_golden(HELPERS) is None, reason='the official outputs are not here')


def test_windows_have_the_official_sizes():
    assert sliding_window.window_cells(25, 4) == 88
    assert sliding_window.window_cells(90, 4) == 160
    assert sliding_window.window_cells(5, 2) == 20
    assert sliding_window.cube_cells(0.005, 4) == 288
    assert sliding_window.cube_cells(0.025, 2) == 60


@needs_golden
def test_cells_and_coordinates_are_the_official_ones():
    data = read_golden(HELPERS)
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


@needs_golden
def test_local_coordinates_are_the_official_ones():
    data = read_golden(HELPERS)
    for kind, sin_cos in (('linear', False), ('sincos', True)):
        with jax.enable_x64(True):
            found = sliding_window.local_coordinates(jnp.asarray(data['in/p'], jnp.float64), 0.1, sin_cos)
        np.testing.assert_allclose(found, data[f'out64/map2local_{kind}_s0.1'], atol=1e-9)


@pytest.fixture(scope='module')
def network():
    module = sliding_window.CropPointnet(4, 6, unit=0.1, query_cells=5, unet3d_levels=2, unet3d_size=8)
    points = jax.random.uniform(jax.random.key(0), (1, 200, 3), minval=-0.9, maxval=0.9)
    return module, module.init(jax.random.key(1), points), points


def test_what_is_outside_of_the_window_does_not_matter(network):
    module, params, points = network
    outside = jnp.full((1, 50, 3), 1.5)
    alone, crowded = (
        module.apply(params, x, train=True)['grid'] for x in (points, jnp.concatenate([points, outside], axis=1))
    )
    assert alone.shape == (1, 20, 20, 20, 4)
    np.testing.assert_allclose(crowded, alone, atol=1e-5)


def test_a_window_is_as_good_as_another_one(network):
    """Moved by whole cells, points and queries give the same features and logits."""
    module, params, points = network
    shift = 7 * 0.1
    decoder = sliding_window.CropDecoder(6, unit=0.1)
    queries = 0.2 * points[:, :30]
    here = module.apply(params, points, train=True)
    there = module.apply(params, points + shift, here['low'] + shift, train=True)
    np.testing.assert_allclose(there['grid'], here['grid'], atol=1e-4)
    weights = decoder.init(jax.random.key(2), queries, here)
    logits = decoder.apply(weights, queries, here)
    np.testing.assert_allclose(decoder.apply(weights, queries + shift, there), logits, atol=1e-3)
    assert np.abs(decoder.apply(weights, queries + 0.53 * shift, there) - logits).max() > 1e-2


def test_outside_of_training_the_window_holds_the_cube(network):
    module, params, points = network
    cond = module.apply(params, points)
    assert cond['grid'].shape[1] == sliding_window.cube_cells(0.1, 2) == 26
    np.testing.assert_allclose(cond['low'], -1.3, atol=1e-6)


@pytest.mark.skipif(find_golden('conv/conv_onet/crop_sliding.npz') is None, reason='the official outputs are not here')
def test_windows_over_a_scene_have_the_official_values():
    """Twenty-seven windows, in the official lattice; 4 values along an axis of each."""
    data, stored = read_golden('conv/conv_onet/crop_sliding.npz'), read_golden('conv/conv_onet/model_crop_grid.npz')
    config = crop_config(ast.literal_eval(str(stored['meta/cfg'])))
    params = official.from_state_dict(under(stored, 'param/'), config)
    module, cloud = build_module(config.model), data['in/inputs']

    @jax.jit
    def values_of(low, queries):
        cond = module.apply(params, cloud, low, method=lambda m, x, low: m.encoder(x, low, train=True))
        return module.apply(params, queries, cond, method='decode')[0].reshape(4, 4, 4)

    expected = data['out/up0/value_grid'].reshape(3, 4, 3, 4, 3, 4).transpose(0, 2, 4, 1, 3, 5).reshape(27, 4, 4, 4)
    for query_vol, input_vol, values in zip(data['out/query_vol'], data['out/input_vol'], expected, strict=True):
        axes = [low + (high - low) / 4 * np.arange(4, dtype=np.float32) for low, high in query_vol.T]
        queries = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(1, -1, 3)
        np.testing.assert_allclose(values_of(input_vol[None, :1], queries), values, atol=1e-4)


def test_centred_windows_agree_on_a_field_that_is_linear():
    """Where two windows overlap they read the same of maps that hold the same; the official way is up to half a cell off."""
    unit, num_cells = 0.1, 12
    decoder = {centred: sliding_window.CropDecoder(unit=unit, centred=centred) for centred in (True, False)}
    queries = jax.random.uniform(jax.random.key(0), (1, 40, 3), minval=0.0, maxval=0.3)

    def read(low, centred):
        centres = low + unit * (jnp.arange(num_cells) + 0.5)
        z, y, x = jnp.meshgrid(centres, centres, centres, indexing='ij')
        window = {'grid': jnp.stack([x, y, z], axis=-1)[None], 'low': jnp.full((1, 1, 3), low)}
        return decoder[centred].read(queries, window)[1]

    np.testing.assert_allclose(read(-0.8, True), read(-0.1, True), atol=1e-5)
    np.testing.assert_allclose(read(-0.8, True), queries, atol=1e-5)
    assert jnp.abs(read(-0.8, False) - read(-0.1, False)).max() > 0.5 * unit
