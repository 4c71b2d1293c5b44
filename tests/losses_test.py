import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from onet_jax import losses
from onet_jax.losses import chamfer, kl_to_standard_normal, occupancy_bce


def test_cross_entropy_equals_its_definition_and_survives_large_logits():
    logits, occ = np.random.default_rng(0).normal(scale=3, size=100), np.random.default_rng(1).uniform(size=100)
    p = 1 / (1 + np.exp(-logits))
    differentiate = jax.jit(jax.vmap(jax.value_and_grad(occupancy_bce)))
    loss, gradient = differentiate(logits, occ)
    np.testing.assert_allclose(loss, -(occ * np.log(p) + (1 - occ) * np.log(1 - p)), rtol=1e-5)
    np.testing.assert_allclose(gradient, p - occ, atol=1e-6)
    loss, gradient = differentiate(np.float32([500, -500, 500, -500]), np.float32([1, 0, 0, 1]))
    np.testing.assert_allclose(loss, [0, 0, 500, 500])
    np.testing.assert_allclose(gradient, [0, 0, 1, -1])


def test_divergence_equals_an_integral():
    x = np.linspace(-30, 30, 200_001)
    for mean, log_std in ((0.0, 0.0), (1.5, -0.7), (-0.3, 0.9)):
        std = np.exp(log_std)
        log_q = -0.5 * ((x - mean) / std) ** 2 - log_std
        log_p = -0.5 * x**2
        integral = np.trapezoid(np.exp(log_q) / np.sqrt(2 * np.pi) * (log_q - log_p), x)
        np.testing.assert_allclose(kl_to_standard_normal(mean, log_std), integral, atol=1e-6)


def nearest_squares(points, targets):
    """All pairs, in numpy: points [..., N, 3], targets [..., M, 3] -> [..., N], [..., M]."""
    pairs = np.square(points[..., :, None, :] - targets[..., None, :, :]).sum(axis=-1)
    return pairs.min(axis=-1), pairs.min(axis=-2)


@pytest.mark.parametrize('unrolled', [1, 8])
def test_chamfer_equals_all_pairs(monkeypatch, unrolled):
    """Two batches of two sets of 37 and 23 points: under jit, vmap and pmap, a last round that is not full included."""
    monkeypatch.setattr(losses, 'UNROLLED', unrolled)
    rng = np.random.default_rng(0)
    points, targets = rng.normal(size=(2, 2, 37, 3)), rng.normal(size=(2, 2, 23, 3))
    points[:, :, :5] = targets[:, :, :5]  # no distance at all
    targets[:, :, 9] = targets[:, :, 8]  # two nearest ones
    expected = nearest_squares(points, targets)
    with jax.enable_x64(True):
        for over_batches in (jax.jit(jax.vmap(chamfer)), jax.pmap(chamfer)):
            for found, all_pairs in zip(over_batches(points, targets), expected, strict=True):
                assert found.dtype == np.float64
                np.testing.assert_allclose(found, all_pairs, rtol=0, atol=1e-12)


def test_chamfer_stores_no_pairs_on_a_cpu():
    sets = np.zeros((1, 370, 3), np.float32), np.zeros((1, 230, 3), np.float32)
    program = jax.jit(jax.grad(lambda *sets: chamfer(*sets)[0].sum())).lower(*sets).compile()
    assert program.memory_analysis().temp_size_in_bytes < 370 * 230


@pytest.mark.parametrize('pairs_at_once', [1 << 22, 100, 1])
def test_the_nearest_points_on_a_cpu_are_those_on_other_devices(monkeypatch, pairs_at_once):
    """The first of several; 37 targets leave a last step of the loop that is not full, and of 37 points a last piece."""
    monkeypatch.setattr(losses, 'PAIRS_AT_ONCE', pairs_at_once)
    points, targets = np.random.default_rng(3).integers(0, 4, (2, 2, 37, 3)).astype(np.float32)
    one_by_one = jax.jit(losses._keep_nearest)(points, targets)
    at_once = jax.jit(jax.vmap(losses._find_nearest))(points, targets)
    np.testing.assert_array_equal(one_by_one, at_once)
    np.testing.assert_array_equal(losses.find_nearest(points, targets), at_once)
    np.testing.assert_array_equal(
        losses.find_nearest(points.astype('bfloat16'), targets), at_once, 'of mixed precision'
    )


@pytest.mark.parametrize('num_axes', [3, 4])
def test_chamfer_of_float32_keeps_small_distances_far_from_the_origin(num_axes):
    rng = np.random.default_rng(1)
    points, targets = ((100 + rng.normal(scale=1e-3, size=(1, n, num_axes))).astype(np.float32) for n in (50, 60))
    expected = nearest_squares(points.astype(np.float64), targets.astype(np.float64))
    for found, exact in zip(jax.jit(chamfer)(points, targets), expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_the_gradient_of_chamfer_is_that_of_finite_differences():
    rng = np.random.default_rng(2)

    @jax.jit
    def weighted(points, targets):
        to_targets, to_points = chamfer(points, targets)
        return (to_targets * jnp.arange(1, 8)).sum() + (to_points * jnp.arange(1, 6)).sum()

    with jax.enable_x64(True):
        sets = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 5, 3))
        check_grads(weighted, sets, order=1, modes=['rev'])
        assert all((np.abs(gradient) > 0).any(axis=-1).all() for gradient in jax.grad(weighted, (0, 1))(*sets))


def test_a_distance_of_0_has_a_gradient_of_0():
    distance_of = jax.vmap(jax.value_and_grad(losses.distances))
    distances, gradients = distance_of(np.float32([[1, 2, 3], [3, 4, 0]]), np.float32([[1, 2, 3], [0, 0, 0]]))
    np.testing.assert_allclose(distances, [0, 5])
    np.testing.assert_allclose(gradients, [[0, 0, 0], [0.6, 0.8, 0]])


def test_of_two_nearest_points_one_has_the_gradient_and_of_equal_points_none():
    point, targets = np.zeros((1, 1, 3), np.float32), np.float32([[[1, 0, 0], [-1, 0, 0]]])
    gradient_of = jax.jit(jax.grad(lambda points, targets: chamfer(points, targets)[0].sum(), (0, 1)))
    gradient = gradient_of(point, targets)
    assert np.abs(gradient[0]).tolist() == [[[2, 0, 0]]]
    assert sorted(np.abs(gradient[1])[0, :, 0].tolist()) == [0, 2]
    np.testing.assert_array_equal(gradient[0].sum(axis=1), -gradient[1].sum(axis=1))
    for equal in gradient_of(targets, targets):
        np.testing.assert_array_equal(equal, 0)
