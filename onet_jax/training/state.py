"""The state of a training run: everything that a checkpoint holds and nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from onet_jax.models.method import Method


class TrainState(NamedTuple):
    """A plain tree. `params` is {'params': ..., 'batch_stats': ...}; only the first is optimised."""

    step: jax.Array  # int32 [], number of updates done
    params: Any
    opt_state: Any


def create_state(key: jax.Array, method: Method, tx: optax.GradientTransformation, batch: dict) -> TrainState:
    """The state before the first step; `batch` gives the shapes of points and inputs."""
    params = method.init(key, batch)
    params = {'params': params['params'], 'batch_stats': params.get('batch_stats', {})}
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params['params']))
