"""Checkpoints of NeRF: those of the original code, and of nerf-pytorch."""

import os

import numpy as np
import pytest
from parity.golden import find_golden, read_golden

from onet_jax.configs import nerf as nerf_config
from onet_jax.convert.keras_lists import read_keras_lists
from onet_jax.convert.official import split_checkpoint
from onet_jax.errors import InputError
from onet_jax.run import load_run
from onet_jax.training.checkpoints import import_checkpoint

CHECKPOINT = 'nerf_atlasnet_dmc/nerf/keras_ckpt'


@pytest.mark.skipif(
    find_golden(f'{CHECKPOINT}/expected.npz') is None, reason='golden files not found: $ONET_JAX_SHARED'
)
def test_a_checkpoint_of_the_original_code_is_converted(tmp_path):
    data, config = read_golden(f'{CHECKPOINT}/expected.npz'), nerf_config('paper')
    with config.unlocked():
        config.model.width = 32
    path = find_golden(f'{CHECKPOINT}/model_000123.npy')
    assert import_checkpoint(path, config, tmp_path / 'run') == 123
    run = load_run(tmp_path / 'run')
    rgb, density = run.method.model.radiance(run.params, data['in/pts'], data['in/viewdirs'])
    fine = data['out/raw_fine']
    np.testing.assert_allclose(rgb, 1 / (1 + np.exp(-fine[:, :3])), atol=1e-6)
    np.testing.assert_allclose(density, np.maximum(fine[:, 3], 0), atol=1e-5)


def test_the_groups_of_nerf_pytorch_are_the_two_networks():
    weights = {'pts_linears.0.weight': np.zeros((2, 3), np.float32)}
    stored = {'global_step': 7, 'network_fn_state_dict': weights, 'network_fine_state_dict': weights}
    state, rest = split_checkpoint(stored)
    assert set(state) == {'coarse.pts_linears.0.weight', 'fine.pts_linears.0.weight'}
    assert rest == {'global_step': 7}


class Evil:
    def __reduce__(self):
        return os.system, ('true',)


@pytest.mark.parametrize(
    'content, expected',
    [
        ([Evil()], 'system is not part of an array'),
        ([np.zeros((3, 2)), np.zeros(2)], 'expected kernels and biases in turn'),
        ([np.zeros((3, 2)), np.zeros(2), np.zeros((2, 1))], 'expected kernels and biases in turn'),
        ([np.array('text')], 'expected arrays of floats'),
    ],
)
def test_what_is_no_list_of_weights_is_refused_and_never_run(tmp_path, content, expected):
    array = np.empty(len(content), object)
    array[:] = content
    np.save(tmp_path / 'model_000001.npy', array, allow_pickle=True)
    with pytest.raises(InputError, match=expected):
        read_keras_lists(tmp_path / 'model_000001.npy')


def test_damaged_and_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'a.npy: expected a list of weights'):
        read_keras_lists(tmp_path / 'a.npy')
    (tmp_path / 'a.npy').write_bytes(b'\x93NUMPY')
    with pytest.raises(InputError, match=r'a.npy: expected a list of arrays from numpy'):
        read_keras_lists(tmp_path / 'a.npy')
