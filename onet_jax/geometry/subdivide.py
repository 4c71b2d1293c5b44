"""Subdivision of triangle meshes at the midpoints of long edges, without T-junctions. Imports no JAX. N vertices, F faces."""

import numpy as np
import trimesh

from onet_jax.errors import InputError

MAX_FACES = 4_000_000


def subdivide(mesh: trimesh.Trimesh, max_edge: float) -> tuple[trimesh.Trimesh, np.ndarray]:
    """A mesh of the same surface with edges of at most `max_edge`, and the face [F'] of `mesh` that each of its faces is in.

    Longer edges are halved, and both their faces are cut there: a closed mesh stays closed. Vertices keep their numbers, new
    ones follow. The result has no colours. Raises InputError for a length that is not above 0, and for one that makes more than
    `MAX_FACES` faces.
    """
    if not max_edge > 0:
        raise InputError(f'max_edge: expected a length above 0, found {max_edge:g}')
    vertices, faces = np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)
    origins = np.arange(len(faces))
    num_least = mesh.area / (np.sqrt(3) / 4 * max_edge**2)  # of equilateral faces, which are the largest
    while True:
        ends = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=2)
        halved = np.linalg.norm(vertices[ends[..., 0]] - vertices[ends[..., 1]], axis=-1) > max_edge
        if not halved.any():
            return trimesh.Trimesh(vertices, faces, process=False), origins
        if max(num_least, len(faces) + halved.sum()) > MAX_FACES:
            raise InputError(
                f'max_edge: expected a length that makes at most {MAX_FACES:,} faces of the {len(mesh.faces):,}, found '
                f'{max_edge:g}; take a larger one'
            )
        keys, numbers = np.unique(ends[halved] @ [len(vertices), 1], return_inverse=True)
        middles = np.full(halved.shape, -1)
        middles[halved] = len(vertices) + numbers
        first, second = np.divmod(keys, len(vertices))
        vertices = np.concatenate([vertices, (vertices[first] + vertices[second]) / 2])
        faces, cut = _cut(vertices, faces, middles)
        origins = origins[cut]


def _cut(vertices: np.ndarray, faces: np.ndarray, middles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut faces [F, 3] at the middles [F, 3] of their edges, -1 for none: the new faces, and which face each was."""
    count = (middles >= 0).sum(axis=1)
    # Turned so that of one middle it is on the first edge, and of two none is on the last.
    turn = np.where(count == 1, np.argmax(middles, axis=1), np.where(count == 2, np.argmin(middles, axis=1) + 1, 0))
    order = (turn[:, None] + np.arange(3)) % 3
    (a, b, c), (ab, bc, ca) = (np.take_along_axis(values, order, axis=1).T for values in (faces, middles))
    shorter = np.linalg.norm(vertices[a] - vertices[bc], axis=1) < np.linalg.norm(vertices[ab] - vertices[c], axis=1)
    pieces = [  # corners, and of which faces
        ((a, b, c), count == 0),
        ((a, ab, c), count == 1),
        ((ab, b, c), count == 1),
        ((ab, b, bc), count >= 2),
        ((a, ab, bc), (count == 2) & shorter),
        ((a, bc, c), (count == 2) & shorter),
        ((a, ab, c), (count == 2) & ~shorter),
        ((ab, bc, c), (count == 2) & ~shorter),
        ((a, ab, ca), count == 3),
        ((ca, bc, c), count == 3),
        ((ab, bc, ca), count == 3),
    ]
    rows = [np.flatnonzero(chosen) for _, chosen in pieces]
    cut = [np.stack(corners, axis=1)[row] for (corners, _), row in zip(pieces, rows, strict=True)]
    return np.concatenate(cut), np.concatenate(rows)
