"""The optimiser of a config."""

import jax
import optax.contrib
from ml_collections import ConfigDict


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """The rule and the schedule of `config.optim`.

    `name` is 'adam' (betas 0.9 and 0.999, epsilon 1e-8), as in the paper, or 'muon' (Jordan et al., 2024): the momentum of
    each matrix made orthogonal, so that all its directions learn at the same pace, with updates as large as Adam's (root
    mean square 0.2 of the learning rate; Liu et al., 2025) and Adam with Nesterov momentum for biases and learned codes,
    whose rows are no directions of one map. Where steps are few it needs a fraction of them.
    `schedule` is 'constant', as in the paper (learning_rate 1e-4), or 'cosine': a linear warm-up over `warmup_steps`,
    then half a cosine from `learning_rate` to zero at `num_steps`, for runs whose length is known.
    """
    optim = config.optim
    if optim.schedule == 'constant':
        schedule = optim.learning_rate
    elif optim.schedule == 'cosine':
        if optim.warmup_steps >= num_steps:
            raise ValueError(
                f'config.optim.warmup_steps: expected fewer than config.train.num_steps = {num_steps}, '
                f'found {optim.warmup_steps}'
            )
        schedule = optax.warmup_cosine_decay_schedule(0.0, optim.learning_rate, optim.warmup_steps, num_steps)
    else:
        raise ValueError(f"config.optim.schedule: expected 'constant' or 'cosine', found {optim.schedule!r}")
    if optim.name == 'adam':
        return optax.adam(schedule)
    if optim.name == 'muon':
        return optax.contrib.muon(schedule, consistent_rms=0.2, muon_weight_dimension_numbers=_find_matrices)
    raise ValueError(f"config.optim.name: expected 'adam' or 'muon', found {optim.name!r}")


def _find_matrices(params: dict) -> dict:
    """How Muon reads each array as a matrix, a convolution as that of its patches; None for what Adam updates."""

    def dimensions(path, array):
        if array.ndim < 2 or path[-1].key == 'embedding':
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(array.ndim - 1)), array.ndim - 1)

    return jax.tree_util.tree_map_with_path(dimensions, params)
