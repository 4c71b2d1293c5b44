import numpy as np
import pytest
import trimesh
from conftest import golden_names
from scipy.spatial import cKDTree

from onet_jax import metrics
from onet_jax.geometry.inside import contains
from onet_jax.geometry.sampling import sample_surface

OFFICIAL_NAMES = {
    'accuracy': 'accuracy',
    'completeness': 'completeness',
    'accuracy2': 'accuracy2',
    'completeness2': 'completeness2',
    'chamfer_l1': 'chamfer-L1',
    'chamfer_l2': 'chamfer-L2',
    'normals_accuracy': 'normals accuracy',
    'normals_completeness': 'normals completeness',
    'normal_consistency': 'normals',
}


@pytest.mark.parametrize('file', golden_names('metrics/eval_*.npz'))
def test_scores_equal_the_official_ones(golden, file):
    data = golden(file)
    scores = metrics.surface_metrics(
        data['in/pred_sample_points'].astype(np.float32),
        data['in/pred_face_normals'][data['in/pred_sample_face_idx']],
        data['in/tgt_points'],
        data['in/tgt_normals'],
    )
    for ours, official in OFFICIAL_NAMES.items():
        np.testing.assert_allclose(scores[ours], data[f'out/eval_mesh/{official}'], rtol=2e-6, err_msg=ours)
    mesh = trimesh.Trimesh(data['in/pred_vertices'], data['in/pred_faces'], process=False)
    overlap = metrics.iou(contains(mesh, data['in/points_iou']), data['in/occ_tgt'] >= 0.5)
    np.testing.assert_allclose(overlap, data['out/eval_mesh/iou'], rtol=1e-6)


def test_iou_equals_the_official_one_also_of_nothing(golden):
    data = golden('metrics/misc.npz')
    a, b = (data[f'in/iou_{k}'].reshape(3, -1) >= 0.5 for k in 'ab')
    np.testing.assert_allclose(metrics.iou(a, b), data['out/iou_ab'], rtol=1e-6)
    with np.errstate(invalid='ignore'):
        nothing = metrics.iou(data['in/iou_e0'] >= 0.5, data['in/iou_e1'] >= 0.5)
    np.testing.assert_array_equal(nothing, data['out/iou_empty'])


def test_against_brute_force():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 3)) * 0.02, rng.normal(size=(50, 3)) * 0.02
    na, nb = rng.normal(size=a.shape), rng.normal(size=b.shape)
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    scores = metrics.surface_metrics(a, na, b, nb)
    np.testing.assert_allclose(scores['accuracy'], distances.min(axis=1).mean())
    np.testing.assert_allclose(scores['completeness2'], (distances.min(axis=0) ** 2).mean())
    nearest = distances.argmin(axis=1)
    cosines = (na * nb[nearest]).sum(1) / np.linalg.norm(na, axis=1) / np.linalg.norm(nb[nearest], axis=1)
    np.testing.assert_allclose(scores['normals_accuracy'], np.abs(cosines).mean())
    precision, recall = (distances.min(axis=1) <= 0.01).mean(), (distances.min(axis=0) <= 0.01).mean()
    np.testing.assert_allclose(scores['f_score'], 2 * precision * recall / (precision + recall))
    assert metrics.surface_metrics(a, na, b + 9, nb)['f_score'] == 0


def test_a_point_at_the_distance_of_the_f_score_counts():
    normals = np.array([[0.0, 0.0, 1.0]])
    scores = [
        metrics.surface_metrics(np.zeros((1, 3)), normals, np.array([[x, 0.0, 0.0]]), normals)['f_score']
        for x in (0.01, np.nextafter(0.01, 1))
    ]
    assert scores == [1, 0]


def test_the_floor_is_what_a_second_sampling_of_the_same_surface_scores():
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=0.5)
    first, second = sample_surface(mesh, 20_000, 0), sample_surface(mesh, 20_000, 1)
    floor, measured = metrics.sampling_floor(*first), metrics.surface_metrics(*first, *second)
    for name in ('chamfer_l1', 'chamfer_l2', 'normal_consistency', 'f_score'):
        assert floor[name] == pytest.approx(measured[name], rel=0.03), name


def test_the_floor_survives_samples_that_coincide():
    points, normals = np.repeat(np.eye(3), 2, axis=0), np.tile(np.eye(3)[:2], (3, 1))
    floor = metrics.sampling_floor(points, normals)
    assert floor['chamfer_l1'] == 0
    assert floor['normal_consistency'] == 0, 'the normal of the other sample, which is perpendicular'
    assert cKDTree(points).n == 6
