import numpy as np
import pytest
import trimesh

from onet_jax.geometry.smoothing import smooth_mesh


@pytest.mark.parametrize('scale', [1.0, 1e-5, 1e5])
def test_ripples_go_and_the_volume_stays(scale):
    ball = trimesh.creation.icosphere(4)
    rough = ball.copy()
    rough.vertices *= scale * (1 + np.random.default_rng(0).normal(scale=0.01, size=(len(ball.vertices), 1)))
    before = rough.vertices.copy()
    smooth = smooth_mesh(rough, 10)
    spread = [np.linalg.norm(mesh.vertices / scale, axis=1).std() for mesh in (rough, smooth)]
    assert spread[1] < 0.4 * spread[0]
    assert smooth.volume == pytest.approx(scale**3 * ball.volume, rel=0.01)
    np.testing.assert_array_equal(smooth.faces, rough.faces)
    np.testing.assert_array_equal(rough.vertices, before)


def test_what_no_face_has_is_dropped_and_no_step_changes_nothing():
    box = trimesh.creation.box()
    loose = trimesh.Trimesh(np.concatenate([[[9, 9, 9]], box.vertices]), box.faces + 1, process=False)
    assert np.isfinite(smooth_mesh(loose, 2).vertices).all()
    assert len(smooth_mesh(loose, 2).vertices) == 8
    np.testing.assert_array_equal(smooth_mesh(loose, 0).vertices, box.vertices)
