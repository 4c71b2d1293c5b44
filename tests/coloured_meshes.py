"""Color fields for tests: the colours of the nearest point of a mesh, and waves."""

import numpy as np
from scipy.spatial import KDTree
from trimesh.triangles import closest_point, points_to_barycentric

from onet_jax.geometry.colours import colours_of
from onet_jax.geometry.subdivide import subdivide

NUM_NEAR, FINENESS = 8, 100  # small faces, of which one is the nearest; their edges along the longest edge of the mesh


def waves(points):
    """A smooth color field, [T, 3] -> [T, 3]."""
    return 0.5 + 0.4 * np.sin(6 * np.asarray(points) + [0, 1, 2])


def own_colors(mesh):
    """The color field of a mesh with colours of any kind: those of the nearest point of its surface."""
    small, origins = subdivide(mesh, np.ptp(mesh.bounds, axis=0).max() / FINENESS)
    triangles, colours_at = np.asarray(small.triangles), colours_of(mesh)
    tree = KDTree(triangles.mean(axis=1))
    num = min(NUM_NEAR, len(triangles))

    def color(points):
        points = np.asarray(points, np.float64)
        _, near = tree.query(points, k=range(1, num + 1))
        places = closest_point(triangles[near].reshape(-1, 3, 3), points.repeat(num, axis=0)).reshape(-1, num, 3)
        best = np.linalg.norm(places - points[:, None], axis=2).argmin(axis=1)
        rows = np.arange(len(points))
        faces = origins[near[rows, best]]
        weights = points_to_barycentric(np.asarray(mesh.triangles)[faces], places[rows, best])
        return colours_at(faces, weights.clip(0, 1))

    return color
