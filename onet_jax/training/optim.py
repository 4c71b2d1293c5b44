"""The optimiser of a config: plain Adam, and what is asked for beyond it."""

import jax
import optax.contrib
from ml_collections import ConfigDict

from onet_jax.errors import InputError

# Schedules that depend on `config.train.num_steps`: a run that follows one cannot be made longer.
ENDING_SCHEDULES = ('cosine',)


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """The rule of `config.optim` at the learning rates of `make_schedule`.

    `name` is 'adam' (betas 0.9 and 0.999, epsilon 1e-8), as in the paper, or 'muon' (Jordan et al., 2024): the momentum of
    each matrix made orthogonal, so that all its directions learn at the same pace, with updates as large as Adam's (root
    mean square 0.2 of the learning rate; Liu et al., 2025) and Adam with Nesterov momentum for biases and learned codes,
    whose rows are no directions of one map. Where steps are few it needs a fraction of them.
    `clip_norm` scales gradients down to that norm over all weights; 0 is off. With `accumulate_steps` = k the weights change
    every k-th step, by the mean gradient of k batches (which is clipped as a whole): memory for one batch, gradients of k,
    but for batch normalisation, which sees one at a time. A step remains one batch everywhere, in the log, in the schedule
    and in `train.num_steps`; the steps behind the last multiple of k change nothing.
    """
    optim = config.optim
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
    # A plain number where it is one, for a schedule has a state. Optax counts updates, the schedule steps.
    rate = optim.learning_rate if constant else lambda num_updates: schedule(num_updates * num_batches)
    if optim.name == 'adam':
        tx = optax.adam(rate)
    elif optim.name == 'muon':
        tx = optax.contrib.muon(rate, consistent_rms=0.2, muon_weight_dimension_numbers=_find_matrices)
    else:
        raise InputError(f"config.optim.name: expected 'adam' or 'muon', found {optim.name!r}")
    if optim.clip_norm > 0:
        tx = optax.chain(optax.clip_by_global_norm(optim.clip_norm), tx)
    return optax.MultiSteps(tx, num_batches).gradient_transformation() if num_batches > 1 else tx


def make_schedule(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """number of steps done -> learning rate of the next one.

    Over the first `warmup_steps` it rises linearly from zero to `learning_rate`. From there `schedule` is 'constant', as in
    the paper (learning_rate 1e-4), 'cosine', half a cosine to zero at `num_steps`, for runs whose length is known, or a decay
    by `decay_factor` in every `decay_steps`: 'step' at their ends, 'exponential' all the time.
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
        if optim.decay_steps < 1 or not 0 < optim.decay_factor < 1:
            raise InputError(
                'config.optim: expected decay_steps of at least 1 and a decay_factor between 0 and 1, '
                f'found {optim.decay_steps} and {optim.decay_factor}'
            )
        schedule = optax.exponential_decay(
            rate, optim.decay_steps, optim.decay_factor, staircase=optim.schedule == 'step'
        )
    else:
        raise InputError(
            f"config.optim.schedule: expected 'constant', 'cosine', 'step' or 'exponential', found {optim.schedule!r}"
        )
    if warmup_steps == 0:
        return schedule
    return optax.join_schedules([optax.linear_schedule(0.0, rate, warmup_steps), schedule], [warmup_steps])


def learning_rate_of(config: ConfigDict, step: int) -> float:
    """The learning rate of `step`, counted from 1: that of the update which its gradient is part of."""
    num_batches = config.optim.accumulate_steps
    return float(make_schedule(config, config.train.num_steps)((step - 1) // num_batches * num_batches))


def _find_matrices(params: dict) -> dict:
    """How Muon reads each array as a matrix, a convolution as that of its patches; None for what Adam updates."""

    def dimensions(path, array):
        if array.ndim < 2 or path[-1].key == 'embedding':
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(array.ndim - 1)), array.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)
