"""Faults that a process sees coming; `kill_test.py` has those that it does not. No network is needed for any of them."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import jax
import numpy as np
import pytest
from model_configs import small_config, tiny_method

from onet_jax import models
from onet_jax.data import records
from onet_jax.data.fields import find_need
from onet_jax.errors import InputError
from onet_jax.run import load_run
from onet_jax.training import checkpoints, faults, loop, storage

COMBINATIONS = [
    pytest.param('pmap', 'tfds', signal.SIGTERM, marks=pytest.mark.slow),
    ('jit', 'resident', signal.SIGINT),
]


@pytest.fixture(autouse=True, scope='module')
def _without_a_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, 'build', tiny_method)
        yield


def config_of(backend='jit', feed='resident', **train):
    """With an average, so that a state has all that it can have."""
    config = small_config(**{'num_steps': 6, 'backend': backend, **train})
    with config.unlocked():
        config.data.feed = feed
        config.optim.ema_decay = 0.5
    return config


def at_step(monkeypatch, feed, step, change):
    """Let `change(raw)` make the batch of one step."""
    original = loop.FEEDS[feed]

    def changed(*args, **kwargs):
        inner = original(*args, **kwargs)
        return lambda start: (change(raw) if i == step else raw for i, raw in enumerate(inner(start), start + 1))

    monkeypatch.setitem(loop.FEEDS, feed, changed)


def assert_same_tree(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def steps_of(workdir):
    return storage.find_steps(workdir / 'checkpoints')


@pytest.fixture(scope='module')
def whole(dataset, tmp_path_factory):
    """Six steps that nothing interrupts, with 'jit' and 'resident': state and workdir, not to be changed."""
    workdir = tmp_path_factory.mktemp('whole')
    return loop.train(config_of(), workdir, dataset), workdir


@pytest.mark.parametrize('backend, feed, number', COMBINATIONS)
def test_a_signal_saves_once_and_the_run_goes_on_bit_for_bit(
    dataset, whole, tmp_path, monkeypatch, capfd, backend, feed, number
):
    """The signal comes before step 3, which belongs to no interval; `loop_test.py` has the other two combinations."""
    if feed == 'tfds':
        pytest.importorskip('tensorflow_datasets', reason='the extra `data` is not installed')
    config, handlers = config_of(backend, feed), [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]

    def signalled(raw):
        os.kill(os.getpid(), number)
        return raw

    with monkeypatch.context() as patch:
        at_step(patch, feed, 3, signalled)
        with pytest.raises(SystemExit) as stopped:
            loop.train(config, tmp_path / 'cut', dataset)
    assert stopped.value.code == faults.EXIT_STOPPED == 75
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert steps_of(tmp_path / 'cut') == [2, 3]
    said = capfd.readouterr()
    assert f'{number.name}: the run saves after this step and stops' in said.err
    assert 'stopped and saved at step 3' in said.out

    resumed = loop.train(config, tmp_path / 'cut', dataset)
    assert f'resuming at step 3 of {tmp_path / "cut"}' in capfd.readouterr().out
    expected = whole[0] if (backend, feed) == ('jit', 'resident') else loop.train(config, tmp_path / 'whole', dataset)
    assert_same_tree(expected, resumed)


def test_the_second_signal_acts_at_once():
    # Python ignores SIGINT from its start where whoever started it does, as a shell in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with faults.stop_requests() as stop_asked:
        assert not stop_asked()
        signal.raise_signal(signal.SIGINT)
        assert stop_asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_a_run_in_a_thread_is_not_asked_to_stop():
    answers = []

    def ask():
        with faults.stop_requests() as stop_asked:
            answers.append(stop_asked())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert answers == [False]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_run_goes_on_from_the_one_before(dataset, whole, tmp_path, capsys):
    state, workdir = whole
    own = shutil.copytree(workdir, tmp_path / 'own')
    assert steps_of(own)[-2:] == [4, 6]
    folder = own / 'checkpoints' / '6'
    path = max(folder.glob('state/ocdbt.process_0/d/*'), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    assert load_run(own).step in (2, 4)
    assert f'WARNING: {path}: expected the content that was saved' in capsys.readouterr().out
    assert_same_tree(state, loop.train(config_of(), own, dataset))
    said = capsys.readouterr().out
    assert f'WARNING: {path}' in said
    assert 'resuming at step 4' in said
    assert_same_tree(load_run(own).params, load_run(workdir).params)

    for step in steps_of(own):
        (own / f'checkpoints/{step}/state/_METADATA').unlink()
    for use in (load_run, lambda w: loop.train(config_of(), w, dataset)):
        with pytest.raises(InputError, match='expected a sound checkpoint, found damaged ones only'):
            use(own)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_it(dataset, tmp_path, monkeypatch, value):
    """The step is not the one at which the loss is looked at."""

    def spoil(raw):
        return {**raw, 'points': raw['points'].at[2].set(value)}

    at_step(monkeypatch, 'resident', 5, spoil)
    config = config_of(num_steps=7, log_every_steps=7, checkpoint_every_steps=2)
    with pytest.raises(FloatingPointError, match=r'the loss of step 5 is not finite') as error:
        loop.train(config, tmp_path, dataset)
    feed = loop.FEEDS['resident'](dataset, find_need(config.data), batch_size=4, seed=config.seed)
    expected = next(batch for i, batch in enumerate(feed(0), 1) if i == 5)
    shapes = records.read_index(dataset).splits['train']
    names = ['/'.join(shapes[i]) for i in np.asarray(expected['index'])]
    path = tmp_path / 'bad_batch_5.npz'
    assert f'rows {", ".join(names)}, is in {path}; not finite in it: points of row 2 ({names[2]})' in str(error.value)
    with np.load(path, allow_pickle=False) as stored:
        assert stored['name'].tolist() == names
        for key, content in expected.items():
            np.testing.assert_array_equal(stored[key], content, strict=True)
    assert steps_of(tmp_path) == [2, 4]


def test_two_runs_on_one_workdir(dataset, whole):
    state, workdir = whole
    with (
        faults.locked(workdir),
        pytest.raises(InputError, match=rf'{workdir}/lock: expected a workdir .* found process {os.getpid()} on'),
    ):
        loop.train(config_of(), workdir, dataset)
    assert_same_tree(state, loop.train(config_of(), workdir, dataset))


def test_a_lock_ends_with_its_process(tmp_path):
    program = (
        'import sys, time\nfrom pathlib import Path\nfrom onet_jax.training.faults import locked\n'
        'with locked(Path(sys.argv[1])):\n    print("held", flush=True)\n    time.sleep(600)\n'
    )
    with subprocess.Popen([sys.executable, '-c', program, tmp_path / 'w'], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'held\n'
        with pytest.raises(InputError, match=f'found process {other.pid} on'), faults.locked(tmp_path / 'w'):
            pass
        other.kill()
    with faults.locked(tmp_path / 'w'):
        assert f'process {os.getpid()} on' in (tmp_path / 'w' / 'lock').read_text()


def test_a_changed_config_is_accepted_on_request_and_other_shapes_are_not(dataset, whole, tmp_path, capsys):
    own = shutil.copytree(whole[1], tmp_path / 'own')
    config = config_of(num_steps=7)
    with config.unlocked():
        config.optim.learning_rate = 3e-4
    with pytest.raises(
        ValueError, match=r'config.optim.learning_rate: 0.001 in the workdir, 0.0003 (.|\n)*--accept_changes'
    ) as error:
        loop.train(config, own, dataset)
    assert 'config.model' not in str(error.value)
    assert int(loop.train(config, own, dataset, accept_changes=True).step) == 7
    said = capsys.readouterr().out
    assert 'going on with another config:\n  config.optim.learning_rate: 0.001 in the workdir, 0.0003 asked for' in said
    assert 'resuming at step 6' in said
    assert checkpoints.read_config(own).optim.learning_rate == 3e-4
    loop.train(config, own, dataset)  # now it is the config of the workdir

    wider = config.copy_and_resolve_references()
    with wider.unlocked():
        wider.model.cond_size = 20
    message = (
        r'/7: expected the arrays of this config(.|\n)*params/a: \[100, 12\] in the checkpoint, \[100, 20\] asked for'
    )
    with pytest.raises(InputError, match=message):
        loop.train(wider, own, dataset, accept_changes=True)
    assert checkpoints.read_config(own).to_dict() == config.to_dict(), 'a refused run changes nothing'


@contextmanager
def mounted(path, *options):
    """A file system at `path`; the test is skipped where mounting is not permitted."""
    path.mkdir(exist_ok=True)
    if os.geteuid() != 0 or shutil.which('mount') is None:
        pytest.skip('only root may mount a file system')
    done = subprocess.run(['mount', *options, str(path)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'mounting is not permitted here: {done.stderr.strip()}')
    try:
        yield
    finally:
        # Lazily, as threads of a save that failed may still have files of it open.
        subprocess.run(['umount', '--lazy', str(path)], check=True)


# Writes that orbax has begun go on after the first that fails, and find its event loop closed.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_full_disk_leaves_the_old_checkpoint(dataset, whole, tmp_path, monkeypatch):
    disk = tmp_path / 'disk'
    with mounted(disk, '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs'):

        def fill(raw):
            (disk / 'other').write_bytes(
                bytes(shutil.disk_usage(disk).free - 20_000)
            )  # for the log, not for a checkpoint
            return raw

        with monkeypatch.context() as patch:
            at_step(patch, 'resident', 3, fill)
            with pytest.raises(OSError, match=r'checkpoints/4: expected to write a checkpoint, .*step 2 is the latest'):
                loop.train(config_of(), disk / 'w', dataset)
        assert steps_of(disk / 'w') == [2]
        (disk / 'other').unlink()
        assert_same_tree(whole[0], loop.train(config_of(), disk / 'w', dataset))


def test_a_folder_that_cannot_be_written_to_is_named(dataset, whole, tmp_path):
    own = shutil.copytree(whole[1], tmp_path / 'own')
    with mounted(own, '--bind', str(own)):
        subprocess.run(['mount', '-o', 'remount,bind,ro', str(own)], check=True)
        with pytest.raises(OSError, match=rf'{own}: expected a folder that can be written to, found: Read-only'):
            loop.train(config_of(num_steps=8), own, dataset)
        assert load_run(own).params, 'reading needs no right to write'
    assert steps_of(own) == steps_of(whole[1])


def test_a_file_in_the_place_of_the_workdir_is_named(dataset, tmp_path):
    (tmp_path / 'w').write_text('a note')
    with pytest.raises(OSError, match=r'/w: expected a folder that can be written to, found: File exists'):
        loop.train(config_of(), tmp_path / 'w', dataset)
    assert (tmp_path / 'w').read_text() == 'a note'


@pytest.mark.parametrize('feed', [pytest.param('resident', marks=pytest.mark.slow), 'tfds'])
def test_bad_examples_are_named_and_left_out_on_request(dataset, tmp_path, capsys, feed):
    """One of training and the first one of validation."""
    if feed == 'tfds':
        pytest.importorskip('tensorflow_datasets', reason='the extra `data` is not installed')
    data = shutil.copytree(dataset, tmp_path / 'data', ignore=shutil.ignore_patterns('tfds'))
    splits = records.read_index(data).splits
    bad = splits['train'][4], splits['val'][0]
    paths = [records.shape_path(data, *name) for name in bad]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content[: len(content) // 2])

    config = config_of(feed=feed, num_steps=4)
    for limit in (0, 1):
        with pytest.raises(InputError, match=rf'(.|\n)*more bad examples than --max_bad_examples={limit}') as error:
            loop.train(config, tmp_path / f'refused{limit}', data, max_bad_examples=limit)
        assert str(paths[0]) in str(error.value)
        assert not (tmp_path / f'refused{limit}').exists()
    capsys.readouterr()
    trained = loop.train(config, tmp_path / 'w', data, max_bad_examples=2)
    said = capsys.readouterr().out
    for name, path in zip(bad, paths, strict=True):
        assert f'left out {"/".join(name)}, number ' in said
        assert f'of at most 2: {path}: expected' in said
    assert_same_tree(trained, loop.train(config, tmp_path / 'again', data, max_bad_examples=5))

    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    with config.unlocked():
        config.train.num_steps = 5
    loop.train(config, tmp_path / 'w', data)
    assert f'until now the run left out {sorted(map("/".join, bad))}, from now on []' in capsys.readouterr().out


def test_a_negative_number_of_bad_examples_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match='--max_bad_examples: expected a number of at least 0, found -1'):
        loop.train(config_of(), tmp_path / 'w', dataset, max_bad_examples=-1)
