"""Point-in-mesh test by ray parity (even-odd rule) along z, as in the official evaluation, and winding numbers.

A point is inside when the line through it crosses the surface an odd number of times above it, and below it. For a watertight
mesh both parities agree; for others a point with different parities is outside.

Where the line meets an edge or a vertex exactly, it is shifted by an infinitesimal (e, e^2) in x and y ("simulation of
simplicity"), so that an edge shared by two faces is crossed once. The official code ignores such crossings and so misses points
that lie well inside, such as lattice points in a box; for points in general position the two agree.

T query points, F faces, K pairs of a face and a point. Imports no JAX.
"""

from collections.abc import Iterator

import numpy as np
import trimesh

from onet_jax.geometry.ragged import ragged_range

POINTS_PER_CELL = 6  # of the search grid
MAX_PAIRS = 1 << 21  # candidate (face, point) pairs tested at a time: bounds the memory


def contains(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """points [T, 3], in the frame of the mesh -> [T] bool, True inside."""
    up, down, below = _count_crossings(mesh, np.asarray(points, np.float64))
    return ((up + down) % 2 == 1) & (below % 2 == 1)


def winding_numbers(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """How often a closed mesh winds around each of the points [T, 3]: [T] int, 1 inside and 0 outside.

    Another number says that the mesh intersects itself, or that its faces are not oriented outwards. Of a mesh with holes they
    have no meaning.
    """
    up, down, _ = _count_crossings(mesh, np.asarray(points, np.float64))
    return up - down


def _count_crossings(mesh: trimesh.Trimesh, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many faces lie above each of the points [T, 3], facing up and facing down, and how many below it: [T] each."""
    up, down, below = (np.zeros(len(points), np.int64) for _ in range(3))
    if len(mesh.faces) and len(points):
        vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)
        for face, point in _candidates(vertices[faces][:, :, :2], points[:, :2]):
            hit, height, faces_up = _cross(vertices, faces[face], points[point])
            over = height >= points[point[hit], 2]
            for count, chosen in ((up, over & faces_up), (down, over & ~faces_up), (below, ~over)):
                count += np.bincount(point[hit][chosen], minlength=len(points))
    return up, down, below


def _cross(vertices: np.ndarray, faces: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of faces [K, 3] and points [K, 3]: whether the line through the point crosses the face [K], and of those that do
    at which z, and whether the face looks up.
    """
    corners = [vertices[faces[:, i]] for i in range(3)]
    # Twice the area of (edge, point), for the edges opposite to each corner; positive when the point is to its left.
    areas, left = zip(
        *(_side(faces[:, i], faces[:, j], corners[i], corners[j], points) for i, j in ((1, 2), (2, 0), (0, 1))),
        strict=True,
    )
    hit = (left[0] == left[1]) & (left[1] == left[2])
    weights = [area[hit] for area in areas]
    total = sum(weights)
    # A face seen edge-on has no area; only rounding brings it here.
    sound = total != 0
    hit[hit] = sound
    height = sum(w[sound] * corner[hit, 2] for w, corner in zip(weights, corners, strict=True)) / total[sound]
    return hit, height, left[0][hit]


def _side(i: np.ndarray, j: np.ndarray, a: np.ndarray, b: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed double area of (a, b, p) [K, 3] in the xy plane, and its sign after the infinitesimal shift of p (True: left).

    i, j: [K] indices of the vertices a, b. Both faces at an edge compute the same number, up to its sign.
    """
    swapped = i > j
    a, b = np.where(swapped[:, None], b, a), np.where(swapped[:, None], a, b)
    dx, dy = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
    area = dx * (p[:, 1] - a[:, 1]) - dy * (p[:, 0] - a[:, 0])
    left = np.where(area != 0, area > 0, np.where(dy != 0, dy < 0, dx > 0))
    return np.where(swapped, -area, area), left ^ swapped


def _candidates(triangles: np.ndarray, points: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs (face, point) where the cells of the point and of the bounding box of the face meet in the xy plane.

    triangles [F, 3, 2], points [T, 2]. The points are sorted by the cells of a grid, y fastest, so that those in one column of
    cells between the lowest and the highest y of a face are contiguous.
    """
    low, high = triangles.reshape(-1, 2).min(axis=0), triangles.reshape(-1, 2).max(axis=0)
    near = np.flatnonzero(((points >= low) & (points <= high)).all(axis=1))
    if not len(near):
        return
    num_cells = max(1, int((len(near) / POINTS_PER_CELL) ** 0.5))
    scale = num_cells / np.maximum(high - low, np.finfo(float).tiny)

    def cell(xy):
        return np.clip(((xy - low) * scale).astype(np.int64), 0, num_cells - 1)

    keys = cell(points[near]) @ [num_cells, 1]
    order = np.argsort(keys, kind='stable')
    near = near[order]
    starts = np.searchsorted(keys[order], np.arange(num_cells**2 + 1))

    first, last = cell(triangles.min(axis=1)), cell(triangles.max(axis=1))
    face = np.repeat(np.arange(len(triangles)), last[:, 0] - first[:, 0] + 1)
    column = first[face, 0] + ragged_range(last[:, 0] - first[:, 0] + 1)
    begin = starts[column * num_cells + first[face, 1]]
    length = starts[column * num_cells + last[face, 1] + 1] - begin
    ends = np.cumsum(length)
    split = np.searchsorted(ends, np.arange(MAX_PAIRS, ends[-1] + MAX_PAIRS, MAX_PAIRS), side='left')
    for rows in np.split(np.arange(len(face)), np.minimum(split + 1, len(face))):
        yield (
            np.repeat(face[rows], length[rows]),
            near[np.repeat(begin[rows], length[rows]) + ragged_range(length[rows])],
        )
