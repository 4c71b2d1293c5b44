import pickle
import shutil

import jax
import numpy as np
import pytest

import onet_jax
from benchmarks.golden import find_golden, read_golden
from benchmarks.parity import checkpoint_config, read_checkpoint
from onet_jax import models
from onet_jax.training import checkpoints, loop
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state


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


def test_readers_leave_a_run_alone(workdir, tmp_path):
    """What looks like a broken save may be one that another process is writing."""
    copy = tmp_path / 'copy'
    shutil.copytree(workdir, copy)
    partial = copy / 'checkpoints' / '60.orbax-checkpoint-tmp'
    partial.mkdir()
    (copy / 'run.json').unlink()
    assert checkpoints.load_run(copy).data_dir is None
    assert partial.exists()


@pytest.fixture
def official_file():
    """The golden checkpoint with its config and the outputs of the official code."""
    file = read_golden('checkpoints/pointcloud_model.npz')
    config = checkpoint_config('pointcloud_model', read_checkpoint('pointcloud_model')['model'])
    return find_golden('checkpoints/pointcloud_model.pt'), config.lock(), file


def test_an_official_checkpoint_becomes_a_workdir(official_file, tmp_path):
    path, config, data = official_file
    assert checkpoints.import_checkpoint(path, config, tmp_path / 'w') == 1234
    model, params = onet_jax.load(tmp_path / 'w')
    cond = model.encode(params, data['in/inputs'])
    np.testing.assert_allclose(model.occupancy(params, data['in/points'], cond), data['out/logits_eval'], atol=1e-4)
    method, tx = models.build(config), make_optimizer(config, 1)
    like = create_state(jax.random.key(0), method, tx, models.onet.example_batch(config.model))
    with checkpoints.read_checkpoints(tmp_path / 'w') as checkpointer:
        state = checkpoints.restore(checkpointer, like, 1234)
    assert int(state.step) == 1234
    assert int(state.opt_state[0].count) == 2, 'the golden file was saved after two steps'
    with pytest.raises(ValueError, match='expected a new workdir, found checkpoints in it'):
        checkpoints.import_checkpoint(path, config, tmp_path / 'w')


def test_training_goes_on_from_an_official_checkpoint(official_file, dataset, tmp_path):
    path, config, _ = official_file
    with config.unlocked():
        config.data.update(num_points_per_step=64, num_input_points=30, feed='resident')
        config.train.update(num_steps=1236, batch_size=2, log_every_steps=1)
        config.eval.update(batch_size=3, voxel_iou=False)
    checkpoints.import_checkpoint(path, config, tmp_path / 'w')
    state = loop.train(config, tmp_path / 'w', dataset)
    assert int(state.step) == 1236
    assert int(state.opt_state[0].count) == 4


def test_a_wrong_checkpoint_is_refused_and_nothing_is_written(official_file, tmp_path):
    path, config, _ = official_file
    content = path.read_bytes()
    (tmp_path / 'short.pt').write_bytes(content[: len(content) // 2])
    (tmp_path / 'evil.pt').write_bytes(pickle.dumps(Evil()))
    for name, message in (
        ('short', 'short.pt: expected'),
        ('evil', 'evil.pt: expected'),
        ('none', 'none.pt: expected'),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            checkpoints.import_checkpoint(tmp_path / f'{name}.pt', config, tmp_path / 'w')
    with config.unlocked():
        config.model.cond_size = 5
    with pytest.raises(
        ValueError, match=r'pointcloud_model.pt: weights: (.|\n)*decoder.*conv_gamma.*found \[32, 32, 1\]'
    ):
        checkpoints.import_checkpoint(path, config, tmp_path / 'w')
    assert not (tmp_path / 'w').exists()
    assert not (tmp_path / 'owned').exists()


class Evil:
    """A pickle of it would write a file."""

    def __reduce__(self):
        return exec, ("open('owned', 'w')",)
