import numpy as np
import pytest
import trimesh

from onet_jax.geometry.simplify import simplify_mesh


@pytest.mark.parametrize('scale', [1.0, 1e-4, 1e5])
def test_a_simplified_ball_is_a_ball_in_any_unit(scale):
    ball = trimesh.creation.icosphere(4, scale)
    ball.apply_translation((10 * scale, 0, 0))
    few = simplify_mesh(ball, 500)
    assert 400 < len(few.faces) <= 500
    assert few.is_watertight
    assert few.volume == pytest.approx(ball.volume, rel=0.03)
    np.testing.assert_allclose(few.bounds, ball.bounds, atol=0.05 * scale)


def test_small_meshes_stay_and_no_mesh_has_fewer_faces_than_a_tetrahedron():
    box = trimesh.creation.box()
    copy = simplify_mesh(box, 12)
    np.testing.assert_array_equal(copy.faces, box.faces)
    assert copy is not box
    with pytest.raises(ValueError, match=r'num_faces: expected at least 4, a closed mesh, found 3'):
        simplify_mesh(box, 3)


@pytest.mark.parametrize('wrong', [-1, 8, 1 << 40])
def test_a_vertex_that_does_not_exist_is_named_and_ends_no_process(wrong):
    box = trimesh.creation.box()
    box.faces[5, 1] = wrong
    with pytest.raises(ValueError, match=f'expected faces of the vertices 0 to 7, found .*{wrong}'):
        simplify_mesh(trimesh.Trimesh(box.vertices, box.faces, process=False, validate=False), 6)
