import numpy as np

from onet_jax.geometry.extract import marching_cubes
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.tiled_marching_cubes import join, march_block


def test_blocks_join_to_the_surface_of_the_whole_lattice():
    axis = np.linspace(-1.2, 1.2, 13)
    x, y, z = np.meshgrid(axis, axis, axis, indexing='ij')
    values = 0.3 - np.abs(np.hypot(np.hypot(x, y) - 0.7, z))
    size = np.array([13, 13, 13])
    pieces = [
        march_block(values[i : i + 7, j : j + 7, k : k + 7], 0.0, np.array([i, j, k]), size)
        for i in (0, 6)
        for j in (0, 6)
        for k in (0, 6)
    ]
    mesh, whole = join(pieces), marching_cubes(values, 0.0)
    assert mesh.is_watertight
    assert mesh.euler_number == 0
    np.testing.assert_allclose(mesh.volume * (BOX / 12) ** 3, whole.volume, rtol=1e-2)
    np.testing.assert_allclose(
        sorted(mesh.vertices[:, 0] * BOX / 12 - BOX / 2), sorted(whole.vertices[:, 0]), atol=1e-4
    )


def test_no_surface_joins_to_an_empty_mesh():
    assert join([march_block(np.zeros((3, 3, 3)), 0.0, np.zeros(3, int), np.full(3, 3))]).is_empty
    assert join([]).is_empty
