import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.networks.layers import (
    BatchNorm,
    BatchStatistics,
    ConditionalBatchNorm,
    Conv,
    Linear,
    ResnetBlock,
    _convolve,
    _convolve_by_rows,
    _convolve_images,
    _convolve_pixels,
    choose_on_cpu,
)


def test_linear_of_several_inputs_is_linear_of_their_concatenation():
    key = jax.random.key(0)
    net, pooled = jax.random.normal(key, (2, 5, 3)), jax.random.normal(key, (2, 1, 4))
    variables = Linear(6).init(key, net, pooled)
    joined = jnp.concatenate([net, jnp.broadcast_to(pooled, (2, 5, 4))], axis=-1)
    split = Linear(6).apply(variables, net, pooled)
    np.testing.assert_allclose(split, Linear(6).apply(variables, joined), atol=1e-6)


def test_linear_starts_uniform_within_the_inverse_root_of_the_fan_in():
    params = Linear(400).init(jax.random.key(0), jnp.zeros((1, 100)))['params']
    for values in params.values():
        assert np.abs(values).max() <= 0.1
        assert np.std(values) == pytest.approx(0.2 / 12**0.5, rel=0.1)


def test_blocks_start_as_their_shortcut():
    """The last layer of a block starts at zero kernel: only its bias is added."""
    x, cond = jnp.ones((2, 5, 8)), jnp.ones((2, 3))
    block = ResnetBlock(8, ConditionalBatchNorm)
    variables = block.init(jax.random.key(0), x, cond=cond)
    out = block.apply(variables, x, cond=cond)
    np.testing.assert_allclose(out, x + variables['params']['fc_1']['bias'], atol=1e-6)
    assert 'shortcut' not in variables['params']
    assert 'shortcut' in ResnetBlock(4).init(jax.random.key(0), x)['params']


def test_statistics_normalise_with_the_biased_and_store_the_unbiased_variance():
    x = jax.random.normal(jax.random.key(1), (2, 3, 4)) * 2 + 1
    (mean, var), updated = BatchStatistics().init_with_output(jax.random.key(0), x, train=True)
    flat = np.asarray(x).reshape(-1, 4)
    np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, flat.var(0), rtol=1e-5)
    assert not updated['batch_stats']['running_mean'].any(), 'initialising must not count as a batch'
    _, updated = BatchStatistics().apply(updated, x, train=True, mutable=['batch_stats'])
    np.testing.assert_allclose(updated['batch_stats']['running_mean'], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updated['batch_stats']['running_var'], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


def test_gradient_of_the_normalisation_is_exact():
    """Against finite differences in float64: the stopped derivative by the mean really is zero."""
    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, 7, 3), jnp.float64)
        weights = jax.random.normal(jax.random.key(1), x.shape, jnp.float64)
        cond = jnp.ones((2, 2), jnp.float64)
        layer = ConditionalBatchNorm()
        variables = layer.init(jax.random.key(2), x, cond, train=False)

        def f(x):
            return (layer.apply(variables, x, cond, train=True, mutable=['batch_stats'])[0] * weights).sum()

        direction = jax.random.normal(jax.random.key(3), x.shape, jnp.float64)
        slope = (f(x + 1e-5 * direction) - f(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((jax.grad(f)(x) * direction).sum(), slope, rtol=1e-7)


def test_the_plain_normalisation_is_one_layer():
    """Its statistics lie beside its weights, as in the official checkpoints."""
    x = jax.random.normal(jax.random.key(1), (2, 3, 4)) * 2 + 1
    y, variables = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
    assert set(variables['params']) == {'scale', 'bias'}
    assert set(variables['batch_stats']) == {'running_mean', 'running_var'}
    flat = np.asarray(y).reshape(-1, 4)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(flat.std(0), 1, rtol=1e-4)


def test_convolution_against_a_loop():
    """Padding on both sides of every axis, which differs from SAME where the stride is 2."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 6, 6, 6, 2)).astype(np.float32)
    conv = Conv(3, 3, stride=2, padding=1)
    variables = conv.init(jax.random.key(0), x)
    y = conv.apply(variables, x)
    assert y.shape == (1, 3, 3, 3, 3)
    padded = np.pad(x, ((0, 0), *((1, 1),) * 3, (0, 0)))
    for i, j, k in ((0, 0, 0), (1, 2, 0), (2, 2, 2)):
        window = padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 2 * k : 2 * k + 3]
        expected = np.einsum('abci,abcio->o', window, variables['params']['kernel']) + variables['params']['bias']
        np.testing.assert_allclose(y[0, i, j, k], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('stride, padding', [(1, 0), (1, 1), (2, 0), (2, 1), (3, 2)])
@pytest.mark.parametrize(
    'convolve, shape, size',
    [
        (_convolve_by_rows, (2, 7, 8, 9, 3), 3),
        (_convolve_by_rows, (3, 7, 8, 9, 3), 4),
        (_convolve_pixels, (1, 3, 4, 3, 60), 3),
        (_convolve_pixels, (2, 7, 8, 9, 3), 1),
        (_convolve_pixels, (1, 4, 5, 60), 3),
        (_convolve_pixels, (1, 7, 8, 60), 7),
        (_convolve_pixels, (2, 9, 8, 3), 1),
    ],
)
def test_convolutions_on_a_cpu_are_those_of_xla(convolve, shape, size, stride, padding):
    _check_convolution(convolve, shape, size, stride, padding)


@pytest.mark.parametrize('shape, size, padding', [((2, 9, 8, 3), 3, 1), ((3, 8, 7, 4), 5, 2)])
def test_convolutions_that_keep_the_size_of_images_are_those_of_xla(shape, size, padding):
    _check_convolution(_convolve_images, shape, size, 1, padding)


def test_convolutions_of_bfloat16_have_gradients_of_bfloat16():
    x, kernel = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(((2, 9, 8, 3), (3, 3, 3, 5))))
    gradient = jax.grad(lambda x, kernel: _convolve_images(x, kernel, 1, 1).astype(jnp.float32).sum(), (0, 1))
    for rough, exact in zip(gradient(*(a.astype(jnp.bfloat16) for a in (x, kernel))), gradient(x, kernel), strict=True):
        assert rough.dtype == jnp.bfloat16
        np.testing.assert_allclose(rough.astype(jnp.float32), exact, rtol=0.02, atol=0.1)


def _check_convolution(convolve, shape, size, stride, padding):
    kernel_shape = (*(size,) * (len(shape) - 2), shape[-1], 5)
    assert choose_on_cpu(shape, kernel_shape, stride, padding) is convolve
    keys = jax.random.split(jax.random.key(0))
    x, kernel = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], kernel_shape)

    def value(convolve):
        return lambda x, kernel: jnp.sin(0.1 * convolve(x, kernel, stride, padding)).sum()

    ours, expected = (f(x, kernel, stride, padding) for f in (convolve, _convolve))
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    gradients = (jax.grad(value(f), (0, 1))(x, kernel) for f in (convolve, _convolve))
    for ours, theirs in zip(*gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_images_that_become_smaller_are_convolved_by_xla():
    for stride, padding in ((2, 1), (1, 0)):
        assert choose_on_cpu((2, 56, 56, 64), (3, 3, 64, 64), stride, padding) is _convolve


def test_products_of_bfloat16_keep_statistics_and_parameters_in_float32():
    x, cond = jax.random.normal(jax.random.key(0), (2, 50, 3)) + 3, jnp.ones((2, 2))
    layer = ConditionalBatchNorm()
    variables = layer.init(jax.random.key(1), x, cond, train=False)
    rough, updated = layer.apply(variables, x.astype(jnp.bfloat16), cond, train=True, mutable=['batch_stats'])
    exact, expected = layer.apply(variables, x, cond, train=True, mutable=['batch_stats'])
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05)
    for ours, theirs in zip(jax.tree.leaves(updated), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
