"""Tiled marching cubes: block by block, on a lattice of any size that is never in memory as a whole. Imports no JAX.

Blocks share the values on their borders, so they agree on the lattice edges that the surface crosses. A vertex is named by the
number of its edge in the whole lattice, and blocks are joined by these names. n cells of a block along an axis, N vertices, F
faces.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np
import trimesh

from onet_jax.geometry.grid import CORNERS
from onet_jax.geometry.marching_cubes_cases import FACES, MIN_SHARE, NUM_FACES


class Piece(NamedTuple):
    """The surface in a block."""

    names: np.ndarray  # [N] int64, numbers of the lattice edges on which the vertices lie, sorted
    vertices: np.ndarray  # [N, 3] float64, in steps of the lattice
    faces: np.ndarray  # [F, 3] int64, counterclockwise seen from outside


def march_block(values: np.ndarray, level: float, first: np.ndarray, size: np.ndarray) -> Piece:
    """The surface value = level in a block: values [n + 1, n + 1, n + 1], high inside; a value on the level is outside.

    first: [3] the lattice point of values[0, 0, 0]; size: [3] points of the whole lattice, at most 2^62 / 3 in all. The surface
    is open where the inside reaches the border of the block.
    """
    inside = values > level
    num_cells = np.subtract(values.shape, 1)
    cases = reduce(
        np.add,
        (
            inside[tuple(slice(c, c + n) for c, n in zip(corner, num_cells, strict=True))].astype(np.int32) << bit
            for bit, corner in enumerate(CORNERS)
        ),
    )
    cells = np.argwhere((cases > 0) & (cases < 255))
    case = cases[tuple(cells.T)]
    rows, number = np.nonzero(np.arange(FACES.shape[1]) < NUM_FACES[case][:, None])
    edges = FACES[case[rows], number]  # [F, 3], of the cells
    points, axes = cells[rows][:, None] + CORNERS[edges // 3], edges % 3
    strides = np.array([size[1] * size[2], size[2], 1], np.int64)
    named = 3 * ((points + first) @ strides) + axes
    names, where, faces = np.unique(named, return_index=True, return_inverse=True)
    start, axis = points.reshape(-1, 3)[where], axes.ravel()[where]
    step = np.eye(3, dtype=int)[axis]
    a, b = (values[tuple(p.T)].astype(np.float64) - level for p in (start, start + step))
    share = np.clip(a / (a - b), MIN_SHARE, 1 - MIN_SHARE)[:, None]
    return Piece(names, start + first + share * step, faces.reshape(-1, 3))


def join(pieces: Iterable[Piece]) -> trimesh.Trimesh:
    """The pieces as one mesh, in steps of the lattice: vertices of the same name are merged."""
    pieces = list(pieces)
    if not sum(len(piece.faces) for piece in pieces):
        return trimesh.Trimesh()
    firsts = np.cumsum([0, *(len(piece.names) for piece in pieces)])
    _, where, numbers = np.unique(
        np.concatenate([piece.names for piece in pieces]), return_index=True, return_inverse=True
    )
    vertices = np.concatenate([piece.vertices for piece in pieces])[where]
    faces = np.concatenate([piece.faces + first for piece, first in zip(pieces, firsts[:-1], strict=True)])
    return trimesh.Trimesh(vertices, numbers[faces], process=False)
