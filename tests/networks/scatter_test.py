"""Scatters and local pooling against loops over cells."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.networks import scatter


@pytest.fixture
def rows():
    """Values of 50 points in 7 cells, some of them equal."""
    rng = np.random.default_rng(0)
    return rng.integers(-3, 4, (50, 3)).astype(np.float32), rng.integers(0, 7, 50).astype(np.int32) * 100


@pytest.mark.parametrize('operation', ['sum', 'max'])
@pytest.mark.parametrize('way', [scatter._reduce_in_order, scatter._reduce_sorted])
def test_both_ways_of_reducing_cells_are_the_slow_one(rows, operation, way):
    values, cells = rows
    slow = np.stack([getattr(values[cells == cell], operation)(axis=0) for cell in cells])
    np.testing.assert_array_equal(jax.jit(way, static_argnums=2)(values, cells, operation), slow)


def test_the_first_of_equal_maxima_has_the_gradient(rows):
    values, cells = rows
    weights = np.random.default_rng(1).normal(size=values.shape).astype(np.float32)
    found = jax.jit(jax.grad(lambda v: (scatter.pool_max(v, cells) * weights).sum()))(values)
    expected = np.zeros_like(values)
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        for channel in range(3):
            winner = members[np.argmax(values[members, channel])]
            expected[winner, channel] = weights[members, channel].sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_means_are_scattered_to_their_cells_and_have_their_gradient(rows):
    values, cells = rows
    weights = np.random.default_rng(1).normal(size=(1000, 3)).astype(np.float32)

    @jax.jit
    def differentiate(values):
        found, pull_back = jax.vjp(lambda values: scatter.scatter_mean(values, cells, 1000), values)
        return found, pull_back(weights)[0]

    found, gradient = differentiate(values)
    for cell in range(1000):
        expected = values[cells == cell].mean(axis=0) if cell in cells else np.zeros(3)
        np.testing.assert_allclose(found[cell], expected, rtol=1e-6)
    counts = (cells[:, None] == cells).sum(axis=1)
    np.testing.assert_allclose(gradient, weights[cells] / counts[:, None], rtol=1e-6)


def test_pooling_and_scattering_are_the_official_ones(golden):
    data = golden('conv/conv_onet/scatter.npz')

    @jax.jit
    def reduce(values, cells):
        most, pull_back = jax.vjp(lambda values: scatter.pool_max(values, cells), values)
        gradient = pull_back(jnp.ones_like(most))[0]
        return scatter.scatter_mean(values, cells, 12), scatter.pool_mean(values, cells), most, gradient

    for values, cells, mean, most, winner in zip(
        *(data[f'in/{key}'] for key in ('src', 'index')),
        *(data[f'out/{key}_n12'] for key in ('mean', 'max', 'argmax')),
        strict=True,
    ):
        values, cells = values.T, cells[0]
        scattered, pooled, found, gradient = reduce(values, cells)
        np.testing.assert_allclose(scattered, mean.T, atol=1e-6)
        np.testing.assert_allclose(pooled, mean.T[cells], atol=1e-6)
        np.testing.assert_array_equal(found, most.T[cells])
        expected = np.zeros_like(values)
        for cell in np.unique(cells):
            expected[winner[:, cell], np.arange(3)] = (cells == cell).sum()
        np.testing.assert_allclose(gradient, expected)


def test_the_gradient_of_means_is_the_mean_gradient(rows):
    values, cells = rows
    weights = np.random.default_rng(1).normal(size=values.shape).astype(np.float32)
    found = jax.jit(jax.grad(lambda v: (scatter.pool_mean(v, cells) * weights).sum()))(values)
    np.testing.assert_allclose(found, [weights[cells == cell].mean(axis=0) for cell in cells], rtol=1e-5, atol=1e-6)
