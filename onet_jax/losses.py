"""Losses, unreduced: the caller sums over points and averages over the batch where the loss is used."""

import jax
import jax.numpy as jnp


def occupancy_bce(logits: jax.Array, occ: jax.Array) -> jax.Array:
    """Binary cross-entropy of occupancy (paper, eq. 2), element by element, in nats.

    logits and occ (in [0, 1]) of any common shape. Stable for large logits: max(l, 0) - l o + log(1 + exp(-|l|)).
    """
    return jnp.maximum(logits, 0) - logits * occ + jnp.log1p(jnp.exp(-jnp.abs(logits)))
