import json
import shutil

import jax
import numpy as np
import pytest
from model_configs import make_two_updates, small_config, tiny_method
from numbered_sequences import SPLITS, make_config, write_numbered_sequences

from onet_jax import models
from onet_jax.configs import onet_image
from onet_jax.convert import official
from onet_jax.data import records
from onet_jax.data.datasets import open_dataset
from onet_jax.errors import InputError
from onet_jax.evaluation.validate import validate
from onet_jax.run import load_run
from onet_jax.training import checkpoints, loop
from onet_jax.training.initial_weights import read_initial_weights
from onet_jax.training.log import read_log
from onet_jax.training.storage import Checkpointer


class PowerFailureError(Exception):
    """What interrupts a run."""


@pytest.fixture
def fail_after(monkeypatch):
    """fail_after(feed, step): the feed of this name fails when the next step asks for a batch; (feed, None) mends it."""
    originals = dict(loop.FEEDS)

    def fail(name, last_step):
        def failing(*args, **options):
            feed = originals[name](*args, **options)

            def batches(start):
                for step, raw in enumerate(feed(start), start + 1):
                    if step > last_step:
                        raise PowerFailureError
                    yield raw

            return batches

        monkeypatch.setitem(loop.FEEDS, name, originals[name] if last_step is None else failing)

    return fail


@pytest.fixture
def without_a_network(monkeypatch):
    monkeypatch.setattr(models, 'build', tiny_method)


def assert_same_tree(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def run_and_resume(config, workdir, dataset, fail_after, *, last_step, saved):
    """The last state of a run that fails after `last_step` and is resumed from the checkpoint of step `saved`."""
    fail_after(config.data.feed, last_step)
    with pytest.raises(PowerFailureError):
        loop.train(config, workdir, dataset)
    fail_after(config.data.feed, None)
    with checkpoints.open_checkpoints(workdir) as checkpointer:
        assert checkpointer.latest.step == saved
    return loop.train(config, workdir, dataset)


def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(workdir, dataset, tmp_path, fail_after):
    """The four steps of `workdir`, with a failure after step 3."""
    resumed = run_and_resume(small_config(), tmp_path, dataset, fail_after, last_step=3, saved=2)
    assert int(resumed.step) == 4
    with checkpoints.read_checkpoints(workdir) as whole:
        assert_same_tree(checkpoints.restore(whole, resumed, 4), resumed)
    assert_same_tree(load_run(workdir).params, load_run(tmp_path).params)
    for name in ('train/loss', 'val/iou', 'val/score'):
        assert read_log(workdir, name) == read_log(tmp_path, name)
    assert [step for step, _ in read_log(tmp_path, 'train/loss')] == [1, 2, 3, 4]


@pytest.mark.slow
def test_sequences_are_trained_on_and_validated(tmp_path, without_a_network):
    """By clips; with one file less the clips of the other sequences are left."""
    data_dir, config = write_numbered_sequences(tmp_path / 'data'), small_config()
    with config.unlocked():
        config.data = make_config(targets=('start_points',)).data
        config.eval.targets = ('start_points',)
    loop.train(config, tmp_path / 'whole', data_dir)
    whole = dict(read_log(tmp_path / 'whole', 'val/iou'))
    assert set(whole) == {2, 4}
    records.sequence_path(data_dir, *SPLITS['val'][0]).unlink()
    with pytest.raises(InputError, match='expected a sequence file, found none'):
        loop.train(config, tmp_path / 'refused', data_dir)
    loop.train(config, tmp_path / 'fewer', data_dir, max_bad_examples=1)
    fewer = dict(read_log(tmp_path / 'fewer', 'val/iou'))
    assert read_log(tmp_path / 'fewer', 'train/loss') == read_log(tmp_path / 'whole', 'train/loss')
    assert set(fewer) == {2, 4}
    assert fewer != whole


@pytest.mark.slow
def test_an_interrupted_run_of_a_step_of_its_own_ends_bit_for_bit_too(dataset, tmp_path, monkeypatch, fail_after):
    """With the other backend and the other feed: six steps, and the same six with a failure after step 5."""
    pytest.importorskip('tensorflow_datasets', reason='the extra `data` is not installed')
    monkeypatch.setattr(models, 'build', lambda config: tiny_method(config)._replace(make_step=make_two_updates))
    config = small_config(num_steps=6, backend='jit')
    with config.unlocked():
        config.data.feed = 'tfds'
    whole = loop.train(config, tmp_path / 'whole', dataset)
    resumed = run_and_resume(config, tmp_path / 'cut', dataset, fail_after, last_step=5, saved=4)
    assert int(whole.variables['counter']['steps']) == 12, 'two updates in each step'
    assert_same_tree(whole, resumed)
    assert read_log(tmp_path / 'whole', 'train/loss') == read_log(tmp_path / 'cut', 'train/loss')


@pytest.mark.slow
def test_all_options_of_the_optimiser_together_survive_an_interruption(dataset, tmp_path, monkeypatch, fail_after):
    """The failure is in the middle of an update; the network of the run is the average."""
    config = small_config(num_steps=6, backend='jit', checkpoint_every_steps=3, eval_every_steps=3)
    with config.unlocked():
        config.optim.update(ema_decay=0.5, accumulate_steps=2, clip_norm=0.1, schedule='exponential', warmup_steps=1)
    whole = loop.train(config, tmp_path / 'whole', dataset)
    resumed = run_and_resume(config, tmp_path / 'cut', dataset, fail_after, last_step=4, saved=3)
    assert_same_tree(whole, resumed)
    assert read_log(tmp_path / 'whole', 'val/loss') == read_log(tmp_path / 'cut', 'val/loss')
    assert int(whole.opt_state.gradient_step) == 3

    assert load_run(tmp_path / 'cut').step in (3, 6)
    monkeypatch.setattr(Checkpointer, 'best', Checkpointer.latest)
    loaded = load_run(tmp_path / 'cut')
    assert_same_tree(loaded.params, jax.device_get(whole.average))

    def val_loss(variables):
        batches = (batch for batch, _ in open_dataset(dataset).evaluation_batches(config, 'val'))
        return validate(loaded.method.metrics, variables, batches)['loss']

    assert read_log(tmp_path / 'whole', 'val/loss')[-1] == (6, pytest.approx(val_loss(whole.average), rel=1e-5))
    assert val_loss(whole.variables) != pytest.approx(val_loss(whole.average), rel=1e-5)


@pytest.mark.slow
def test_pictures_and_a_trace_change_no_number_of_a_run(workdir, dataset, tmp_path, capsys):
    config, shown = small_config(num_steps=6), []
    loop.train(config, tmp_path, dataset, profile=True, show=shown.append)
    assert [each.caption for each in shown] == [f'step {step} of 6' for step in (2, 4, 6)], 'with each validation'
    assert sorted(path.name for path in (tmp_path / 'images').iterdir()) == [f'0000000{step}.png' for step in (2, 4, 6)]
    (events,) = (tmp_path / 'tensorboard').iterdir()
    assert events.read_bytes().count(b'val/shapes') == 3
    for name in ('train/loss', 'val/iou', 'val/loss'):
        expected = read_log(workdir, name)
        assert read_log(tmp_path, name)[: len(expected)] == expected
    (folder,) = (tmp_path / 'profile' / 'plugins' / 'profile').iterdir()
    assert f'{folder}: a trace of 5 steps' in capsys.readouterr().out
    assert (folder / 'perfetto_trace.json.gz').stat().st_size > 1000
    assert list(folder.glob('*.xplane.pb'))


@pytest.mark.slow
def test_training_lowers_the_loss_and_both_backends_agree(dataset, tmp_path):
    losses = {}
    for backend in ('pmap', 'jit'):
        config = small_config(num_steps=30, backend=backend, eval_every_steps=30)
        with config.unlocked():
            config.optim.learning_rate = 3e-3
        loop.train(config, tmp_path / backend, dataset)
        losses[backend] = [value for _, value in read_log(tmp_path / backend, 'train/loss')]
    assert np.mean(losses['jit'][-5:]) < 0.8 * np.mean(losses['jit'][:5])
    np.testing.assert_allclose(losses['pmap'], losses['jit'], rtol=2e-3)


def test_the_log_has_every_scalar_asked_for(workdir):
    lines = [json.loads(line) for line in (workdir / 'log.jsonl').read_text().splitlines()]
    names = set().union(*lines)
    assert {'train/loss', 'train/learning_rate', 'train/steps_per_second', 'train/waiting_for_data'} <= names
    assert {'val/iou', 'val/loss', 'val/score'} <= names
    assert [step for step, _ in read_log(workdir, 'val/iou')] == [2, 4]
    assert list((workdir / 'tensorboard').iterdir())


@pytest.mark.slow
def test_terms_of_the_loss_are_logged(without_a_network, dataset, tmp_path):
    loop.train(small_config(num_steps=2), tmp_path, dataset)
    assert read_log(tmp_path, 'train/scale') == [(1, 2.0), (2, 2.0)]


def test_a_finished_run_says_so(workdir, dataset, capsys):
    assert int(loop.train(small_config(), workdir, dataset).step) == 4
    assert 'nothing to do: step 4 of config.train.num_steps=4' in capsys.readouterr().out


def test_whatever_is_wrong_is_found_before_the_workdir_is_touched(dataset, tmp_path):
    def refused(message, data_dir=dataset, **groups):
        config = small_config()
        with config.unlocked():
            for group, values in groups.items():
                config[group].update(values)
        with pytest.raises((InputError, FileNotFoundError), match=message):
            loop.train(config, tmp_path / 'w', data_dir)
        assert not (tmp_path / 'w').exists()

    refused('config.train.log_every_steps: expected at least 1, found 0', train={'log_every_steps': 0})
    refused('config.train.batch_size: expected at least 1, found 0', train={'batch_size': 0})
    refused('config.eval.render_every_steps: expected a number of steps', eval={'render_every_steps': -1})
    refused(r"config.data.feed: expected one of \['resident', 'tfds'\], found 'grain'", data={'feed': 'grain'})
    refused('config.eval.threshold: expected a probability', eval={'threshold': 1.5})
    refused(r"config.data.inputs: expected \('cloud',\), what the encoder", data={'inputs': ('voxels',)})
    refused("config.data.sampling: expected 'uniform', how .* was sampled", data={'sampling': 'equal'})
    refused(r'expected at least 6144 labelled points of a shape, found 5000', data={'num_points_per_step': 5000})
    refused(r'expected at least 6144 surface samples of a shape, found 5000', data={'num_input_points': 5000})
    refused(r"config.eval.select_by: expected one of \['iou', 'loss'\], found 'chamfer'", eval={'select_by': 'chamfer'})
    refused('expected the folder of a dataset', data_dir=tmp_path / 'nowhere')
    index = records.read_index(dataset)
    (without := tmp_path / 'data').mkdir()
    records.write_index(without, index._replace(splits={**index.splits, 'val': ()}))
    refused("expected shapes in the split 'val', found none", data_dir=without)


def test_codes_for_another_number_of_shapes_are_refused(without_a_network, dataset, tmp_path):
    config = small_config()
    with config.unlocked():
        config.model.num_shapes = 8
    with pytest.raises(
        InputError, match=rf'config.model.num_shapes: expected 9, the training shapes of {dataset}, found 8'
    ):
        loop.train(config, tmp_path / 'w', dataset)


def test_a_defect_of_a_method_is_not_told_as_a_wrong_input(dataset, tmp_path, monkeypatch):
    def build(config):
        def loss(variables, batch, key, axis_name):
            raise ValueError('shapes do not fit')

        return tiny_method(config)._replace(loss=loss)

    monkeypatch.setattr(models, 'build', build)
    with pytest.raises(ValueError, match='shapes do not fit') as error:
        loop.train(small_config(), tmp_path, dataset)
    assert not isinstance(error.value, InputError)


@pytest.mark.parametrize('select_by, best, kept', [('iou', 8, [6, 8]), ('chamfer', 4, [4, 6, 8])])
def test_checkpoints_are_selected_by_any_metric_of_validation_in_its_direction(
    without_a_network, dataset, tmp_path, monkeypatch, select_by, best, kept
):
    """The higher the IoU and the lower the distance the better, of equal ones the later; the two latest are kept as well."""
    config = small_config(num_steps=8)
    with config.unlocked():
        config.eval.select_by = select_by
    means = iter([{'iou': 0.9, 'chamfer': 0.5}, {'iou': 0.3, 'chamfer': 0.1}, {'iou': 0.5, 'chamfer': 0.2}] * 2)
    monkeypatch.setattr(loop, 'validate', lambda *_: next(means))
    loop.train(config, tmp_path, dataset)
    with checkpoints.open_checkpoints(tmp_path) as checkpointer:
        assert [checkpoint.step for checkpoint in checkpointer.checkpoints] == kept
        assert checkpointer.best.step == best
    loaded = load_run(tmp_path)
    assert (loaded.step, loaded.data_dir) == (best, dataset)
    values, sign = read_log(tmp_path, f'val/{select_by}'), 1 if select_by == 'iou' else -1
    assert read_log(tmp_path, 'val/score') == [(step, sign * value) for step, value in values]


def test_a_metric_that_validation_does_not_give_selects_nothing(without_a_network, dataset, tmp_path):
    config = small_config()
    for select_by in ('loss', 'smell'):
        with config.unlocked():
            config.eval.select_by = select_by
        message = rf"config.eval.select_by: expected one of \['chamfer', 'iou'\], found '{select_by}'"
        with pytest.raises(InputError, match=message):
            loop.train(config, tmp_path / 'w', dataset)


def test_a_run_goes_on_with_its_own_dataset_only(without_a_network, dataset, tmp_path):
    loop.train(small_config(), tmp_path / 'w', dataset)
    other = shutil.copytree(dataset, tmp_path / 'other')
    loop.train(small_config(), tmp_path / 'w', other)  # moved, but the same
    assert load_run(tmp_path / 'w').data_dir == other
    index = records.read_index(other)
    records.write_index(other, index._replace(rejected={'chair/x': 'for a test'}))
    with pytest.raises(InputError, match='this run was trained on another dataset'):
        loop.train(small_config(), tmp_path / 'w', other)


def test_weights_that_are_not_finite_are_not_saved(without_a_network, dataset, tmp_path, monkeypatch):
    """The loss of a step belongs to the weights before it."""
    original = loop.make_train_step

    def broken(*args, **kwargs):
        step = original(*args, **kwargs)

        def broken_step(state, raw, key):
            state, scalars = step(state, raw, key)
            factor = jax.numpy.where(state.step == 4, jax.numpy.nan, 1)
            params = jax.tree.map(lambda x: factor * x, state.variables['params'])
            return state._replace(variables={**state.variables, 'params': params}), scalars

        return broken_step

    monkeypatch.setattr(loop, 'make_train_step', broken)
    with pytest.raises(FloatingPointError, match=r'the weights of step 4 are not finite; .* checkpoint is step 2'):
        loop.train(small_config(), tmp_path / 'w', dataset)
    assert load_run(tmp_path / 'w').step == 2


@pytest.mark.slow
def test_a_trunk_is_read_from_a_file_and_one_that_does_not_fit_leaves_no_trace(dataset, tmp_path):
    config = onet_image()
    with config.unlocked():
        config.model.update(cond_size=4, decoder_hidden_size=4)
        config.data.update(feed='resident', image_size=32, num_points_per_step=8)
        config.train.update(num_steps=1, batch_size=2, init_from=str(tmp_path / 'resnet18.npz'))
        config.eval.update(batch_size=1, targets=('volume_points',))
    with pytest.raises(FileNotFoundError, match=r'resnet18.npz'):
        loop.train(config, tmp_path / 'w', dataset)
    assert not (tmp_path / 'w').exists()

    rng = np.random.default_rng(0)
    donor = jax.tree.map(
        lambda x: rng.uniform(0.01, 0.02, x.shape).astype(np.float32),
        official.variable_shapes(models.build(config), config),
    )
    prefix = 'encoder.features.'
    state = {
        k.removeprefix(prefix): v for k, v in official.to_state_dict(donor, config).items() if k.startswith(prefix)
    }
    write_safetensors(tmp_path / 'resnet18.npz', {k: v for k, v in state.items() if k != 'conv1.weight'})
    with pytest.raises(InputError, match=r'init_from: .*resnet18.npz: weights: (.|\n)*conv1.weight: missing'):
        loop.train(config, tmp_path / 'w', dataset)
    assert not (tmp_path / 'w').exists()

    write_safetensors(tmp_path / 'resnet18.npz', state)
    weights = read_initial_weights(config, models.build(config))
    np.testing.assert_array_equal(
        weights['params', 'encoder', 'features', 'conv1', 'kernel'],
        donor['params']['encoder']['features']['conv1']['kernel'],
    )
    assert {path[1] for path in weights} == {'encoder'}, 'the others start at random'


def write_safetensors(path, arrays):
    """Arrays in the format of safetensors, which is told by its content."""
    header, start = {}, 0
    for name, array in arrays.items():
        kind = {'float32': 'F32', 'int64': 'I64'}[str(array.dtype)]
        header[name] = {'dtype': kind, 'shape': array.shape, 'data_offsets': [start, start + array.nbytes]}
        start += array.nbytes
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, 'little') + content + b''.join(a.tobytes() for a in arrays.values()))
