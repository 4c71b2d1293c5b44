import pickle
from functools import partial

import jax
import numpy as np
import pytest
from model_configs import small_config
from parity.golden import find_golden, read_golden
from parity.onet import checkpoint_config, read_checkpoint

import onet_jax
from onet_jax import models
from onet_jax.data.fields import example_batch
from onet_jax.errors import InputError
from onet_jax.files import write_json
from onet_jax.training import checkpoints, loop
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state


def test_the_config_of_a_workdir_comes_back_and_decides_what_may_change(tmp_path):
    """A run may be made longer, unless its learning rate depends on how long it is, and looked at more often."""
    config = small_config()
    with config.unlocked():
        config.data.targets = ('volume_points', 'surface_samples')
        config.data.num_target_points = 50
    checkpoints.check_workdir(tmp_path, config)
    write_json(tmp_path / 'config.json', config.to_dict())
    assert checkpoints.read_config(tmp_path).to_dict() == config.to_dict(), 'tuples, too'
    for group, key, value in (
        ('optim', 'clip_norm', 1.0),
        ('optim', 'schedule', 'cosine'),
        ('data', 'targets', ('volume_points',)),
        ('eval', 'select_by', 'loss'),
    ):
        other = config.copy_and_resolve_references()
        with other.unlocked():
            other[group][key] = value
        message = rf'belongs to another config:\n  config.{group}.{key}: .* asked for\n[^ ]'
        with pytest.raises(InputError, match=message):
            checkpoints.check_workdir(tmp_path, other)
    with config.unlocked():
        config.train.num_steps, config.eval.render_every_steps = 5, 5
    checkpoints.check_workdir(tmp_path, config)
    with config.unlocked():
        config.optim.schedule = 'cosine'
    with pytest.raises(InputError, match=r'config.train.num_steps: 4 in the workdir, 5 asked for'):
        checkpoints.check_workdir(tmp_path, config)


@pytest.fixture
def official_file():
    """The golden checkpoint with its config and the outputs of the official code."""
    file = read_golden('checkpoints/pointcloud_model.npz')
    config = checkpoint_config('pointcloud_model', read_checkpoint('pointcloud_model')['model'])
    return find_golden('checkpoints/pointcloud_model.pt'), config.lock(), file


def restored(workdir, config):
    """The state of step 1234, which the golden file was saved at."""
    method, tx = models.build(config), make_optimizer(config, 1)
    make_state = partial(create_state, method=method, tx=tx, ema_decay=config.optim.ema_decay)
    shapes = jax.eval_shape(make_state, jax.random.key(0), batch=example_batch(config.data))
    like = jax.tree.map(lambda x: jax.device_put(np.zeros(x.shape, x.dtype)), shapes)
    with checkpoints.read_checkpoints(workdir) as checkpointer:
        return checkpoints.restore(checkpointer, like, 1234)


def test_an_official_checkpoint_becomes_a_workdir(official_file, tmp_path):
    path, config, data = official_file
    assert checkpoints.import_checkpoint(path, config, tmp_path / 'w') == 1234
    model, params = onet_jax.load(tmp_path / 'w')
    cond = model.encode(params, data['in/inputs'])
    np.testing.assert_allclose(model.occupancy(params, data['in/points'], cond), data['out/logits_eval'], atol=1e-4)
    state = restored(tmp_path / 'w', config)
    assert int(state.step) == 1234
    assert int(state.opt_state[0].count) == 2, 'the golden file was saved after two steps'
    with pytest.raises(InputError, match='expected a new workdir, found checkpoints in it'):
        checkpoints.import_checkpoint(path, config, tmp_path / 'w')


@pytest.mark.slow
def test_moments_of_an_official_checkpoint_are_found_behind_all_options(official_file, tmp_path):
    path, config, _ = official_file
    with config.unlocked():
        config.optim.update(clip_norm=1.0, accumulate_steps=2, ema_decay=0.9, schedule='step')
    checkpoints.import_checkpoint(path, config, tmp_path / 'w')
    state = restored(tmp_path / 'w', config)
    adam = state.opt_state.inner_opt_state[1][0]
    assert int(adam.count) == 2
    assert all(np.abs(moment).max() > 0 for moment in jax.tree.leaves(adam.nu))
    jax.tree.map(np.testing.assert_array_equal, state.average, state.variables)


@pytest.mark.slow
def test_training_goes_on_from_an_official_checkpoint(official_file, dataset, tmp_path):
    path, config, _ = official_file
    with config.unlocked():
        config.data.update(num_points_per_step=64, num_input_points=30, feed='resident')
        config.train.update(num_steps=1236, batch_size=2, log_every_steps=1)
        config.eval.update(batch_size=3, targets=('volume_points',))
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
        with pytest.raises((InputError, FileNotFoundError), match=message):
            checkpoints.import_checkpoint(tmp_path / f'{name}.pt', config, tmp_path / 'w')
    with config.unlocked():
        config.model.cond_size = 5
    with pytest.raises(
        InputError, match=r'pointcloud_model.pt: weights: (.|\n)*decoder.*conv_gamma.*found \[32, 32, 1\]'
    ):
        checkpoints.import_checkpoint(path, config, tmp_path / 'w')
    assert not (tmp_path / 'w').exists()
    assert not (tmp_path / 'owned').exists()


class Evil:
    """A pickle of it would write a file."""

    def __reduce__(self):
        return exec, ("open('owned', 'w')",)
