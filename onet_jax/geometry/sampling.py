"""Uniform sampling of a triangle mesh by area: points, normals and colours. N samples. Imports no JAX."""

from collections.abc import Callable

import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.colours import colours_of


def sample_surface(
    mesh: trimesh.Trimesh, num_points: int, seed: int | np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points uniform by area on a mesh, and the unit normals of their faces: [N, 3] float64, [N, 3] float32, N = num_points.

    Raises InputError for a mesh without area.
    """
    points, normals, _, _ = sample_faces(mesh, num_points, seed)
    return points, normals


def sample_surface_with_colours(
    mesh: trimesh.Trimesh,
    num_points: int,
    seed: int | np.random.Generator,
    colours: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points and normals of `sample_surface`, and the colours there, [N, 3] uint8 sRGB.

    colours: a function as `colours.colours_of` gives; by default the mesh's own colours.
    """
    points, normals, faces, uv = sample_faces(mesh, num_points, seed)
    weights = np.column_stack([1 - uv.sum(axis=1), uv])
    return points, normals, np.round(255 * (colours or colours_of(mesh))(faces, weights)).astype(np.uint8)


def sample_faces(
    mesh: trimesh.Trimesh, num_points: int, seed: int | np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `sample_surface`; also the faces [N] of the points and their barycentric coordinates [N, 2] of the 2nd and 3rd corner,
    by which `place_on_faces` finds the same places of the mesh when its vertices have moved."""
    rng = np.random.default_rng(seed)
    triangles = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.faces)]
    edges = triangles[:, 1:] - triangles[:, :1]
    cross = np.cross(edges[:, 0], edges[:, 1])
    double_areas = np.linalg.norm(cross, axis=1)
    total = double_areas.sum()
    if not total > 0:
        raise InputError(f'mesh: expected a surface to sample, found {len(triangles)} faces of area zero')

    faces = np.searchsorted(np.cumsum(double_areas), rng.random(num_points) * total, side='right')
    faces = np.minimum(faces, len(triangles) - 1)
    uv = rng.random((num_points, 2))
    uv = np.where(uv.sum(axis=1, keepdims=True) > 1, 1 - uv, uv)  # fold the square onto the triangle
    points = place_on_faces(triangles[faces], uv)
    normals = cross[faces] / double_areas[faces, None]
    # Points are in the frame of the mesh, which float32 may not hold.
    return points, normals.astype(np.float32), faces, uv


def place_on_faces(triangles: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The points [N, 3] of triangles [N, 3, 3] with barycentric coordinates [N, 2] of the 2nd and 3rd corner."""
    return triangles[:, 0] + (uv[:, :, None] * (triangles[:, 1:] - triangles[:, :1])).sum(axis=1)
