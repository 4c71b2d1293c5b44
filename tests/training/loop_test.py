import json
import shutil

import jax
import numpy as np
import pytest
from model_configs import small_config

from configs import onet_image
from onet_jax.convert import official
from onet_jax.data import records
from onet_jax.data.records import Feed
from onet_jax.data.resident import resident_feed
from onet_jax.evaluation.validate import validate, validation_batches
from onet_jax.training import checkpoints, loop
from onet_jax.training.log import read_log


class PowerFailureError(Exception):
    """What interrupts a run."""


def feed_that(change):
    """The resident feed with `change(step, raw)` applied to every batch; step counts from 1."""

    def feed(*args, **kwargs):
        original = resident_feed(*args, **kwargs)

        def batches(start):
            for step, raw in enumerate(original.batches(start), start + 1):
                yield change(step, raw)

        return Feed(original.num_shapes, batches)

    return feed


def stop_at(last_step):
    def change(step, raw):
        if step > last_step:
            raise PowerFailureError
        return raw

    return change


def assert_same_tree(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('backend, feed', [('pmap', 'resident'), ('jit', 'tfds')])
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_was_not(dataset, tmp_path, monkeypatch, backend, feed):
    """Six steps, and the same six with a failure after step 5, resumed from the checkpoint of step 4."""
    if feed == 'tfds':
        pytest.importorskip('tensorflow_datasets', reason='the extra `data` is not installed')
    config = small_config(num_steps=6, backend=backend)
    with config.unlocked():
        config.data.feed = feed
    whole = loop.train(config, tmp_path / 'whole', dataset)

    original = loop.FEEDS[feed]

    def failing(*args, **kwargs):
        inner = original(*args, **kwargs)
        cut = stop_at(5)
        return Feed(
            inner.num_shapes, lambda start: (cut(i, raw) for i, raw in enumerate(inner.batches(start), start + 1))
        )

    monkeypatch.setitem(loop.FEEDS, feed, failing)
    with pytest.raises(PowerFailureError):
        loop.train(config, tmp_path / 'cut', dataset)
    monkeypatch.setitem(loop.FEEDS, feed, original)
    with checkpoints.open_checkpoints(tmp_path / 'cut') as checkpointer:
        assert checkpointer.latest.step == 4
    resumed = loop.train(config, tmp_path / 'cut', dataset)

    assert int(whole.step) == 6
    assert_same_tree(whole, resumed)
    for name in ('train/loss', 'val/iou', 'val/loss'):
        assert read_log(tmp_path / 'whole', name) == read_log(tmp_path / 'cut', name)
    assert [step for step, _ in read_log(tmp_path / 'cut', 'train/loss')] == [1, 2, 3, 4, 5, 6]
    again = loop.train(config, tmp_path / 'cut', dataset)  # nothing left to do
    assert_same_tree(whole, again)


@pytest.mark.slow
@pytest.mark.slow
def test_all_options_of_the_optimiser_together_survive_an_interruption(dataset, tmp_path, monkeypatch):
    """The failure is in the middle of an update; the network of the run is the average."""
    config = small_config(num_steps=6, backend='jit', checkpoint_every_steps=3, eval_every_steps=3)
    with config.unlocked():
        config.optim.update(ema_decay=0.5, accumulate_steps=2, clip_norm=0.1, schedule='exponential', warmup_steps=1)
    whole = loop.train(config, tmp_path / 'whole', dataset)
    monkeypatch.setitem(loop.FEEDS, 'resident', feed_that(stop_at(4)))
    with pytest.raises(PowerFailureError):
        loop.train(config, tmp_path / 'cut', dataset)
    monkeypatch.setitem(loop.FEEDS, 'resident', resident_feed)
    resumed = loop.train(config, tmp_path / 'cut', dataset)
    assert_same_tree(whole, resumed)
    assert read_log(tmp_path / 'whole', 'val/loss') == read_log(tmp_path / 'cut', 'val/loss')
    assert int(whole.opt_state.gradient_step) == 3

    run = checkpoints.load_run(tmp_path / 'cut')
    assert run.step in (3, 6)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, 'best_step', lambda _: 6)
        assert_same_tree(checkpoints.load_run(tmp_path / 'cut').params, jax.device_get(whole.average))
    means = validate(run.method.metrics, whole.average, validation_batches(config, dataset, 'val'))
    assert read_log(tmp_path / 'whole', 'val/loss')[-1] == (6, pytest.approx(means['loss'], rel=1e-5))
    other = validate(run.method.metrics, whole.params, validation_batches(config, dataset, 'val'))
    assert other['loss'] != pytest.approx(means['loss'], rel=1e-5)


def test_pictures_and_a_trace_change_no_number_of_a_run(workdir, dataset, tmp_path, capsys):
    config = small_config()
    with config.unlocked():
        config.eval.render_every_steps = 3
    loop.train(config, tmp_path, dataset, profile=True)
    assert sorted(path.name for path in (tmp_path / 'images').iterdir()) == ['00000003.png', '00000004.png']
    (events,) = (tmp_path / 'tensorboard').iterdir()
    assert events.read_bytes().count(b'val/shapes') == 2
    for name in ('train/loss', 'val/iou', 'val/loss'):
        assert read_log(tmp_path, name) == read_log(workdir, name)
    (folder,) = (tmp_path / 'profile' / 'plugins' / 'profile').iterdir()
    assert f'{folder}: a trace of 4 steps' in capsys.readouterr().out
    assert (folder / 'perfetto_trace.json.gz').stat().st_size > 1000
    assert list(folder.glob('*.xplane.pb'))


@pytest.mark.slow
def test_training_lowers_the_loss_and_both_backends_agree(dataset, tmp_path):
    losses = {}
    for backend in ('pmap', 'jit'):
        loop.train(small_config(num_steps=30, backend=backend, eval_every_steps=30), tmp_path / backend, dataset)
        losses[backend] = [value for _, value in read_log(tmp_path / backend, 'train/loss')]
    assert np.mean(losses['jit'][-5:]) < 0.8 * np.mean(losses['jit'][:5])
    np.testing.assert_allclose(losses['pmap'], losses['jit'], rtol=2e-3)


def test_a_loss_that_is_not_finite_stops_and_names_the_last_good_checkpoint(dataset, tmp_path, monkeypatch):
    def spoil(step, raw):
        return {**raw, 'surface': raw['surface'] * np.float16(np.nan)} if step == 5 else raw

    monkeypatch.setitem(loop.FEEDS, 'resident', feed_that(spoil))
    with pytest.raises(
        FloatingPointError, match=rf'the loss of step 5 is not finite.*checkpoint is step 4 in {tmp_path}'
    ):
        loop.train(small_config(num_steps=8, log_every_steps=7), tmp_path, dataset)
    with checkpoints.open_checkpoints(tmp_path) as checkpointer:
        assert checkpointer.latest.step == 4, 'the run did not save what it could not use'


def test_a_workdir_of_another_config_is_refused_with_the_differences(dataset, tmp_path):
    loop.train(small_config(num_steps=2), tmp_path, dataset)
    other = small_config(num_steps=2, batch_size=8)
    with pytest.raises(ValueError, match=r'config\.train\.batch_size: 4 in the workdir, 8 asked for') as error:
        loop.train(other, tmp_path, dataset)
    assert 'config.model' not in str(error.value)


def test_the_latest_and_the_best_checkpoint_are_kept(dataset, tmp_path, monkeypatch):
    ious = iter([0.3, 0.5, 0.1])
    monkeypatch.setattr(loop, 'validate', lambda *_: {'iou': next(ious)})
    loop.train(small_config(num_steps=6), tmp_path, dataset)
    with checkpoints.open_checkpoints(tmp_path) as checkpointer:
        assert [c.step for c in checkpointer.checkpoints] == [4, 6]
        assert checkpoints.best_step(checkpointer) == 4
    run = checkpoints.load_run(tmp_path)
    assert run.step == 4
    assert run.data_dir == dataset


def test_the_log_has_every_scalar_asked_for(workdir):
    lines = [json.loads(line) for line in (workdir / 'log.jsonl').read_text().splitlines()]
    names = set().union(*lines)
    assert {'train/loss', 'train/steps_per_second', 'train/waiting_for_data', 'val/iou', 'val/loss'} <= names
    assert [step for step, _ in read_log(workdir, 'val/iou')] == [2, 4]
    assert list((workdir / 'tensorboard').iterdir())


@pytest.mark.parametrize('crop_size, num_points', [(0.0, records.CHUNK_POINTS), (0.5, None)])
def test_crops_are_drawn_from_all_points_of_a_shape(dataset, tmp_path, monkeypatch, crop_size, num_points):
    asked = []

    def open_nothing(*args, **options):
        asked.append(options['num_points'])
        raise InterruptedError

    monkeypatch.setattr(loop, 'open_feed', open_nothing)
    config = small_config()
    with config.unlocked():
        config.data.update(crop_size=crop_size, num_near_points=0)
    with pytest.raises(InterruptedError):
        loop.train(config, tmp_path / 'run', dataset)
    assert asked == [num_points]


def test_an_unknown_feed_is_named(dataset, tmp_path):
    config = small_config()
    with config.unlocked():
        config.data.feed = 'grain'
    with pytest.raises(ValueError, match=r"config.data.feed: expected one of \['resident', 'tfds'\], found 'grain'"):
        loop.train(config, tmp_path, dataset)


def test_whatever_is_wrong_is_found_before_the_workdir_is_touched(dataset, tmp_path):
    def refused(message, data_dir=dataset, **groups):
        config = small_config()
        with config.unlocked():
            for group, values in groups.items():
                config[group].update(values)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            loop.train(config, tmp_path / 'w', data_dir)
        assert not (tmp_path / 'w').exists()

    refused('config.train.log_every_steps: expected at least 1, found 0', train={'log_every_steps': 0})
    refused('config.train.batch_size: expected at least 1, found 0', train={'batch_size': 0})
    crops = {'feed': 'tfds', 'crop_size': 0.5, 'num_near_points': 0}
    refused("config.data.feed: expected 'resident' for crops, .* found 'tfds'", data=crops)
    refused('config.eval.threshold: expected a probability', eval={'threshold': 1.5})
    refused("config.data.input: expected 'points', what the encoder", data={'input': 'voxels'})
    refused('expected the folder of a dataset', data_dir=tmp_path / 'nowhere')
    index = records.read_index(dataset)
    without = tmp_path / 'data'
    without.mkdir()
    records.write_index(without, index._replace(splits={**index.splits, 'val': ()}))
    refused("expected shapes in the split 'val', found none", data_dir=without)


def test_a_run_goes_on_with_its_own_dataset_only(dataset, tmp_path):
    loop.train(small_config(), tmp_path / 'w', dataset)
    other = tmp_path / 'other'
    shutil.copytree(dataset, other)
    loop.train(small_config(), tmp_path / 'w', other)  # moved, but the same
    assert checkpoints.load_run(tmp_path / 'w').data_dir == other
    index = records.read_index(other)
    records.write_index(other, index._replace(rejected={'chair/x': 'for a test'}))
    with pytest.raises(ValueError, match='this run was trained on another dataset'):
        loop.train(small_config(), tmp_path / 'w', other)


def test_weights_that_are_not_finite_are_not_saved(dataset, tmp_path, monkeypatch):
    """The loss of a step belongs to the weights before it."""
    original = loop.make_train_step

    def broken(*args, **kwargs):
        step = original(*args, **kwargs)

        def broken_step(state, raw, key):
            state, scalars = step(state, raw, key)
            bad = jax.tree.map(lambda x: jax.numpy.where(state.step == 4, jax.numpy.nan, x), state.params)
            return state._replace(params=bad), scalars

        return broken_step

    monkeypatch.setattr(loop, 'make_train_step', broken)
    with pytest.raises(FloatingPointError, match=r'the weights of step 4 are not finite; .* checkpoint is step 2'):
        loop.train(small_config(), tmp_path / 'w', dataset)
    assert checkpoints.load_run(tmp_path / 'w').step == 2


@pytest.mark.slow
def test_a_trunk_from_a_file_starts_the_encoder_of_a_run(dataset, tmp_path):
    """It is read before the first step only; a file that does not fit leaves no trace."""
    config = onet_image.get_config()
    with config.unlocked():
        config.model.update(cond_size=4, decoder_hidden_size=4, encoder_init=str(tmp_path / 'resnet18.npz'))
        config.data.update(feed='resident', image_size=32, num_points_per_step=8)
        config.train.update(num_steps=1, batch_size=2)
        config.eval.update(batch_size=1, voxel_iou=False)
    with pytest.raises(FileNotFoundError, match=r'resnet18.npz'):
        loop.train(config, tmp_path / 'w', dataset)
    assert not (tmp_path / 'w').exists()

    rng = np.random.default_rng(0)
    donor = jax.tree.map(
        lambda x: rng.uniform(0.01, 0.02, x.shape).astype(np.float32), official.variable_shapes(config)
    )
    prefix = 'encoder.features.'
    state = {
        k.removeprefix(prefix): v for k, v in official.to_state_dict(donor, config).items() if k.startswith(prefix)
    }
    write_safetensors(tmp_path / 'resnet18.npz', {k: v for k, v in state.items() if k != 'conv1.weight'})
    with pytest.raises(ValueError, match=r'encoder_init: .*resnet18.npz: weights: (.|\n)*conv1.weight: missing'):
        loop.train(config, tmp_path / 'w', dataset)
    assert not (tmp_path / 'w').exists()

    write_safetensors(tmp_path / 'resnet18.npz', state)
    trained = loop.train(config, tmp_path / 'w', dataset)
    kernel = trained.params['params']['encoder']['features']['conv1']['kernel']
    np.testing.assert_allclose(kernel, donor['params']['encoder']['features']['conv1']['kernel'], atol=2e-4)
    (tmp_path / 'resnet18.npz').unlink()
    with config.unlocked():
        config.train.num_steps = 2
    assert int(loop.train(config, tmp_path / 'w', dataset).step) == 2, 'made longer, without the file'


def write_safetensors(path, arrays):
    """Arrays in the format of safetensors, which is told by its content."""
    header, start = {}, 0
    for name, array in arrays.items():
        kind = {'float32': 'F32', 'int64': 'I64'}[str(array.dtype)]
        header[name] = {'dtype': kind, 'shape': array.shape, 'data_offsets': [start, start + array.nbytes]}
        start += array.nbytes
    content = json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, 'little') + content + b''.join(a.tobytes() for a in arrays.values()))


def test_a_checkpoint_is_selected_by_what_the_config_says(dataset, tmp_path, monkeypatch):
    means = iter([{'iou': 0.1, 'loss': 1.0}, {'iou': 0.9, 'loss': 2.0}])
    monkeypatch.setattr(loop, 'validate', lambda *_: dict(next(means)))
    for select_by, step in (('iou', 4), ('loss', 2)):
        means = iter([{'iou': 0.1, 'loss': 1.0}, {'iou': 0.9, 'loss': 2.0}])
        config = small_config()
        with config.unlocked():
            config.eval.select_by = select_by
        loop.train(config, tmp_path / select_by, dataset)
        assert checkpoints.load_run(tmp_path / select_by).step == step
    with config.unlocked():
        config.eval.select_by = 'iou_voxels'
    with pytest.raises(
        ValueError, match=r"config.eval.select_by: expected one of \['iou', 'loss'\], found 'iou_voxels'"
    ):
        loop.train(config, tmp_path / 'other', dataset)


def test_a_finished_run_says_so(workdir, dataset, capsys):
    assert int(loop.train(small_config(), workdir, dataset).step) == 4
    assert 'nothing to do: step 4 of config.train.num_steps=4' in capsys.readouterr().out
