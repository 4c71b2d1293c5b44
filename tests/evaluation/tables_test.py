import csv
import json
import re

import numpy as np
import pytest
import trimesh

from onet_jax.evaluation import tables
from onet_jax.evaluation.evaluate import FLOOR, Result
from onet_jax.evaluation.published import CLASSES, TABLES
from onet_jax.scores import EMPTY


def make_result(category, name, iou, chamfer, mesh, is_solid=None):
    scores = {**EMPTY, 'iou': iou, 'chamfer_l1': chamfer}
    floor = {**EMPTY, 'iou': 1.0, 'chamfer_l1': 0.002}
    return Result(category, name, scores, {FLOOR: floor}, 0.5, {'cloud': np.zeros((1, 3))}, mesh, is_solid)


@pytest.fixture
def results():
    box = trimesh.creation.box()
    return [
        make_result('chair', 'a', 0.5, 0.01, box, True),
        make_result('chair', 'b', 0.7, 0.03, box, False),
        make_result('mug', 'a', 0.9, 0.02, trimesh.Trimesh()),
    ]


def test_classes_weigh_alike_and_distances_are_in_the_unit_of_the_paper(results):
    means = tables.class_means(results)
    assert list(means) == ['chair', 'mug', 'mean']
    assert means['chair']['iou'] == pytest.approx(0.6)
    assert means['mean']['iou'] == pytest.approx(0.75), 'the mean of the class means, not of the shapes (0.7)'
    assert means['chair']['chamfer_l1'] == pytest.approx(0.2), 'ten times the raw distance'


def test_the_table_counts_failures_and_prints_the_floor(results):
    header, rows = tables.make_table(results)
    assert header[:6] == ['category', 'shapes', 'empty', 'not a solid', 'IoU', 'Chamfer-L1 (x10)']
    assert [row[:6] for row in rows] == [
        ['chair', '2', '0', '1', '0.600', '0.200'],
        ['mug', '1', '1', '-', '0.900', '0.200'],
        ['mean', '3', '1', '1', '0.750', '0.200'],
        ['floor (ground truth against itself)', '3', '0', '-', '1.000', '0.020'],
    ]
    lines = tables.to_markdown(header, rows).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].replace(' ', '').strip('|-') == ''


PROTOCOL = {'split': 'test', 'evaluated': 'reconstructions', 'threshold': 0.2}


def read_csv(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_files_and_headline(results, tmp_path):
    tables.write_results(tmp_path / 'evaluation', results, PROTOCOL)
    lines = (tmp_path / 'evaluation' / 'rows.csv').read_text().splitlines()
    assert lines[0].startswith('category,name,seconds,faces,iou,')
    assert len(lines) == 4
    assert lines[1].startswith('chair,a,0.500,12,0.5,')
    row = dict(zip(lines[0].split(','), lines[1].split(','), strict=True))
    assert float(row['chamfer_l1 (x10)']) == pytest.approx(0.1), 'the unit is in the header'

    header, rows = tables.make_table(results)
    cells = [['' if cell == '-' else cell for cell in row] for row in rows]
    assert read_csv(tmp_path / 'evaluation' / 'table.csv') == [dict(zip(header, row, strict=True)) for row in cells]
    under = '\n* split: test\n* evaluated: reconstructions\n* threshold: 0.2\n'
    assert (tmp_path / 'evaluation' / 'table.md').read_text() == tables.to_markdown(header, rows) + under
    assert json.loads((tmp_path / 'evaluation' / 'protocol.json').read_text()) == PROTOCOL
    summary = tables.summary(results)
    assert (summary['num_shapes'], summary['num_empty'], summary['seconds_per_mesh']) == (3, 1, 0.5)
    assert summary['iou'] == pytest.approx(0.75)


def test_a_score_that_does_not_exist_is_no_part_of_a_mean(results, tmp_path):
    cloud, nothing = trimesh.PointCloud(np.zeros((1, 3))), float('nan')
    results += [make_result('mug', 'b', nothing, 0.04, cloud), make_result('sofa', 'a', nothing, 0.06, cloud)]
    means = tables.class_means(results)
    assert [means[c]['iou'] for c in ('chair', 'mug', 'mean')] == pytest.approx([0.6, 0.9, 0.75])
    assert means['mean']['chamfer_l1'] == pytest.approx((0.2 + 0.3 + 0.6) / 3)
    _, rows = tables.make_table(results)
    assert [row[:6] for row in rows[1:4]] == [
        ['mug', '2', '1', '-', '0.900', '0.300'],
        ['sofa', '1', '0', '-', '-', '0.600'],
        ['mean', '5', '1', '1', '0.750', '0.367'],
    ]
    tables.write_results(tmp_path, results, PROTOCOL)
    row = read_csv(tmp_path / 'rows.csv')[-1]
    assert (row['category'], row['faces'], row['iou']) == ('sofa', '', ''), 'empty cells'
    assert read_csv(tmp_path / 'table.csv')[2]['IoU'] == ''


@pytest.fixture
def shapenet_results():
    """One shape of each of the 13 classes, number i with IoU i / 20."""
    box = trimesh.creation.box()
    return [make_result(synset, 'a', i / 20, 0.01, box) for i, synset in enumerate(CLASSES)]


def test_single_images_stand_beside_every_class_that_was_published(shapenet_results, tmp_path):
    tables.write_results(tmp_path, shapenet_results, PROTOCOL, TABLES['image'])
    text = (tmp_path / 'table.md').read_text()
    table, *compared, lines = text.split('\n\n')
    assert table == tables.to_markdown(*tables.make_table(shapenet_results)).strip()
    cells = [[[cell.strip() for cell in line.split('|')[1:-1]] for line in part.splitlines()] for part in compared]
    assert [part[0][0] for part in cells] == ['IoU', 'Chamfer-L1 (x10)', 'Normal consistency']
    assert cells[0][0][1:] == [*TABLES['image'].methods, 'our reconstructions']
    assert [row[0] for row in cells[0][2:]] == [*CLASSES.values(), 'mean']
    assert cells[0][3] == ['bench', '0.373', '-', '0.323', '-', '0.485', '0.492', '0.050']
    assert cells[1][-1] == ['mean', '0.278', '0.215', '0.216', '0.175', '0.215', '0.194', '0.100']
    assert lines.startswith(
        '* published: Mescheder et al., CVPR 2019, table 1; ShapeNet, 13 classes, test split\n* split:'
    )

    wide = {row['category']: row for row in read_csv(tmp_path / 'table.csv')}
    assert (wide['vessel']['IoU'], wide['vessel']['IoU, ONet (paper)']) == ('0.600', '0.530')
    assert wide['vessel']['IoU, PSGN'] == ''
    assert wide['mean']['Chamfer-L1 (x10), AtlasNet'] == '0.175'
    assert not any(value for key, value in wide['floor (ground truth against itself)'].items() if ', ' in key)
    assert len(json.loads((tmp_path / 'protocol.json').read_text())['notes']) == 1


def test_of_other_experiments_only_means_were_published(shapenet_results):
    ((header, rows),) = tables.compare(shapenet_results, TABLES['voxels'], 'our inputs')
    assert header == ['mean', 'IoU', 'Chamfer-L1 (x10)', 'Normal consistency']
    assert rows == [
        ['input', '0.631', '0.136', '0.810'],
        ['ONet (paper)', '0.703', '0.109', '0.879'],
        ['our inputs', '0.300', '0.100', '-1.000'],
    ]
    _, rows = tables.append_published(tables.make_table(shapenet_results), TABLES['cloud'])
    assert rows[0][-4:] == ['-'] * 4
    assert rows[-2][-4:] == ['0.719', '-', '0.848', '0.895']


def test_what_does_not_compare_is_said(shapenet_results):
    some = [*shapenet_results[:1], make_result('02773838', 'a', 0.5, 0.01, trimesh.creation.box())]
    notes = tables.describe_comparison(some, TABLES['cloud'], 'val')
    assert notes[1:] == [
        "not comparable: the published numbers are of the test split, ours of 'val'",
        'the published means are over 13 classes, ours over 2 (02773838, airplane): they do not compare',
    ]
    notes = tables.describe_comparison(some, TABLES['image'], 'test')
    assert notes[1:] == [
        'the published means are over 13 classes, ours over 2 (02773838, airplane): compare classes, not means'
    ]
    (_, rows), *_ = tables.compare(some, TABLES['image'], 'ours')
    assert rows[1] == ['02773838', *['-'] * 6, '0.500']


def test_names_are_neither_formulas_nor_markup(results, tmp_path):
    mesh = results[0].prediction
    names = ['=1+1', '+1', '-2', '@x', '-x', '1', '=cmd|x!A1', 'a|b<c>`d`[e](f)', 'two\nlines']
    tables.write_results(tmp_path, [make_result(name, name, -0.5, 0.01, mesh) for name in names], PROTOCOL)
    found = [row['category'] for row in read_csv(tmp_path / 'rows.csv')]
    assert found == ["'=1+1", '+1', '-2', "'@x", "'-x", '1', "'=cmd|x!A1", 'a|b<c>`d`[e](f)', 'two\nlines']
    assert {row['iou'] for row in read_csv(tmp_path / 'rows.csv')} == {'-0.5'}, 'a number stays one'
    lines = (tmp_path / 'table.md').read_text().splitlines()
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in lines if line.startswith('|')} == {11}
    assert any(r'a\|b\<c\>\`d\`\[e\](f)' in line for line in lines)
    assert any('| two lines ' in line for line in lines)


def test_the_table_is_printed_where_it_cannot_be_written(results, tmp_path, capsys):
    (tmp_path / 'file').touch()
    with pytest.raises(OSError, match='file'):
        tables.write_results(tmp_path / 'file' / 'evaluation', results, PROTOCOL)
    assert '| chair ' in capsys.readouterr().out
