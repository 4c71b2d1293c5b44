import json
import shutil
import subprocess

import numpy as np
import pytest
import trimesh
from model_configs import small_config
from scipy.spatial.distance import cdist

from configs import onet_image, onet_unconditional, onet_voxels
from onet_jax import metrics
from onet_jax.data import records
from onet_jax.evaluation.evaluate import (
    describe_protocol,
    evaluate,
    evaluate_cloud,
    evaluate_mesh,
    find_commit,
    return_inputs,
)
from onet_jax.evaluation.validate import validate, validation_batches
from onet_jax.geometry.voxels import voxels_to_mesh
from onet_jax.models import Method
from onet_jax.prepare import procedural
from onet_jax.training.checkpoints import load_run


def test_the_true_mesh_scores_as_the_floor_does(dataset):
    category, name = records.read_index(dataset).splits['test'][0]
    shape = records.read_shape(records.shape_path(dataset, category, name))
    surface, normals = shape.surface.astype(np.float32), shape.normals.astype(np.float32)
    mesh = procedural.make_shape(0, category, int(name)).mesh()
    scores = evaluate_mesh(mesh, shape.points.astype(np.float32), shape.occ, surface, normals, seed=0)
    floor = metrics.sampling_floor(surface, normals)
    assert scores['iou'] > 0.99
    for key in ('accuracy', 'completeness', 'chamfer_l1'):
        assert scores[key] == pytest.approx(floor[key], rel=0.05)
    assert scores['normal_consistency'] == pytest.approx(floor['normal_consistency'], abs=0.01)
    assert scores.keys() == metrics.EMPTY.keys()


def test_every_shape_is_scored_whatever_the_batch_size(workdir):
    run = load_run(workdir)
    results = {}
    for batch_size in (2, 3):
        with run.config.unlocked():
            run.config.eval.batch_size = batch_size
        results[batch_size] = list(evaluate(run.method, run.params, run.config, run.data_dir, 'test'))
    names = tuple((r.category, r.name) for r in results[2])
    assert names == records.read_index(run.data_dir).splits['test']
    for a, b in zip(results[2], results[3], strict=True):
        assert a.scores == b.scores
        np.testing.assert_array_equal(a.inputs, b.inputs)
        assert a.floor['iou'] == 1.0
        assert 0 < a.floor['chamfer_l1'] < 0.05
        assert a.seconds > 0


def test_an_empty_mesh_counts_with_the_worst_values(workdir):
    run = load_run(workdir)
    method = run.method._replace(reconstruct=lambda *_: [trimesh.Trimesh()])
    results = list(evaluate(method, run.params, run.config, run.data_dir, 'test'))
    assert len(results) == 3
    assert all(r.scores == metrics.EMPTY for r in results)


def evaluate_inputs(config, dataset):
    """(shape, result) of the test split."""
    results = evaluate(Method(None, None, None, return_inputs(config)), {}, config, dataset, 'test')
    index = records.read_index(dataset)
    return [
        (records.read_shape(records.shape_path(dataset, *name)), result)
        for name, result in zip(index.splits['test'], results, strict=True)
    ]


def test_an_input_cloud_is_scored_point_by_point(dataset):
    config = small_config()
    for shape, result in evaluate_inputs(config, dataset):
        assert result.inputs.shape == (config.data.num_input_points, 3)
        distances = cdist(result.inputs, shape.surface.astype(np.float32))
        assert result.scores['accuracy'] == pytest.approx(distances.min(axis=1).mean(), rel=1e-5)
        assert result.scores['completeness'] == pytest.approx(distances.min(axis=0).mean(), rel=1e-5)
        assert 0.002 < result.scores['accuracy'] < 0.02, 'the noise of the input'
        missing = {key for key, value in result.scores.items() if np.isnan(value)}
        assert missing == {'iou', 'normals_accuracy', 'normals_completeness', 'normal_consistency'}
        assert result.scores.keys() == metrics.EMPTY.keys()
        assert result.num_faces is None


def test_input_voxels_are_scored_by_their_surface(dataset):
    config = onet_voxels.get_config('tiny')
    for shape, result in evaluate_inputs(config, dataset):
        np.testing.assert_array_equal(result.inputs, shape.voxels)
        assert result.num_faces == len(voxels_to_mesh(shape.voxels).faces)
        # A point on the face between two voxels is in the upper one in x and y, in the lower one in z.
        cells = np.floor((shape.points.astype(np.float64) - (0, 0, 1e-9) + 0.5) * 32).astype(int)
        inside = ((cells >= 0) & (cells < 32)).all(axis=1)
        inside[inside] = shape.voxels[tuple(cells[inside].T)]
        assert result.scores['iou'] == metrics.iou(inside, shape.occ)
        assert 0.4 < result.scores['iou'] < 1
        # Within a voxel of the surface.
        assert result.floor['chamfer_l1'] < result.scores['chamfer_l1'] < 3**0.5 / 32


def test_inputs_that_are_no_shapes_are_refused():
    for experiment, name in ((onet_image, 'image'), (onet_unconditional, 'none')):
        with pytest.raises(ValueError, match=rf"--inputs: expected .*\['points', 'voxels'\]\), found '{name}'"):
            return_inputs(experiment.get_config('tiny'))


def test_a_cloud_on_the_surface_is_as_far_as_the_floor(dataset):
    shape = records.read_shape(records.shape_path(dataset, *records.read_index(dataset).splits['test'][0]))
    surface, normals = shape.surface.astype(np.float32), shape.normals.astype(np.float32)
    scores = evaluate_cloud(surface[::2], surface[1::2], normals[1::2])
    floor = metrics.sampling_floor(surface[::2], normals[::2])
    assert scores['chamfer_l1'] == pytest.approx(floor['chamfer_l1'], rel=0.1)


def test_the_protocol_is_plain_values_without_paths_of_the_machine(dataset):
    config = small_config()
    found = describe_protocol(config, dataset, 'test')
    assert found == json.loads(json.dumps(found))
    assert (found['split'], found['num_shapes'], found['num_volume_points'], found['seed']) == ('test', 3, 5000, 0)
    assert found['dataset_digest'] == records.digest(dataset)
    assert 'view' not in found
    assert describe_protocol(onet_image.get_config('tiny'), dataset, 'test')['view'] == '000'
    assert str(dataset) not in str(found)
    with pytest.raises(ValueError, match=r"expected a split of .*, found 'best'"):
        describe_protocol(config, dataset, 'best')


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


def test_validation_leaves_the_padding_out(workdir):
    """Three shapes in batches of two, scored by their position in the split."""
    run = load_run(workdir)
    batches = list(validation_batches(run.config, run.data_dir, 'val'))
    assert [batch['mask'].tolist() for batch in batches] == [[True, True], [True, False]]
    means = validate(lambda params, batch: {'iou': batch['row'], 'loss': 2 * batch['row']}, {}, batches)
    assert means == {'iou': 1.0, 'loss': 2.0}
    undefined = validate(lambda params, batch: {'iou': np.where(batch['row'] == 1, np.nan, 4.0)}, {}, batches)
    assert undefined == {'iou': 4.0}


def test_validation_sees_the_same_noise_each_time(workdir):
    run = load_run(workdir)
    first, second = (next(validation_batches(run.config, run.data_dir, 'val'))['inputs'] for _ in range(2))
    np.testing.assert_array_equal(first, second)
