"""The state of a training run: everything that a checkpoint holds and nothing else."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from onet_jax.models.method import Method


class TrainState(NamedTuple):
    """A plain tree. `variables` are all flax collections of a network; only 'params' is optimised."""

    step: jax.Array  # int32 [], number of steps done
    variables: Any
    opt_state: Any


class AveragedState(NamedTuple):
    """A TrainState with an exponential moving average of its variables; a type of its own, for its checkpoints hold more."""

    step: jax.Array
    variables: Any
    opt_state: Any
    average: Any  # like `variables`, see `update_average`


def create_state(
    key: jax.Array, method: Method, tx: optax.GradientTransformation, batch: dict, ema_decay: float = 0.0
) -> TrainState | AveragedState:
    """The state before the first step; `batch` gives the shapes of the inputs. It averages where ema_decay > 0."""
    variables = method.init(key, batch)
    return begin_average(TrainState(jnp.zeros((), jnp.int32), variables, tx.init(variables['params'])), ema_decay)


def begin_average(state: TrainState, ema_decay: float) -> TrainState | AveragedState:
    """The state with its variables as the average so far, where ema_decay > 0."""
    # A copy, since a step may be given the buffers of its state to write into.
    return AveragedState(*state, jax.tree.map(jnp.copy, state.variables)) if ema_decay > 0 else state


def update_average(average: Any, variables: Any, step: jax.Array, ema_decay: float) -> Any:
    """The average after `step`, which left `variables`: each step counts ema_decay times as much as the next.

    The weights sum to one over the steps that there were, so that early averages do not hang on to the random start: the
    first is `variables`. Running statistics of batches are averaged with the weights that they belong to; what is counted in
    integers is the newest.
    """
    share = (1 - ema_decay) / -jnp.expm1(step * jnp.log(ema_decay))  # of the newest: 1 / (1 + d + ... + d^(step - 1))

    def mean(old, new):
        return share * new + (1 - share) * old if jnp.issubdtype(new.dtype, jnp.floating) else new

    return jax.tree.map(mean, average, variables)


def chosen_variables(state: TrainState | AveragedState) -> Any:
    """What is validated and used: the average, where there is one."""
    return state.average if isinstance(state, AveragedState) else state.variables
