"""Auto-decoding (Park et al., DeepSDF, CVPR 2019): the code of an unseen shape, optimised to fit its labelled points.

The network of configs/onet_embedding.py has no encoder, but a learned code for each training shape (paper, section 4.1). The
code of an unseen shape is the maximum a posteriori: the likelihood is that of the labels, as in training, and the prior is a
diagonal Gaussian with the mean and the standard deviation of the learned codes.

B batch, T labelled points, C condition, S training shapes.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onet_jax import losses
from onet_jax.errors import InputError
from onet_jax.geometry.field import check_finite
from onet_jax.models.method import as_array, as_floats
from onet_jax.models.occupancy import OccupancyNetwork

NUM_STEPS, LEARNING_RATE = 400, 0.05
POINTS_PER_STEP, POINTS_TO_CHOOSE = 2048, 512


def fit_codes(key: jax.Array, model: OccupancyNetwork, params: dict, labelled: jax.Array) -> jax.Array:
    """labelled [B, T, 4], points in object coordinates and their occupancies {0, 1} -> codes [B, C].

    The encoder of the model is an embedding. Each code starts from the training code with the lowest cross-entropy on
    `POINTS_TO_CHOOSE` of the points, then takes `NUM_STEPS` steps of Adam on `POINTS_PER_STEP` random points each, which the
    key draws. The shapes are fitted one by one. Raises InputError for an array of another shape or values that are not finite.
    """
    labelled = as_array(labelled, 'labelled')
    if jnp.ndim(labelled) != 3 or labelled.shape[1] < 1 or labelled.shape[2] != 4:
        raise InputError(f'labelled: expected an array [B, T, 4], found the shape {list(jnp.shape(labelled))}')
    check_finite(np.asarray(labelled), 'labelled')
    labelled = as_floats(labelled, 'labelled')
    keys = jax.random.split(key, len(labelled))
    num_shapes = len(params['params']['encoder']['embedding'])
    learned = model.encode(params, jnp.arange(num_shapes))  # [S, C]
    codes = [_fit(model.occupancy, params, learned, key, shape) for key, shape in zip(keys, labelled, strict=True)]
    return jnp.stack(codes)


@partial(jax.jit, static_argnums=0)
def _fit(occupancy: Callable, params: dict, learned: jax.Array, key: jax.Array, labelled: jax.Array) -> jax.Array:
    """learned [S, C], labelled [T, 4] -> code [C]."""
    mean, deviation = learned.mean(axis=0), learned.std(axis=0)

    def misfit(code, rows):
        """The cross-entropy of all labels, in nats, estimated from the points of `rows` [K, 4]."""
        logits = occupancy(params, rows[None, :, :3], code[None])[0]
        return losses.occupancy_bce(logits, rows[:, 3]).mean() * len(labelled)

    def negative_log_posterior(code, rows):
        return misfit(code, rows) + jnp.square((code - mean) / deviation).sum() / 2

    tx = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS))

    def step(state, key):
        code, opt_state = state
        rows = labelled[jax.random.randint(key, (POINTS_PER_STEP,), 0, len(labelled))]
        updates, opt_state = tx.update(jax.grad(negative_log_posterior)(code, rows), opt_state)
        return (optax.apply_updates(code, updates), opt_state), None

    few = labelled[:: max(1, len(labelled) // POINTS_TO_CHOOSE)]
    start = learned[jnp.argmin(jax.lax.map(lambda code: misfit(code, few), learned))]
    (code, _), _ = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, NUM_STEPS))
    return code
