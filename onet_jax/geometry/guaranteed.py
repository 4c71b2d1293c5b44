"""Guaranteed level-set extraction by range analysis: what is left out of the grid provably holds no surface.

MISE judges a cell by its corners and misses what lies between them. Here a cell is left out only where the field itself
proves, by affine arithmetic, that it keeps its side of the level on all of it. Such a field has, beside its values,

    field.keeps_sign(centres [K, 3], half_edges [3], level) -> bool [K]: for each closed cuboid with edges 2 half_edges, a
    proof, or False

The bound decoders of `networks/bound_decoder.py` have it (see `networks/affine_arithmetic.py`). The scheme is that of Sharp
and Jacobson, Spelunking the Deep, SIGGRAPH 2022, with this lattice and marching cubes. R finest cells along an axis, K cells.

Large cells can hardly ever be proven. Of the paper's network, 256 features and a chair, 8 % of the cells of 1/16 of the box
keep their side provably, 53 % of 1/32 and 83 % of 1/64: the time is six tenths of the dense grid's for 128 cells along an
axis and a quarter for 256; nothing is gained for 64.
"""

from collections.abc import Callable

import jax
import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.grid import BOX, CORNERS, any_of_eight, finest_cells, lattice_to_world
from onet_jax.geometry.mise import Grid, evaluate_lattice

COST = 9  # of one proof, in evaluations of a point: measured with the network of the paper on a CPU
PROOF_BATCH = 2048  # proofs that are tried before it is decided whether to go on


def guaranteed_grid(field: Callable, *, resolution: int = 32, upsampling_steps: int = 2, level: float = 0.0) -> Grid:
    """Values on R = resolution * 2^upsampling_steps cells: at every point on the side of `level` where the dense grid's is.

    `level` is in the field's own unit. A finest cell that the surface crosses has the field's values at all corners, so that
    marching cubes gives the mesh of the dense grid, number by number. Elsewhere the value may be that of the centre
    of a proven cell around.

    `resolution`^3 cells are tried first, then both halves of every cell that is not proven, cut across its longest edge, as
    long as a cell has more points than a proof costs; all points of what is left are evaluated. Of the cells of one size
    those with a centre far from the level are tried first, and the rest is not tried after a batch that saves less than
    it costs.

    The proof is for matrix products in the precision of the arrays, and so the field is evaluated. Raises InputError for a
    field without `keeps_sign` and for values that are not finite.
    """
    if not hasattr(field, 'keeps_sign'):
        raise InputError(
            f'field: expected one with a method keeps_sign, found {type(field).__name__}; a network gets it with its '
            'condition: model.bind(params, cond)'
        )
    finest = finest_cells(resolution, upsampling_steps)
    values = np.full((finest + 1,) * 3, np.nan)
    sides = np.full((resolution,) * 3, np.nan)  # of the cells of this size: a value on the proven side
    edges = np.full(3, 1 << upsampling_steps)
    queried = []
    with jax.default_matmul_precision('highest'):
        while edges.prod() > COST:
            cells = np.argwhere(np.isnan(sides))
            points = cells * edges + edges // 2
            queried.append(_query(field, values, points[np.isnan(values[tuple(points.T)])]))
            proven = _prove(field, values, points, edges, level)
            sides[tuple(cells[proven].T)] = values[tuple(points[proven].T)]
            longest = edges.argmax()
            sides = np.repeat(sides, 2, axis=longest)
            edges[longest] //= 2
        for axis, edge in enumerate(edges):
            sides = np.repeat(sides, edge, axis=axis)
        wanted = any_of_eight(np.pad(np.isnan(sides), 1), 1)
        queried.append(_query(field, values, np.argwhere(wanted & np.isnan(values))))
    for corner in CORNERS:  # of a cell, [R, R, R]
        points = values[tuple(slice(start, start + finest) for start in corner)]
        np.copyto(points, sides, where=np.isnan(points))
    return Grid(values, tuple(queried))


def _query(field: Callable, values: np.ndarray, points: np.ndarray) -> int:
    """Write the values at lattice points [T, 3] into the grid, in place; returns T."""
    flat = np.ravel_multi_index(tuple(points.T), values.shape)
    values.reshape(-1)[flat] = evaluate_lattice(field, flat, values.shape)
    return len(points)


def _prove(field: Callable, values: np.ndarray, points: np.ndarray, edges: np.ndarray, level: float) -> np.ndarray:
    """Which of the cells with centres points [K, 3] keep their side: bool [K], False also where that is not tried.

    edges [3] int: of the cells, in steps of the lattice.
    """
    finest = len(values) - 1
    centres = lattice_to_world(points, finest)
    order = np.argsort(-np.abs(values[tuple(points.T)] - level))
    proven = np.zeros(len(points), bool)
    for start in range(0, len(points), PROOF_BATCH):
        batch = order[start : start + PROOF_BATCH]
        proven[batch] = field.keeps_sign(centres[batch], BOX * edges / finest / 2, level)
        if proven[batch].sum() * edges.prod() < COST * len(batch):
            break
    return proven
