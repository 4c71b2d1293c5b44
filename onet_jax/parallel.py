"""pmap and jit over all devices: the one place that knows how many there are.

Both run the same step and give the same numbers as one device on the whole batch. The state is never stacked: every
device holds the same copy, and so does the caller.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'data'
BACKENDS = ('pmap', 'jit')


class Parallel(NamedTuple):
    """How a step is run on the devices at hand."""

    num_devices: int
    axis_name: str | None  # to build the step with
    compile: Callable[[Callable], Callable]  # step(state, raw, key) -> the same, on all devices
    replicate: Callable[[Any], Any]  # a tree -> the same tree on every device
    shard: Callable[[dict], dict]  # host rows [B, ...] -> rows spread over the devices


def make_parallel(backend: str, batch_size: int, devices: list | None = None) -> Parallel:
    """backend: 'pmap' or 'jit' (shardings over a one-dimensional mesh); devices: all of them by default.

    Raises ValueError for an unknown backend, or when the global batch does not divide evenly.
    """
    devices = devices or jax.devices()
    num_devices = len(devices)
    if batch_size % num_devices:
        raise ValueError(
            f'config.train.batch_size: expected a multiple of the {num_devices} devices, found {batch_size}; '
            f'use {batch_size // num_devices * num_devices or num_devices}'
        )
    mesh = Mesh(np.asarray(devices), (AXIS,))
    rows, replicated = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())

    def replicate(tree):
        return jax.device_put(tree, replicated)

    if backend == 'jit':
        return Parallel(
            num_devices,
            None,
            lambda step: jax.jit(
                step, in_shardings=(replicated, rows, replicated), out_shardings=replicated, donate_argnums=0
            ),
            replicate,
            lambda raw: jax.device_put(raw, rows),
        )
    if backend == 'pmap':

        def split(raw):
            return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), raw)

        return Parallel(
            num_devices,
            AXIS,
            lambda step: jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices),
            replicate,
            lambda raw: jax.device_put(split(raw), rows),
        )
    raise ValueError(f'config.train.backend: expected one of {BACKENDS}, found {backend!r}')
