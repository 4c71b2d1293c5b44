"""Bounds of networks on cubes against their values at many points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.networks.affine_arithmetic import find_range
from onet_jax.networks.bound_decoder import Affine, Block, BoundDecoder, bind_decoder
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder

COND_SIZE = 6


def random_field(kind, leaky=False, dtype=jnp.float32, seed=0):
    """A network of 16 features without initial zeros, which would hide mistakes."""
    decoder = Decoder(16, 0, leaky=leaky, num_blocks=2, **DECODER_OPTIONS[kind])
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 2, 3)), jnp.zeros((1, COND_SIZE)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if 'var' in jax.tree_util.keystr(path):
            return jnp.asarray(rng.uniform(0.5, 1.0, leaf.shape), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape) * (2 / leaf.shape[0]) ** 0.5, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return bind_decoder(decoder, variables, jnp.asarray(rng.normal(size=COND_SIZE), jnp.float32), dtype=dtype)


def random_cubes(num_cubes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.5, 0.5, (num_cubes, 3)).astype(np.float32)


def random_points(centres, half_edge, num_points=200):
    """[N, P, 3] float32 of every closed cube: its corners, its faces and its inside."""
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 3), axis=-1).reshape(-1, 3)
    inside = np.random.default_rng(1).uniform(-1.2, 1.2, (num_points, 3)).clip(-1, 1)
    return (centres[:, None] + half_edge * np.concatenate([corners, inside])).astype(np.float32)


def assert_bounded(field, centres, half_edge):
    low, high = find_range(field, centres, half_edge)
    points = random_points(centres, half_edge)
    values = np.asarray(field(points.reshape(-1, 3))).reshape(points.shape[:2])
    assert (low <= values.min(axis=1)).all()
    assert (values.max(axis=1) <= high).all()
    return low, high, values


# Bound, the decoders of the other kinds are the same functions of other numbers.
@pytest.mark.parametrize('kind, leaky', [('cbatchnorm', True), ('cbatchnorm_noresnet', False)])
def test_no_value_is_out_of_bounds(kind, leaky):
    field = random_field(kind, leaky)
    for half_edge in (0.5, 0.05, 0.005, 1e-4, 0.0):
        low, high, values = assert_bounded(field, random_cubes(40), half_edge)
        spread = np.maximum(np.ptp(values, axis=1), 1e-3 * np.abs(values).max())
        if half_edge <= 0.005:
            assert np.median((high - low) / spread) < 3, 'and they are near to the values'


@pytest.mark.slow
def test_many_networks_and_products_of_bfloat16():
    for seed in range(12):
        assert_bounded(random_field('simple', seed=seed), random_cubes(40, seed), 0.02)
    rough = random_field('cbatchnorm', dtype=jnp.bfloat16)
    low, high, _ = assert_bounded(rough, random_cubes(40), 0.0)
    assert (high - low).min() > 1e-3, 'the products differ by more than those of float32'


@pytest.mark.slow
def test_bounds_shrink_to_the_value():
    field = random_field('cbatchnorm', leaky=True)
    with jax.enable_x64(True):
        field = jax.tree.map(np.float64, field)
        centres = random_cubes(20).astype(np.float64)
        values = np.asarray(field(centres))
        for half_edge in (1e-3, 1e-5, 1e-7):
            low, high = find_range(field, centres, half_edge)
            assert ((low < values) & (values < high)).all()
            assert (high - low).max() < 300 * half_edge
            assert (high - low).min() > 0.01 * half_edge


def network(lift, bias, kernels, output, leaky=False):
    """A field of plain layers, with the same bias in all but the output."""
    lift, bias, *kernels, output = (jnp.asarray(a, float) for a in (lift, bias, *kernels, output))
    layers = tuple(Affine(kernel, bias) for kernel in kernels)
    zeros = jnp.zeros_like(bias)
    return BoundDecoder(Affine(lift, bias), (), layers, zeros + 1, zeros, Affine(output[:, None], zeros[:1]), leaky)


def test_without_kinks_the_bounds_are_exact():
    """All units stay positive: the field is affine, and the extremes are at corners."""
    rng = np.random.default_rng(0)
    kernels = [np.eye(8) + 0.1 * rng.uniform(0, 1, (8, 8)) for _ in range(3)]
    with jax.enable_x64(True):
        field = network(rng.normal(size=(3, 8)), np.full(8, 10.0), kernels, rng.normal(size=8))
        low, high, values = assert_bounded(field, random_cubes(20), 0.0625)
    np.testing.assert_allclose(low, values.min(axis=1), atol=1e-6)  # the points are float32
    np.testing.assert_allclose(high, values.max(axis=1), atol=1e-6)
    assert np.ptp(values, axis=1).min() > 0.1


@pytest.mark.parametrize('leaky', [False, True])
def test_a_kink_is_replaced_by_the_nearest_line(leaky):
    """max(x, slope x) on [-1, 3]: the line is off by at most half of the largest distance from the chord."""
    field = network([[1], [0], [0]], [0], [], [1], leaky)
    low, high = find_range(field, np.array([[1.0, 0, 0]]), 2.0)
    slope = 0.2 if leaky else 0.0
    np.testing.assert_allclose(high, 3, atol=1e-4)  # the upper line touches both ends
    np.testing.assert_allclose(low, -slope - 0.75 * (1 - slope), atol=1e-4)  # the lower one touches the kink


@pytest.mark.parametrize('where', ['layer', 'last', 'block'])
def test_what_is_rounded_away_beside_large_numbers_is_within_the_bounds(where):
    """One unit: x + 1e4 - 1e4 in float32 goes in steps of 0.001, ten times the cuboid."""
    one, zero, large = (jnp.full(1, value, jnp.float32) for value in (1, 0, 1e4))
    lift, layers, blocks, shift = Affine(jnp.asarray([[1.0], [0], [0]]), large), (), (), -large
    if where == 'layer':
        layers, shift = (Affine(one[:, None], -large),), zero + 1
    if where == 'block':
        blocks = (Block(one, -large, Affine(one[:, None], zero), Affine(one[:, None], 1e-3 * one)),)
    field = BoundDecoder(lift, blocks, layers, one, shift, Affine(one[:, None], zero), leaky=False)
    for half_edge in (1e-4, 0.0):
        _, _, values = assert_bounded(field, random_cubes(200), half_edge)
    assert np.abs(values * 1024 - np.round(values * 1024)).max() < 1e-2, 'in steps'


def test_an_error_that_cancels_is_not_counted():
    """A unit with a kink, passed on by two units without one and subtracted from itself."""
    field = network([[40, 40], [0, 0], [0, 0]], [10, 10], [[[1, 1], [0, 0]]], [1, -1])
    low, high = find_range(field, np.zeros((1, 3)), 0.5)
    np.testing.assert_allclose([low, high], 0, atol=1e-3)


def test_the_sign_is_kept_only_where_that_is_proven():
    field = network([[1], [0], [0]], [1], [], [1])  # x + 1 in the box
    centres = np.array([[-0.3, 0, 0], [0.0, 0, 0], [0.09, 0, 0], [0.11, 0, 0], [0.4, 0, 0]])
    np.testing.assert_array_equal(field.keeps_sign(centres, 0.1, 1.0), [True, False, False, True, True])
    touching = np.array([[0.125, 0, 0], [-0.125, 0, 0]])
    assert not field.keeps_sign(touching, 0.125, 1.0).any(), 'a face on the level is no proof'
    assert field.keeps_sign(np.zeros((0, 3)), 0.1, 1.0).shape == (0,)


def test_what_overflows_proves_nothing():
    field = network([[1e38], [0], [0]], [0], [1e30 * np.ones((1, 1))], [1])
    assert not field.keeps_sign(np.array([[0.3, 0, 0]]), 0.1, 0.0).any()
