import numpy as np
from lattices import corner_points

from onet_jax.geometry.grid import BOX, lattice_to_world, voxel_centres


def test_the_lattices_differ_by_what_their_names_say():
    assert BOX == 1.1
    corners, centres = corner_points(33), voxel_centres(32)
    np.testing.assert_allclose(corners[0, 0, 0], -0.55)
    np.testing.assert_allclose(corners[-1, -1, -1], 0.55)
    np.testing.assert_allclose(corners[16, 16, 16], 0, atol=1e-15)
    np.testing.assert_allclose(corners[3, 0, 1] - corners[2, 0, 1], (1.1 / 32, 0, 0))
    np.testing.assert_allclose(centres[0, 0, 0], -0.5 + 0.5 / 32)
    np.testing.assert_allclose(centres[5, 6, 7] - centres[5, 6, 6], (0, 0, 1 / 32))
    np.testing.assert_allclose(lattice_to_world([0, 64, 128], 128), [-0.55, 0, 0.55])
