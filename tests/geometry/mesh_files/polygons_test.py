import numpy as np
import pytest
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons, check_mesh, strips_to_triangles, to_geometry, triangulate


def area_vector(ring):
    """Half the sum of cross products around a ring [K, 3]: the area of a flat polygon, by the shoelace formula."""
    ring = ring - ring[0]
    return np.cross(ring, np.roll(ring, -1, axis=0)).sum(axis=0) / 2


def star(rng, num):
    """A polygon of random radii around a point, in a random plane, far from the origin."""
    angles = (np.arange(num) + rng.uniform(0, 0.9, num)) * 2 * np.pi / num
    flat = np.column_stack([np.cos(angles), np.sin(angles)]) * rng.uniform(0.2, 1, (num, 1))
    plane = np.linalg.qr(rng.normal(size=(3, 3)))[0][:2]
    return flat @ plane + 1e3 * rng.normal(size=3)


def test_polygons_keep_their_area_their_orientation_and_their_order():
    rng = np.random.default_rng(0)
    rings = [star(rng, num) for num in rng.integers(3, 12, 300)]
    sizes = np.array([len(ring) for ring in rings])
    corners = rng.permutation(sizes.sum())
    vertices = np.empty((len(corners), 3))
    vertices[corners] = np.concatenate(rings)
    faces, owners = triangulate(vertices, corners, sizes)
    assert (np.diff(owners) >= 0).all()
    assert len(faces) == (sizes - 2).sum()
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    areas = np.cross(b - a, c - a) / 2
    for polygon, ring in enumerate(rings):
        expected = area_vector(ring)
        # Of triangles that overlap, or face the other side, the sum of sizes is larger than the size of the sum.
        np.testing.assert_allclose(areas[owners == polygon].sum(axis=0), expected, atol=1e-9)
        total = np.linalg.norm(areas[owners == polygon], axis=1).sum()
        assert total == pytest.approx(np.linalg.norm(expected), rel=1e-6)


def test_small_polygons_are_dropped_and_those_that_cross_themselves_are_fans():
    vertices = np.array([[0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0.0]])
    faces, owners = triangulate(vertices, np.array([0, 1, 0, 1, 2, 3, 0, 2, 3]), np.array([2, 4, 3]))
    np.testing.assert_array_equal(faces, [[0, 1, 2], [0, 2, 3], [0, 2, 3]])
    np.testing.assert_array_equal(owners, [1, 1, 2])


def test_time_is_bounded(monkeypatch):
    num = 20_001
    tangle = np.random.default_rng(0).normal(size=(num, 3))
    with pytest.raises(InputError, match='expected polygons of at most 20000 corners, unless convex, found 20001'):
        triangulate(tangle, np.arange(num), np.array([num]))
    vertices, sizes = tangle[: 10 * 1_000], np.full(10, 1_000)
    monkeypatch.setattr('onet_jax.geometry.mesh_files.polygons.MAX_CLIPPED', 2_500)
    assert len(triangulate(vertices[:6000], np.arange(6000), sizes[:6])[0]) == 6 * 998
    with pytest.raises(InputError, match='or few, found many or large ones, such as polygon 7 of 1000 corners'):
        triangulate(vertices, np.arange(len(vertices)), sizes)
    circle = np.exp(2j * np.pi * np.arange(num) / num)
    flat = np.column_stack([circle.real, circle.imag, np.zeros(num)])
    assert len(triangulate(flat, np.arange(num), np.array([num]))[0]) == num - 2


def test_strips_turn_every_second_triangle_and_begin_again():
    strips = np.array([0, 1, 2, 3, -1, 4, 5, 6, 6, 7, 8, 9, 9])
    expected = [[0, 1, 2], [2, 1, 3], [4, 5, 6], [7, 8, 9]]
    np.testing.assert_array_equal(strips_to_triangles(strips, np.array([9, 4])), expected)


@pytest.mark.parametrize('faces, fault', [([[0, 1, 3]], 'found 0 to 3'), ([[0, 1, -1]], 'found -1 to 1')])
def test_faces_of_vertices_that_do_not_exist(faces, fault):
    with pytest.raises(InputError, match=f'expected faces of the vertices 0 to 2, {fault}'):
        check_mesh(np.eye(3), np.array(faces))


def test_one_mesh_of_many_parts_in_which_what_is_unused_may_be_invalid(capsys):
    one = Polygons(np.vstack([np.full(3, np.nan), np.eye(3)]), np.array([1, 2, 3]), np.array([3]))
    colours = np.full((3, 4), 7, np.uint8)
    two = Polygons(np.eye(3) + 5, np.array([0, 1, 2]), np.array([3]), colours)
    cloud = Polygons(np.full((1, 3), 100.0))
    mesh = to_geometry('file', [one, two, cloud])
    assert 'file: dropped 1 of 4 points' in capsys.readouterr().out
    assert isinstance(mesh, trimesh.Trimesh)
    np.testing.assert_array_equal(mesh.vertices, np.vstack([np.eye(3), np.eye(3) + 5]))
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(mesh.visual.vertex_colors, [[204, 204, 204, 255]] * 3 + [[7] * 4] * 3)
    with pytest.raises(InputError, match='expected finite vertices, found NaN or infinity in 1 of 4'):
        to_geometry('file', [one._replace(corners=np.array([0, 2, 3]))])
