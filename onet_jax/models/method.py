"""What the trainer needs of a paper: the same four functions for every one of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    batch_stats: Any  # updated running statistics, the tree of params['batch_stats']
    scalars: dict[str, jax.Array]  # named terms of the loss, for the log


class Method(NamedTuple):
    """Four pure functions."""

    init: Callable  # (key, batch) -> params
    loss: Callable  # (params, batch, key, axis_name) -> (scalar, Aux), train mode
    metrics: Callable  # (params, batch) -> {name: [B]}, evaluation mode, one value for each example
    reconstruct: Callable  # (params, inputs [B, ...], key) -> list of B meshes in object coordinates
