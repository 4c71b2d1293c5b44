"""Deterministic scatter of point features to cells (mean, max, sum), and local pooling.

The scatters of an accelerator add in any order (atomic operations). The custom derivative rules here fix the order of sums, and
which of equal maxima gets the gradient. They allow reverse-mode differentiation only.

P points, C features.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from onet_jax.networks.fast_gradients import platform_dependent


@partial(jax.jit, static_argnums=2)  # a network has many of the same shape: traced and lowered once
def reduce_cells(values: jax.Array, cells: jax.Array, operation: str) -> jax.Array:
    """For every point the 'sum' or 'max' of values [P, C] over all points of its cell [P] int: [P, C].

    A segment reduction and a gather. A CPU adds in the order of the points; elsewhere the points are sorted by cell and
    reduced by a segmented scan.
    """
    in_order = partial(_reduce_in_order, operation=operation)
    if is_symbolic_dim(cells.shape[0]):  # of a function that is exported: such an axis has no scan
        return in_order(values, cells)
    return platform_dependent(values, cells, cpu=in_order, default=partial(_reduce_sorted, operation=operation))


def _reduce_in_order(values, cells, operation):
    # The cells that have points are renumbered from 0: there are many more cells than points.
    order = jnp.argsort(cells)
    ranks = jnp.zeros_like(cells).at[order].set(_count_starts(cells[order]), unique_indices=True)
    reduce = {'sum': jax.ops.segment_sum, 'max': jax.ops.segment_max}[operation]
    return reduce(values, ranks, cells.shape[0])[ranks]


def _reduce_sorted(values, cells, operation):
    combine = {'sum': jnp.add, 'max': jnp.maximum}[operation]
    order = jnp.argsort(cells)
    ranks, numbers = _count_starts(cells[order]), jnp.arange(len(cells))

    def merge(i, running):
        """Of each point the reduction of the last 2^i points of its cell up to it -> of the last 2^(i + 1)."""
        same = (numbers >= 1 << i) & (ranks == jnp.roll(ranks, 1 << i))
        return jnp.where(same[:, None], combine(running, jnp.roll(running, 1 << i, axis=0)), running)

    # A loop (Hillis and Steele, 1986): of a tree of all steps, unrolled, most of the time of a compilation would go into it.
    running = jax.lax.fori_loop(0, (len(cells) - 1).bit_length(), merge, values[order])
    last = jnp.searchsorted(ranks, ranks, side='right') - 1
    return jnp.zeros_like(values).at[order].set(running[last], unique_indices=True)


def _count_starts(cells):
    """Sorted cells [P] -> 0 for all points of the first, 1 for those of the second, ..."""
    return jnp.cumsum(jnp.concatenate([jnp.zeros(1, cells.dtype), (cells[1:] != cells[:-1]).astype(cells.dtype)]))


@jax.custom_vjp
def pool_max(values: jax.Array, cells: jax.Array) -> jax.Array:
    """Local max pooling: for every point the maximum of values [P, C] over its cell [P] int: [P, C].

    Of equal maxima the first gets the gradient.
    """
    return reduce_cells(values, cells, 'max')


def _pool_max_forward(values, cells):
    pooled = reduce_cells(values, cells, 'max')
    # Of the points that have the maximum the first is the one with the largest -index.
    numbers = jnp.broadcast_to(-jnp.arange(len(values))[:, None], values.shape)
    first = reduce_cells(jnp.where(values == pooled, numbers, -len(values)), cells, 'max')
    return pooled, (first == numbers, cells)


def _pool_max_backward(kept, gradient):
    chosen, cells = kept
    return jnp.where(chosen, reduce_cells(gradient, cells, 'sum'), 0), None


pool_max.defvjp(_pool_max_forward, _pool_max_backward)


@jax.custom_vjp
def pool_mean(values: jax.Array, cells: jax.Array) -> jax.Array:
    """Local mean pooling: for every point the mean of values [P, C] over its cell [P] int: [P, C]."""
    return reduce_cells(values, cells, 'sum') / _count(values, cells)


def _count(values, cells):
    return reduce_cells(jnp.ones_like(values[:, :1]), cells, 'sum')


# A symmetric linear map: its transpose, the gradient, is the same mean.
pool_mean.defvjp(
    lambda values, cells: (pool_mean(values, cells), cells),
    lambda cells, gradient: (pool_mean(gradient, cells), None),
)
POOLINGS = {'max': pool_max, 'mean': pool_mean}


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def scatter_mean(values: jax.Array, cells: jax.Array, num_cells: int) -> jax.Array:
    """Scatter mean: values [P, C], cells [P] int -> the mean in every cell [num_cells, C], 0 where there is no point."""
    means = pool_mean(values, cells)
    # All points of a cell have the same mean, so that their order does not matter.
    return jnp.zeros((num_cells, values.shape[1]), values.dtype).at[cells].set(means)


def _scatter_mean_forward(values, cells, num_cells):
    return scatter_mean(values, cells, num_cells), (_count(values, cells), cells)


def _scatter_mean_backward(num_cells, kept, gradient):
    counts, cells = kept
    return gradient[cells] / counts, None


scatter_mean.defvjp(_scatter_mean_forward, _scatter_mean_backward)
