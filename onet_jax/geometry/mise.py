"""Multiresolution IsoSurface Extraction (paper, section 3.3): a fine grid of values, queried near the surface only.

The box is cut into `resolution`^3 coarse cells. A cell whose surroundings touch values on both sides of the level is
split into eight, up to `upsampling_steps` times; only the corners of cells are ever queried. R = resolution *
2^upsampling_steps is the number of finest cells along an axis, and points are integers 0..R on this lattice.

A cell is judged by every known point on its closed boundary, also by those that finer neighbours put there ("hanging
nodes"): a coarse cell may be split in a later round, so the rounds go on until none queries anything.
"""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import numpy as np

from onet_jax.geometry.field import evaluate
from onet_jax.geometry.grid import corner_points, lattice_to_world, world_to_lattice

CORNERS = tuple(product((0, 1), repeat=3))


class Grid(NamedTuple):
    """Values on the finest lattice and what they cost."""

    values: np.ndarray  # [R + 1, R + 1, R + 1] float64; unqueried points hold the value of a known neighbour
    queried_per_round: tuple[int, ...]


def multiresolution_grid(
    field: Callable,
    *,
    resolution: int = 32,
    upsampling_steps: int = 2,
    level: float = 0.0,
    seeds: np.ndarray | None = None,
) -> Grid:
    """Evaluate `field` ([T, 3] object coordinates -> [T]) near its level set, on R = resolution * 2^upsampling_steps cells.

    `level` is in the field's own unit. Parts smaller than a coarse cell that touch none of its corners are missed, unless one
    of the `seeds` [N, 3], points known to be near the surface, lies in them: the cells of the seeds are split whatever their
    corners say, and from there the rounds follow the surface. Without seeds equal to the official implementation: the same
    points in every round, the same grid. Raises ValueError for values of the field or seeds that are not finite.
    """
    if resolution < 1 or upsampling_steps < 0:
        raise ValueError(
            f'expected resolution >= 1 and upsampling_steps >= 0, found {resolution} and {upsampling_steps}'
        )
    finest = resolution << upsampling_steps
    seeded = _find_cells(np.zeros((0, 3)) if seeds is None else np.asarray(seeds), resolution, upsampling_steps)
    values = np.full((finest + 1,) * 3, np.nan)
    step = 1 << upsampling_steps
    leaves = [np.zeros((resolution << i,) * 3, bool) for i in range(upsampling_steps + 1)]
    leaves[0][:] = True
    wanted = np.zeros(values.shape, bool)
    wanted[::step, ::step, ::step] = True

    queried = []
    while wanted.any():
        points = np.argwhere(wanted)
        found = evaluate(field, lattice_to_world(points, finest))
        if not np.isfinite(found).all():
            raise ValueError(
                f'field: expected finite values, found {(~np.isfinite(found)).sum()} of {found.size} not finite'
            )
        values[wanted] = found
        queried.append(len(points))
        wanted = _split(leaves, _touched(values >= level), _touched(values <= level), seeded)
        wanted &= np.isnan(values)
    _fill_forward(values)
    return Grid(values, tuple(queried))


def dense_grid(field: Callable, *, num_points: int) -> np.ndarray:
    """`field` on the inclusive lattice of num_points^3 points: [n, n, n] float64."""
    points = corner_points(num_points)
    return evaluate(field, points.reshape(-1, 3)).astype(np.float64).reshape(points.shape[:3])


def _touched(points: np.ndarray) -> np.ndarray:
    """Marked points [R + 1]^3 -> finest cells [R]^3 that have one at a corner."""
    points = points[1:] | points[:-1]
    points = points[:, 1:] | points[:, :-1]
    return points[:, :, 1:] | points[:, :, :-1]


def _find_cells(points: np.ndarray, resolution: int, upsampling_steps: int) -> list[np.ndarray]:
    """The cells of every level that hold a point [N, 3]: indices [K, 3] each. Points outside the box are in none."""
    if not np.isfinite(points).all():
        raise ValueError(f'seeds: expected finite numbers, found {(~np.isfinite(points)).sum()} not finite')
    finest = resolution << upsampling_steps
    cells = np.floor(world_to_lattice(points, finest)).astype(int)
    cells = cells[((cells >= 0) & (cells < finest)).all(axis=1)]
    return [np.unique(cells >> (upsampling_steps - i), axis=0) for i in range(upsampling_steps + 1)]


def _split(leaves: list[np.ndarray], above: np.ndarray, below: np.ndarray, seeded: list[np.ndarray]) -> np.ndarray:
    """Split, in place, all leaves that touch both sides or hold a seed; returns the points [R + 1]^3 of the new cells.

    All leaves are judged as they were before the round. above, below: finest cells [R]^3 that touch either side. seeded: of
    every level the cells that hold a seed.
    """
    wanted = np.zeros(tuple(n + 1 for n in above.shape), bool)
    for i in range(len(leaves) - 2, -1, -1):
        # From finest cells to the cells of level i, one halving at a time.
        above, below = _any_of_eight(above), _any_of_eight(below)
        split = above & below
        split[tuple(seeded[i].T)] = True
        split &= leaves[i]
        leaves[i] &= ~split
        for corner in CORNERS:
            leaves[i + 1][_every_other(corner)] |= split
        # The 3 x 3 x 3 points of a split cell, on the lattice of half its edge.
        half = 1 << (len(leaves) - 2 - i)
        points = wanted[::half, ::half, ::half]
        for offset in product((0, 1, 2), repeat=3):
            stop = tuple(2 * n - 1 + o for n, o in zip(split.shape, offset, strict=True))
            points[tuple(slice(o, s, 2) for o, s in zip(offset, stop, strict=True))] |= split
    return wanted


def _every_other(start: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(s, None, 2) for s in start)


def _any_of_eight(cells: np.ndarray) -> np.ndarray:
    """[2n]^3 -> [n]^3: whether any of the eight cells of the next level is marked."""
    cells = cells[::2] | cells[1::2]
    cells = cells[:, ::2] | cells[:, 1::2]
    return cells[:, :, ::2] | cells[:, :, 1::2]


def _fill_forward(values: np.ndarray) -> None:
    """Give unqueried points, in place, the value of the nearest known one before them: along x, then y, then z."""
    for axis in range(3):
        lines = np.moveaxis(values, axis, 0)
        for i in range(1, len(lines)):
            np.copyto(lines[i], lines[i - 1], where=np.isnan(lines[i]))
