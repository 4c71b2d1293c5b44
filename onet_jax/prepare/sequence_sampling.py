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

from onet_jax.data.records import encode_picture
from onet_jax.data.schema import FRAME_SIZE, ShapeSequence
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import aim, sample_cameras
from onet_jax.geometry.inside import winding_numbers
from onet_jax.geometry.meshes import normalise
from onet_jax.geometry.render import render_views
from onet_jax.geometry.sampling import place_on_faces, sample_faces
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.geometry.solid import Solid, make_solid
from onet_jax.prepare.sampling import draw_points

# Streams of random numbers of one sequence.
POINTS_STREAM, SURFACE_STREAM, VIEWS_STREAM = 1, 2, 3
OUTWARDS = 1e-3  # a surface sample is hidden where the point so far above it is inside the body
MAX_ROUNDS = 50  # of drawing surface samples, N each, to find N that are not hidden


def sample_sequence(
    moving: MeshSequence,
    category: str,
    name: str,
    *,
    seed: int,
    num_points: int,
    num_views: int = 0,
    sampling: str = 'uniform',
) -> ShapeSequence:
    """Sample all columns, that of images for num_views > 0. A function of the arguments alone.

    Each frame is normalised by its own bounding box, as in D-FAUST, so that no frame leaves its cube. Surface samples are
    uniform by area in the first frame, without those that lie inside the body there. sampling: of the labelled points, one of
    `SAMPLING_STRATEGIES`. Raises InputError, with the number of the
    frame, for fewer than two frames, a mesh that is damaged or flat, and one without inside or that cannot be closed.
    """

    def stream(number):
        return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(f'{category}/{name}'.encode()), number]))

    moving, is_closed = orient_sequence(moving)
    columns: dict[str, list[np.ndarray]] = {'points_seq': [], 'occ_seq': [], 'pcl_seq': []}
    places, solids, points_rng = None, [], stream(POINTS_STREAM)
    for k, vertices in enumerate(moving.vertices):
        try:
            solid = _make_frame(moving.mesh(k), is_closed)
            vertices = (vertices - solid.loc) / solid.scale
            if places is None:
                hides = solid.contains if is_closed else None
                places = _draw_places(stream(SURFACE_STREAM), vertices, moving.faces, hides, num_points)
            surface = place_on_faces(vertices[moving.faces[places[0]]], places[1])
            # Rounded first: the labels are those of the points as stored.
            points = draw_points(points_rng, solid, surface, num_points, sampling).astype(np.float16)
            occ = solid.contains(points.astype(np.float64))
            if not occ.any():
                raise InputError(f'expected points inside the body, found none of {num_points}; it is too thin')
        except InputError as error:
            raise InputError(f'frame {k}: {error}') from error
        for column, value in zip(columns.values(), (points, occ, surface.astype(np.float16)), strict=True):
            column.append(value)
        solids.append(solid)
    return ShapeSequence(
        category,
        name,
        **{key: np.stack(values) for key, values in columns.items()},
        loc_seq=np.stack([solid.loc for solid in solids]),
        scale_seq=np.array([solid.scale for solid in solids]),
        image_seq=render_sequence(moving, stream(VIEWS_STREAM), num_views) if num_views else None,
    )


def render_sequence(moving: MeshSequence, rng: np.random.Generator, num_views: int) -> tuple[bytes, ...]:
    """Pictures of all frames, 224 x 224 px on white, from cameras that stay and see the whole way; F V files of JPEG.

    The cameras have the distribution of the R2N2 renderings.
    """
    low, high = moving.vertices.min(axis=(0, 1)), moving.vertices.max(axis=(0, 1))
    cameras = aim(sample_cameras(rng, num_views), (low + high) / 2, np.linalg.norm(high - low))
    frames = (render_views(moving.mesh(k), cameras, size=FRAME_SIZE).rgb for k in range(len(moving.vertices)))
    return tuple(encode_picture(view) for views in frames for view in views)


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


def _make_frame(mesh: trimesh.Trimesh, is_closed: bool) -> Solid:
    """The solid of a frame, in its own object coordinates."""
    if not is_closed:
        return make_solid(mesh)
    frame = normalise(np.asarray(mesh.vertices))
    if not frame.scale > 0:
        raise InputError(f'expected vertices that are not all one, found a box of edge {frame.scale}')
    body = trimesh.Trimesh(frame.to_object(mesh.vertices), mesh.faces, process=False)
    return Solid(body, partial(_is_wound, body), body, frame.loc, frame.scale)


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
    raise InputError('expected a surface that can be seen from outside, found most of it inside the body')
