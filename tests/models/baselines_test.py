"""3D-R2N2 and PSGN from data to scores, and from a user's file to a file (their numbers: tests/parity_test.py)."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from parity.golden import find_golden
from untrained import untrained

from onet_jax import InputError, models
from onet_jax.configs import psgn, r2n2
from onet_jax.convert import official
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.calibrate import calibrate
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.geometry.voxels import Voxels, voxels_contain
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.models.method import _jit
from onet_jax.models.r2n2 import occupancy_at
from onet_jax.networks.layers import TransposedConv
from onet_jax.run import calibrate_run, load_run
from onet_jax.training.loop import train

SMALL = {'r2n2': (r2n2, 8), 'psgn': (psgn, 16)}


def small(name, arg='tiny,points'):
    """The config of a network that runs in milliseconds."""
    file, width = SMALL[name]
    config = file(arg)
    with config.unlocked():
        config.model.update(cond_size=8, encoder_hidden_size=8, decoder_hidden_size=width)
        config.train.update(num_steps=4, batch_size=4, log_every_steps=2, eval_every_steps=4, checkpoint_every_steps=4)
        config.optim.update(warmup_steps=1)
        config.eval.batch_size = 3
    return config


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALL)
def test_from_a_dataset_to_scores_and_from_a_file_to_a_file(name, dataset, tmp_path):
    config = small(name)
    method, params = untrained(config)
    has_inside = name == 'r2n2'
    if has_inside:  # cut where an untrained network has an inside
        logits = method.model.voxels(params, method.model.encode(params, np.zeros((1, 300, 3), np.float32)))
        with config.unlocked():
            config.eval.threshold = float(jax.nn.sigmoid(jnp.median(logits)))
        method = models.build(config)
    results = list(evaluate(method, params, config, open_dataset(dataset), 'test'))
    assert len(results) == 3
    for result in results:
        assert isinstance(result.prediction, Voxels if has_inside else trimesh.PointCloud)
        assert np.isfinite(result.scores['chamfer_l1'])
        assert np.isfinite(result.scores['iou']) == has_inside
    cloud = np.random.default_rng(0).normal(size=(400, 3)) * [3, 2, 1] + 50
    np.save(tmp_path / 'scan.npy', cloud)
    (written,) = reconstruct_files(method, params, config, tmp_path / 'scan.npy', tmp_path / 'out', 'ply')
    shape = trimesh.load(written)
    assert np.abs(shape.bounds.mean(axis=0) - 50).max() < 20, "in the user's frame"
    assert hasattr(shape, 'faces') == has_inside
    if not has_inside:
        assert len(shape.vertices) == 1024
    assert json.loads((tmp_path / 'out/manifest.json').read_text())['items']['scan']['status'] == 'done'
    assert 'scan' in (tmp_path / 'out/index.html').read_text()


def test_points_have_no_threshold_to_calibrate():
    config = small('psgn')
    with pytest.raises(InputError, match='--calibrate: expected a model with a field of occupancy'):
        calibrate(models.build(config).model, {}, config, None, step=0)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.slow
def test_a_network_is_trained_and_calibrated(name, dataset, tmp_path):
    train(small(name), tmp_path / 'run', dataset)
    run = load_run(tmp_path / 'run')
    assert run.step == 4
    if name == 'r2n2':
        run = calibrate_run(run, dataset)
        assert run.threshold_from == 'calibration on val'
        assert 0 < run.config.eval.threshold < 1


def test_occupancy_at_a_point_is_that_of_its_voxel():
    """Also for points around the voxels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 32, 32, 32)).astype(np.float32)
    points = rng.uniform(-0.6, 0.6, (2, 500, 3)).astype(np.float32)
    inside = np.asarray(occupancy_at(lambda params, cond: cond, None, points, logits)) > 0.1
    for b in range(2):
        np.testing.assert_array_equal(inside[b], voxels_contain(logits[b] > 0.1, points[b]))


def test_models_of_one_configuration_share_their_programs():
    (method, params), (other, _) = untrained(small('r2n2')), untrained(small('r2n2'))
    points, cond = np.zeros((1, 2, 3), np.float32), np.zeros((1, 8), np.float32)
    logits, num_programs = method.model.occupancy(params, points, cond), _jit(occupancy_at)._cache_size()
    np.testing.assert_array_equal(other.model.occupancy(params, points, cond), logits)
    assert _jit(occupancy_at)._cache_size() == num_programs
    assert pickle.loads(pickle.dumps(other.model.occupancy)) == method.model.occupancy


@pytest.mark.parametrize('kernel_size, num_axes', [(3, 3), (5, 2)])
def test_a_transposed_convolution_is_the_transpose_of_a_strided_one(kernel_size, num_axes):
    module = TransposedConv(4, kernel_size)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *(3, 4, 5)[:num_axes], 6)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(1), x)
    variables = jax.tree.map(lambda array: rng.normal(scale=0.1, size=array.shape).astype(np.float32), shapes)
    kernel, axes = variables['params']['kernel'], 'DHW'[-num_axes:]

    def convolve(y):
        padding = ((kernel_size // 2,) * 2,) * num_axes
        numbers = (f'N{axes}C', f'{axes}IO', f'N{axes}C')
        return jax.lax.conv_general_dilated(y, kernel, (2,) * num_axes, padding, dimension_numbers=numbers)

    found = jax.jit(module.apply)(variables, x)
    (expected,) = jax.jit(jax.linear_transpose(convolve, jax.ShapeDtypeStruct(found.shape, found.dtype)))(x)
    np.testing.assert_allclose(found, expected + variables['params']['bias'], atol=1e-5)


# Of the official repository: the config and the number of weights.
OFFICIAL = {
    'onet_repo/pointcloud/r2n2': (r2n2, 'points'),
    'onet_repo/img/r2n2': (r2n2, ''),
    'onet_repo/pointcloud/psgn': (psgn, 'points'),
    'onet_repo/img/psgn': (psgn, ''),
    'onet_repo/psgn_2branch+psgn_cond_c512': (psgn, '2branch'),
}


@pytest.mark.parametrize('name', OFFICIAL)
def test_the_networks_have_the_official_weights(name):
    path = find_golden('conv/state_dict_shapes.json')
    if path is None:
        pytest.skip('golden file conv/state_dict_shapes.json not found (set ONET_JAX_SHARED)')
    table, (file, arg) = json.loads(path.read_text())[name], OFFICIAL[name]
    config = file(arg)
    shapes = official.variable_shapes(models.build(config), config)
    empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape in table.items()}
    written = official.to_state_dict(official.from_state_dict(empty, shapes, config), config)
    assert {name: list(x.shape) for name, x in written.items()} == table


def test_decoders_that_do_not_go_with_an_encoder_are_named():
    for arg, key, value in (
        ('2branch', 'decoder', 'simple'),
        ('points', 'encoder', 'pointnet'),
        ('', 'decoder', 'cbatchnorm'),
    ):
        config = psgn(arg)
        with config.unlocked():
            config.model[key] = value
        with pytest.raises(InputError, match=rf"config.model.{key}: expected .*found '{value}'"):
            models.build(config)
