import numpy as np
import pytest
import trimesh

from onet_jax import metrics
from onet_jax.evaluation import tables
from onet_jax.evaluation.evaluate import Result


def make_result(category, name, iou, chamfer, mesh):
    scores = {**metrics.EMPTY, 'iou': iou, 'chamfer_l1': chamfer}
    floor = {**metrics.EMPTY, 'iou': 1.0, 'chamfer_l1': 0.002}
    return Result(category, name, scores, floor, 0.5, np.zeros((1, 3)), mesh)


@pytest.fixture
def results():
    box = trimesh.creation.box()
    return [
        make_result('chair', 'a', 0.5, 0.01, box),
        make_result('chair', 'b', 0.7, 0.03, box),
        make_result('mug', 'a', 0.9, 0.02, trimesh.Trimesh()),
    ]


def test_classes_weigh_alike_and_distances_are_in_the_unit_of_the_paper(results):
    means = tables.class_means(results)
    assert list(means) == ['chair', 'mug', 'mean']
    assert means['chair']['iou'] == pytest.approx(0.6)
    assert means['mean']['iou'] == pytest.approx(0.75), 'the mean of the class means, not of the shapes (0.7)'
    assert means['chair']['chamfer_l1'] == pytest.approx(0.2), 'ten times the raw distance'
    assert tables.class_means(results, 'floor')['mean']['chamfer_l1'] == pytest.approx(0.02)


def test_the_table_counts_failures_and_prints_the_floor(results):
    header, rows = tables.make_table(results)
    assert header[:5] == ['category', 'shapes', 'empty', 'IoU', 'Chamfer-L1 (x10)']
    assert [row[:5] for row in rows] == [
        ['chair', '2', '0', '0.600', '0.200'],
        ['mug', '1', '1', '0.900', '0.200'],
        ['mean', '3', '1', '0.750', '0.200'],
        ['floor (ground truth against itself)', '3', '0', '1.000', '0.020'],
    ]
    lines = tables.to_markdown(header, rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace(' ', '').strip('|-') == ''


def test_files_and_headline(results, tmp_path):
    tables.write_results(tmp_path / 'evaluation', results)
    lines = (tmp_path / 'evaluation' / 'rows.csv').read_text().splitlines()
    assert lines[0].startswith('category,name,seconds,faces,iou,')
    assert len(lines) == 4
    assert lines[1].startswith('chair,a,0.500,12,0.5,')
    row = dict(zip(lines[0].split(','), lines[1].split(','), strict=True))
    assert float(row['chamfer_l1 (x10)']) == pytest.approx(0.1), 'the unit is in the header'
    assert 'floor' in (tmp_path / 'evaluation' / 'table.md').read_text()
    summary = tables.summary(results)
    assert (summary['num_shapes'], summary['num_empty'], summary['seconds_per_mesh']) == (3, 1, 0.5)
    assert summary['iou'] == pytest.approx(0.75)
