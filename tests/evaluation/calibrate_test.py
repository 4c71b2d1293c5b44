import shutil
from typing import NamedTuple

import jax
import numpy as np
import pytest
from model_configs import small_config
from untrained import untrained

from onet_jax import metrics
from onet_jax.configs import onet_unconditional
from onet_jax.data import records
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.calibrate import THRESHOLDS, calibrate, iou_curve
from onet_jax.evaluation.validate import validate
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.run import load_run


def test_the_curve_equals_a_loop_over_thresholds():
    rng = np.random.default_rng(0)
    levels = [threshold_to_logit(t) for t in THRESHOLDS]
    logits = np.concatenate([rng.normal(size=500), levels, [-50.0, 50.0]])  # some on a level, which counts as inside
    for occ in (rng.random(len(logits)) < 0.3, np.ones(len(logits), bool), logits == 50):
        slowly = [metrics.iou(logits >= level, occ) for level in levels]
        np.testing.assert_allclose(iou_curve(logits, occ, THRESHOLDS), slowly, rtol=1e-12)


def with_validation_shapes(dataset, folder, shapes):
    """A copy of a dataset that is validated on these shapes."""
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns('tfds'))
    index = records.read_index(folder)
    records.write_index(folder, index._replace(splits={**index.splits, 'val': tuple(shapes)}))
    return open_dataset(folder)


def test_the_best_threshold_is_that_of_a_search(workdir, dataset, tmp_path):
    """As the tables: the mean of the class means, over whole shapes."""
    run, train = load_run(workdir), records.read_index(dataset).splits['train']
    shapes = [*(s for s in train if s[0] == 'chair'), next(s for s in train if s[0] == 'mug')]
    shapes = with_validation_shapes(dataset, tmp_path / 'data', shapes)
    model = run.method.model
    found = calibrate(model, run.params, run.config, shapes, step=7)
    ious = {'chair': [], 'mug': []}
    for batch, names in shapes.evaluation_batches(run.config, 'val'):
        targets, cond = batch['targets'], model.encode(run.params, batch['inputs']['cloud'])
        logits = np.asarray(model.occupancy(run.params, targets['points'], cond))
        for row, (category, _) in enumerate(names):
            occ = np.asarray(targets['occ'][row]) == 1
            curve = [metrics.iou(logits[row] >= threshold_to_logit(t), occ) for t in THRESHOLDS]
            ious[category].append(curve)
    assert (len(ious['chair']), len(ious['mug'])) == (3, 1)
    means = (np.mean(ious['chair'], axis=0) + np.mean(ious['mug'], axis=0)) / 2
    assert found.iou == pytest.approx(means.max())
    assert found.iou == pytest.approx(means[np.searchsorted(THRESHOLDS, found.threshold)])
    assert found.default_iou == pytest.approx(means[np.searchsorted(THRESHOLDS, 0.4)])
    assert found.default_iou <= found.iou
    assert (found.default_threshold, found.split, found.num_shapes, found.step) == (0.4, 'val', 4, 7)
    assert found.dataset == records.digest(shapes.data_dir)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['cloud', 'latent codes'])
def test_every_model_is_measured_as_validation_does(dataset, variant):
    """One shape of each class, so that the mean of the class means is that of the shapes."""
    config, dataset = small_config(), open_dataset(dataset)
    if variant == 'latent codes':
        config = onet_unconditional('tiny')
    with config.unlocked():
        config.model.update(decoder_hidden_size=16)
        config.data.update(num_points_per_step=64, num_near_points=32)
        config.eval.update(batch_size=2, threshold=0.435)  # between those that are tried
    method, params = untrained(config, seed=10)
    params['params']['decoder']['fc_p']['kernel'] *= 10  # neither empty nor full
    found = calibrate(method.model, params, config, dataset, step=0)
    batches = (batch for batch, _ in dataset.evaluation_batches(config, 'val', targets=('volume_points',)))
    means = validate(jax.jit(method.metrics), params, batches)
    assert 0 < found.default_iou <= found.iou
    assert found.default_iou == pytest.approx(means['iou'], abs=1e-5)
    assert 0 < found.threshold < 1


def test_equally_good_thresholds_do_not_move_it(workdir):
    """A network that knows all points says the same at any threshold."""
    run = load_run(workdir)
    sure = run.method.model._replace(occupancy=lambda *_: np.full((2, 5000), 9.0))
    found = calibrate(sure, run.params, run.config, open_dataset(run.data_dir), 1)
    assert (found.threshold, found.iou) == (0.4, found.default_iou)


class Points(NamedTuple):
    """The functions of a model that has no field."""

    encode: None = None


def test_a_field_and_a_split_to_choose_on_are_needed(workdir, dataset, tmp_path):
    run = load_run(workdir)
    arguments = run.method.model, run.params, run.config
    with pytest.raises(ValueError, match=r'--calibrate: expected a model with a field of occupancy.*found Points'):
        calibrate(Points(), run.params, run.config, open_dataset(dataset), 1)
    empty = with_validation_shapes(dataset, tmp_path / 'empty', [])
    with pytest.raises(ValueError, match=r"dataset.json: expected shapes in the split 'val', found none"):
        calibrate(*arguments, empty, 1)
    hollow = with_validation_shapes(dataset, tmp_path / 'hollow', records.read_index(dataset).splits['val'][:1])
    path = records.shape_path(hollow.data_dir, *hollow.names('val')[0])
    shape = records.read_shape(path)
    records.write_shape(path, shape._replace(occ=np.zeros_like(shape.occ)))
    with pytest.raises(ValueError, match=r"expected shapes with points inside in the split 'val' .*, found none"):
        calibrate(*arguments, hollow, 1)
