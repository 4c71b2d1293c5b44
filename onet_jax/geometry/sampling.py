"""Uniform samples of a surface. Imports no JAX: processes that prepare data use it."""

import numpy as np
import trimesh

from onet_jax.errors import InputError


def sample_surface(
    mesh: trimesh.Trimesh, num_points: int, seed: int | np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points uniform by area on a mesh, and the normals of their faces: [N, 3], [N, 3] float32.

    Raises ValueError for a mesh without area.
    """
    rng = np.random.default_rng(seed)
    triangles = np.asarray(mesh.vertices, np.float64)[np.asarray(mesh.faces)]
    edges = triangles[:, 1:] - triangles[:, :1]
    cross = np.cross(edges[:, 0], edges[:, 1])
    double_areas = np.linalg.norm(cross, axis=1)
    total = double_areas.sum()
    if not total > 0:
        raise InputError(f'mesh: expected a surface to sample, found {len(triangles)} faces of area zero')

    picked = np.searchsorted(np.cumsum(double_areas), rng.random(num_points) * total, side='right')
    picked = np.minimum(picked, len(triangles) - 1)
    u = rng.random((num_points, 2))
    u = np.where(u.sum(axis=1, keepdims=True) > 1, 1 - u, u)  # fold the square onto the triangle
    points = triangles[picked, 0] + (u[:, :, None] * edges[picked]).sum(axis=1)
    normals = cross[picked] / double_areas[picked, None]
    return points.astype(np.float32), normals.astype(np.float32)
