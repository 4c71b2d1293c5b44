import numpy as np
import pytest
import trimesh

from onet_jax import metrics
from onet_jax.evaluation.evaluate import Result
from onet_jax.evaluation.report import choose_shown, show_input, write_report


def make_results(best=0.3):
    def result(category, i, mesh):
        cloud = np.random.default_rng(i).uniform(-0.4, 0.4, (50, 3))
        scores = {**metrics.EMPTY, 'iou': best / 3 * i}
        return Result(category, f'{i:06d}', scores, dict(metrics.EMPTY), 0.1, cloud, mesh)

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


def test_inputs_are_things_to_show():
    pixels = show_input(np.full((4, 4, 3), 0.5, np.float32))
    assert (pixels.dtype, pixels[0, 0, 0]) == (np.uint8, 128)
    voxels = np.zeros((4, 4, 4))
    voxels[0, 3, 2] = 1
    np.testing.assert_allclose(show_input(voxels), [[-0.375, 0.375, 0.125]])
    assert show_input(np.zeros((9, 3))).shape == (9, 3)
    np.testing.assert_array_equal(show_input(np.array([[1, 2, 3, 0], [4, 5, 6, 1.0]])), [[4, 5, 6]])
    assert show_input(np.asarray(7)).shape == (0, 3)
