"""Losses, unreduced: the caller sums over points and averages over the batch where the loss is used."""

import jax
import jax.numpy as jnp


def occupancy_bce(logits: jax.Array, occ: jax.Array) -> jax.Array:
    """Binary cross-entropy of occupancy (paper, eq. 2), element by element, in nats.

    logits and occ (in [0, 1]) of any common shape. Stable for large logits: max(l, 0) - l o + log(1 + exp(-|l|)).
    """
    return jnp.maximum(logits, 0) - logits * occ + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def kl_to_standard_normal(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence of N(mean, exp(log_std)^2) from N(0, 1), element by element, in nats (paper, eq. 3).

    mean and log_std of one shape: (std^2 + mean^2 - 1) / 2 - log_std.
    """
    return 0.5 * (jnp.exp(2 * log_std) + jnp.square(mean) - 1) - log_std
