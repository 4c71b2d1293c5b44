"""Evaluation of sequences: results, tables by class and by time, curves."""

import csv
import json
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from moving_shapes import NUM_FRAMES, EggDataset, egg_target, moving_egg
from numbered_sequences import make_config, write_numbered_sequences
from predictions import predicting

from onet_jax.data.datasets import open_dataset
from onet_jax.errors import PredictionError
from onet_jax.evaluation import comparison, tables
from onet_jax.evaluation.evaluate import FLOOR, describe_protocol, evaluate
from onet_jax.evaluation.report import write_report
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence, frames_of

pytestmark = pytest.mark.usefixtures('small_pictures')

CONFIG = ConfigDict({'seed': 0, 'data': {}, 'eval': {'project_last': False}, 'mesh': {}})
PROTOCOL = {'split': 'test', 'evaluated': 'reconstructions'}


def evaluate_as(make):
    """The results of a method that predicts so from the clip of an example."""
    return list(evaluate(predicting(lambda inputs: [make(inputs['clip'][0])]), {}, CONFIG, EggDataset(), 'test'))


@pytest.fixture(scope='module')
def still():
    """Of a network that sees no motion."""
    egg = moving_egg()
    return evaluate_as(lambda clip: MeshSequence(egg.vertices[:1].repeat(len(clip), axis=0), egg.faces))


def test_a_sequence_is_scored_by_time_and_by_its_means(still):
    assert [(r.category, r.name) for r in still] == list(EggDataset.shapes)
    for result in still:
        assert {len(values) for values in result.by_time.values()} == {NUM_FRAMES}
        assert result.scores == pytest.approx({name: np.mean(values) for name, values in result.by_time.items()})
        assert result.scores['correspondence_l2'] > 2 * result.references[FLOOR]['correspondence_l2']
        assert (result.num_faces, result.is_solid, result.inputs['clip'].shape) == (1280, True, (NUM_FRAMES, 100, 3))


def test_the_tables_and_the_curves(still, tmp_path, capsys):
    tables.write_results(tmp_path, still, PROTOCOL)
    header, rows = tables.make_table(still)
    titles = [
        'IoU',
        'Chamfer-L1 (x10)',
        'Accuracy (x10)',
        'Completeness (x10)',
        'F-score at 1 %',
        'Correspondence L2 (x10)',
    ]
    assert header == ['category', 'shapes', 'empty', 'not a solid', *titles], 'no normals are known'
    assert [row[0] for row in rows] == ['egg', 'other', 'mean', 'floor (ground truth against itself)']
    with (tmp_path / 'by_time.csv').open(newline='') as file:
        by_time = list(csv.DictReader(file))
    assert [row['time'] for row in by_time] == ['0.000', '0.250', '0.500', '0.750', '1.000']
    mean = dict(zip(header, rows[2], strict=True))
    for title in titles:
        assert np.mean([float(row[title]) for row in by_time]) == pytest.approx(float(mean[title]), abs=1e-3), title
    assert '| 0.750 |' in (tmp_path / 'table.md').read_text()
    assert 'Correspondence L2 (x10)' in capsys.readouterr().out
    for plot, count in (('iou_by_time', 2), ('distances_by_time', 4)):  # a curve and its mark in the legend
        assert (tmp_path / f'{plot}.svg').read_text().count('<polyline') == count


def test_a_mesh_that_is_missing_at_a_time_counts_as_empty_and_clouds_have_no_faces(tmp_path):
    def tear(clip):
        meshes = frames_of(moving_egg())
        meshes[1].update_faces(np.zeros(len(meshes[1].faces), bool))
        return ChangingMeshes(tuple(meshes))

    results = evaluate_as(tear)
    assert [r.num_faces for r in results] == [0] * 3
    assert tables.make_table(results)[1][2][2] == '3'
    results = evaluate_as(CloudSequence)
    assert [r.num_faces for r in results] == [None] * 3
    tables.write_results(tmp_path, results, PROTOCOL)
    assert not (tmp_path / 'iou_by_time.svg').exists()
    assert (tmp_path / 'distances_by_time.svg').exists()


@pytest.mark.parametrize('mesh, iou', [({'resolution': 32}, 0.0), ({}, np.nan)], ids=['of meshes', 'of points'])
def test_a_sequence_without_prediction_counts_as_empty_and_the_others_are_scored(capsys, monkeypatch, mesh, iou):
    monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])  # one after the other
    egg, calls = moving_egg(), iter(range(3))

    def predict(inputs):
        if next(calls) == 1:
            raise PredictionError('its velocity field is too stiff')
        return [egg]

    config = ConfigDict({**CONFIG.to_dict(), 'mesh': mesh})
    good, bad, other = evaluate(predicting(predict), {}, config, EggDataset(), 'test')
    assert 'egg/b: FAILED: its velocity field is too stiff' in capsys.readouterr().out
    assert bad.scores['iou'] == pytest.approx(iou, nan_ok=True)
    assert bad.scores['correspondence_l2'] == bad.scores['chamfer_l1'] == 3**0.5
    assert good.scores['iou'] == other.scores['iou'] > 0.9
    assert (good.num_faces, bad.num_faces) == (1280, 0 if mesh else None)


def test_the_report_plays_them(still, tmp_path):
    truth = CloudSequence(egg_target(500, 500).surface)
    results = [still[0]._replace(name='a/15')]
    write_report(tmp_path, {'flow': results}, lambda result: truth, title='t', lead='', num_shown=1, curves=())
    assert [path.name for path in (tmp_path / 'meshes').iterdir()] == ['egg_a_15.glb']
    page = (tmp_path / 'index.html').read_text()
    shapes = json.loads(re.search(r'id="shapes">(.*?)</script>', page, re.DOTALL)[1])
    assert [len(shape['frames']) for shape in shapes] == [NUM_FRAMES] * 3, 'the input, the prediction and the truth'
    assert 'href="meshes/egg_a_15.glb"' in page


def test_methods_are_compared_by_what_they_have(still):
    (iou, chamfer, correspondence) = comparison.by_class({'a': still, 'b': still}, None)
    assert [table[0][0] for table in (iou, chamfer, correspondence)] == [
        'IoU',
        'Chamfer-L1 (x10)',
        'Correspondence L2 (x10)',
    ]


def test_the_clips_of_a_dataset_are_scored(tmp_path):
    """Their input as a prediction: each of its points stays at its place of the body."""
    dataset, config = open_dataset(write_numbered_sequences(tmp_path)), make_config()
    method = predicting(lambda inputs: [CloudSequence(clip) for clip in inputs['clip']])
    results = list(evaluate(method, {}, config, dataset, 'val'))
    assert [(r.category, r.name) for r in results] == [('cat', '1/0'), ('cat', '1/4'), ('dog', '1/0')]
    for result in results:
        assert result.by_time['correspondence_l2'] == result.by_time['accuracy'] == [0.0] * 4
        assert result.scores['completeness'] > 0
    config.model = {'name': 'flow'}
    protocol = describe_protocol(config, dataset, 'val')
    assert (protocol['num_shapes'], protocol['num_frames']) == (3, 4)
