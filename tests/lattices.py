"""Points of whole lattices, for tests that compare with the dense grid."""

import numpy as np

from onet_jax.geometry.grid import lattice_to_world


def corner_points(num_points: int) -> np.ndarray:
    """All corners of num_points - 1 cells along each axis: [n, n, n, 3] float64, x slowest."""
    return lattice_to_world(np.moveaxis(np.indices([num_points] * 3), 0, -1), num_points - 1)
