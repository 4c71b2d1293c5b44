import jax
import numpy as np

from onet_jax.losses import kl_to_standard_normal, occupancy_bce


def test_cross_entropy_equals_its_definition_and_survives_large_logits():
    logits, occ = np.random.default_rng(0).normal(scale=3, size=100), np.random.default_rng(1).uniform(size=100)
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(occupancy_bce(logits, occ), -(occ * np.log(p) + (1 - occ) * np.log(1 - p)), rtol=1e-5)
    np.testing.assert_allclose(occupancy_bce(np.array([500.0, -500.0, 500.0]), np.array([1.0, 0.0, 0.0])), [0, 0, 500])
    gradient = jax.vmap(jax.grad(occupancy_bce))(np.float32([-500, 1.0, 500]), np.float32([1, 0, 1]))
    np.testing.assert_allclose(gradient, [-1, 1 / (1 + np.exp(-1.0)), 0], atol=1e-6)


def test_divergence_equals_an_integral():
    x = np.linspace(-30, 30, 200_001)
    for mean, log_std in ((0.0, 0.0), (1.5, -0.7), (-0.3, 0.9)):
        std = np.exp(log_std)
        log_q = -0.5 * ((x - mean) / std) ** 2 - log_std
        log_p = -0.5 * x**2
        integral = np.trapezoid(np.exp(log_q) / np.sqrt(2 * np.pi) * (log_q - log_p), x)
        np.testing.assert_allclose(kl_to_standard_normal(mean, log_std), integral, atol=1e-6)
