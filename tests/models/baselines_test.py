"""3D-R2N2 and PSGN from data to scores, and from a user's file to a file (their numbers: tests/parity_test.py)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from parity.golden import find_golden

from onet_jax import InputError, models
from onet_jax.configs import psgn, r2n2
from onet_jax.convert import official
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.geometry.voxels import Voxels, voxels_contain
from onet_jax.inference.reconstruct import reconstruct_files
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


@pytest.mark.parametrize('name', SMALL)
def test_from_a_dataset_to_scores_and_from_a_file_to_a_file(name, dataset, tmp_path):
    train(small(name), tmp_path / 'run', dataset)
    run = load_run(tmp_path / 'run')
    results = list(evaluate(run.method, run.params, run.config, open_dataset(dataset), 'test'))
    assert len(results) == 3
    has_inside = name == 'r2n2'
    for result in results:
        assert isinstance(result.prediction, Voxels if has_inside else trimesh.PointCloud)
        assert np.isfinite(result.scores['chamfer_l1'])
        assert np.isfinite(result.scores['iou']) == has_inside
    if has_inside:
        run = calibrate_run(tmp_path / 'run', run, dataset)
        assert run.threshold_from == 'calibration on val'
        voxels = jax.nn.sigmoid(run.method.model.voxels(run.params, jnp.zeros((1, 8))))
        assert 0 < run.config.eval.threshold < 1
        assert voxels.shape == (1, 32, 32, 32)
    else:
        with pytest.raises(InputError, match='--calibrate: expected a model with a field of occupancy'):
            calibrate_run(tmp_path / 'run', run, dataset)
    cloud = np.random.default_rng(0).normal(size=(400, 3)) * [3, 2, 1] + 50
    np.save(tmp_path / 'scan.npy', cloud)
    if has_inside:  # cut where a network of four steps has an inside
        logits = run.method.model.voxels(run.params, run.method.model.encode(run.params, np.zeros((1, 300, 3))))
        with run.config.unlocked():
            run.config.eval.threshold = float(jax.nn.sigmoid(jnp.median(logits)))
        run = run._replace(method=models.build(run.config))
    (written,) = reconstruct_files(run.method, run.params, run.config, tmp_path / 'scan.npy', tmp_path / 'out', 'ply')
    shape = trimesh.load(written)
    assert np.abs(shape.bounds.mean(axis=0) - 50).max() < 20, "in the user's frame"
    assert hasattr(shape, 'faces') == has_inside
    if not has_inside:
        assert len(shape.vertices) == 1024
    assert json.loads((tmp_path / 'out/manifest.json').read_text())['items']['scan']['status'] == 'done'
    assert 'scan' in (tmp_path / 'out/index.html').read_text()


def test_occupancy_at_a_point_is_that_of_its_voxel():
    """Also for points around the voxels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 32, 32, 32)).astype(np.float32)
    points = rng.uniform(-0.6, 0.6, (2, 500, 3)).astype(np.float32)
    inside = np.asarray(occupancy_at(lambda params, cond: cond, None, points, logits)) > 0.1
    for b in range(2):
        np.testing.assert_array_equal(inside[b], voxels_contain(logits[b] > 0.1, points[b]))


@pytest.mark.parametrize('kernel_size, num_axes', [(3, 3), (5, 2), (3, 1)])
def test_a_transposed_convolution_is_the_transpose_of_a_strided_one(kernel_size, num_axes):
    module = TransposedConv(4, kernel_size)
    x = jax.random.normal(jax.random.key(0), (2, *(3, 4, 5)[:num_axes], 6))
    variables = module.init(jax.random.key(1), x)
    kernel, axes = variables['params']['kernel'], 'DHW'[-num_axes:]

    def convolve(y):
        padding = ((kernel_size // 2,) * 2,) * num_axes
        numbers = (f'N{axes}C', f'{axes}IO', f'N{axes}C')
        return jax.lax.conv_general_dilated(y, kernel, (2,) * num_axes, padding, dimension_numbers=numbers)

    found = module.apply(variables, x)
    (expected,) = jax.linear_transpose(convolve, jax.ShapeDtypeStruct(found.shape, found.dtype))(x)
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
