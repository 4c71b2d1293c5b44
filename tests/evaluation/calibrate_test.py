import shutil

import jax
import numpy as np
import pytest

from configs import onet_image, onet_unconditional, onet_voxels
from onet_jax import metrics, models
from onet_jax.data import records
from onet_jax.evaluation.calibrate import THRESHOLDS, calibrate, iou_curve
from onet_jax.evaluation.validate import validate, validation_batches
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.training.checkpoints import load_run


def test_the_curve_equals_a_loop_over_thresholds():
    rng = np.random.default_rng(0)
    levels = [threshold_to_logit(t) for t in THRESHOLDS]
    logits = np.concatenate([rng.normal(size=500), levels, [-50.0, 50.0]])  # some on a level, which counts as inside
    for occ in (rng.random(len(logits)) < 0.3, np.ones(len(logits), bool), logits == 50):
        slowly = [metrics.iou(logits >= level, occ) for level in levels]
        np.testing.assert_allclose(iou_curve(logits, occ, THRESHOLDS), slowly, rtol=1e-12)


def uneven_dataset(dataset, folder):
    """Three chairs and one mug to validate on."""
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns('tfds'))
    index = records.read_index(folder)
    train = index.splits['train']
    shapes = [*(s for s in train if s[0] == 'chair'), next(s for s in train if s[0] == 'mug')]
    records.write_index(folder, index._replace(splits={**index.splits, 'val': shapes}))
    return folder


def test_the_best_threshold_is_that_of_a_search(workdir, dataset, tmp_path):
    """As the tables: the mean of the class means, over whole shapes."""
    run, data_dir = load_run(workdir), uneven_dataset(dataset, tmp_path / 'data')
    found = calibrate(run.params, run.config, data_dir, step=7)
    model = models.occupancy_network(run.config.model)
    ious = {'chair': [], 'mug': []}
    names = [category for category, _ in records.read_index(data_dir).splits['val']]
    for batch in validation_batches(run.config, data_dir, 'val'):
        logits = np.asarray(model.occupancy(run.params, batch['points'], model.encode(run.params, batch['inputs'])))
        for row, position in enumerate(batch['row'][batch['mask']]):
            occ = np.asarray(batch['occ'][row]) == 1
            curve = [metrics.iou(logits[row] >= threshold_to_logit(t), occ) for t in THRESHOLDS]
            ious[names[position]].append(curve)
    assert (len(ious['chair']), len(ious['mug'])) == (3, 1)
    means = (np.mean(ious['chair'], axis=0) + np.mean(ious['mug'], axis=0)) / 2
    assert found.iou == pytest.approx(means.max())
    assert found.iou == pytest.approx(means[np.searchsorted(THRESHOLDS, found.threshold)])
    assert found.default_iou == pytest.approx(means[np.searchsorted(THRESHOLDS, 0.4)])
    assert found.default_iou <= found.iou
    assert (found.default_threshold, found.split, found.num_shapes, found.step) == (0.4, 'val', 4, 7)
    assert found.dataset == records.digest(data_dir)


@pytest.mark.parametrize('experiment', [onet_image, onet_voxels, onet_unconditional])
def test_every_model_is_measured_as_validation_does(dataset, experiment):
    """One shape of each class, so that the mean of the class means is that of the shapes."""
    config = experiment.get_config('tiny')
    with config.unlocked():
        config.model.update(cond_size=min(config.model.cond_size, 8), decoder_hidden_size=8)
        config.eval.update(batch_size=2, threshold=0.435)  # between those that are tried
    method = models.build(config)
    params = method.init(jax.random.key(0), models.example_batch(config.model))
    decoder = params['params']['decoder']
    moved = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), decoder)
    params['params']['decoder'] = moved
    found = calibrate(params, config, dataset, step=0)
    means = validate(jax.jit(method.metrics), params, validation_batches(config, dataset, 'val'))
    assert 0 < found.default_iou <= found.iou
    assert found.default_iou == pytest.approx(means['iou'], abs=1e-5)
    assert 0 < found.threshold < 1


def test_equally_good_thresholds_do_not_move_it(workdir, monkeypatch):
    """A network that knows all points says the same at any threshold."""
    run = load_run(workdir)
    sure = models.occupancy_network(run.config.model)._replace(occupancy=lambda *_: np.full((2, 5000), 9.0))
    monkeypatch.setattr('onet_jax.evaluation.calibrate.occupancy_network', lambda config: sure)
    found = calibrate(run.params, run.config, run.data_dir, 1)
    assert (found.threshold, found.iou) == (0.4, found.default_iou)


def test_a_split_to_choose_on_is_needed(workdir, dataset, tmp_path):
    run, data_dir = load_run(workdir), tmp_path / 'data'
    shutil.copytree(dataset, data_dir, ignore=shutil.ignore_patterns('tfds'))
    index = records.read_index(data_dir)
    records.write_index(data_dir, index._replace(splits={**index.splits, 'val': ()}))
    with pytest.raises(ValueError, match=r"dataset.json: expected shapes in the split 'val', found none"):
        calibrate(run.params, run.config, data_dir, 1)
    hollow = index.splits['val'][:1]
    records.write_index(data_dir, index._replace(splits={**index.splits, 'val': hollow}))
    path = records.shape_path(data_dir, *hollow[0])
    shape = records.read_shape(path)
    records.write_shape(path, shape._replace(occ=np.zeros_like(shape.occ)))
    with pytest.raises(ValueError, match=r"expected shapes with points inside in the split 'val' .*, found none"):
        calibrate(run.params, run.config, data_dir, 1)
