"""Coarse-to-fine evaluation of a field on a lattice in one compiled function: every second value, and the rest near surfaces.

`mise.py` does it level by level, exactly, for a field that is called from outside; this is one level, of one window among
thousands. A thin sheet may pass between the coarse values: the caller says where it may be.
n lattice points along an axis, an odd number, m = (n - 1) / 2 coarse cells.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

UNSURE = 1.5  # logits: a coarse cell whose corners are all above it, or all below -UNSURE, is not crossed by a surface
CHUNK = 2048  # points at a time


def evaluate_near_surface(decode: Callable, axis: jax.Array, near: jax.Array) -> jax.Array:
    """The logits [n, n, n] of a field on the lattice of the coordinates axis [n], interpolated far from surfaces.

    decode: points [CHUNK, 3] -> logits [CHUNK]. near: [m, m, m] bool, the coarse cells that a surface may cross whatever their
    corners say. Cells that are neither near nor `UNSURE` are interpolated from their corners.
    """
    n = len(axis)
    numbers = jnp.arange(n**3).reshape(n, n, n)[::2, ::2, ::2]
    coarse = _decode_at(decode, axis, jnp.zeros(n**3), numbers.ravel(), numbers.size)[numbers]
    values, wanted = coarse, near | ((_pool(coarse, jnp.minimum) < UNSURE) & (_pool(coarse, jnp.maximum) > -UNSURE))
    for _ in range(3):
        values = jnp.moveaxis(_interpolate(values), 0, 2)
    # A cell needs the values in its middle and on all of its border.
    needed = jnp.zeros((n, n, n), bool).at[1::2, 1::2, 1::2].set(wanted)
    needed = dilate(needed).at[::2, ::2, ::2].set(False)
    (places,) = jnp.nonzero(needed.ravel(), size=n**3, fill_value=n**3)
    return _decode_at(decode, axis, values.ravel(), places, needed.sum()).reshape(n, n, n)


def dilate(cells: jax.Array) -> jax.Array:
    """[n, n, n] bool, with the 26 neighbours of those that are true."""
    for axis in range(3):
        padded = jnp.pad(cells, [(int(i == axis),) * 2 for i in range(3)])
        parts = (jax.lax.slice_in_dim(padded, i, i + cells.shape[axis], axis=axis) for i in range(3))
        cells = reduce(jnp.logical_or, parts)
    return cells


def _decode_at(decode: Callable, axis: jax.Array, values: jax.Array, places: jax.Array, num: Any) -> jax.Array:
    """The values [n^3], decoded at the first `num` of the places [K], which are numbers of lattice points."""
    n = len(axis)
    places = jnp.pad(places, (0, -len(places) % CHUNK), constant_values=n**3)  # of none

    def decode_chunk(i, values):
        chosen = jax.lax.dynamic_slice_in_dim(places, i * CHUNK, CHUNK)
        points = axis[jnp.stack(jnp.unravel_index(chosen, (n, n, n)), axis=-1)]
        return values.at[chosen].set(decode(points), mode='drop')

    return jax.lax.fori_loop(0, -(-num // CHUNK), decode_chunk, values)


def _pool(corners: jax.Array, combine: Callable) -> jax.Array:
    """Values of corners [m + 1, m + 1, m + 1], combined over those of each cell: [m, m, m]."""
    for axis in range(3):
        size = corners.shape[axis]
        corners = combine(*(jax.lax.slice_in_dim(corners, i, i + size - 1, axis=axis) for i in (0, 1)))
    return corners


def _interpolate(values: jax.Array) -> jax.Array:
    """Values [m + 1, ...] and the means of neighbours between them, [2 m + 1, ...]."""
    doubled = jnp.zeros((2 * len(values) - 1, *values.shape[1:]), values.dtype)
    return doubled.at[::2].set(values).at[1::2].set((values[:-1] + values[1:]) / 2)
