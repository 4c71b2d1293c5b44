import numpy as np
import pytest
import trimesh

from onet_jax import metrics
from onet_jax.data import procedural, records
from onet_jax.evaluation.evaluate import evaluate, evaluate_mesh
from onet_jax.evaluation.validate import validate, validation_batches
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
