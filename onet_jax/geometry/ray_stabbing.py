"""Ray stabbing of a polygon soup: lines along a lattice vote on which points are inside (after Nooruddin and Turk, TVCG 2003).

The lines run along the edges and both kinds of diagonals of a cubic lattice: 13 directions, so that every lattice point is seen
from 26 sides. Along a line the winding number of each point follows from the orientation of the faces before it. The crossings
are watertight: an edge shared by two faces belongs to exactly one of them, whatever the rounding (the half-open rule of scan
conversion), so that no line slips through between two faces or hits both.

H hits of the lines of one direction, N vertices or points, F faces, K pairs of a face and a column; [X, Y, Z] the lattice
around the mesh. Lengths are in steps of the lattice. Imports no JAX.
"""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from onet_jax.geometry import grid
from onet_jax.geometry.ragged import ragged_range

# Axes first. The first component that is not zero is 1; along this axis the points of a line are counted.
DIRECTIONS = sorted((d for d in product((-1, 0, 1), repeat=3) if d > (0, 0, 0)), key=lambda d: sum(map(abs, d)))
NUM_SIDES = 2 * len(DIRECTIONS)
MARGIN = 3  # lattice points around the mesh
MAX_COLUMNS = 1 << 19  # pairs (face, column of lines) that are handled at a time: bounds the memory
_KEY = 4096.0  # above any height: line * _KEY + height orders the hits


class Lattice(NamedTuple):
    """The part around a mesh of the lattice with `resolution` cells along an axis of the padded cube."""

    resolution: int
    origin: np.ndarray  # [3] int, the lattice coordinates of its first point
    shape: tuple[int, ...]  # X, Y, Z

    @property
    def strides(self) -> tuple[int, int, int]:
        """Of the flat index of a point."""
        return self.shape[1] * self.shape[2], self.shape[2], 1

    @property
    def spacing(self) -> float:
        """One step in object coordinates."""
        return grid.BOX / self.resolution

    def from_world(self, points: np.ndarray) -> np.ndarray:
        """Object coordinates [N, 3] -> steps from the first point [N, 3]."""
        return grid.world_to_lattice(points, self.resolution) - self.origin

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Steps from the first point [N, 3] -> object coordinates [N, 3]."""
        return grid.lattice_to_world(points + self.origin, self.resolution)


class LineHits(NamedTuple):
    """Crossings of the lines of one direction with the faces, sorted by line, then along it."""

    direction: tuple[int, ...]
    axes: tuple[int, int, int]  # the one along which heights are measured, then the other two, in cyclic order
    step: int  # from a point of a line to the next, in flat indices
    line: np.ndarray  # [H] int64, which line
    height: np.ndarray  # [H] float64, coordinate along axes[0]
    above: np.ndarray  # [H] int64, flat index of the first point of the line at or above the hit
    face: np.ndarray  # [H] int64
    sign: np.ndarray  # [H] int8, 1 where the line leaves through the front of the face, -1 where it enters through it

    @property
    def follows(self) -> np.ndarray:
        """[H] bool: whether the hit before is on the same line."""
        return np.r_[False, self.line[1:] == self.line[:-1]] if len(self.line) else np.zeros(0, bool)

    def between(self, line: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last hit on each of the lines [K] within one step above height low [K]; none where first > last."""
        keys, place = self.line * _KEY + self.height, line * _KEY + low
        return np.searchsorted(keys, place, 'right'), np.searchsorted(keys, place + 1, 'right') - 1


def enclose(vertices: np.ndarray, resolution: int) -> Lattice:
    """The lattice around vertices [N, 3] in object coordinates, with `MARGIN` points on each side."""
    steps = grid.world_to_lattice(vertices, resolution)
    origin = np.floor(steps.min(axis=0)).astype(int) - MARGIN
    last = np.ceil(steps.max(axis=0)).astype(int) + MARGIN
    return Lattice(resolution, origin, tuple(int(n) for n in last - origin + 1))


def cross(lattice: Lattice, vertices: np.ndarray, faces: np.ndarray, direction: tuple[int, ...]) -> LineHits:
    """All crossings of the lattice lines along a direction with faces [F, 3] of vertices [N, 3] in steps."""
    main = next(axis for axis in range(3) if direction[axis])
    axes = main, (main + 1) % 3, (main + 2) % 3
    lean = direction[axes[1]], direction[axes[2]]
    # Sheared so that the lines are vertical: each goes through an integer point (x, y) of the ground plane.
    z = vertices[:, main]
    sheared = np.stack([vertices[:, axes[1]] - lean[0] * z, vertices[:, axes[2]] - lean[1] * z, z], axis=1)
    face, x, y, height, sign = (np.concatenate(parts) for parts in zip(*_scan(sheared, faces), strict=True))

    first_above = np.ceil(height).astype(np.int64)
    step = int(np.dot(direction, lattice.strides))
    ground = x * lattice.strides[axes[1]] + y * lattice.strides[axes[2]]
    width = [lattice.shape[axis] + abs(d) * lattice.shape[main] for axis, d in zip(axes[1:], lean, strict=True)]
    before = [lattice.shape[main] * max(d, 0) for d in lean]
    line = (x + before[0]) * width[1] + y + before[1]
    order = np.argsort(line * _KEY + height, kind='stable')
    return LineHits(
        direction,
        axes,
        step,
        line[order],
        height[order],
        (ground + first_above * step)[order],
        face[order],
        sign[order],
    )


def _scan(vertices: np.ndarray, faces: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Scan conversion: integer points (x, y) under faces [F, 3] of vertices [N, 3], as blocks of (face, x, y, height, sign).

    A column x cuts two edges of a face; the points y between them are under it. An edge covers the columns in [ceil(x of its
    left end), ceil(x of its right end)), and cuts a column at the same y for both its faces.
    """
    xs = vertices[faces, 0]
    widths = np.ceil(xs.max(axis=1)).astype(np.int64) - np.ceil(xs.min(axis=1)).astype(np.int64)
    covered = np.flatnonzero(widths)
    block = np.cumsum(widths[covered]) // MAX_COLUMNS
    for rows in np.split(covered, np.flatnonzero(np.diff(block)) + 1):
        corners = vertices[faces[rows]]
        order = np.argsort(corners[:, :, 0], axis=1, kind='stable')
        turned = (order[:, 1] - order[:, 0]) % 3 == 2  # sorting the corners by x has reversed their orientation
        corners = np.take_along_axis(corners, order[:, :, None], axis=1)
        first, middle = np.ceil(corners[:, 0, 0]).astype(np.int64), np.ceil(corners[:, 1, 0])
        f = np.repeat(np.arange(len(rows)), widths[rows])
        x = first[f] + ragged_range(widths[rows])
        # The long edge from the leftmost to the rightmost corner, and the one of the two short edges at this column.
        left, mid, right = (corners[f, i] for i in range(3))
        early = (x < middle[f])[:, None]
        long, short = _cut(left, right, x), _cut(np.where(early, left, mid), np.where(early, mid, right), x)

        low = np.ceil(np.minimum(long[:, 0], short[:, 0])).astype(np.int64)
        count = np.ceil(np.maximum(long[:, 0], short[:, 0])).astype(np.int64) - low
        pair = np.repeat(np.arange(len(f)), count)
        y = low[pair] + ragged_range(count)
        weight = (y - long[pair, 0]) / (short[pair, 0] - long[pair, 0])
        height = long[pair, 1] + weight * (short[pair, 1] - long[pair, 1])
        sign = np.where((short[:, 0] > long[:, 0]) ^ turned[f], -1, 1).astype(np.int8)
        yield rows[f[pair]], x[pair], y, height, sign[pair]
    if not len(covered):
        yield (*(np.zeros(0, np.int64) for _ in range(3)), np.zeros(0), np.zeros(0, np.int8))


def _cut(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(y, z) [K, 2] at which the edges from a to b [K, 3] cross x [K]."""
    return a[:, 1:] + ((x - a[:, 0]) / (b[:, 0] - a[:, 0]))[:, None] * (b[:, 1:] - a[:, 1:])


def seen_from_outside(hits: list[LineHits], num_faces: int) -> tuple[np.ndarray, np.ndarray]:
    """For each face, how many lines, from either end, hit its front first, and its back first: [F], [F] int64."""
    front, back = np.zeros(num_faces, np.int64), np.zeros(num_faces, np.int64)
    for h in hits:
        first = ~h.follows
        last = np.roll(first, -1)
        for seen, facing in ((first, -1), (last, 1)):
            front += np.bincount(h.face[seen & (h.sign == facing)], minlength=num_faces)
            back += np.bincount(h.face[seen & (h.sign == -facing)], minlength=num_faces)
    return front, back


def vote(lattice: Lattice, hits: list[LineHits], sign: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Votes of the 26 sides on every lattice point: `inside`, `reverse` and `seen`, [X, Y, Z] int8 each.

    sign [F] int8: 1 where the front of a face is its outer side, -1 where its back is, 0 for faces that bound no solid.
    inside: from how many sides the winding number of the point is positive: it lies behind more outer sides than inner ones;
    reverse: from how many it is negative; seen: from how many no face lies between the point and the outside (visibility).
    """
    inside, reverse, seen = (np.zeros(lattice.shape, np.int8) for _ in range(3))
    for h in hits:
        # The narrowest type that the longest line allows: the sums are memory-bound.
        longest = np.diff(np.flatnonzero(~h.follows), append=len(h.line)).max(initial=0)
        dtype = np.int8 if longest < 128 else np.int32
        signed, count = np.zeros(lattice.shape, dtype), np.zeros(lattice.shape, dtype)
        np.add.at(signed.reshape(-1), h.above, (h.sign * sign[h.face]).astype(dtype))
        np.add.at(count.reshape(-1), h.above, dtype(1))
        # From below: entries less exits before the point. From above: likewise; hits at the point count as below it.
        for winding, faces in (
            (-_add_up(signed.copy(), h.direction), _add_up(count.copy(), h.direction)),
            (_add_down(signed.copy(), h.direction) - signed, _add_down(count.copy(), h.direction) - count),
        ):
            inside += winding > 0
            reverse += winding < 0
            seen += faces == 0
    return inside, reverse, seen


def _add_up(values: np.ndarray, direction: tuple[int, ...]) -> np.ndarray:
    """Running sums of values [X, Y, Z] along the lines of a direction, in place; returns them."""
    main = next(axis for axis in range(3) if direction[axis])
    if main == 2:  # slices across the last axis would be slow
        return np.cumsum(values, axis=2, out=values)
    layers, here, there = np.moveaxis(values, main, 0), *_neighbours(direction, main)
    for below, above in pairwise(layers):
        above[here] += below[there]
    return values


def _add_down(values: np.ndarray, direction: tuple[int, ...]) -> np.ndarray:
    """`_add_up` from the other end of the lines."""
    main = next(axis for axis in range(3) if direction[axis])
    if main == 2:
        np.cumsum(values[..., ::-1], axis=2, out=values[..., ::-1])
        return values
    layers, here, there = np.moveaxis(values, main, 0), *_neighbours(direction, main)
    for above, below in pairwise(layers[::-1]):
        below[there] += above[here]
    return values


def _neighbours(direction: tuple[int, ...], main: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of a layer: the points that have a predecessor on their line in the layer below, and these predecessors."""
    lean = [direction[axis] for axis in range(3) if axis != main]
    here = tuple(slice(max(d, 0), min(d, 0) or None) for d in lean)
    there = tuple(slice(max(-d, 0), min(-d, 0) or None) for d in lean)
    return here, there
