import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.convert import names, official
from onet_jax.networks import sliding_window

HELPERS = 'conv/conv_onet/helpers.npz'


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
    """The encoder of a window, compiled, its parameters, and points in it."""
    module = sliding_window.CropPointnet(4, 6, unit=0.1, num_cells=20, unet3d_levels=2, unet3d_size=8)
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (1, 200, 3)).astype(np.float32)
    params = jax.jit(module.init)(jax.random.key(1), points)
    return module, jax.jit(module.apply), params, points


def test_what_is_outside_of_the_window_does_not_matter(network):
    _, encode, params, points = network
    alone, crowded = (
        encode(params, np.concatenate([points[:, :150], points[:, :50] + move], axis=1))['grid'] for move in (3, -4)
    )
    assert alone.shape == (1, 20, 20, 20, 4)
    np.testing.assert_allclose(crowded, alone, atol=1e-5)


def test_a_window_is_as_good_as_another_one(network):
    """Moved by whole cells, points and queries give the same features and logits."""
    _, encode, params, points = network
    shift, low = 7 * 0.1, np.full((1, 1, 3), -1.0, np.float32)
    decoder = sliding_window.CropDecoder(6, unit=0.1)
    queries = 0.2 * points[:, :30]
    here, there = encode(params, points, low), encode(params, points + shift, low + shift)
    np.testing.assert_allclose(there['grid'], here['grid'], atol=1e-4)
    np.testing.assert_allclose(encode(params, points)['grid'], here['grid'], atol=1e-5, err_msg='around the origin')
    weights, decode = decoder.init(jax.random.key(2), queries, here), jax.jit(decoder.apply)
    logits = decode(weights, queries, here)
    np.testing.assert_allclose(decode(weights, queries + shift, there), logits, atol=1e-3)
    assert np.abs(decode(weights, queries + 0.53 * shift, there) - logits).max() > 1e-2


def test_the_weights_serve_windows_of_any_size(network):
    module, _, params, points = network
    larger = module.clone(num_cells=sliding_window.cube_cells(0.1, 2))
    cond = jax.eval_shape(larger.apply, params, points)
    assert cond['grid'].shape == (1, 26, 26, 26, 4)
    assert cond['low'].shape == (1, 1, 3)
    shapes = jax.eval_shape(larger.init, jax.random.key(1), points)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_windows_over_a_scene_have_the_official_values(golden):
    """Twenty-seven windows, in the official lattice; 4 values along an axis of each."""
    data, stored = golden('conv/conv_onet/crop_sliding.npz'), golden('conv/conv_onet/model_crop_grid.npz')
    cloud, unit, levels = data['in/inputs'], 0.05, 2
    modules = {
        'encoder': sliding_window.CropPointnet(8, 16, unit, sliding_window.window_cells(5, levels), levels, 8),
        'decoder': sliding_window.CropDecoder(16, unit=unit),
    }

    def init():
        cond, encoder = modules['encoder'].init_with_output(jax.random.key(0), cloud)
        decoder = modules['decoder'].init(jax.random.key(0), cloud, cond)
        return {'params': {'encoder': encoder['params'], 'decoder': decoder['params']}}

    state = {key.removeprefix('param/'): x for key, x in stored.items() if key.startswith('param/')}
    params = official.read_weights(state, jax.eval_shape(init), dict.fromkeys(modules, names.LOCAL))['params']

    @jax.jit
    def values_of(low, queries):
        cond = modules['encoder'].apply({'params': params['encoder']}, cloud, low)
        return modules['decoder'].apply({'params': params['decoder']}, queries, cond)[0].reshape(4, 4, 4)

    expected = data['out/up0/value_grid'].reshape(3, 4, 3, 4, 3, 4).transpose(0, 2, 4, 1, 3, 5).reshape(27, 4, 4, 4)
    for query_vol, input_vol, values in zip(data['out/query_vol'], data['out/input_vol'], expected, strict=True):
        axes = [low + (high - low) / 4 * np.arange(4, dtype=np.float32) for low, high in query_vol.T]
        queries = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1).reshape(1, -1, 3)
        np.testing.assert_allclose(values_of(input_vol[None, :1], queries), values, atol=1e-4)


def test_without_align_corners_windows_agree_on_a_field_that_is_linear():
    """Where two windows overlap they sample the same of volumes that hold the same; else up to half a cell off."""
    unit, num_cells = 0.1, 12
    queries = jax.random.uniform(jax.random.key(0), (1, 40, 3), minval=0.0, maxval=0.3)

    def sample(low, align_corners):
        centres = low + unit * (jnp.arange(num_cells) + 0.5)
        z, y, x = jnp.meshgrid(centres, centres, centres, indexing='ij')
        window = {'grid': jnp.stack([x, y, z], axis=-1)[None], 'low': jnp.full((1, 1, 3), low)}
        return sliding_window.CropDecoder(unit=unit, align_corners=align_corners).sample(queries, window)[1]

    np.testing.assert_allclose(sample(-0.8, False), sample(-0.1, False), atol=1e-5)
    np.testing.assert_allclose(sample(-0.8, False), queries, atol=1e-5)
    assert jnp.abs(sample(-0.8, True) - sample(-0.1, True)).max() > 0.5 * unit
