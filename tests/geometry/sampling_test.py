import numpy as np
import pytest
import trimesh

from onet_jax.geometry.sampling import sample_surface


def test_points_lie_on_the_surface_in_proportion_to_the_area():
    mesh = trimesh.creation.box((1.0, 0.5, 0.25))
    points, normals = sample_surface(mesh, 40_000, 0)
    on_face = np.isclose(np.abs(points), np.array([1.0, 0.5, 0.25]) / 2, atol=1e-6)
    assert on_face.any(axis=1).all()
    areas = np.array([0.5 * 0.25, 0.25 * 1.0, 1.0 * 0.5])
    np.testing.assert_allclose((np.abs(normals) > 0.5).mean(axis=0), areas / areas.sum(), atol=0.01)
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=0.01)
    np.testing.assert_array_equal(np.sign(points[normals > 0.5]), 1)


def test_uniform_inside_a_triangle():
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]], process=False)
    points, _ = sample_surface(mesh, 30_000, 1)
    assert (points[:, :2].sum(axis=1) <= 1 + 1e-6).all()
    np.testing.assert_allclose(points.mean(axis=0), [1 / 3, 1 / 3, 0], atol=0.01)
    np.testing.assert_allclose((points[:, 0] < 0.5).mean(), 0.75, atol=0.01)


def test_same_seed_same_points_and_no_area_is_refused():
    mesh = trimesh.creation.icosphere()
    np.testing.assert_array_equal(sample_surface(mesh, 9, 3)[0], sample_surface(mesh, 9, 3)[0])
    assert (sample_surface(mesh, 9, 3)[0] != sample_surface(mesh, 9, 4)[0]).any()
    with pytest.raises(ValueError, match='1 faces of area zero'):
        sample_surface(trimesh.Trimesh([[0, 0, 0]] * 3, [[0, 1, 2]], process=False), 5, 0)


def test_a_mesh_far_from_the_origin_is_sampled_in_its_place():
    ball, offset = trimesh.creation.icosphere(), np.array([5e5, 4.6e6, 100.3])
    far = trimesh.Trimesh(ball.vertices + offset, ball.faces, process=False)
    (points, normals), (expected, expected_normals) = (sample_surface(mesh, 1000, 0) for mesh in (far, ball))
    np.testing.assert_allclose(points - offset, expected, rtol=0, atol=3e-9)
    np.testing.assert_allclose(normals, expected_normals, atol=1e-6)
