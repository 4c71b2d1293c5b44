import jax
import numpy as np
import pytest

import onet_jax
from onet_jax.training import checkpoints


def test_a_trained_network_is_functions_and_weights(workdir):
    model, params = onet_jax.load(workdir)
    cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 30, 3)).astype(np.float32)
    cond = model.encode(params, cloud)
    logits = model.occupancy(params, np.zeros((1, 7, 3), np.float32), cond)
    assert logits.shape == (1, 7)
    assert np.isfinite(logits).all()
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(params)} == {1}


def test_the_config_comes_back_as_it_was(workdir):
    from model_configs import small_config

    assert checkpoints.read_config(workdir).to_dict() == small_config().to_dict()


def test_a_folder_that_is_no_workdir_is_named(tmp_path, workdir):
    with pytest.raises(FileNotFoundError, match=r'config.json: expected a workdir written by `python -m launch.train'):
        onet_jax.load(tmp_path)
    (tmp_path / 'config.json').write_text((workdir / 'config.json').read_text())
    with pytest.raises(FileNotFoundError, match='expected at least one checkpoint, found none; train first'):
        onet_jax.load(tmp_path)
