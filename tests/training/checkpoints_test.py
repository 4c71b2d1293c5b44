import json
import pickle
import shutil

import jax
import numpy as np
import pytest

import onet_jax
from benchmarks.golden import find_golden, read_golden
from benchmarks.parity import checkpoint_config, read_checkpoint
from onet_jax import models
from onet_jax.files import write_json
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
def own_workdir(workdir, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(workdir, tmp_path / 'own')


def test_a_calibrated_threshold_belongs_to_its_checkpoint(own_workdir, dataset, capsys):
    run = checkpoints.load_run(own_workdir)
    assert (run.config.eval.threshold, run.threshold_from) == (0.4, 'config')
    calibrated = checkpoints.calibrate_run(own_workdir, run, dataset)
    found = json.loads((own_workdir / 'calibration.json').read_text())
    assert (found['step'], found['split'], found['default_threshold']) == (4, 'val', 0.4)
    assert found['threshold'] != 0.4, 'a network of four steps is not sure of anything'
    again = checkpoints.load_run(own_workdir)
    for each in (calibrated, again):
        assert each.config.eval.threshold == found['threshold']
        assert each.threshold_from == 'calibration on val'
    assert run.config.eval.threshold == 0.4, 'the old run is what it was'
    assert checkpoints.read_config(own_workdir).eval.threshold == 0.4
    repeated = checkpoints.calibrate_run(own_workdir, again, dataset)
    assert json.loads((own_workdir / 'calibration.json').read_text()) == found, 'also from a calibrated run'
    assert repeated.config.eval.threshold == found['threshold']

    write_json(own_workdir / 'calibration.json', {**found, 'step': 2})
    capsys.readouterr()
    outdated = checkpoints.load_run(own_workdir)
    assert (outdated.config.eval.threshold, outdated.threshold_from) == (0.4, 'config')
    (line,) = capsys.readouterr().out.splitlines()
    assert 'calibration.json: chosen for the checkpoint of step 2, not for step 4: ignored' in line
    for content in ('{', '[1]', '{"step": 4}'):
        (own_workdir / 'calibration.json').write_text(content)
        with pytest.raises(ValueError, match=r'calibration.json: expected what .*--calibrate` writes'):
            checkpoints.load_run(own_workdir)


@pytest.mark.parametrize('resolution', [64, 128, 256, 512])
def test_a_run_has_the_resolution_that_is_asked_for(workdir, resolution):
    run = checkpoints.load_run(workdir)
    mesh = checkpoints.at_resolution(run, resolution).config.mesh
    assert (mesh.resolution, mesh.resolution << mesh.upsampling_steps) == (32, resolution)
    assert run.config.mesh.resolution == 8, 'the run itself stays as it is'


def test_meshes_are_made_at_the_threshold_of_the_run(workdir):
    run = checkpoints.load_run(workdir)
    cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 30, 3)).astype(np.float32)
    model, params = onet_jax.load(workdir)
    logits = model.occupancy(params, cloud, model.encode(params, cloud))
    volumes = []
    for threshold in jax.nn.sigmoid(np.quantile(logits, [0.2, 0.6])).tolist():
        (mesh,) = checkpoints.at_threshold(run, threshold, 'a test').method.reconstruct(
            params, cloud, jax.random.key(0)
        )
        volumes.append(mesh.volume)
    assert volumes[0] > volumes[1] > 0
    with pytest.raises(ValueError, match=r'threshold: expected a probability between 0 and 1, found 1\.0'):
        checkpoints.at_threshold(run, 1.0, 'a test')


def test_a_workdir_that_is_older_than_a_key_is_gone_on_with_as_before(own_workdir, dataset, capsys):
    """Without the keys; what they would change now is refused."""
    from model_configs import small_config

    path = own_workdir / 'config.json'
    old = json.loads(path.read_text())
    del old['eval']['render_every_steps']
    for key in ('decay_steps', 'decay_factor', 'clip_norm', 'accumulate_steps', 'ema_decay'):
        del old['optim'][key]
    write_json(path, old)
    assert checkpoints.load_run(own_workdir).config.to_dict() == small_config().to_dict()
    for key, value in (('clip_norm', 1.0), ('accumulate_steps', 2), ('ema_decay', 0.9), ('schedule', 'step')):
        config = small_config()
        with config.unlocked():
            config.optim[key] = value
        with pytest.raises(ValueError, match=rf'belongs to another config:\n  config.optim.{key}: .* asked for\n[^ ]'):
            checkpoints.check_workdir(own_workdir, config)
    config = small_config(num_steps=5)
    with config.unlocked():
        config.eval.render_every_steps = 5
    assert int(loop.train(config, own_workdir, dataset).step) == 5, 'made longer, and looked at'
    assert 'resuming at step 4' in capsys.readouterr().out
    assert (own_workdir / 'images' / '00000005.png').exists()


@pytest.mark.parametrize('variant, is_local', [('', True), ('crops', True), ('voxels', True), ('pointconv', False)])
def test_maps_of_an_older_workdir_are_read_as_they_were(tmp_path, variant, is_local):
    from configs import conv_onet

    config = conv_onet.get_config(variant).to_dict()
    assert config['model'].pop('centred', None) == (False if is_local else None)
    write_json(tmp_path / 'config.json', config)
    assert checkpoints.read_config(tmp_path).to_dict() == conv_onet.get_config(variant).to_dict()


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
    like = create_state(jax.random.key(0), method, tx, models.example_batch(config.model))
    with checkpoints.read_checkpoints(tmp_path / 'w') as checkpointer:
        state = checkpoints.restore(checkpointer, like, 1234)
    assert int(state.step) == 1234
    assert int(state.opt_state[0].count) == 2, 'the golden file was saved after two steps'
    with pytest.raises(ValueError, match='expected a new workdir, found checkpoints in it'):
        checkpoints.import_checkpoint(path, config, tmp_path / 'w')


def test_moments_of_an_official_checkpoint_are_found_behind_all_options(official_file, tmp_path):
    path, config, _ = official_file
    with config.unlocked():
        config.optim.update(clip_norm=1.0, accumulate_steps=2, ema_decay=0.9, schedule='step')
    checkpoints.import_checkpoint(path, config, tmp_path / 'w')
    method, tx = models.build(config), make_optimizer(config, 1)
    like = create_state(jax.random.key(0), method, tx, models.example_batch(config.model), 0.9)
    with checkpoints.read_checkpoints(tmp_path / 'w') as checkpointer:
        state = checkpoints.restore(checkpointer, like, 1234)
    adam = state.opt_state.inner_opt_state[1][0]
    assert int(adam.count) == 2
    assert all(np.abs(moment).max() > 0 for moment in jax.tree.leaves(adam.nu))
    jax.tree.map(np.testing.assert_array_equal, state.average, state.params)


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
