"""The training step as training compiles it, which also says what its gradients were: one program for all that is compared."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from onet_jax.convert import official
from onet_jax.convert.names import layouts_of
from onet_jax.models import Method
from onet_jax.training.state import TrainState
from onet_jax.training.step import make_train_step
from parity.deviation import ZERO_GRADIENT, Deviation, Deviations, compare, compare_by_name
from parity.golden import under

KEEP = optax.GradientTransformation(lambda params: params, lambda updates, state, params=None: (updates, updates))


def start_training(
    method: Method, variables: dict, optimizer: optax.GradientTransformation | None = None
) -> tuple[TrainState, Callable]:
    """The state before the first step, and step(state, batch, key) -> (state, scalars), by default of Adam with the official
    rate."""
    tx = optax.chain(KEEP, optimizer or optax.adam(1e-4))
    state = TrainState(jnp.int32(0), variables, tx.init(variables['params']))
    return state, jax.jit((method.make_step or make_train_step)(method, tx, lambda key, raw: raw))


def last_gradients(state: TrainState) -> dict:
    """Of a state after a step of `start_training`: a tree like `params`."""
    return state.opt_state[0]


def gradients(found: dict, data: dict, run: str) -> Deviations:
    """Gradients by the weights, the large ones at every few values, and their norms in float64."""
    strides, zero = under(data, 'meta/gradstride/'), zero_gradients(data, run)
    some = {name: np.ravel(found[name])[:: int(stride)] for name, stride in strides.items()}
    norms = {name: np.linalg.norm(gradient) for name, gradient in found.items()}
    return {
        'gradients': compare_by_name(found, under(data, f'out/{run}grad/'), zero),
        'gradients of large weights': compare_by_name(some, under(data, f'out/{run}gradsub/')),
        'norms of gradients': compare_by_name(norms, under(data, f'out64/{run}gradnorm/'), zero),
    }


def zero_gradients(data: dict, run: str) -> set[str]:
    """The weights whose gradient is rounding noise."""
    return {name for name, norm in under(data, f'out64/{run}gradnorm/').items() if norm < ZERO_GRADIENT}


def two_steps(
    method: Method, variables: dict, config: ConfigDict, data: dict, batches: Sequence[dict], dtype: type
) -> Deviations:
    """Of a file of conv/: loss and gradients of the first of two steps of Adam, losses and weights after both."""
    state, step = start_training(method, variables)
    state, scalars = step(state, batches[0], jax.random.key(0))
    layouts, zero = layouts_of(config, False), zero_gradients(data, 'train/')
    by_weights = official.write_weights({'params': last_gradients(state)}, layouts)
    state, second = step(state, batches[1], jax.random.key(0))
    found = official.write_weights(state.variables, layouts)
    expected = {name: x for name, x in under(data, 'out64/adam/after_step2/').items() if name not in zero}
    weights = compare_by_name(found, expected)
    out = 'out64' if dtype == np.float64 else 'out'
    return {
        'loss': compare((scalars['loss'], data[f'{out}/train/loss'])),
        **gradients(by_weights, data, 'train/'),
        'losses of 2 Adam steps': compare((jnp.stack([scalars['loss'], second['loss']]), data['out64/adam/losses'])),
        # In float32 Adam makes steps of its full rate also of rounding noise.
        'weights after 2 Adam steps': weights if dtype == np.float64 else Deviation(weights.absolute),
    }
