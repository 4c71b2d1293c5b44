import copy
import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from model_configs import small_config

import onet_jax
from onet_jax.errors import InputError
from onet_jax.files import write_json
from onet_jax.run import at_resolution, at_threshold, calibrate_run, change, load_run
from onet_jax.training.checkpoints import NUM_TRIES, read_config
from onet_jax.training.storage import Checkpointer

CLOUD = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 30, 3)).astype(np.float32)


@pytest.fixture
def own_workdir(workdir, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(workdir, tmp_path / 'own')


def test_a_trained_network_is_functions_and_weights(workdir):
    model, params = onet_jax.load(workdir)
    cond = model.encode(params, CLOUD)
    logits = model.occupancy(params, np.zeros((1, 7, 3), np.float32), cond)
    assert logits.shape == (1, 7)
    assert np.isfinite(logits).all()
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(params)} == {1}


def test_a_run_has_the_config_and_the_dataset_of_its_training(workdir, dataset):
    run = load_run(workdir)
    assert run.config.to_dict() == small_config().to_dict()
    assert (run.data_dir, run.step, run.threshold_from) == (dataset, 4, 'config')
    assert {'params', 'batch_stats'} == set(run.params)


def test_a_folder_that_is_no_workdir_is_named(tmp_path, workdir):
    with pytest.raises(FileNotFoundError, match=r'config.json: expected a workdir written by `onet train'):
        onet_jax.load(tmp_path)
    (tmp_path / 'config.json').write_text((workdir / 'config.json').read_text())
    with pytest.raises(FileNotFoundError, match='expected at least one checkpoint, found none; train first'):
        onet_jax.load(tmp_path)


def test_readers_leave_a_run_alone(own_workdir):
    """What looks like a broken save may be one that another process is writing."""
    partial = own_workdir / 'checkpoints' / '60.orbax-checkpoint-tmp'
    partial.mkdir()
    (own_workdir / 'run.json').unlink()
    assert load_run(own_workdir).data_dir is None
    assert partial.exists()


def test_a_calibrated_threshold_belongs_to_its_checkpoint(own_workdir, dataset, capsys):
    run = load_run(own_workdir)
    assert (run.config.eval.threshold, run.threshold_from) == (0.4, 'config')
    calibrated = calibrate_run(run, dataset)
    found = json.loads((own_workdir / 'calibration.json').read_text())
    assert (found['step'], found['split'], found['default_threshold']) == (4, 'val', 0.4)
    assert found['threshold'] != 0.4, 'a network of four steps is not sure of anything'
    again = load_run(own_workdir)
    for each in (calibrated, again):
        assert each.config.eval.threshold == found['threshold']
        assert each.threshold_from == 'calibration on val'
    assert run.config.eval.threshold == 0.4, 'the old run is what it was'
    assert read_config(own_workdir).eval.threshold == 0.4
    repeated = calibrate_run(again, dataset)
    assert json.loads((own_workdir / 'calibration.json').read_text()) == found, 'also from a calibrated run'
    assert repeated.config.eval.threshold == found['threshold']

    write_json(own_workdir / 'calibration.json', {**found, 'step': 2})
    capsys.readouterr()
    outdated = load_run(own_workdir)
    assert (outdated.config.eval.threshold, outdated.threshold_from) == (0.4, 'config')
    (line,) = capsys.readouterr().out.splitlines()
    assert 'calibration.json: chosen for the checkpoint of step 2, not for step 4: ignored' in line
    for content in ('{', '[1]', '{"step": 4}'):
        (own_workdir / 'calibration.json').write_text(content)
        with pytest.raises(ValueError, match=r'calibration.json: .*expected .* found .*; delete it .*--calibrate`'):
            load_run(own_workdir)


@pytest.mark.parametrize('resolution', [64, 128, 256, 512])
def test_a_run_has_the_resolution_that_is_asked_for(workdir, resolution):
    run = load_run(workdir)
    mesh = at_resolution(run, resolution).config.mesh
    assert (mesh.resolution, mesh.resolution << mesh.upsampling_steps) == (32, resolution)
    assert run.config.mesh.resolution == 8, 'the run itself stays as it is'


def test_meshes_are_made_at_the_threshold_of_the_run(workdir):
    run = load_run(workdir)
    model, params = run.method.model, run.params
    logits = model.occupancy(params, CLOUD, model.encode(params, CLOUD))
    volumes = []
    for threshold in jax.nn.sigmoid(np.quantile(logits, [0.2, 0.6])).tolist():
        other = at_threshold(run, threshold, 'a test')
        assert (other.config.eval.threshold, other.threshold_from) == (threshold, 'a test')
        (mesh,) = other.method.predict(params, {'cloud': CLOUD}, jax.random.key(0))
        volumes.append(mesh.volume)
    assert volumes[0] > volumes[1] > 0
    with pytest.raises(ValueError, match=r'threshold: expected a probability between 0 and 1, found 1\.0'):
        at_threshold(run, 1.0, 'a test')


def test_a_key_that_a_method_does_not_have_is_named(workdir):
    run = load_run(workdir)
    with pytest.raises(ValueError, match=r"config.data.scan_cell: expected a method that has it, found onet.*'inputs'"):
        change(run, 'data', scan_cell=1.0)
    assert 'scan_cell' not in run.config.data


@pytest.mark.parametrize('times', [1, 99])
def test_a_checkpoint_that_a_run_removes_meanwhile_is_looked_for_again(own_workdir, monkeypatch, times):
    """The run saves step 6 and removes the best one, 4; 99: whenever it is read."""
    load, removed = Checkpointer.load, []

    def load_late(self, step, abstract):
        if len(removed) < times:
            removed.append(step)
            (self.directory / str(step)).rename(self.directory / f'{step + 2}')
        return load(self, step, abstract)

    expected = load_run(own_workdir)
    monkeypatch.setattr(Checkpointer, 'load', load_late)
    if times == 1:
        run = load_run(own_workdir)
        assert (removed, run.step) == ([4], 6)
        jax.tree.map(np.testing.assert_array_equal, run.params, expected.params)
    else:
        with pytest.raises((OSError, ValueError)):
            load_run(own_workdir)
        assert len(removed) == NUM_TRIES


@pytest.mark.slow
def test_models_and_fields_are_copied_and_pickled(workdir):
    model, params = onet_jax.load(workdir)
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (5, 3)).astype(np.float32)
    cond = model.encode(params, CLOUD)
    field = model.bind(params, cond)
    expected = field(points)
    np.testing.assert_array_equal(jax.jit(field)(points), expected)
    for copied in (copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        np.testing.assert_array_equal(copied(field)(points), expected)
        other = copied(model)
        np.testing.assert_array_equal(other.bind(params, other.encode(params, CLOUD))(points), expected)
        np.testing.assert_allclose(other.occupancy(params, points[None], cond)[0], expected, atol=1e-5)
        assert other.init(jax.random.key(0), CLOUD).keys() == params.keys()


def test_wrong_shapes_and_values_are_named(workdir):
    model, params = onet_jax.load(workdir)
    cond = model.encode(params, CLOUD)
    points = np.zeros((1, 5, 3), np.float32)
    for call, message in [
        (lambda: model.encode(params, CLOUD * np.nan), 'inputs: expected finite numbers, found 90 of 90 not finite'),
        (
            lambda: model.encode(params, np.concatenate([CLOUD, CLOUD], axis=2)),
            r"inputs: expected an array \[B, P, 3\] of the field 'cloud', found the shape \[1, 30, 6\]",
        ),
        (
            lambda: model.bind(params, np.concatenate([cond, cond])),
            r'cond, latent: expected one shape, arrays \[1, ...\]',
        ),
        (lambda: model.bind(params, cond)(points), r'points: expected an array \[T, 3\], found the shape \[1, 5, 3\]'),
        (lambda: model.occupancy(params, points[0], cond), r'points: expected an array \[B, T, 3\]'),
    ]:
        with pytest.raises(InputError, match=message):
            call()
