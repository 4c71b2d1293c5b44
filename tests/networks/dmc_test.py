"""Max pooling with the places of the maxima, its inverse, and transposed convolutions of stride 1."""

from itertools import product

import jax
import numpy as np
import pytest

from onet_jax.networks.dmc import Deconv, LocalPointnet, max_pool, max_unpool


def test_maxima_return_to_where_they_were():
    """The first of equal ones, as zeros after a ReLU are; an odd layer is dropped and comes back as zeros."""
    x = np.maximum(np.random.default_rng(0).normal(size=(2, 5, 4, 7, 3)), 0).astype(np.float32)
    pooled, places = max_pool(x)
    unpooled = np.asarray(max_unpool(pooled + 1, places, x.shape))
    expected = np.zeros_like(x)
    for b, i, j, k, c in product(range(2), range(2), range(2), range(3), range(3)):
        window = x[b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 2 * k : 2 * k + 2, c]
        assert pooled[b, i, j, k, c] == window.max()
        at = np.unravel_index(window.argmax(), (2, 2, 2))
        expected[b, 2 * i + at[0], 2 * j + at[1], 2 * k + at[2], c] = window.max() + 1
    np.testing.assert_array_equal(unpooled, expected)


@pytest.mark.parametrize('features, padding', [(4, 1), (1, 1), (1, 3)])
def test_a_transposed_convolution_is_the_transpose_of_a_convolution(features, padding):
    module, x = Deconv(features, padding), jax.random.normal(jax.random.key(0), (2, 6, 7, 8, 5))
    shapes, rng = jax.eval_shape(module.init, jax.random.key(1), x), np.random.default_rng(0)
    variables = jax.tree.map(lambda array: rng.normal(scale=0.1, size=array.shape).astype(np.float32), shapes)

    def convolve(y):
        kernel, pads = variables['params']['kernel'], ((padding, padding),) * 3
        numbers = ('NDHWC', 'DHWIO', 'NDHWC')
        return jax.lax.conv_general_dilated(y, kernel, (1, 1, 1), pads, dimension_numbers=numbers)

    found = module.apply(variables, x)
    (expected,) = jax.linear_transpose(convolve, jax.ShapeDtypeStruct(found.shape, found.dtype))(x)
    np.testing.assert_allclose(found, expected + variables['params']['bias'], atol=1e-5)


@pytest.mark.slow
def test_cells_have_the_largest_features_of_their_points():
    module, rng = LocalPointnet(4, 3, 8), np.random.default_rng(0)
    cloud = rng.uniform(-0.7, 0.7, (2, 40, 3)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), cloud)
    found, weights = module.apply(variables, cloud), variables['params']
    assert found.shape == (2, 5, 5, 5, 3)
    expected = np.zeros_like(found)
    for b, point in product(range(2), range(40)):
        place = 4 * (cloud[b, point] / np.float32(1.2) + np.float32(0.5))
        if ((place >= 0) & (place < 4)).all():
            net = np.maximum(place @ weights['conv1_0']['kernel'] + weights['conv1_0']['bias'], 0)
            net, at = net @ weights['conv2']['kernel'] + weights['conv2']['bias'], (b, *place.astype(int))
            expected[at] = np.maximum(expected[at], net)
    np.testing.assert_allclose(found, expected, atol=1e-5)
