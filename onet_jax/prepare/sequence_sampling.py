"""Sampling a shape that moves: labelled points of each frame, and places of its surface in all frames. Imports no JAX.

F frames of V vertices, T labelled points and N = T surface samples of a frame.

The labels of a closed mesh, in which every edge joins two faces, are those of the winding number: where the body overlaps
itself it stays solid. A mesh with holes is rebuilt as a closed surface, frame by frame (`geometry/watertight.py`), which takes
seconds for each; its surface samples are still those of the mesh, so that they correspond.
"""

import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import trimesh

from onet_jax.data.schema import ShapeSequence
from onet_jax.errors import InputError
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.inside import winding_numbers
from onet_jax.geometry.meshes import Frame, normalise
from onet_jax.geometry.sampling import place_on_faces, sample_faces
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.geometry.solid import make_solid

# Streams of random numbers of one sequence.
POINTS_STREAM, SURFACE_STREAM = 1, 2
OUTWARDS = 1e-3  # a surface sample is hidden where the point so far above it is inside the body
MAX_ROUNDS = 50  # of drawing surface samples, N each, to find N that are not hidden


def sample_sequence(moving: MeshSequence, category: str, name: str, *, seed: int, num_points: int) -> ShapeSequence:
    """Sample all columns but images. A function of the arguments alone.

    Each frame is normalised by its own bounding box, as in D-FAUST, so that no frame leaves its cube. Surface samples are
    uniform by area in the first frame, without those that lie inside the body there. Raises InputError, with the number of the
    frame, for fewer than two frames, a mesh that is damaged or flat, and one without inside or that cannot be closed.
    """

    def stream(number):
        return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(f'{category}/{name}'.encode()), number]))

    moving, is_closed = orient_sequence(moving)
    columns: dict[str, list[np.ndarray]] = {'points_seq': [], 'occ_seq': [], 'pcl_seq': []}
    places, frames, points_rng = None, [], stream(POINTS_STREAM)
    for k, vertices in enumerate(moving.vertices):
        try:
            frame, contains = _make_frame(moving.mesh(k), is_closed)
        except InputError as error:
            raise InputError(f'frame {k}: {error}') from error
        if places is None:
            hides = contains if is_closed else None
            places = _draw_places(stream(SURFACE_STREAM), frame.to_object(vertices), moving.faces, hides, num_points)
        # Rounded first: the labels are those of the points as stored.
        points = points_rng.uniform(-BOX / 2, BOX / 2, (num_points, 3)).astype(np.float16)
        occ = contains(points.astype(np.float64))
        if not occ.any():
            raise InputError(f'frame {k}: expected points inside the body, found none of {num_points}; it is too thin')
        surface = place_on_faces(frame.to_object(vertices)[moving.faces[places[0]]], places[1]).astype(np.float16)
        for column, value in zip(columns.values(), (points, occ, surface), strict=True):
            column.append(value)
        frames.append(frame)
    return ShapeSequence(
        category,
        name,
        **{key: np.stack(values) for key, values in columns.items()},
        loc_seq=np.stack([frame.loc for frame in frames]),
        scale_seq=np.array([frame.scale for frame in frames]),
    )


def orient_sequence(moving: MeshSequence) -> tuple[MeshSequence, bool]:
    """The sequence without unreferenced vertices, and whether its mesh is closed: then its faces are oriented outwards.

    Raises InputError, naming the frame, for a sequence that is damaged or has fewer than two frames.
    """
    vertices, faces = np.asarray(moving.vertices, np.float64), np.asarray(moving.faces)
    if vertices.ndim != 3 or vertices.shape[2] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise InputError(
            f'sequence: expected vertices [F, V, 3] and triangles, found arrays of shape {list(vertices.shape)} and '
            f'{list(faces.shape)}'
        )
    if len(vertices) < 2:
        raise InputError(f'sequence: expected at least 2 frames, found {len(vertices)}')
    if faces.min() < 0 or faces.max() >= vertices.shape[1]:
        raise InputError(
            f'faces: expected indices of {vertices.shape[1]} vertices, found {faces.min()} to {faces.max()}'
        )
    for k, frame in enumerate(vertices):
        broken = np.count_nonzero(~np.isfinite(frame).all(axis=1))
        if broken:
            raise InputError(f'frame {k}: expected finite vertices, found NaN or infinity in {broken} of {len(frame)}')
    used, faces = np.unique(faces, return_inverse=True)
    mesh = trimesh.Trimesh(vertices[0, used], faces.reshape(-1, 3), process=False)
    is_closed = bool(mesh.is_watertight)
    if is_closed:
        trimesh.repair.fix_normals(mesh, multibody=True)
        is_closed = bool(mesh.is_winding_consistent)
    return MeshSequence(vertices[:, used], np.asarray(mesh.faces)), is_closed


def _make_frame(mesh: trimesh.Trimesh, is_closed: bool) -> tuple[Frame, Callable[[np.ndarray], np.ndarray]]:
    """The object coordinates of a frame, and points [T, 3] in them -> [T] bool, True inside."""
    if not is_closed:
        solid = make_solid(mesh)
        return Frame(solid.loc, solid.scale), solid.contains
    frame = normalise(np.asarray(mesh.vertices))
    if not frame.scale > 0:
        raise InputError(f'expected vertices that are not all one, found a box of edge {frame.scale}')
    body = trimesh.Trimesh(frame.to_object(mesh.vertices), mesh.faces, process=False)
    return frame, partial(_is_wound, body)


def _is_wound(body: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    return winding_numbers(body, points) > 0


def _draw_places(
    rng: np.random.Generator,
    vertices: np.ndarray,
    faces: np.ndarray,
    hides: Callable[[np.ndarray], np.ndarray] | None,
    num_points: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Faces [N] and barycentric coordinates [N, 2] of samples of the surface, without those that the body hides."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    drawn: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(MAX_ROUNDS):
        points, normals, on, uv = sample_faces(mesh, num_points, rng)
        seen = np.ones(num_points, bool) if hides is None else ~hides(points + OUTWARDS * normals)
        drawn.append((on[seen], uv[seen]))
        if sum(len(on) for on, _ in drawn) >= num_points:
            return np.concatenate([on for on, _ in drawn])[:num_points], np.concatenate([uv for _, uv in drawn])[
                :num_points
            ]
    raise InputError('frame 0: expected a surface that can be seen from outside, found most of it inside the body')
