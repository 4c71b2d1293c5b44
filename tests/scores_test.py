import numpy as np
import pytest
import trimesh

from onet_jax import metrics, scores
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.inside import contains
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.voxels import Voxels, voxels_to_mesh
from onet_jax.scores import EMPTY, METRICS, Target, as_geometry, floor, headline, is_solid, score

OFFICIAL_WORST = {
    'iou': 0.0,
    'accuracy': 3**0.5,
    'completeness': 3**0.5,
    'accuracy2': 3.0,
    'completeness2': 3.0,
    'chamfer_l1': 3**0.5,
    'chamfer_l2': 3.0,
    'normals_accuracy': -1.0,
    'normals_completeness': -1.0,
    'normal_consistency': -1.0,
    'f_score': 0.0,
}
NORMALS = ('normal_consistency', 'normals_accuracy', 'normals_completeness')
# An L of voxels that touches no face of the grid, as voxels and as the mesh around them.
VALUES = np.zeros((16, 16, 16), bool)
VALUES[2:14, 4:7, 5:9] = VALUES[2:6, 4:12, 5:9] = True
MESH, VOXELS = voxels_to_mesh(VALUES), Voxels(VALUES, np.zeros(3), 1.0)


@pytest.fixture(scope='module')
def target():
    points = np.random.default_rng(0).uniform(-BOX / 2, BOX / 2, (4000, 3)).astype(np.float32)
    surface, normals = sample_surface(MESH, 4000, 0)
    return Target(points, contains(MESH, points), surface, normals)


@pytest.mark.parametrize('kind', ['mesh', 'open surface', 'voxels', 'cloud'])
def test_the_true_shape_scores_as_the_floor_does_whatever_says_it(target, kind):
    """What a kind of prediction does not say has no score: an open surface has no inside, a cloud no normals either."""
    prediction, unknown = {
        'mesh': (MESH, ()),
        'open surface': (OpenSurface(MESH.vertices, MESH.faces, process=False), ('iou',)),
        'voxels': (VOXELS, ()),
        'cloud': (trimesh.PointCloud(sample_surface(MESH, 4000, 1)[0]), ('iou', *NORMALS)),
    }[kind]
    found, best = score(prediction, target, seed=1), floor(target)
    assert found.keys() == best.keys() == EMPTY.keys()
    assert {name for name, value in found.items() if np.isnan(value)} == set(unknown)
    for name in found.keys() - unknown:
        assert found[name] == pytest.approx(best[name], rel=0.06), name
    assert np.isnan(found['iou']) or found['iou'] == 1
    assert score(prediction, target, seed=1) == pytest.approx(found, rel=0, abs=0, nan_ok=True), 'by the seed alone'


def test_a_worse_shape_scores_worse_in_the_direction_of_each_metric(target):
    """And an empty one worst of all, with the values of the official evaluation."""
    thick = VALUES.copy()
    thick[2:14, 7:9, 5:9] = True
    found, best = score(Voxels(thick, np.zeros(3), 1.0), target), floor(target)
    assert EMPTY == OFFICIAL_WORST
    for name in EMPTY:
        ranked = sorted([best[name], found[name], EMPTY[name]], reverse=METRICS[name].higher_is_better)
        assert ranked == [best[name], found[name], EMPTY[name]], name
        assert len(set(ranked)) == 3, name


@pytest.mark.parametrize(
    'prediction, unknown',
    [
        (trimesh.Trimesh(), ()),
        (OpenSurface(), ('iou',)),
        (VOXELS._replace(values=np.zeros_like(VALUES)), ()),
        (trimesh.PointCloud(np.zeros((0, 3))), ('iou', *NORMALS)),
    ],
    ids=['mesh', 'open surface', 'voxels', 'cloud'],
)
def test_an_empty_prediction_has_the_worst_values(target, prediction, unknown):
    expected = OFFICIAL_WORST | dict.fromkeys(unknown, np.nan)
    found = score(prediction, target)
    assert found == pytest.approx(expected, nan_ok=True)
    found['iou'] = 1.0
    assert EMPTY == OFFICIAL_WORST, 'a table, which nobody changes'


def test_which_meshes_bound_a_solid(target):
    flipped = trimesh.Trimesh(MESH.vertices, MESH.faces[:, ::-1], process=False)
    twice = MESH + MESH.copy().apply_translation([0.1, 0, 0])
    torn = trimesh.Trimesh(MESH.vertices, MESH.faces[1:], process=False)
    assert [is_solid(mesh, target) for mesh in (MESH, flipped, twice, torn)] == [True, False, False, False]
    others = (trimesh.Trimesh(), OpenSurface(MESH.vertices, MESH.faces), VOXELS, trimesh.PointCloud(MESH.vertices))
    assert {is_solid(other, target) for other in others} == {None}


def test_a_prediction_of_another_type_is_a_defect(target):
    with pytest.raises(
        TypeError, match=r'one of the types \[.*Trimesh.*Voxels.*PointCloud.*found <class .numpy.ndarray'
    ):
        score(np.zeros((5, 3)), target)


def test_the_worst_values_are_those_of_the_golden_file(golden):
    data = golden('metrics/misc.npz')
    official = {'normal_consistency': 'normals', 'chamfer_l1': 'chamfer-L1', 'chamfer_l2': 'chamfer-L2'}
    names = {name: f'out/eval_mesh/{official.get(name, name.replace("_", " "))}' for name in EMPTY}
    found = {name: float(data[key]) for name, key in names.items() if key in data}
    assert len(found) == 8
    assert found == pytest.approx({name: EMPTY[name] for name in found})


def test_every_metric_of_a_surface_is_in_the_table_and_tables_show_those_of_the_paper():
    points = np.random.default_rng(0).normal(size=(9, 3))
    assert {'iou', *metrics.surface_metrics(points, points, points, points)} == set(EMPTY) <= set(METRICS)
    of_paper = ('iou', 'chamfer_l1', 'accuracy', 'completeness', 'normal_consistency', 'f_score')
    assert (*of_paper, 'correspondence_l2', 'psnr', 'ssim_gaussian', 'ssim', 'l1') == scores.COLUMNS
    assert {METRICS[name].factor for name in ('chamfer_l1', 'accuracy', 'completeness', 'correspondence_l2')} == {10}
    for name, metric in METRICS.items():
        assert ('(x10)' in metric.title) == (metric.factor == 10), name


def test_the_headline_is_the_first_metric_that_all_predictions_have():
    closed, cloud = {'iou': 0.931, 'chamfer_l1': 0.0123}, {'iou': np.nan, 'chamfer_l1': 0.02}
    assert headline(closed) == 'IoU 0.93'
    assert headline(closed, {'iou': 0.908}) == 'IoU 0.93 and 0.91'
    assert headline(cloud) == 'Chamfer-L1 (x10) 0.20'
    assert headline(closed, cloud) == 'Chamfer-L1 (x10) 0.12 and 0.20'


def test_predictions_as_geometry():
    """Voxels become the surface of their blocks."""
    surface, cloud = OpenSurface(np.eye(3), [[0, 1, 2]]), trimesh.PointCloud(np.eye(3))
    assert as_geometry(surface) is surface
    assert as_geometry(cloud) is cloud
    mesh = as_geometry(Voxels(np.ones((2, 2, 2), bool), np.zeros(3), 1.0))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(1)
