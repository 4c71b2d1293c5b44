"""Volumetric mesh repair: from the votes of ray stabbing (see `ray_stabbing.py`) to a closed surface by marching cubes.

A lattice point is inside when most of the 26 sides vote so, or when it is hidden from all of them and some vote so, and its
region is mostly closed; a region is filled up to the plane of its openings. Inside is also a slab around every sheet: surface
with the outside on both sides, or a wall thinner than the slab. The vertices of marching cubes lie on lattice edges, where the
crossings with the mesh are known exactly.

[X, Y, Z] lattice points, H hits of one direction, F faces. Lengths are in steps of the lattice. Imports no JAX.
"""

import numpy as np
import trimesh
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import marching_cubes

from onet_jax.errors import InputError
from onet_jax.geometry.ray_stabbing import MARGIN, NUM_SIDES, Lattice, LineHits

MAJORITY = NUM_SIDES // 2
HIDDEN_MINORITY = (
    4  # votes that suffice for a point hidden from all sides: more than those of stray lines through holes
)
OPPOSITE = -0.5  # largest cosine between the normals of the two sides of a thin wall; at the edge of a box it is 0
FACING = 0.7  # least cosine between a line and a normal for the line to measure a thickness
SPECK = 8  # lattice points: smaller components and smaller cavities are noise
MAX_VERTICES = 1_000_000  # of a surface; that of an object has a fifth of that
_FAR = -9.0  # depth of a point that is in no slab


def fill(
    lattice: Lattice, hits: list[LineHits], votes: tuple[np.ndarray, np.ndarray, np.ndarray], least_closed: float
) -> tuple[np.ndarray, np.ndarray]:
    """The solid points, and those that the votes call solid but whose region is too open: [X, Y, Z] bool each.

    votes: of `ray_stabbing.vote`. A region is a connected component of solid points with no face between them; it is kept when
    its points are on average hidden from at least the share `least_closed` of all sides.
    """
    inside, reverse, seen = votes
    solid = (inside >= MAJORITY) | ((seen == 0) & (inside + reverse >= HIDDEN_MINORITY))
    is_open = np.zeros(lattice.shape, bool)
    if solid.any():
        is_open[solid] = _region_means(lattice, hits, solid, seen) > (1 - least_closed) * NUM_SIDES
    return solid & ~is_open, is_open


def _region_means(lattice: Lattice, hits: list[LineHits], solid: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of values [X, Y, Z] over the region of each of the S solid points: [S] float64."""
    crossed = {}
    for h in (h for h in hits if np.count_nonzero(h.direction) == 1):
        crossed[h.axes[0]] = np.zeros(lattice.shape, bool)
        crossed[h.axes[0]].reshape(-1)[h.above - h.step] = True
    # Runs along the last axis are the nodes of the graph: far fewer than points.
    first = solid.copy()
    first[..., 1:] &= ~(solid[..., :-1] & ~crossed[2][..., :-1])
    run = np.cumsum(first, dtype=np.int32).reshape(lattice.shape) - 1
    num_runs = int(run[-1, -1, -1]) + 1
    pairs = []
    for axis in (0, 1):
        below = tuple(slice(None, -1) if i == axis else slice(None) for i in range(3))
        above = tuple(slice(1, None) if i == axis else slice(None) for i in range(3))
        joined = solid[below] & solid[above] & ~crossed[axis][below]
        pair = np.stack([run[below][joined], run[above][joined]])
        pairs.append(pair[:, np.r_[True, (pair[:, 1:] != pair[:, :-1]).any(axis=0)][: pair.shape[1]]])
    low, high = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(low), np.int8), (low, high)), (num_runs, num_runs))
    _, region = connected_components(graph, directed=False)
    region = region[run[solid]]
    return (np.bincount(region, values[solid]) / np.bincount(region))[region]


def slabs(
    lattice: Lattice, hits: list[LineHits], solid: np.ndarray, normals: np.ndarray, sign: np.ndarray, thickness: float
) -> np.ndarray:
    """Signed distance of each point to the faces of its slab: [X, Y, Z] float32, positive inside, at most half the thickness.

    normals [F, 3] unit, sign [F] int8: 1 where they point outwards, -1 inwards. A wall thinner than `thickness`, two hits with
    opposite normals, becomes a slab around its middle; a hit with the outside before and behind it is a sheet, and becomes a
    slab around itself. An entry and its exit between two lattice points are not a sheet: a line cuts the corner of a solid.
    """
    depth = np.full(solid.size, _FAR, np.float32)
    solid = solid.reshape(-1)
    for h in hits:
        stride = float(np.linalg.norm(h.direction))
        outward = normals[h.face] * sign[h.face, None]
        cosine = np.abs(outward @ np.asarray(h.direction)) / stride
        entering = h.sign * sign[h.face] < 0
        # Walls: pairs of an entry and the exit that follows it.
        exit_ = np.flatnonzero(h.follows & ~entering & np.roll(entering, 1))
        entry = exit_ - 1
        facing = np.minimum(cosine[entry], cosine[exit_])
        gap = (h.height[exit_] - h.height[entry]) * stride * facing
        thin = (gap < thickness) & (np.einsum('ij,ij->i', outward[entry], outward[exit_]) < OPPOSITE)
        in_wall = np.zeros(len(h.face), bool)
        corner = h.above[entry] == h.above[exit_]
        in_wall[entry[thin | corner]] = in_wall[exit_[thin | corner]] = True
        sheet = np.flatnonzero(~solid[h.above - h.step] & ~solid[h.above] & ~in_wall)

        entry, exit_ = entry[thin], exit_[thin]
        middle = np.r_[(h.height[entry] + h.height[exit_]) / 2, h.height[sheet]]
        facing = np.r_[facing[thin], cosine[sheet]]
        # The first point of the line at or above the middle.
        ceiling = np.ceil(middle)
        point = np.r_[h.above[entry], h.above[sheet]]
        point += (ceiling - np.ceil(np.r_[h.height[entry], h.height[sheet]])).astype(np.int64) * h.step
        clear = facing >= FACING
        offset, slope, point = (x[clear] for x in (ceiling - middle, facing * stride, point))
        for k in range(-MARGIN, MARGIN):
            value = thickness / 2 - np.abs(offset + k) * slope
            near = value > -1.5
            np.maximum.at(depth, (point + k * h.step)[near], value[near].astype(np.float32))
    return depth.reshape(lattice.shape)


def remove_specks(inside: np.ndarray) -> np.ndarray:
    """inside [X, Y, Z] bool without connected components and cavities of fewer than SPECK points."""
    for values, structure in ((True, np.ones((3, 3, 3))), (False, None)):
        labels, count = ndimage.label(inside == values, structure)
        small = np.bincount(labels.reshape(-1), minlength=count + 1) < SPECK
        small[0] = False
        if small.any():
            inside = inside ^ small[labels]
    return inside


def mesh_boundary(
    lattice: Lattice, hits: list[LineHits], inside: np.ndarray, solid: np.ndarray, depth: np.ndarray, share: np.ndarray
) -> trimesh.Trimesh:
    """The closed surface between inside and outside, oriented outwards, in object coordinates.

    inside [X, Y, Z] bool, False on the border of the lattice. On an edge with a solid end the surface is at the outermost
    crossing with the mesh, or, in an opening, where `share` [X, Y, Z], that of the votes, is 1/2; a slab ends where `depth` is
    0. Raises InputError for a surface of too many vertices.
    """
    if not inside.any():
        return trimesh.Trimesh()
    num_vertices = sum(np.count_nonzero(np.diff(inside, axis=axis)) for axis in range(3))
    if num_vertices > MAX_VERTICES:
        raise InputError(
            f'mesh: expected the surface of one object, found one that crumbles into {num_vertices:,} points'
        )
    # Unequal values, so that all cells resolve ambiguous sides alike: diagonal inside points are joined.
    values = np.where(inside, np.float32(1.0), np.float32(-0.9))
    vertices, faces, _, _ = marching_cubes(values, 0.0, gradient_direction='ascent')
    vertices = vertices.astype(np.float64)
    on_edge = np.abs(vertices - np.round(vertices)) > 1e-3
    inside, solid, depth, share = (x.reshape(-1) for x in (inside, solid, depth, share))
    for h in (h for h in hits if np.count_nonzero(h.direction) == 1):
        axis, b, c = h.axes
        rows = np.flatnonzero(on_edge[:, axis] & ~on_edge[:, b] & ~on_edge[:, c])
        low = np.floor(vertices[rows, axis]).astype(np.int64)
        x, y = np.round(vertices[rows, b]).astype(np.int64), np.round(vertices[rows, c]).astype(np.int64)
        point = x * lattice.strides[b] + y * lattice.strides[c] + low * h.step
        rises = inside[point + h.step]  # into the solid
        start, end = np.where(rises, point + h.step, point), np.where(rises, point, point + h.step)

        # How far the surface is from the inner end of the edge.
        first, last = h.between(x * lattice.shape[c] + y, low)
        found = first <= last
        keep = np.clip(np.where(rises, first, last), 0, max(len(h.height) - 1, 0))
        height = (h.height[keep] if len(h.height) else np.zeros(len(rows))) - low
        crossing = np.where(rises, 1 - height, height)
        opening = (share[start] - 0.5) / np.maximum(share[start] - share[end], 1e-6)
        reach = np.where(solid[start], np.where(found, crossing, np.clip(opening, 0.05, 0.95)), 0.0)
        deep = np.maximum(depth[start], 0)
        reach = np.maximum(reach, deep / (deep - np.clip(depth[end], -1.0, -1e-3)))
        reach = np.clip(reach, 0.01, 0.99)  # no two vertices coincide
        vertices[rows, axis] = low + np.where(rises, 1 - reach, reach)
    return trimesh.Trimesh(lattice.to_world(vertices), faces, process=False)
