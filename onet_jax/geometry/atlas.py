"""Texture atlases: UV unwrapping of a mesh into charts (xatlas), and rasterisation of the charts. Imports no JAX.

N vertices, F faces, K vertices with texture coordinates, of which a vertex at a seam has several, S texels along each side, M
texels that a face covers. UV is in [0, 1], (0, 0) the lower left corner; row 0 of a texture is its upper one.
"""

import importlib.util
import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from scipy.ndimage import distance_transform_edt

from onet_jax.errors import InputError
from onet_jax.geometry.ragged import ragged_range

PART = 1000  # faces of a mesh that are unwrapped together; xatlas takes long for more, and crashes on many
EXTENT = 100.0  # of the mesh that it sees: it has bounds for areas that are too small
THIN = 1e-5  # longest edges of the mesh: a face of a smaller height has no chart that is worth a texel, and may have a huge one
PADDING = 2  # texels between charts
REACH = 0.708  # texels, half a diagonal: a face is in no texel whose centre is farther away
CANDIDATES = 1 << 20  # texels in the boxes of faces that are examined at a time: bounds the memory


class Unwrapped(NamedTuple):
    """The charts of a mesh in a square."""

    vertices: np.ndarray  # [K] int, the vertex of the mesh
    faces: np.ndarray  # [F, 3] int, in the order of the mesh
    uv: np.ndarray  # [K, 2] float64


class Texels(NamedTuple):
    """Where the texels of a texture lie on a mesh."""

    places: np.ndarray  # [M] int, row * S + column
    faces: np.ndarray  # [M] int
    weights: np.ndarray  # [M, 3] barycentric


def check_unwrapping() -> None:
    """Raises InputError, which says what to do, where the library xatlas is not installed."""
    if importlib.util.find_spec('xatlas') is None:
        raise InputError(
            'texture_size: expected the library xatlas, which unwraps meshes, found it is not installed; run: pip install -e '
            "'.[texture]', or take 0, colours of vertices"
        )


def unwrap(mesh: trimesh.Trimesh, size: int) -> Unwrapped:
    """Cut a mesh into charts, flatten them and pack them for a texture of `size` x `size` texels, `PADDING` apart.

    A face that is too thin is on no chart: it has a single point of a neighbour's. The same mesh gives the same charts. Raises
    InputError where xatlas cannot unwrap the mesh, and without it.
    """
    check_unwrapping()
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)
    vertices = (vertices - vertices.min(axis=0)) * (EXTENT / np.ptp(vertices, axis=0).max())
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)  # twice
    thin = areas <= THIN * EXTENT * np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    if thin.all():
        raise InputError(f'mesh: expected a surface to unwrap, found {len(faces)} faces that are lines or points')
    parts = _split(corners.mean(axis=1), np.flatnonzero(~thin))
    found = _run_xatlas(vertices, faces, parts, size)
    charted = np.empty((len(faces), 3), int)
    charted[np.concatenate(parts)] = found['faces']

    of_vertex = np.full(len(vertices), -1)
    of_vertex[found['vertices']] = np.arange(len(found['vertices']))
    anchors = np.maximum(of_vertex[faces[thin]].max(axis=1), 0)
    charted[thin] = len(found['vertices']) + np.arange(3 * thin.sum()).reshape(-1, 3)
    uv = np.concatenate([found['uv'], np.repeat(found['uv'][anchors], 3, axis=0)])
    return Unwrapped(np.concatenate([found['vertices'], faces[thin].reshape(-1)]), charted, uv * [1, -1] + [0, 1])


def _run_xatlas(
    vertices: np.ndarray, faces: np.ndarray, parts: list[np.ndarray], size: int
) -> Mapping[str, np.ndarray]:
    """The charts of some faces: those of each part are together, in their order. UV begins in the upper left corner.

    Raises InputError where the program fails.
    """
    stream, part = io.BytesIO(), np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])
    given = {'vertices': vertices.astype(np.float32), 'faces': faces[np.concatenate(parts)], 'part': part}
    np.savez(stream, **given, size=size, padding=PADDING)
    program = [sys.executable, '-P', str(Path(__file__).with_name('xatlas_process.py'))]
    done = subprocess.run(program, input=stream.getvalue(), capture_output=True)
    if done.returncode:
        reason = (done.stderr.decode(errors='replace').strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        raise InputError(
            f'mesh: expected one that xatlas can unwrap, found {len(faces)} faces on which it fails ({reason}); simplify or '
            'repair the mesh, or colour the vertices'
        )
    return np.load(io.BytesIO(done.stdout))


def _split(centres: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Rows of centres [F, 3], halved along their longest axis until at most `PART` are together."""
    if len(rows) <= PART:
        return [rows]
    axis = np.argmax(np.ptp(centres[rows], axis=0))
    halves = np.array_split(rows[np.argsort(centres[rows, axis], kind='stable')], 2)
    return [part for half in halves for part in _split(centres, half)]


def rasterise(corners: np.ndarray, size: int) -> Texels:
    """The texels whose centre is within `REACH` of triangles with UV [F, 3, 2], each at its nearest place of one of them.

    So a triangle that is thinner than a texel has its colours, too.
    """
    corners = (
        np.stack([corners[..., 0], 1 - corners[..., 1]], axis=-1) * size - 0.5
    )  # centres are whole numbers: column, row
    low = np.clip(np.ceil(corners.min(axis=1) - REACH), 0, size - 1).astype(int)
    high = np.clip(np.floor(corners.max(axis=1) + REACH), -1, size - 1).astype(int)
    widths, heights = np.maximum(high - low + 1, 0).T
    edges = corners[:, 1:] - corners[:, :1]
    areas = edges[:, 0, 0] * edges[:, 1, 1] - edges[:, 0, 1] * edges[:, 1, 0]
    counts = widths * heights * (areas != 0)
    nearest, owner = np.full(size * size, np.inf, np.float32), np.full(size * size, -1)
    weight = np.zeros((size * size, 3), np.float32)
    for block in np.split(np.arange(len(corners)), np.flatnonzero(np.diff(np.cumsum(counts) // CANDIDATES)) + 1):
        faces = np.repeat(block, counts[block])
        step = ragged_range(counts[block])
        places = low[faces] + np.stack([step % widths[faces], step // widths[faces]], axis=1)
        weights, distances = _find_nearest(corners[faces], places)
        near = distances <= REACH
        texels, distances, faces, weights = places[near] @ [1, size], distances[near], faces[near], weights[near]
        np.minimum.at(nearest, texels, distances)
        taken = distances <= nearest[texels]
        owner[texels[taken]], weight[texels[taken]] = faces[taken], weights[taken]
    texels = np.flatnonzero(owner >= 0)
    return Texels(texels, owner[texels], weight[texels])


def _find_nearest(triangles: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric coordinates [N, 3] of the nearest places of triangles [N, 3, 2] to points [N, 2], and their distances [N].

    Infinite where it is more than `REACH` from the line through an edge, and so from the triangle.
    """
    (ux, uy), (vx, vy), (x, y) = ((end - triangles[:, 0]).T for end in (triangles[:, 1], triangles[:, 2], points))
    area = ux * vy - uy * vx
    second, third = (x * vy - y * vx) / area, (ux * y - uy * x) / area
    weights, distances = np.stack([1 - second - third, second, third], axis=1), np.zeros(len(points), np.float32)
    lengths = np.stack([np.hypot(vx - ux, vy - uy), np.hypot(vx, vy), np.hypot(ux, uy)], axis=1)  # of opposite edges
    least = weights.min(axis=1)
    distances[least < 0] = np.inf
    outside = np.flatnonzero((least < 0) & ((weights * np.abs(area)[:, None]) > -REACH * lengths).all(axis=1))
    triangles, points = triangles[outside], points[outside]
    for start in range(3):  # of each edge
        end = (start + 1) % 3
        edge, way = triangles[:, end] - triangles[:, start], points - triangles[:, start]
        share = np.clip((edge * way).sum(axis=1) / np.maximum((edge * edge).sum(axis=1), 1e-30), 0, 1)
        distance = np.linalg.norm(way - share[:, None] * edge, axis=1).astype(np.float32)
        better = distance < distances[outside]
        rows = outside[better]
        distances[rows], weights[rows] = distance[better], 0
        weights[rows, start], weights[rows, end] = 1 - share[better], share[better]
    return weights, distances


def fill(places: np.ndarray, colours: np.ndarray, size: int) -> np.ndarray:
    """A texture [S, S, 3] of the colours [M, 3] at some texels, `Texels.places`; all others have the colour of the nearest one.

    So interpolation across the border of a chart, and smaller copies of the texture, show no seams.
    """
    texture, empty = np.zeros((size * size, 3), colours.dtype), np.ones(size * size, bool)
    texture[places], empty[places] = colours, False
    rows, columns = distance_transform_edt(empty.reshape(size, size), return_distances=False, return_indices=True)
    return texture.reshape(size, size, 3)[rows, columns]
