"""The cube and its lattices: the one place that knows the padding and every half-cell offset.

Three lattices are in use, and confusing them shifts a surface by half a cell:
    corners of R cells      R + 1 points per axis, first and last on the faces of the padded cube (MISE, marching cubes)
    n inclusive points      the same with n = R + 1
    centres of n voxels     (i + 1/2) / n - 1/2 in the unpadded unit cube (voxel inputs)
"""

import numpy as np

PADDING = 0.1  # of the unit cube, on the whole axis
BOX = 1.0 + PADDING  # edge of the sampled cube [-BOX/2, BOX/2]^3


def lattice_to_world(index: np.ndarray, resolution: int) -> np.ndarray:
    """Lattice coordinates 0..R of the corners of R cells -> object coordinates, any shape, float64."""
    return BOX * (np.asarray(index, np.float64) / resolution - 0.5)


def world_to_lattice(points: np.ndarray, resolution: int) -> np.ndarray:
    """Object coordinates -> lattice coordinates, 0..R in the box, any shape; arrays of JAX too."""
    return (points / BOX + 0.5) * resolution


def corner_points(num_points: int) -> np.ndarray:
    """All points of the inclusive lattice: [n, n, n, 3] float64, x slowest."""
    axis = lattice_to_world(np.arange(num_points), num_points - 1)
    return np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1)


def voxel_centres(num_voxels: int = 32) -> np.ndarray:
    """Centres of the n^3 voxels of the unit cube [-0.5, 0.5]^3: [n, n, n, 3] float64, x slowest."""
    axis = (np.arange(num_voxels) + 0.5) / num_voxels - 0.5
    return np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1)
