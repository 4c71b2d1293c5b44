import json
import shutil
import subprocess

import jax
import numpy as np
import pytest
import trimesh
from model_configs import small_config
from scipy.spatial.distance import cdist

from onet_jax import metrics
from onet_jax.configs import onet_image, onet_unconditional, onet_voxels
from onet_jax.data import records
from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import evaluation_key
from onet_jax.evaluation.evaluate import FLOOR, describe_protocol, evaluate, find_commit, return_inputs
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.geometry.voxels import Voxels, voxels_to_mesh
from onet_jax.models import Method
from onet_jax.run import load_run
from onet_jax.scores import EMPTY, score, target_of


def evaluate_as(predict, config, dataset, split='test'):
    """The results of a method that predicts so, whatever it sees."""
    return list(evaluate(Method(None, None, None, predict, None), {}, config, open_dataset(dataset), split))


def test_every_shape_is_scored_whatever_the_batch_size_the_workers_and_the_devices(workdir, monkeypatch):
    run = load_run(workdir)
    dataset, results, devices = open_dataset(run.data_dir), {}, jax.local_devices()
    assert len(devices) == 2
    for batch_size, num_workers, used in ((2, 1, devices), (3, 2, devices[:1])):
        monkeypatch.setattr(jax, 'local_devices', lambda used=used: used)
        with run.config.unlocked():
            run.config.eval.batch_size = batch_size
        results[batch_size] = list(
            evaluate(run.method, run.params, run.config, dataset, 'test', num_workers=num_workers)
        )
    assert tuple((r.category, r.name) for r in results[2]) == dataset.names('test')
    for a, b in zip(results[2], results[3], strict=True):
        assert a.scores == b.scores
        assert a.references == b.references
        np.testing.assert_array_equal(a.inputs['cloud'], b.inputs['cloud'])
        np.testing.assert_array_equal(a.prediction.vertices, b.prediction.vertices)
        assert a.references[FLOOR]['iou'] == 1.0
        assert 0 < a.references[FLOOR]['chamfer_l1'] < 0.05
        assert a.seconds > 0


def test_a_prediction_is_scored_against_its_own_shape(dataset):
    """Each of another kind; the empty mesh with the worst values."""
    config, ball = small_config(), trimesh.creation.icosphere(2, 0.3)
    kinds = (
        lambda: trimesh.Trimesh(),
        lambda: OpenSurface(ball.vertices, ball.faces),
        lambda: Voxels(np.ones((8, 8, 8), bool), np.zeros(3), 0.5),
    )
    made = [make() for make in kinds]
    # Each shape draws from a key of its own.
    keys = [jax.random.fold_in(evaluation_key(config.seed), row) for row in range(3)]
    order = [jax.random.key_data(key).tolist() for key in keys]

    def predict(params, inputs, key):
        assert inputs['cloud'].shape == (1, 30, 3)
        return [made[order.index(jax.random.key_data(key).tolist())]]

    results = evaluate_as(predict, config, dataset)
    assert [result.prediction for result in results] == made
    assert results[0].scores == EMPTY
    assert [result.num_faces for result in results] == [0, 320, len(voxels_to_mesh(made[2].values).faces)]
    fields = 'volume_points', 'surface_samples'
    examples = open_dataset(dataset).evaluation_batches(config, 'test', targets=fields, batch_size=1)
    for result, (batch, _) in zip(results, examples, strict=True):
        expected = score(result.prediction, target_of(batch['targets']), config.seed)
        np.testing.assert_equal(result.scores, expected)


def evaluate_inputs(config, dataset):
    """(shape, result) of the test split."""
    results, stored = evaluate_as(return_inputs(config), config, dataset), open_dataset(dataset)
    return [(stored.read(*name), result) for name, result in zip(stored.names('test'), results, strict=True)]


def test_an_input_cloud_is_scored_point_by_point(dataset):
    config = small_config()
    for shape, result in evaluate_inputs(config, dataset):
        cloud = result.inputs['cloud']
        assert cloud.shape == (config.data.num_input_points, 3)
        distances = cdist(cloud, shape.surface.astype(np.float32))
        assert result.scores['accuracy'] == pytest.approx(distances.min(axis=1).mean(), rel=1e-5)
        assert result.scores['completeness'] == pytest.approx(distances.min(axis=0).mean(), rel=1e-5)
        assert 0.002 < result.scores['accuracy'] < 0.02, 'the noise of the input'
        missing = {key for key, value in result.scores.items() if np.isnan(value)}
        assert missing == {'iou', 'normals_accuracy', 'normals_completeness', 'normal_consistency'}
        assert result.scores.keys() == EMPTY.keys()
        assert result.num_faces is None


def test_input_voxels_are_scored_by_their_surface(dataset):
    config = onet_voxels('tiny')
    for shape, result in evaluate_inputs(config, dataset):
        np.testing.assert_array_equal(result.inputs['voxels'], shape.voxels)
        assert result.num_faces == len(voxels_to_mesh(shape.voxels).faces)
        # A point on the face between two voxels is in the upper one in x and y, in the lower one in z.
        cells = np.floor((shape.points.astype(np.float64) - (0, 0, 1e-9) + 0.5) * 32).astype(int)
        inside = ((cells >= 0) & (cells < 32)).all(axis=1)
        inside[inside] = shape.voxels[tuple(cells[inside].T)]
        assert result.scores['iou'] == metrics.iou(inside, shape.occ)
        assert 0.4 < result.scores['iou'] < 1
        # Within a voxel of the surface.
        assert result.references[FLOOR]['chamfer_l1'] < result.scores['chamfer_l1'] < 3**0.5 / 32


def test_inputs_that_are_no_shapes_are_refused():
    for experiment, name in ((onet_image, 'image'), (onet_unconditional, 'none')):
        with pytest.raises(ValueError, match=rf"--inputs: expected .*\['cloud', 'voxels'\], found \('{name}',\)"):
            return_inputs(experiment('tiny'))


def test_the_protocol_is_plain_values_without_paths_of_the_machine(dataset):
    config, stored = small_config(), open_dataset(dataset)
    found = describe_protocol(config, stored, 'test')
    assert found == json.loads(json.dumps(found))
    assert (found['split'], found['num_shapes'], found['num_volume_points'], found['seed']) == ('test', 3, 5000, 0)
    assert found['dataset_digest'] == records.digest(dataset)
    assert found['model'] == 'onet, inputs cloud, encoder pointnet_simple, decoder shallow'
    assert 'view' not in found
    assert describe_protocol(onet_image('tiny'), stored, 'test')['view'] == '000'
    assert str(dataset) not in str(found)
    with pytest.raises(ValueError, match=r"expected a split of .*, found 'best'"):
        describe_protocol(config, stored, 'best')


@pytest.mark.skipif(shutil.which('git') is None, reason='needs git')
def test_the_commit_is_that_of_the_own_checkout(tmp_path):
    def git(*args):
        identity = ('-c', 'user.name=a', '-c', 'user.email=a@b.c', '-c', 'commit.gpgsign=false')
        done = subprocess.run(['git', *identity, *args], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    assert find_commit(tmp_path) is None
    git('init')
    assert find_commit(tmp_path) is None, 'nothing is committed yet'
    (tmp_path / 'code.py').write_text('a = 1')
    git('add', '.')
    git('commit', '-m', 'first')
    git('tag', '-a', 'v1', '-m', 'a tag')
    commit = git('rev-parse', 'HEAD')
    assert find_commit(tmp_path) == commit
    (tmp_path / 'code.py').write_text('a = 2')
    assert find_commit(tmp_path) == f'{commit}+changes'
    (tmp_path / 'inner').mkdir()
    assert find_commit(tmp_path / 'inner') is None, 'a package inside of another project'
