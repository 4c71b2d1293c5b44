"""Scatter of point features to cells (sum, mean, max) and local pooling: the same values and gradients in every run.

The custom derivative rules here say WHICH of equal maxima has the gradient, and keep gradients in one order, where the scatters
of an accelerator would add in any. They allow no forward differentiation.

N points, C features.
"""

from functools import partial

import jax
import jax.numpy as jnp


def reduce_cells(values: jax.Array, cells: jax.Array, operation: str) -> jax.Array:
    """For every point the 'sum' or 'max' of values [N, C] over all points of its cell [N] int: [N, C].

    A scatter and a gather, with the same numbers in every run: a CPU adds in the order of the points, and elsewhere, where a
    scatter would add in any order, the points are sorted by cell and added along a tree.
    """
    in_order = partial(_reduce_in_order, operation=operation)
    return jax.lax.platform_dependent(values, cells, cpu=in_order, default=partial(_reduce_sorted, operation=operation))


def _reduce_in_order(values, cells, operation):
    # By the first point of each cell in place of the cells, of which there are many more.
    order = jnp.argsort(cells)
    ranks = jnp.zeros_like(cells).at[order].set(_count_starts(cells[order]), unique_indices=True)
    reduce = {'sum': jax.ops.segment_sum, 'max': jax.ops.segment_max}[operation]
    return reduce(values, ranks, len(cells))[ranks]


def _reduce_sorted(values, cells, operation):
    combine = {'sum': jnp.add, 'max': jnp.maximum}[operation]
    order = jnp.argsort(cells)
    ranks = _count_starts(cells[order])

    def merge(left, right):
        """Of two runs of points: the cell where the right one ends, and what its last cell has so far."""
        same = (left[0] == right[0])[:, None]
        return right[0], jnp.where(same, combine(left[1], right[1]), right[1])

    _, running = jax.lax.associative_scan(merge, (ranks, values[order]))
    last = jnp.searchsorted(ranks, ranks, side='right') - 1
    return jnp.zeros_like(values).at[order].set(running[last], unique_indices=True)


def _count_starts(cells):
    """Sorted cells [N] -> 0 for all points of the first, 1 for those of the second, ..."""
    return jnp.cumsum(jnp.concatenate([jnp.zeros(1, cells.dtype), (cells[1:] != cells[:-1]).astype(cells.dtype)]))


@jax.custom_vjp
def pool_max(values: jax.Array, cells: jax.Array) -> jax.Array:
    """Local max pooling: for every point the largest of values [N, C] in its cell [N] int, [N, C]. Of equal ones the first has
    the gradient."""
    return reduce_cells(values, cells, 'max')


def _pool_max_forward(values, cells):
    pooled = reduce_cells(values, cells, 'max')
    # The first point that has the maximum is the one with the highest -number.
    numbers = jnp.broadcast_to(-jnp.arange(len(values))[:, None], values.shape)
    first = reduce_cells(jnp.where(values == pooled, numbers, -len(values)), cells, 'max')
    return pooled, (first == numbers, cells)


def _pool_max_backward(kept, gradient):
    chosen, cells = kept
    return jnp.where(chosen, reduce_cells(gradient, cells, 'sum'), 0), None


pool_max.defvjp(_pool_max_forward, _pool_max_backward)


@jax.custom_vjp
def pool_mean(values: jax.Array, cells: jax.Array) -> jax.Array:
    """Local mean pooling: for every point the mean of values [N, C] in its cell [N] int, [N, C]."""
    return reduce_cells(values, cells, 'sum') / _count(values, cells)


def _count(values, cells):
    return reduce_cells(jnp.ones_like(values[:, :1]), cells, 'sum')


# Symmetric: the gradient is averaged as well.
pool_mean.defvjp(
    lambda values, cells: (pool_mean(values, cells), cells),
    lambda cells, gradient: (pool_mean(gradient, cells), None),
)
POOLINGS = {'max': pool_max, 'mean': pool_mean}


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def scatter_mean(values: jax.Array, cells: jax.Array, num_cells: int) -> jax.Array:
    """The mean of values [N, C] in every cell: [num_cells, C], 0 where there is no point."""
    means = pool_mean(values, cells)
    # All points of a cell have the same mean, so that their order does not matter.
    return jnp.zeros((num_cells, values.shape[1]), values.dtype).at[cells].set(means)


def _scatter_mean_forward(values, cells, num_cells):
    return scatter_mean(values, cells, num_cells), (_count(values, cells), cells)


def _scatter_mean_backward(num_cells, kept, gradient):
    counts, cells = kept
    return gradient[cells] / counts, None


scatter_mean.defvjp(_scatter_mean_forward, _scatter_mean_backward)
