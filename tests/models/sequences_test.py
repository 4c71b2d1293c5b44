"""ONet 4D and PSGN 4D: from a batch to predictions (their numbers: tests/parity_test.py)."""

import jax
import numpy as np
import pytest
from untrained import draw_weights

from onet_jax import configs
from onet_jax.errors import InputError
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence
from onet_jax.models import onet4d, psgn4d

RNG = np.random.default_rng(0)
CLIP = RNG.normal(0, [[[[0.3]]], [[[1.0]]]], (2, 3, 20, 3)).astype(np.float32)


def small(paper, **model):
    """The method and the config of a small network of clips of 3 frames, and random weights."""
    config = getattr(configs, paper.__name__.split('.')[-1])('tiny')
    with config.unlocked():
        config.data.num_frames = 3
        config.model.update(cond_size=6, encoder_hidden_size=8, decoder_hidden_size=16, **model)
        config.mesh.update(resolution=8, upsampling_steps=1)
    method = paper.build(config)
    return method, config, draw_weights(jax.eval_shape(method.model.init, jax.random.key(0), CLIP))


@pytest.mark.slow
def test_an_onet_4d_is_extracted_frame_by_frame_beyond_the_box_of_a_shape():
    method, config, params = small(onet4d, decoder='simple')
    model, time = method.model, np.float32([0, 0.5])
    cond, points = model.encode(params, CLIP), RNG.uniform(-0.7, 0.7, (2, 50, 3)).astype(np.float32)
    logits = np.asarray(model.occupancy_at(params, points, time, cond))
    field = model.bind(params, cond[1:], time=0.5, scale=1.5)
    np.testing.assert_allclose(field(points[1] / 1.5), logits[1], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.occupancy(params, points, cond)[0], logits[0], rtol=1e-4, atol=1e-4)

    with config.unlocked():  # cut where an untrained network has an inside
        config.eval.threshold = float(jax.nn.sigmoid(np.median(logits)))
    method, level = onet4d.build(config), threshold_to_logit(config.eval.threshold)
    predictions = method.predict(params, {'clip': CLIP}, jax.random.key(0))
    assert [type(p) for p in predictions] == [ChangingMeshes] * 2
    for b, prediction in enumerate(predictions):
        assert len(prediction.meshes) == 3
        for mesh, moment in zip(prediction.meshes, (0, 0.5, 1), strict=True):
            vertices = np.float32(mesh.vertices)
            assert 0.6 < np.abs(vertices).max() <= 0.75 + 1e-6
            found = model.occupancy_at(params, vertices[None], np.float32([moment]), cond[b : b + 1])
            within = np.abs(vertices).max(axis=1) < 0.74  # else the surface is closed at the box
            assert np.abs(found[0] - level)[within].max() < 0.1 * np.ptp(logits)


def test_validation_of_an_onet_4d_is_the_mean_of_its_frames():
    method, config, params = small(onet4d, decoder='simple')
    points = RNG.uniform(-0.5, 0.5, (2, 3, 40, 3)).astype(np.float32)
    occ = RNG.integers(0, 2, (2, 3, 40)).astype(np.float32)
    values = jax.jit(method.metrics)(params, {'inputs': {'clip': CLIP}, 'targets': {'points': points, 'occ': occ}})
    cond, ious = method.model.encode(params, CLIP), []
    for k in range(3):
        logits = method.model.occupancy_at(params, points[:, k], np.full(2, k / 2, np.float32), cond)
        inside, label = np.asarray(jax.nn.sigmoid(logits)) > config.eval.threshold, occ[:, k] > 0
        ious.append((inside & label).sum(1) / (inside | label).sum(1))
    np.testing.assert_allclose(values['iou'], np.mean(ious, axis=0), rtol=1e-5)
    targets = {'later_points': points[:, 1], 'later_occ': occ[:, 1], 'time': np.float32([0.5, 0.5])}
    batch = {'inputs': {'clip': CLIP}, 'targets': targets}
    loss, _ = jax.jit(method.loss, static_argnums=3)(params, batch, jax.random.key(0), None)
    logits = method.model.occupancy_at(params, points[:, 1], targets['time'], cond)
    np.testing.assert_allclose(loss, np.mean(np.log1p(np.exp(-np.where(occ[:, 1] > 0, 1, -1) * logits))), rtol=1e-5)


def test_errors_of_clouds_that_move_against_loops():
    points, targets = RNG.normal(size=(2, 3, 5, 3)), RNG.normal(size=(2, 3, 4, 3))
    errors = psgn4d.frame_error, psgn4d.trajectory_error
    found = jax.jit(lambda *clouds: [error(*clouds) for error in errors])(points, targets)
    for b in range(2):
        squares = np.square(points[b][:, :, None] - targets[b][:, None]).sum(-1)  # [L, N, M]
        frames = [d.min(1).mean() + d.min(0).mean() for d in squares]
        paths = squares.sum(0)
        np.testing.assert_allclose(found[0][b], np.mean(frames), rtol=1e-5)
        np.testing.assert_allclose(found[1][b], paths.min(1).mean() + paths.min(0).mean(), rtol=1e-5)


def test_a_psgn_4d_predicts_a_cloud_for_each_frame():
    method, config, params = small(psgn4d, num_frames=3, num_points=7, correspondence=True)
    targets = {'trajectories': RNG.normal(size=(2, 3, 4, 3)).astype(np.float32)}
    batch = {'inputs': {'clip': CLIP}, 'targets': targets}
    values = jax.jit(method.metrics)(params, batch)
    loss, _ = jax.jit(method.loss, static_argnums=3)(params, batch, jax.random.key(0), None)
    np.testing.assert_allclose(loss, values['loss'].mean(), rtol=1e-5)
    assert (values['loss'] > 3 * values['chamfer'] - 1e-4).all(), 'nearest in all frames at once'
    first, second = method.predict(params, {'clip': CLIP}, jax.random.key(0))
    assert isinstance(first, CloudSequence)
    assert first.points.shape == (3, 7, 3)
    assert np.abs(first.points - second.points).max() > 1e-4
    with config.unlocked():
        config.model.num_frames = 4
    with pytest.raises(InputError, match=r'config.model.num_frames: expected config.data.num_frames = 3, found 4'):
        psgn4d.build(config)
