"""The optimiser of a config: Adam, Muon or RMSprop, learning rate schedules, gradient clipping and accumulation."""

import math
from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax.contrib
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.training.state import is_in, path_of

# Schedules that depend on `config.train.num_steps`: a run with one of them cannot be made longer.
ENDING_SCHEDULES = ('cosine',)
NUM_ITERATIONS = 5  # of Newton and Schulz in an update by Muon


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """The optimiser of `config.optim` with the schedule of `make_schedule`. Raises InputError for values out of range.

    name              'adam' (betas 0.9 and 0.999, epsilon 1e-8), as in the paper, or 'muon' (Jordan et al., 2024), which
                      orthogonalises the momentum of each matrix and in short runs needs a fraction of Adam's steps. The root
                      mean square of its updates is 0.2 learning rates, about that of Adam's (Liu et al., 2025). Biases and
                      learned codes, which are no matrices of a linear map, it updates by Adam with Nesterov momentum.
                      'rmsprop' (decay 0.99, epsilon 1e-8), with PyTorch's semantics, is that of Texture Fields, 'keras_adam'
                      that of the original NeRF (see `keras_adam`)
    clip_norm         gradient clipping by the global norm of all weights; 0 is off
    accumulate_steps  gradient accumulation: every k-th step updates the weights by the mean gradient of k batches, which is
                      clipped as a whole. It takes the memory of one batch, and batch normalisation still sees one batch. A
                      step remains one batch, in the log, the schedule and `train.num_steps`; steps after the last multiple of
                      k do not change the weights

    The weights of the modules `config.train.frozen` do not change; running statistics do. Raises InputError, when the state is
    made, for a frozen module without weights.
    """
    optim = config.optim
    if not 0 < optim.learning_rate < math.inf:
        raise InputError(f'config.optim.learning_rate: expected a positive number, found {optim.learning_rate}')
    if optim.clip_norm < 0:
        raise InputError(f'config.optim.clip_norm: expected a norm, or 0 for none, found {optim.clip_norm}')
    if optim.accumulate_steps < 1:
        raise InputError(f'config.optim.accumulate_steps: expected at least 1, found {optim.accumulate_steps}')
    if not 0 <= optim.ema_decay < 1:
        raise InputError(
            f'config.optim.ema_decay: expected 0 for none, or more and less than 1, found {optim.ema_decay}'
        )
    schedule, num_batches = make_schedule(config, num_steps), optim.accumulate_steps
    constant = optim.schedule == 'constant' and optim.warmup_steps == 0
    # A plain number where it is constant, as a schedule adds a state. Optax counts updates, the schedule counts steps.
    rate = optim.learning_rate if constant else lambda num_updates: schedule(num_updates * num_batches)
    if optim.name == 'adam':
        tx = optax.adam(rate)
    elif optim.name == 'muon':
        tx = _loop(optax.contrib.muon(rate, consistent_rms=0.2, muon_weight_dimension_numbers=_find_matrices))
    elif optim.name == 'rmsprop':
        tx = optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False)
    elif optim.name == 'keras_adam':
        tx = keras_adam(rate)
    else:
        raise InputError(f"config.optim.name: expected 'adam', 'muon', 'rmsprop' or 'keras_adam', found {optim.name!r}")
    if optim.clip_norm > 0:
        tx = optax.chain(optax.clip_by_global_norm(optim.clip_norm), tx)
    tx = optax.MultiSteps(tx, num_batches).gradient_transformation() if num_batches > 1 else tx
    return _freeze(tx, config.train.frozen) if config.train.frozen else tx


def _loop(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Muon, whose iterations are compiled as a loop: optax unrolls them for coefficients that are the same in each, and then
    they are half of the program of a training step. The state stays that of optax.
    """

    def is_muon(part):
        return isinstance(part, optax.contrib.MuonState)

    def with_coefficients(change, state):
        def replace(part):
            return part._replace(ns_coeffs=change(part.ns_coeffs)) if is_muon(part) else part

        return jax.tree.map(replace, state, is_leaf=is_muon)

    def update(grads, state, params=None):
        of_each = with_coefficients(lambda coefficients: jnp.tile(coefficients, (NUM_ITERATIONS, 1)), state)
        updates, of_each = tx.update(grads, of_each, params)
        return updates, with_coefficients(lambda coefficients: coefficients[0], of_each)

    return optax.GradientTransformation(tx.init, update)


def keras_adam(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Adam as Keras writes it: epsilon 1e-7 is added to the root of the second moment before its bias is corrected.

    p -= rate sqrt(1 - 0.999^t) / (1 - 0.9^t) m / (sqrt(v) + epsilon), which with few steps is not Adam with another epsilon.
    """

    def init(params):
        return optax.ScaleByAdamState(jnp.int32(0), optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(grads, state, params=None):
        count = state.count + 1
        mu = optax.tree.update_moment(grads, state.mu, 0.9, 1)
        nu = optax.tree.update_moment(grads, state.nu, 0.999, 2)
        scale = jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        return jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + 1e-7), mu, nu), state._replace(
            count=count, mu=mu, nu=nu
        )

    return optax.chain(optax.GradientTransformation(init, update), optax.scale_by_learning_rate(learning_rate))


def _freeze(tx: optax.GradientTransformation, modules: Sequence[str]) -> optax.GradientTransformation:
    def label(params: dict) -> dict:
        paths = [('params', *path_of(keys)) for keys, _ in jax.tree_util.tree_leaves_with_path(params)]
        missing = [module for module in modules if not any(is_in(path, [module]) for path in paths)]
        if missing:
            raise InputError(
                f'config.train.frozen: expected modules of the network, {sorted({path[1] for path in paths})} or parts of '
                f'them, found {missing}'
            )
        return jax.tree_util.tree_map_with_path(lambda keys, _: is_in(('params', *path_of(keys)), modules), params)

    return optax.partition({False: tx, True: optax.set_to_zero()}, label)


def make_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """Learning rate schedule: number of steps done -> learning rate of the next one.

    A linear warm-up over the first `warmup_steps`, from zero to `learning_rate`. Then `schedule`: 'constant', as in the paper
    (learning_rate 1e-4); 'cosine' decay to zero at `num_steps`; or decay by `decay_factor` in `decay_steps`, either at their
    end ('step') or continuously ('exponential'). Where `decay_steps` are several, 'step' decays at each of them. Raises
    InputError for values out of range.
    """
    optim = config.optim
    rate, warmup_steps = optim.learning_rate, optim.warmup_steps
    if optim.schedule == 'constant':
        schedule = optax.constant_schedule(rate)
    elif optim.schedule == 'cosine':
        if warmup_steps >= num_steps:
            raise InputError(
                f'config.optim.warmup_steps: expected fewer than config.train.num_steps = {num_steps}, found {warmup_steps}'
            )
        schedule = optax.cosine_decay_schedule(rate, num_steps - warmup_steps)
    elif optim.schedule in ('step', 'exponential'):
        steps = optim.decay_steps if isinstance(optim.decay_steps, tuple) else (optim.decay_steps,)
        several = steps is optim.decay_steps and optim.schedule == 'step'
        if not steps or any(a >= b for a, b in pairwise((0, *steps))) or not 0 < optim.decay_factor < 1:
            raise InputError(
                'config.optim: expected decay_steps of at least 1, several in ascending order, and a decay_factor between 0 '
                f'and 1, found {optim.decay_steps} and {optim.decay_factor}'
            )
        if several:
            schedule = optax.piecewise_constant_schedule(rate, dict.fromkeys(steps, optim.decay_factor))
        elif len(steps) > 1:
            raise InputError(f"config.optim.decay_steps: expected one number with 'exponential', found {steps}")
        else:
            schedule = optax.exponential_decay(rate, steps[0], optim.decay_factor, staircase=optim.schedule == 'step')
    else:
        raise InputError(
            f"config.optim.schedule: expected 'constant', 'cosine', 'step' or 'exponential', found {optim.schedule!r}"
        )
    if warmup_steps == 0:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup_steps), schedule], [warmup_steps])


def learning_rate_of(config: ConfigDict, step: int) -> float:
    """The learning rate of `step`, counted from 1: that of the update to which its gradient contributes."""
    num_batches = config.optim.accumulate_steps
    return float(make_schedule(config, config.train.num_steps)((step - 1) // num_batches * num_batches))


def _find_matrices(params: dict) -> dict:
    """By which axes Muon reads an array as a matrix [in, out], of a convolution [patch, out]; None for those of Adam.

    An array with three axes is a stack of matrices, each by itself: convolutions have four or five.
    """

    def dimensions(path, array):
        if array.ndim < 2 or path[-1].key in ('embedding', 'bias', 'scale'):
            return None
        if array.ndim == 3:
            return optax.contrib.MuonDimensionNumbers(1, 2)
        return optax.contrib.MuonDimensionNumbers(tuple(range(array.ndim - 1)), array.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)
