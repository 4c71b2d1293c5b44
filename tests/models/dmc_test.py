"""Deep Marching Cubes from data to scores, and from a user's file to a file (its numbers: tests/parity_test.py)."""

import json

import jax
import numpy as np
import pytest
import trimesh
from untrained import untrained

from onet_jax import InputError, models
from onet_jax.configs import dmc
from onet_jax.convert import official
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.inference.reconstruct import reconstruct_files


def small():
    """The config of a network that runs in milliseconds."""
    config = dmc('tiny')
    with config.unlocked():
        config.model.update(cond_size=4, encoder_hidden_size=8, grid_resolution=6, unet_size=4)
        config.data.num_target_points = 100
        config.train.update(num_steps=4, batch_size=4, log_every_steps=2, eval_every_steps=4, checkpoint_every_steps=4)
        config.optim.update(warmup_steps=1)
        config.eval.batch_size = 3
    return config


@pytest.mark.slow
def test_from_a_dataset_to_scores_and_from_a_file_to_a_file(dataset, tmp_path):
    config = small()
    method, params = untrained(config)
    cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 300, 3)).astype(np.float32)
    occupancy, _ = method.model.surface(params, method.model.encode(params, cloud))
    # So that an untrained network has an inside.
    params['params']['decoder']['decoder']['deconv1_occ_2']['bias'] -= jax.scipy.special.logit(np.median(occupancy))
    results = list(evaluate(method, params, config, open_dataset(dataset), 'test'))
    assert len(results) == 3
    for result in results:
        assert isinstance(result.prediction, trimesh.Trimesh)
        assert result.num_faces
        assert np.isfinite([result.scores[key] for key in ('iou', 'chamfer_l1', 'normal_consistency')]).all()
    cloud = np.random.default_rng(0).normal(size=(400, 3)) * [3, 2, 1] + 50
    np.save(tmp_path / 'scan.npy', cloud)
    (written,) = reconstruct_files(method, params, config, tmp_path / 'scan.npy', tmp_path / 'out', 'ply')
    mesh = trimesh.load(written)
    assert np.abs(mesh.bounds.mean(axis=0) - 50).max() < 20, "in the user's frame"
    assert json.loads((tmp_path / 'out/manifest.json').read_text())['items']['scan']['status'] == 'done'


def test_an_empty_mesh_is_counted_in_evaluation_and_said_of_a_file(dataset, tmp_path):
    config = small()
    method, params = untrained(config)
    params['params']['decoder']['decoder']['deconv1_occ_2']['bias'] = np.float32([-1e4])
    (first, *_) = evaluate(method, params, config, open_dataset(dataset), 'test')
    assert first.num_faces == 0
    assert first.scores['iou'] == 0
    np.save(tmp_path / 'scan.npy', np.random.default_rng(0).normal(size=(400, 3)))
    with pytest.raises(InputError, match=r'scan\.npy: the network finds no surface'):
        reconstruct_files(method, params, config, tmp_path / 'scan.npy', tmp_path / 'out', 'ply')


def test_points_outside_of_the_cube_are_left_out_and_counted(capsys):
    method, params = untrained(small())
    cloud = np.random.default_rng(0).uniform(-0.6, 0.6, (2, 300, 3)).astype(np.float32)
    inside = method.model.encode(params, cloud)
    assert capsys.readouterr().out == ''
    outside = np.full((2, 3, 3), 0.7, np.float32)
    np.testing.assert_array_equal(method.model.encode(params, np.concatenate([cloud, outside], axis=1)), inside)
    assert capsys.readouterr().out == '6 of 606 points left out: outside of [-0.6, 0.6)^3\n'
    jax.eval_shape(method.model.encode, params, cloud)  # traced, it says nothing


def test_bad_values_are_named():
    for key, value, expected in (
        ('grid_resolution', 2, 'at least 3'),
        ('encoder', 'pointnet', 'one of .*'),
        ('decoder', 'simple', 'one of .*'),
    ):
        config = small()
        with config.unlocked():
            config.model[key] = value
        with pytest.raises(InputError, match=rf"config.model.{key}: expected {expected}, found '?{value}'?"):
            models.build(config)
    method, params = untrained(small())
    with pytest.raises(InputError, match=r"inputs: expected an array \[B, P, 3\] of the field 'cloud'"):
        method.model.encode(params, np.zeros((1, 300, 2), np.float32))
    with pytest.raises(InputError, match=r'inputs: .*finite'):
        method.model.encode(params, np.full((1, 300, 3), np.nan, np.float32))


def test_the_network_has_the_official_weights():
    """Widths of the layers, the transposed ones with channels in before channels out."""
    config = dmc()
    shapes = official.variable_shapes(models.build(config), config)
    empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    state = official.to_state_dict(empty, config)
    assert {name: state[name].shape for name in state if name.startswith('encoder.')} == {
        'encoder.conv1.0.weight': (256, 3, 1),
        'encoder.conv1.0.bias': (256,),
        'encoder.conv2.weight': (16, 256, 1),
        'encoder.conv2.bias': (16,),
    }
    convs = {
        **dict(conv1_1=(16, 16), conv1_2=(16, 16), conv2_1=(32, 16), conv2_2=(32, 32)),
        **dict(conv3_1=(64, 32), conv3_2=(64, 64), conv4=(128, 64)),
    }
    heads = {
        f'{name}_{head}_{i}': shape
        for head, outputs in (('occ', 1), ('off', 3))
        for (name, i), shape in {
            ('deconv2', 1): (64, 64),
            ('deconv2', 2): (64, 16),
            ('deconv1', 1): (32, 32),
            ('deconv1', 2): (32, outputs),
        }.items()
    }
    deconvs = {'deconv4': (64, 128), 'deconv3_1': (128, 128), 'deconv3_2': (128, 32), **heads}
    layers = {f'encoder.{name}': shape for name, shape in convs.items()}
    layers |= {f'decoder.{name}': shape for name, shape in deconvs.items()}
    for name, shape in layers.items():
        assert state[f'decoder.{name}.weight'].shape == (*shape, 3, 3, 3)
        assert (f'decoder.{name}_bn.running_var' in state) == (name[-5:] not in ('occ_2', 'off_2') or 'deconv2' in name)
    assert len(state) == 4 + 2 * len(layers) + 5 * (len(layers) - 2)
