"""The state of a training run: what a checkpoint holds."""

from collections.abc import Iterable
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

    def after_step(self, variables: Any, opt_state: Any, ema_decay: float) -> 'TrainState':
        """The state after a step that gave these."""
        return TrainState(self.step + 1, variables, opt_state)


class AveragedState(NamedTuple):
    """A TrainState with an exponential moving average (EMA) of its variables; a separate type, as its checkpoints hold more."""

    step: jax.Array
    variables: Any
    opt_state: Any
    average: Any  # like `variables`, see `update_average`

    def after_step(self, variables: Any, opt_state: Any, ema_decay: float) -> 'AveragedState':
        """The state after a step that gave these."""
        average = update_average(self.average, variables, self.step + 1, ema_decay)
        return AveragedState(self.step + 1, variables, opt_state, average)


def create_state(
    key: jax.Array, method: Method, tx: optax.GradientTransformation, batch: dict, ema_decay: float = 0.0
) -> TrainState | AveragedState:
    """The state before the first step; `batch` gives the shapes of the inputs. It has an average where ema_decay > 0."""
    # A program that runs once: on a CPU LLVM would optimise its many draws for longer than the rest of the start takes.
    options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
    return begin_state(jax.jit(method.init, compiler_options=options)(key, batch), tx, ema_decay)


def begin_state(variables: Any, tx: optax.GradientTransformation, ema_decay: float) -> TrainState | AveragedState:
    """The state before the first step, of these variables."""
    return begin_average(TrainState(jnp.zeros((), jnp.int32), variables, tx.init(variables['params'])), ema_decay)


def begin_average(state: TrainState, ema_decay: float) -> TrainState | AveragedState:
    """The state with an average that starts from its variables, where ema_decay > 0."""
    # A copy, since a step may donate the buffers of its state.
    return AveragedState(*state, jax.tree.map(jnp.copy, state.variables)) if ema_decay > 0 else state


def update_average(average: Any, variables: Any, step: jax.Array, ema_decay: float) -> Any:
    """The exponential moving average after `step`, which gave `variables`, with bias correction.

    Each step weighs ema_decay times as much as the next, and the weights sum to one: the first average is `variables`, and the
    random initialisation does not count. Running statistics are averaged too; of integers it has the newest values.
    """
    share = (1 - ema_decay) / -jnp.expm1(step * jnp.log(ema_decay))  # of the newest: 1 / (1 + d + ... + d^(step - 1))

    def mean(old, new):
        return share * new + (1 - share) * old if jnp.issubdtype(new.dtype, jnp.floating) else new

    return jax.tree.map(mean, average, variables)


def path_of(keys: Iterable) -> tuple[str, ...]:
    """The path of a weight in the variables, ('params', 'decoder', 'fc_p', 'kernel'), from its keys in their tree."""
    return tuple(key.key for key in keys)


def is_in(path: tuple[str, ...], modules: Iterable[str]) -> bool:
    """Whether a weight of the variables lies in one of the modules, named like 'decoder' or 'encoder.features'."""
    name = '.'.join(path[1:])
    return any(f'{name}.'.startswith(f'{module}.') for module in modules)


def chosen_variables(state: TrainState | AveragedState) -> Any:
    """The variables that are validated and used: the average, where there is one."""
    return state.average if isinstance(state, AveragedState) else state.variables
