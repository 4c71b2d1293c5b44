"""Texture atlases: UV unwrapping of a mesh into charts (xatlas), and rasterisation of the charts. Imports no JAX.

N vertices, F faces, K vertices with texture coordinates, of which a vertex at a seam has several, S texels along each side, M
texels that a face covers. UV is in [0, 1], (0, 0) the lower left corner; row 0 of a texture is its upper one.
"""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from scipy.ndimage import distance_transform_edt

from onet_jax.errors import InputError
from onet_jax.geometry.ragged import ragged_range

PART = 1000  # faces of a mesh that are unwrapped together; xatlas takes long for more, and crashes on many
EXTENT = 100.0  # of the mesh that it sees: it has bounds for areas that are too small
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
    """Cut a mesh into charts, flatten them and pack them for a texture of `size` x `size` texels, some texels apart.

    The same mesh gives the same charts. Raises InputError where xatlas cannot unwrap the mesh, and without it.
    """
    check_unwrapping()
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)
    vertices = (vertices - vertices.min(axis=0)) * (EXTENT / np.ptp(vertices, axis=0).max())
    parts = _split(vertices[faces].mean(axis=1), np.arange(len(faces)))
    order, stream = np.concatenate(parts), io.BytesIO()
    part = np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])
    given = {'vertices': vertices.astype(np.float32), 'faces': faces[order], 'part': part}
    np.savez(stream, **given, size=size, padding=max(2, size // 256))
    program = [sys.executable, '-P', str(Path(__file__).with_name('xatlas_process.py'))]
    done = subprocess.run(program, input=stream.getvalue(), capture_output=True)
    if done.returncode:
        reason = (done.stderr.decode(errors='replace').strip().splitlines() or [f'exit code {done.returncode}'])[-1]
        raise InputError(
            f'mesh: expected one that xatlas can unwrap, found {len(faces)} faces on which it fails ({reason}); simplify or '
            'repair the mesh, or colour the vertices'
        )
    found = np.load(io.BytesIO(done.stdout))
    back = np.empty(len(faces), int)
    back[order] = np.arange(len(faces))
    return Unwrapped(found['vertices'], found['faces'][back].astype(int), found['uv'].astype(float) * [1, -1] + [0, 1])


def _split(centres: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    """Rows of centres [F, 3], halved along their longest axis until at most `PART` are together."""
    if len(rows) <= PART:
        return [rows]
    axis = np.argmax(np.ptp(centres[rows], axis=0))
    halves = np.array_split(rows[np.argsort(centres[rows, axis], kind='stable')], 2)
    return [part for half in halves for part in _split(centres, half)]


def rasterise(corners: np.ndarray, size: int) -> Texels:
    """The texels whose centre a triangle covers, of triangles with UV [F, 3, 2], each texel once.

    A triangle that covers no centre has the texel of its own centre, unless another has it: no chart is without a texel.
    """
    corners = (
        np.stack([corners[..., 0], 1 - corners[..., 1]], axis=-1) * size - 0.5
    )  # centres are whole numbers: column, row
    low = np.clip(np.ceil(corners.min(axis=1) - 1e-6), 0, size - 1).astype(int)
    high = np.clip(np.floor(corners.max(axis=1) + 1e-6), -1, size - 1).astype(int)
    widths, heights = np.maximum(high - low + 1, 0).T
    counts = widths * heights
    owner, weight = np.full(size * size, -1), np.zeros((size * size, 3), np.float32)
    first = corners[:, 0]
    u, v = (corners[:, k] - first for k in (1, 2))
    areas = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    counts[areas == 0] = 0
    ends = np.cumsum(counts)
    for block in np.split(np.arange(len(corners)), np.flatnonzero(np.diff(ends // CANDIDATES)) + 1):
        faces = np.repeat(block, counts[block])
        step = ragged_range(counts[block])
        places = low[faces] + np.stack([step % widths[faces], step // widths[faces]], axis=1)
        x, y = (places - first[faces]).T
        second = (x * v[faces, 1] - y * v[faces, 0]) / areas[faces]
        third = (u[faces, 0] * y - u[faces, 1] * x) / areas[faces]
        inside = (second >= -1e-6) & (third >= -1e-6) & (second + third <= 1 + 1e-6)
        taken = places[inside] @ [1, size]
        owner[taken] = faces[inside]
        weight[taken] = np.stack([1 - second - third, second, third], axis=1)[inside]
    small = np.setdiff1d(np.arange(len(corners)), owner)
    centres = np.clip(np.round(corners[small].mean(axis=1)), 0, size - 1).astype(int) @ [1, size]
    free = owner[centres] < 0
    owner[centres[free]], weight[centres[free]] = small[free], 1 / 3
    places = np.flatnonzero(owner >= 0)
    return Texels(places, owner[places], weight[places])


def fill(places: np.ndarray, colours: np.ndarray, size: int) -> np.ndarray:
    """A texture [S, S, 3] of the colours [M, 3] at some texels, `Texels.places`; all others have the colour of the nearest one.

    So interpolation across the border of a chart, and smaller copies of the texture, show no seams.
    """
    texture, empty = np.zeros((size * size, 3), colours.dtype), np.ones(size * size, bool)
    texture[places], empty[places] = colours, False
    rows, columns = distance_transform_edt(empty.reshape(size, size), return_distances=False, return_indices=True)
    return texture.reshape(size, size, 3)[rows, columns]
