import json
import os
import resource
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.errors import InputError
from onet_jax.training import storage

STEPS = (2, 4)


def make_state(seed):
    rng = np.random.default_rng(seed)
    return {'step': jnp.int32(seed), 'layers': [jnp.asarray(rng.normal(size=(40, 30)), jnp.float32)]}


def abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A folder with the checkpoints 2 and 4; not to be changed."""
    folder = tmp_path_factory.mktemp('checkpoints')
    with storage.Checkpointer(folder, writes=True) as checkpointer:
        for step in STEPS:
            checkpointer.save(step, make_state(step), metrics={'score': 1 / step})
    return folder


@pytest.fixture
def own(saved, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(saved, tmp_path / 'own')


def assert_holds(folder, step):
    """The latest sound checkpoint is this one, with the values it was saved with."""
    checkpointer = storage.Checkpointer(folder, writes=False)
    assert checkpointer.latest.step == step
    found = checkpointer.load(step, abstract(make_state(step)))
    jax.tree.map(np.testing.assert_array_equal, found, make_state(step))


def test_a_flipped_bit_in_any_file_is_named_and_the_previous_checkpoint_used(own, capsys):
    rng = np.random.default_rng(0)
    files = sorted(path for path in (own / '4').rglob('*') if path.is_file() and path.stat().st_size)
    assert {'digest.json', 'metrics'} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for position in rng.integers(len(content), size=5):
            damaged = bytearray(content)
            damaged[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            assert storage.Checkpointer(own, writes=False).latest.step == 2, f'{path}, byte {position}'
            said = capsys.readouterr().out
            # Of a damaged list of digests it cannot be said whether the list is wrong or the file.
            assert str(own / '4' if path.name == storage.DIGEST else path) in said
            assert 'this checkpoint is not used' in said
        path.write_bytes(content)
    assert_holds(own, 4)


@pytest.mark.parametrize('change', ['truncate', 'empty', 'remove'])
def test_a_file_that_was_cut_off_is_named(own, change, capsys):
    path = max((own / '4').rglob('*'), key=lambda p: p.stat().st_size * p.is_file())
    content = path.read_bytes()
    path.unlink()
    if change != 'remove':
        path.write_bytes(content[: len(content) // 2] if change == 'truncate' else b'')
    assert_holds(own, 2)
    assert f'WARNING: {path}: expected' in capsys.readouterr().out


def test_without_a_sound_checkpoint_all_are_named(own):
    for step in STEPS:
        (own / str(step) / 'state' / '_METADATA').write_bytes(b'{}')
    for writes in (True, False):
        with pytest.raises(InputError, match=r'found damaged ones only:\n.*2/state/_METADATA.*\n.*4/state/_METADATA'):
            storage.Checkpointer(own, writes=writes)
    assert storage.find_steps(own) == list(STEPS), 'nothing is thrown away'


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(own):
    (own / '4' / 'state' / '_METADATA').write_bytes(b'')
    with storage.Checkpointer(own, writes=True) as checkpointer:
        assert checkpointer.latest.step == 2
        checkpointer.save(4, make_state(4))
    assert_holds(own, 4)


def test_the_two_latest_and_the_best_are_kept(tmp_path):
    with storage.Checkpointer(tmp_path, writes=True) as checkpointer:
        for step, value in ((1, 0.3), (2, 0.5), (3, None), (4, 0.4), (5, None)):
            checkpointer.save(step, make_state(step), metrics=value and {'score': value})
        assert checkpointer.best.step == 2
    assert storage.find_steps(tmp_path) == [2, 4, 5]
    again = storage.Checkpointer(tmp_path, writes=False)
    assert [c.step for c in again.checkpoints] == [2, 4, 5]
    assert (again.best.step, again.latest.step) == (2, 5)
    with storage.Checkpointer(tmp_path, writes=True) as checkpointer:
        checkpointer.save(6, make_state(6), metrics={'score': 0.5})
        assert checkpointer.best.step == 6, 'of equal ones the later'


def test_what_an_interrupted_save_leaves_is_no_checkpoint_and_is_removed_by_the_next_run(own):
    for name in ('6.unfinished', '6.unfinished.orbax-checkpoint-tmp', '2.deleted'):
        shutil.copytree(own / '4', own / name)
    before = sorted(own.iterdir())
    assert_holds(own, 4)
    with storage.Checkpointer(own, writes=False):
        pass
    assert sorted(own.iterdir()) == before, 'a reader leaves it alone'
    with storage.Checkpointer(own, writes=True):
        assert sorted(path.name for path in own.iterdir()) == ['2', '4']


def test_what_cannot_be_removed_is_an_error_of_the_start_and_hides_no_other_at_the_end(own, monkeypatch):
    def rmtree(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(f'{path} is busy')

    def run_and_fail():
        with storage.Checkpointer(own, writes=True):
            (own / '6.unfinished').mkdir()
            raise RuntimeError('of the run')

    monkeypatch.setattr(shutil, 'rmtree', rmtree)
    with pytest.raises(RuntimeError, match='of the run'):
        run_and_fail()
    with pytest.raises(OSError, match=r'6\.unfinished is busy'):
        run_and_fail()


def test_a_checkpoint_without_digests_is_not_used(own, capsys):
    (own / '4' / storage.DIGEST).unlink()
    assert_holds(own, 2)
    assert f'WARNING: {own}/4/digest.json: expected the digests of a checkpoint, found none' in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_ones(own):
    """The limit is on the size of a file: what a full disk is to a file that is too large for it."""
    big = {'a': jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with storage.Checkpointer(own, writes=True) as checkpointer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(
                OSError, match=r'own/6: expected to write .*File too large; step 4 is the latest .*intact'
            ):
                checkpointer.save(6, big)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in own.iterdir()) == ['2', '4'], 'the part that was written makes room again'
    assert_holds(own, 4)


def test_what_a_full_disk_refuses_is_named_and_a_bug_is_not_taken_for_it(own, monkeypatch):
    def fail(*_):
        raise error

    error = OSError(28, 'No space left on device')
    monkeypatch.setattr(storage, 'write_json', fail)
    with (
        storage.Checkpointer(own, writes=True) as checkpointer,
        pytest.raises(OSError, match=r'own/6: .*No space left'),
    ):
        checkpointer.save(6, make_state(6))
    error = ValueError('not a leaf')
    monkeypatch.setattr(storage.ocp, 'save', fail)
    with storage.Checkpointer(own, writes=True) as checkpointer, pytest.raises(ValueError, match=r'^not a leaf$'):
        checkpointer.save(6, make_state(6))
    assert_holds(own, 4)


@pytest.mark.parametrize('stored', [None, {}])
def test_a_checkpoint_whose_arrays_are_missing_when_they_are_read_again_is_none(own, monkeypatch, stored):
    monkeypatch.setattr(storage.ocp, 'metadata', lambda path: SimpleNamespace(metadata=stored))
    with (
        storage.Checkpointer(own, writes=True) as checkpointer,
        pytest.raises(OSError, match=r'own/6: .*arrays are missing when they are read again'),
    ):
        checkpointer.save(6, make_state(6))
    monkeypatch.undo()
    assert_holds(own, 4)


def test_every_process_that_reads_finds_the_checkpoints(own, monkeypatch):
    monkeypatch.setattr(storage, 'is_first_process', lambda: False)
    assert_holds(own, 4)


def test_of_processes_that_write_the_first_finds_the_checkpoints_for_all(own, monkeypatch):
    monkeypatch.setattr(storage, 'is_first_process', lambda: False)
    monkeypatch.setattr(storage, 'from_first_process', lambda found: [*found, (2, {'score': 0.5})])
    assert [c.step for c in storage.Checkpointer(own, writes=True).checkpoints] == [2]
    assert [c.step for c in storage.Checkpointer(own, writes=False).checkpoints] == [2, 4]


def test_a_state_of_other_shapes_is_described(own):
    stored = storage.Checkpointer(own, writes=False).metadata(4).metadata
    assert storage.describe_differences(stored, make_state(4)) == []
    other = {'step': jnp.int32(0), 'layers': [jnp.zeros((40, 31)), jnp.zeros(2)]}
    assert storage.describe_differences(stored, other) == [
        '  layers/0: [40, 30] in the checkpoint, [40, 31] asked for',
        '  layers/1: (absent) in the checkpoint, [2] asked for',
    ]


def test_the_digests_cover_every_file(saved):
    listed = json.loads((saved / '4' / storage.DIGEST).read_text())
    assert storage.digest_files(saved / '4') == listed
    files = {str(p.relative_to(saved / '4')) for p in (saved / '4').rglob('*') if p.is_file()}
    assert files - listed.keys() == {storage.DIGEST}


@pytest.mark.parametrize(
    'name', ['a[b]c', 'back\\slash', os.fsdecode(b'\xff'), 'gs:', '*?', '!"#$%&\'()+,-.:;<=>@^_`{|}~ \n\u00fc']
)
def test_a_checkpoint_is_read_again_whatever_the_name_of_its_folder(tmp_path, name):
    folder = tmp_path / name / 'checkpoints'
    folder.mkdir(parents=True)
    with storage.Checkpointer(folder, writes=True) as checkpointer:
        checkpointer.save(2, make_state(2))
    assert_holds(folder, 2)


# Of the reads that fail orbax awaits one; the error of another is found by the garbage collector.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_a_checkpoint_that_cannot_be_read_again_does_not_count_as_saved(tmp_path, monkeypatch):
    """Orbax takes brackets for a pattern: it leaves the files of its processes unmerged, and says nothing."""
    folder = tmp_path / 'a[b]c'
    folder.mkdir()
    monkeypatch.setattr(storage, '_plain_name', nullcontext)
    with storage.Checkpointer(folder, writes=True) as checkpointer:
        with pytest.raises(OSError, match=r'2: expected to write a checkpoint, found: arrays are missing'):
            checkpointer.save(2, make_state(2))
        assert checkpointer.latest is None
    assert storage.find_steps(folder) == []
