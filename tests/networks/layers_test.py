from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.networks.fast_gradients import reverse_mode
from onet_jax.networks.layers import (
    BatchNorm,
    ConditionalBatchNorm,
    Conv,
    Linear,
    Normalisation,
    ResnetBlock,
    cast,
    global_max_pool,
)


def test_linear_of_several_inputs_is_linear_of_their_concatenation():
    rng = np.random.default_rng(0)
    net, pooled = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 3), (2, 1, 4)))
    joined = np.concatenate([net, np.broadcast_to(pooled, (2, 5, 4))], axis=-1)
    split, variables = jax.jit(Linear(6).init_with_output)(jax.random.key(0), net, pooled)
    np.testing.assert_allclose(split, jax.jit(Linear(6).apply)(variables, joined), atol=1e-6)


@pytest.mark.parametrize('layer, shape', [(Linear(400), (1, 100)), (Conv(400, 5), (1, 5, 5, 4))])
def test_weights_start_uniform_within_the_inverse_root_of_the_fan_in(layer, shape):
    params = jax.jit(layer.init)(jax.random.key(0), np.zeros(shape, np.float32))['params']
    for values in params.values():
        assert np.abs(values).max() <= 0.1
        assert np.std(values) == pytest.approx(0.2 / 12**0.5, rel=0.1)


def test_blocks_start_as_their_shortcut():
    """The last layer of a block starts at zero kernel: only its bias is added."""
    x, cond = jnp.ones((2, 5, 8)), jnp.ones((2, 3))
    block = ResnetBlock(8, ConditionalBatchNorm)
    out, variables = jax.jit(block.init_with_output)(jax.random.key(0), x, cond=cond)
    np.testing.assert_allclose(out, x + variables['params']['fc_1']['bias'], atol=1e-6)
    assert 'shortcut' not in variables['params']
    params = jax.eval_shape(ResnetBlock(4).init, jax.random.key(0), x)['params']
    assert params['shortcut'].keys() == {'kernel'}


def test_batches_are_normalised_with_the_biased_variance_and_the_unbiased_one_is_stored():
    x = jax.random.normal(jax.random.key(1), (2, 3, 4)) * 2 + 1
    gamma, beta = jnp.arange(4.0), jnp.ones(4)
    y, updated = Normalisation().init_with_output(jax.random.key(0), x, gamma, beta, train=True)
    flat = np.asarray(x).reshape(-1, 4)
    expected = gamma * (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5) + beta
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert not updated['batch_stats']['running_mean'].any(), 'initialising must not count as a batch'
    _, updated = Normalisation().apply(updated, x, gamma, beta, train=True, mutable=['batch_stats'])
    running = updated['batch_stats']
    np.testing.assert_allclose(running['running_mean'], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(running['running_var'], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)
    _, two = Normalisation().apply(updated, x[:1, :2], gamma, beta, train=True, mutable=['batch_stats'])
    unbiased = (two['batch_stats']['running_var'] - 0.9 * running['running_var']) / 0.1
    np.testing.assert_allclose(unbiased, x[0, :2].var(0, ddof=1), rtol=1e-3)
    y = Normalisation().apply(updated, x, gamma, beta, train=False)
    expected = gamma * (x - running['running_mean']) / np.sqrt(running['running_var'] + 1e-5) + beta
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_batch_that_is_spread_over_devices_has_the_statistics_of_the_whole():
    x = jax.random.normal(jax.random.key(1), (3, 2, 5, 4)) * 2 + 1
    layer, gamma, beta = Normalisation(), jnp.arange(4.0), jnp.ones(4)
    variables = layer.init(jax.random.key(0), x, gamma, beta, train=False)

    def normalise(x, axis_name=None):
        return layer.apply(variables, x, gamma, beta, train=True, axis_name=axis_name, mutable=['batch_stats'])

    y, updated = normalise(x)
    parts, updated_parts = jax.vmap(lambda part: normalise(part, 'devices'), axis_name='devices')(x)
    np.testing.assert_allclose(parts, y, atol=1e-5)
    for found, expected in zip(jax.tree.leaves(updated_parts), jax.tree.leaves(updated), strict=True):
        np.testing.assert_allclose(found, np.tile(expected, (3, 1)), rtol=1e-6)


def test_the_fast_gradient_of_the_normalisation_is_exact():
    """Against finite differences in float64: it goes through mean and variance too."""
    rng = np.random.default_rng(0)
    x, weights, direction = rng.normal(size=(3, 2, 7, 3))
    cond, layer = np.ones((2, 2)), ConditionalBatchNorm()

    @jax.jit
    def differentiate(x):
        variables = layer.init(jax.random.key(2), x, cond, train=False)

        def f(x):
            return (layer.apply(variables, x, cond, train=True, mutable=['batch_stats'])[0] * weights).sum()

        return (jax.grad(f)(x) * direction).sum(), f(x + 1e-5 * direction) - f(x - 1e-5 * direction)

    with jax.enable_x64(True), reverse_mode(True):
        slope, difference = differentiate(x)
        np.testing.assert_allclose(slope, difference / 2e-5, rtol=1e-7)


def test_the_plain_normalisation_is_one_layer():
    """Its statistics lie beside its weights, as in the official checkpoints."""
    x = jax.random.normal(jax.random.key(1), (2, 3, 4)) * 2 + 1
    y, variables = BatchNorm().init_with_output(jax.random.key(0), x, train=True)
    assert set(variables['params']) == {'scale', 'bias'}
    assert set(variables['batch_stats']) == {'running_mean', 'running_var'}
    assert {values.shape for values in jax.tree.leaves(variables)} == {(4,)}
    flat = np.asarray(y).reshape(-1, 4)
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(flat.std(0), 1, rtol=1e-4)


def test_convolution_against_a_loop():
    """Padding on both sides of every axis, which differs from SAME where the stride is 2."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 6, 6, 6, 2)).astype(np.float32)
    conv = Conv(3, 3, stride=2, padding=1)
    y, variables = jax.jit(conv.init_with_output)(jax.random.key(0), x)
    assert y.shape == (1, 3, 3, 3, 3)
    padded = np.pad(x, ((0, 0), *((1, 1),) * 3, (0, 0)))
    for i, j, k in ((0, 0, 0), (1, 2, 0), (2, 2, 2)):
        window = padded[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 2 * k : 2 * k + 3]
        expected = np.einsum('abci,abcio->o', window, variables['params']['kernel']) + variables['params']['bias']
        np.testing.assert_allclose(y[0, i, j, k], expected, rtol=1e-4, atol=1e-5)


def test_inputs_are_cast_to_a_precision_where_one_is_given():
    x = jnp.ones(3, jnp.float16)
    assert cast(x, None) is x
    assert cast(x, jnp.bfloat16).dtype == jnp.bfloat16


def test_products_of_bfloat16_keep_statistics_and_parameters_in_float32():
    x, cond = np.random.default_rng(0).normal(3, 1, (2, 50, 3)).astype(np.float32), np.ones((2, 2), np.float32)
    layer = ConditionalBatchNorm()

    @jax.jit
    def normalise(x):
        variables = layer.init(jax.random.key(1), x, cond, train=False)
        return layer.apply(variables, x, cond, train=True, mutable=['batch_stats'])

    (rough, updated), (exact, expected) = normalise(x.astype(jnp.bfloat16)), normalise(x)
    assert rough.dtype == jnp.bfloat16
    np.testing.assert_allclose(rough.astype(jnp.float32), exact, atol=0.05)
    for ours, theirs in zip(jax.tree.leaves(updated), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_the_gradient_of_global_max_pooling_goes_to_the_first_maximum():
    """Also behind a multiply-add, which XLA rounds differently in the two places where it computes it."""
    rng = np.random.default_rng(0)
    x, kernel, scale = (rng.normal(size=size).astype(np.float32) for size in ((4, 300, 3), (3, 8), 8))

    def pool(x):
        net = jnp.maximum(x @ kernel, 0)
        return global_max_pool((net - net.mean((0, 1))) * scale / net.std((0, 1)) + scale, axis=1)

    def loss(x):
        return jnp.square(pool(x)).sum()

    grad = jax.jit(jax.grad(loss))(x)
    with jax.enable_x64():
        expected = jax.grad(loss)(x.astype(float))
        np.testing.assert_allclose(grad, expected, atol=1e-5 * np.abs(expected).max())
        values = jnp.array([1.0, 3, 3])
        np.testing.assert_array_equal(jax.jacfwd(partial(global_max_pool, axis=0))(values), [0, 1, 0])
