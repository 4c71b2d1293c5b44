import numpy as np
import pytest
import trimesh

from onet_jax.evaluation.evaluate import FLOOR, Result
from onet_jax.evaluation.report import choose_shown, write_report
from onet_jax.geometry.voxels import Voxels
from onet_jax.scores import EMPTY

pytestmark = pytest.mark.usefixtures('small_pictures')


def make_results(best=0.3):
    def result(category, i, mesh):
        cloud = np.random.default_rng(i).uniform(-0.4, 0.4, (50, 3))
        scores = {**EMPTY, 'iou': best / 3 * i}
        return Result(category, f'{i:06d}', scores, {FLOOR: dict(EMPTY)}, 0.1, {'cloud': cloud}, mesh)

    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    return [result('chair', i, ball) for i in range(4)] + [result('mug', 0, trimesh.Trimesh()), result('mug', 1, ball)]


def test_every_category_is_shown_before_any_is_shown_again():
    shown = [(r.category, int(r.name)) for r in choose_shown(make_results(), 3)]
    assert shown == [('chair', 0), ('chair', 1), ('mug', 0)]
    assert len(choose_shown(make_results(), 100)) == 6


def test_the_report_is_meshes_a_sheet_and_a_page(tmp_path):
    write_report(
        tmp_path,
        {'ours': make_results(), 'theirs': make_results(0.9)},
        lambda result: trimesh.creation.box((0.5, 0.5, 0.5)),
        title='Title',
        lead='Lead',
        num_shown=4,
        curves=[('loss', [(1, 10.0), (2, 3.0)], True), ('IoU', [(2, 0.5)], False)],
    )
    meshes = sorted(p.name for p in (tmp_path / 'meshes').iterdir())
    assert meshes == ['chair_000000.ply', 'chair_000001.ply', 'mug_000001.ply'], 'an empty mesh has no file'
    assert trimesh.load(tmp_path / 'meshes' / meshes[0]).is_watertight
    assert (tmp_path / 'contact_sheet.png').read_bytes().startswith(b'\x89PNG')
    page = (tmp_path / 'index.html').read_text()
    assert page.count('<article>') == 4
    assert 'IoU 0.10 and 0.30' in page
    assert '<b>0.100</b><span>IoU, ours</span>' in page, 'the mean of 0.15 for chairs and 0.05 for mugs'
    assert '<b>0.300</b><span>IoU, theirs</span>' in page
    assert 'floor (ground truth against itself)' in page


def test_results_of_other_shapes_are_refused(tmp_path):
    results = {'ours': make_results(), 'theirs': make_results()[::-1]}
    with pytest.raises(ValueError, match='results: expected the same shapes in the same order'):
        write_report(tmp_path, results, lambda _: None, title='', lead='', num_shown=1, curves=[])


def test_predictions_of_every_kind_are_written_and_shown(tmp_path):
    """A cloud, voxels, and the number of a training shape, which is nothing to see."""
    cloud, voxels = trimesh.PointCloud(np.eye(3) / 3), Voxels(np.ones((4, 4, 4), bool), np.zeros(3), 1.0)
    scores = {**EMPTY, 'iou': np.nan, 'chamfer_l1': 0.02}
    for prediction, kind in ((cloud, trimesh.PointCloud), (voxels, trimesh.Trimesh)):
        result = Result('chair', '0', scores, {}, 0.1, {'index': np.int32(3)}, prediction)
        write_report(tmp_path, {'ours': [result]}, lambda _: np.eye(3) / 3, title='', lead='', num_shown=1, curves=[])
        assert isinstance(trimesh.load(tmp_path / 'meshes/chair_0.ply'), kind)
        page = (tmp_path / 'index.html').read_text()
        assert 'Chamfer-L1 (x10) 0.20' in page
        assert '>nan<' not in page
