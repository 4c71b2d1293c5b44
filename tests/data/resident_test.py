from itertools import islice

import jax
import numpy as np
import pytest
from numbered_shapes import SPLITS, decode, write_numbered_shapes

from onet_jax.data import records, resident
from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.records import CHUNK_POINTS, Need
from onet_jax.data.resident import resident_feed
from onet_jax.errors import InputError

NEED = Need(('points', 'occ'), 64)


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    return write_numbered_shapes(tmp_path_factory.mktemp('numbered'))


@pytest.mark.parametrize(
    'need, bytes_of_shape',
    [
        (NEED, 10 * CHUNK_POINTS * 3 * 2 + 10 * CHUNK_POINTS // 8),
        (Need(('surface', 'normals', 'voxels'), 0, 30), 2 * 8 * CHUNK_POINTS * 3 * 2 + 32**3 // 8),
        (Need(('image', 'depth', 'camera_mat')), 12 * (137 * 137 * (3 + 2) + 9 * 4)),
    ],
)
def test_what_a_step_reads_is_loaded_and_nothing_else(numbered, monkeypatch, need, bytes_of_shape):
    """A split that does not fit is refused before it is read, by the bytes that would be loaded."""
    needed = bytes_of_shape * len(SPLITS['train'])
    monkeypatch.setattr(resident, '_free_bytes', lambda: needed - 1)
    with pytest.raises(InputError, match=rf'fits into the memory .* found {needed / 1e9:.2f} GB; use .*data.feed=tfds'):
        resident_feed(numbered, need, batch_size=4, seed=0)
    monkeypatch.setattr(resident, '_free_bytes', lambda: needed)
    loaded, original = [], resident._load
    monkeypatch.setattr(resident, '_load', lambda *args: loaded.append(original(*args)) or loaded[0])
    resident_feed(numbered, need, batch_size=4, seed=0)
    assert loaded[0][0].keys() == {*need.columns, 'index'}
    assert sum(array.nbytes for name, array in loaded[0][0].items() if name != 'index') == needed


def test_a_shape_that_cannot_be_read_is_in_no_batch(tmp_path):
    """The others keep their position in the split; with none left there is nothing to train on."""
    data_dir, names = write_numbered_shapes(tmp_path), SPLITS['train']
    records.shape_path(data_dir, *names[0]).write_bytes(b'')
    records.shape_path(data_dir, *names[3]).unlink()
    bad = BadExamples(2)
    feed = resident_feed(data_dir, NEED, batch_size=3, seed=0, bad_examples=bad)
    assert set(bad.reasons) == {'/'.join(names[i]) for i in (0, 3)}
    for raw in islice(feed(0), 3):
        assert sorted(np.asarray(raw['index'])) == [1, 2, 4]
        shapes, _ = decode(raw['points'])
        np.testing.assert_array_equal(shapes[:, 0], raw['index'])
    with pytest.raises(InputError, match=r'more bad examples than --max_bad_examples=1'):
        resident_feed(data_dir, NEED, batch_size=3, seed=0, bad_examples=BadExamples(1))
    for name in names:
        records.shape_path(data_dir, *name).write_bytes(b'')
    with pytest.raises(InputError, match='expected shapes to train on, found none that can be read'):
        resident_feed(data_dir, NEED, batch_size=3, seed=0, bad_examples=BadExamples(9))


def test_what_is_wrong_with_the_program_is_not_left_out(numbered, monkeypatch):
    def broken(*args):
        raise ValueError('operands could not be broadcast')

    monkeypatch.setattr(resident, 'cut_chunks', broken)
    with pytest.raises(ValueError, match='broadcast'):
        resident_feed(numbered, NEED, batch_size=3, seed=0, bad_examples=BadExamples(9))


def test_a_batch_stays_what_it_was_when_the_next_ones_are_drawn(numbered):
    """Batches are prefetched: each has memory of its own."""
    batches = resident_feed(numbered, NEED, batch_size=4, seed=0)(0)
    first = next(batches)
    before = jax.tree.map(np.array, first)
    list(islice(batches, 3))
    jax.tree.map(np.testing.assert_array_equal, first, before)
