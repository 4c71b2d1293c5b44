"""Multiresolution IsoSurface Extraction, MISE (paper, section 3.3): an octree of values, queried near the surface only.

The box is divided into `resolution`^3 coarse cells. A cell with known values on both sides of the level is split into eight, up
to `upsampling_steps` times; only corners of cells are queried. R = resolution * 2^upsampling_steps is the number of finest
cells along an axis; points of the lattice have coordinates 0..R.

A cell is judged by all known points on its boundary, also by the corners of finer neighbours ("hanging nodes"). A coarse cell
may therefore be split in a later round, and rounds go on until there is nothing to query.

T query points, N points near the surface. `batched_extraction.py` is the same for a batch of shapes on an accelerator.
"""

from collections.abc import Callable
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.field import check_finite, check_points, evaluate
from onet_jax.geometry.grid import CORNERS, any_of_eight, finest_cells, lattice_to_world, world_to_lattice

BLOCK = 1 << 20  # points whose coordinates are in memory at a time


class Grid(NamedTuple):
    """Values on the finest lattice, and their cost."""

    values: np.ndarray  # [R + 1, R + 1, R + 1]; unqueried points hold the value of a known neighbour
    queried_per_round: tuple[int, ...]  # number of points


def multiresolution_grid(
    field: Callable,
    *,
    resolution: int = 32,
    upsampling_steps: int = 2,
    level: float = 0.0,
    seeds: np.ndarray | None = None,
) -> Grid:
    """Evaluate `field` ([T, 3] object coordinates -> [T]) near its level set, on R = resolution * 2^upsampling_steps cells.

    `level` is in the unit of the field. A part of the shape without a corner of a coarse cell may be missed, unless one of
    the `seeds` [N, 3], points known to be near the surface, lies in a cell that it crosses: cells with seeds are always split,
    and from there the rounds follow the surface. Without seeds equal to the official implementation: the same points in every
    round, the same grid. Raises InputError for values of the field or seeds that are not finite.
    """
    finest = finest_cells(resolution, upsampling_steps)
    shape = (finest + 1,) * 3
    seeded = find_cells(seeds, resolution, upsampling_steps)
    # Of the levels that can be split. A round costs the evaluation of its points, and a few passes over these cells.
    leaves = [np.full((resolution << i,) * 3, i == 0) for i in range(upsampling_steps)]
    above, below = (np.zeros(leaves[-1].shape if leaves else 0, bool) for _ in range(2))
    asked = np.zeros(np.prod(shape), bool)
    coarse = np.arange(0, finest + 1, 1 << upsampling_steps)
    points = np.ravel_multi_index(np.ix_(coarse, coarse, coarse), shape).ravel()

    rounds = []
    while len(points):
        asked[points] = True
        found = evaluate_lattice(field, points, shape)
        rounds.append((points, found))
        exact = found.astype(np.float64)  # else the level would be rounded to the precision of the values
        mark_touched(above, points[exact >= level], shape)
        mark_touched(below, points[exact <= level], shape)
        points = split_cells(leaves, above, below, seeded, shape)
        points = np.sort(points[~asked[points]])
        points = points[np.diff(points, prepend=-1) > 0]
    points, found = (np.concatenate(pieces) for pieces in zip(*rounds, strict=True))
    order = np.argsort(points, kind='stable')  # of sorted runs: they are merged
    return Grid(fill_forward(points[order], found[order], shape), tuple(len(points) for points, _ in rounds))


def dense_grid(field: Callable, *, num_points: int) -> np.ndarray:
    """`field` on the inclusive lattice of n^3 points, n = num_points: [n, n, n] float64. Raises as `evaluate_lattice`."""
    found = evaluate_lattice(field, np.arange(num_points**3), (num_points,) * 3)
    return found.astype(np.float64).reshape((num_points,) * 3)


def evaluate_lattice(field: Callable, points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The values [T] of the field at points of a lattice of this shape, given by their flat indices [T].

    Raises InputError for values that are not finite, and for other than one for each point.
    """
    world = lattice_to_world(np.arange(shape[0]), shape[0] - 1)
    pieces = []
    for start in range(0, max(len(points), 1), BLOCK):
        lattice = np.unravel_index(points[start : start + BLOCK], shape)
        pieces.append(evaluate(field, np.stack([world[axis] for axis in lattice], axis=1)))
    found = np.concatenate(pieces)
    if found.ndim != 1:
        raise InputError(f'field: expected one value for each point, [T], found the shape {list(found.shape)}')
    check_finite(found, 'field')
    return found


def mark_touched(cells: np.ndarray, points: np.ndarray, shape: tuple[int, ...]) -> None:
    """Mark, in place, the cells [n, n, n] that have one of the points [T] on their boundary or in them.

    points: flat indices in a lattice [2 n + 1]^3, with two of its steps along an edge of a cell.
    """
    if not cells.size:
        return
    n = len(cells)
    # Along an axis a point touches the cell of the step before it and that of the step after it, within the box.
    x, y, z = ([np.maximum(axis - 1, 0) // 2, np.minimum(axis // 2, n - 1)] for axis in np.unravel_index(points, shape))
    marks = cells.reshape(-1)
    for i, j in product(x, y):
        line = (i * n + j) * n
        for k in z:
            marks[line + k] = True


def find_cells(seeds: np.ndarray | None, resolution: int, upsampling_steps: int) -> list[np.ndarray]:
    """The cells of every level but the finest that hold a seed [N, 3]: indices [K, 3] each. Seeds outside are ignored."""
    points = np.zeros((0, 3)) if seeds is None else np.asarray(seeds)
    check_points(points, 'seeds')
    check_finite(points, 'seeds')
    finest = resolution << upsampling_steps
    cells = np.floor(world_to_lattice(points, finest)).astype(int)
    cells = cells[((cells >= 0) & (cells < finest)).all(axis=1)]
    return [np.unique(cells >> (upsampling_steps - i), axis=0) for i in range(upsampling_steps)]


def split_cells(
    leaves: list[np.ndarray],
    above: np.ndarray,
    below: np.ndarray,
    seeded: list[np.ndarray],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Split, in place, all leaves that touch both sides or hold a seed; returns the points of the new cells.

    All leaves are judged as they are before the round. above, below: masks of the cells of the last of the levels that touch
    either side. seeded: the cells of every level that hold a seed. Points are flat indices in the lattice of this shape, with
    duplicates, those of the last level first.
    """
    strides = shape[1] * shape[2], shape[2], 1
    points = [np.zeros(0, int)]
    for i in range(len(leaves) - 1, -1, -1):
        if i < len(leaves) - 1:
            above, below = any_of_eight(above, 2), any_of_eight(below, 2)
        split = above & below
        split[tuple(seeded[i].T)] = True
        split &= leaves[i]
        cells = np.flatnonzero(split)
        if not len(cells):
            continue
        leaves[i] &= ~split
        if i + 1 < len(leaves):
            for corner in CORNERS:
                leaves[i + 1][tuple(slice(start, None, 2) for start in corner)] |= split
        # The 3 x 3 x 3 points of a split cell, at half its edge, without its corners, which are known.
        half = 1 << (len(leaves) - 1 - i)
        firsts = np.ravel_multi_index([2 * half * axis for axis in np.unravel_index(cells, split.shape)], shape)
        offsets = [half * np.dot(offset, strides) for offset in product((0, 1, 2), repeat=3) if 1 in offset]
        points.append(np.add.outer(firsts, offsets).ravel())
    return np.concatenate(points)


def fill_forward(points: np.ndarray, found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Forward fill: values [T] at sorted points [T], flat indices in the lattice -> values at all of it.

    An unqueried point gets the last known value before it along x, or else along y, or else along z. A plane with the last
    value of each line along x moves through the lattice. Which line of the plane a line without a value takes its own from
    depends on the set of lines that have one, not on x; so every value is written once.
    """
    size = shape[1] * shape[2]
    values = np.empty(shape, found.dtype)
    plane, known = np.zeros(size, found.dtype), np.zeros(size, bool)
    starts = np.searchsorted(points, np.arange(shape[0] + 1) * size)
    for x, (start, stop) in enumerate(pairwise(starts)):
        lines = points[start:stop] - x * size
        plane[lines] = found[start:stop]
        if not known[lines].all():
            known[lines] = True
            source = _last_known(known.reshape(shape[1:]))
        np.take(plane, source, out=values[x], mode='clip')
    return values


def _last_known(known: np.ndarray) -> np.ndarray:
    """Mask [n, n], True at [0, 0] -> flat indices [n, n]: where each place takes its value from, along y, then z."""
    index = np.arange(len(known))
    y = np.maximum.accumulate(np.where(known, index[:, None], -1), axis=0)
    z = np.maximum.accumulate(np.where(y >= 0, index, -1), axis=1)
    return np.take_along_axis(y, z, axis=1) * len(known) + z
