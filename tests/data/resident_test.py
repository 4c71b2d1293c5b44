import shutil
from itertools import islice

import jax
import numpy as np
import pytest

from onet_jax.data import records, resident
from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.resident import resident_feed


def take(feed, start, count):
    return [jax.tree.map(np.asarray, raw) for raw in islice(feed.batches(start), count)]


def find_shapes(dataset, batches):
    """Which (shape, chunk) every row is, by its content."""
    index = records.read_index(dataset)
    stored = {}
    for name in index.splits['train']:
        chunks = records.split_chunks(records.read_shape(records.shape_path(dataset, *name)))
        for k in range(2):
            record = (chunks.points[k], chunks.occ[k], chunks.surface[k], chunks.voxels)
            stored[b''.join(a.tobytes() for a in record)] = (name, k)
    keys = ('points', 'occ', 'surface', 'voxels')
    return [stored[b''.join(raw[k][i].tobytes() for k in keys)] for raw in batches for i in range(len(raw['row']))]


def test_a_batch_is_a_function_of_seed_and_step(dataset):
    whole = take(resident_feed(dataset, batch_size=4, seed=1), 0, 8)
    later = take(resident_feed(dataset, batch_size=4, seed=1), 5, 3)
    jax.tree.map(np.testing.assert_array_equal, whole[5:], later)
    other = take(resident_feed(dataset, batch_size=4, seed=2), 0, 8)
    assert find_shapes(dataset, whole) != find_shapes(dataset, other)


@pytest.mark.parametrize('batch_size', [1, 4, 9, 20])
def test_an_epoch_has_every_shape_once_and_content_as_stored(dataset, batch_size):
    """Nine training shapes, also for batches that span epochs or are larger than one."""
    feed = resident_feed(dataset, batch_size=batch_size, seed=0)
    assert feed.num_shapes == 9
    found = find_shapes(dataset, take(feed, 0, -(-36 // batch_size)))[:36]
    epochs = [[name for name, _ in found[i : i + 9]] for i in range(0, 36, 9)]
    expected = sorted(records.read_index(dataset).splits['train'])
    assert all(sorted(epoch) == expected for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert {chunk for _, chunk in found} == {0, 1}


def test_the_parts_of_a_batch_make_the_whole(dataset):
    """What each of three processes is given of batches that span epochs."""
    whole = take(resident_feed(dataset, batch_size=12, seed=1), 2, 3)
    parts = [
        take(resident_feed(dataset, batch_size=12, seed=1, rows=range(start, start + 4)), 2, 3) for start in (0, 4, 8)
    ]
    for raw, *pieces in zip(whole, *parts, strict=True):
        assert [piece['row'].tolist() for piece in pieces] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces)
        jax.tree.map(np.testing.assert_array_equal, raw, joined)


def test_an_index_is_the_position_in_the_split(dataset):
    names = records.read_index(dataset).splits['train']
    for raw in take(resident_feed(dataset, batch_size=4, seed=0), 0, 3):
        assert [names[i] for i in raw['index']] == [name for name, _ in find_shapes(dataset, [raw])]


def test_views_are_the_stored_ones_decoded(dataset):
    """Chunk k of a shape comes with view k; the third one belongs to no chunk of so few points."""
    [raw] = take(resident_feed(dataset, batch_size=18, seed=0), 0, 1)
    assert raw['view'].shape == (18, 137, 137, 3)
    assert raw['view'].dtype == np.uint8
    for view, (name, chunk) in zip(raw['view'], find_shapes(dataset, [raw]), strict=True):
        shape = records.read_shape(records.shape_path(dataset, *name))
        np.testing.assert_array_equal(view, records.decode_view(shape.views.jpegs[chunk]))


def test_a_split_that_does_not_fit_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(resident, '_free_bytes', lambda: 1000)
    with pytest.raises(ValueError, match=r'fits into the memory of the device.*config.data.feed=tfds'):
        resident_feed(dataset, batch_size=4, seed=0)
    # Nine shapes: two chunks of 2048 float16 points and as many samples with the labels, voxels, and three views.
    needed = 9 * (2 * 2 * 2048 * 3 * 2 + 2 * 2048 // 8 + 32**3 // 8 + 3 * 137 * 137 * 3)
    monkeypatch.setattr(resident, '_free_bytes', lambda: needed - 1)
    with pytest.raises(ValueError, match=f'found {needed / 1e9:.2f} GB'):
        resident_feed(dataset, batch_size=4, seed=0)
    monkeypatch.setattr(resident, '_free_bytes', lambda: needed)
    resident_feed(dataset, batch_size=4, seed=0)
    index = records.read_index(dataset)
    loaded = resident._load(dataset, index, index.splits['train'], BadExamples())
    assert sum(array.nbytes for key, array in loaded.items() if key != 'index') == needed


def test_a_shape_that_cannot_be_read_is_in_no_batch(dataset, tmp_path):
    """The others keep their position in the split; with none left there is nothing to train on."""
    copy = shutil.copytree(dataset, tmp_path / 'copy', ignore=shutil.ignore_patterns('tfds'))
    names = records.read_index(copy).splits['train']
    records.shape_path(copy, *names[0]).write_bytes(b'')
    records.shape_path(copy, *names[5]).unlink()
    bad = BadExamples(2)
    batches = take(resident_feed(copy, batch_size=7, seed=0, bad_examples=bad), 0, 2)
    assert set(bad.reasons) == {'/'.join(names[i]) for i in (0, 5)}
    for raw in batches:
        assert sorted(raw['index']) == [1, 2, 3, 4, 6, 7, 8]
        assert [names[i] for i in raw['index']] == [name for name, _ in find_shapes(dataset, [raw])]
    with pytest.raises(ValueError, match=r'more bad examples than --max_bad_examples=1'):
        resident_feed(copy, batch_size=7, seed=0, bad_examples=BadExamples(1))
    for name in names:
        records.shape_path(copy, *name).write_bytes(b'')
    with pytest.raises(ValueError, match='expected shapes to train on, found none that can be read'):
        resident_feed(copy, batch_size=7, seed=0, bad_examples=BadExamples(9))


def test_a_row_has_as_many_surface_points_as_asked(dataset):
    one, two = (
        next(resident_feed(dataset, batch_size=3, seed=2, num_surface_points=n).batches(5)) for n in (100, 2049)
    )
    assert one['surface'].shape == (3, 2048, 3)
    assert two['surface'].shape == (3, 4096, 3)
    np.testing.assert_array_equal(two['surface'][:, :2048], one['surface'])
    assert (two['surface'][:, 2048:] != one['surface']).any()
    most = next(resident_feed(dataset, batch_size=3, seed=2, num_surface_points=10_000).batches(5))
    assert most['surface'].shape == (3, 4096, 3), 'all that a shape has'


def test_a_row_has_all_labelled_points_where_they_are_asked_for(dataset):
    index = records.read_index(dataset)
    one, most = (next(resident_feed(dataset, batch_size=3, seed=2, num_points=n).batches(5)) for n in (1, None))
    num_points = index.num_points // records.CHUNK_POINTS * records.CHUNK_POINTS
    assert num_points > records.CHUNK_POINTS
    assert most['points'].shape == (3, num_points, 3)
    np.testing.assert_array_equal(most['points'][:, : records.CHUNK_POINTS], one['points'])
    np.testing.assert_array_equal(most['index'], one['index'])
    for row, number in enumerate(np.asarray(most['index'])):
        shape = records.read_shape(records.shape_path(dataset, *index.splits['train'][number]), index)
        expected = {
            (*map(float, point), bool(occ)) for point, occ in zip(shape.points[:num_points], shape.occ, strict=False)
        }
        occ = np.unpackbits(most['occ'][row])
        found = {(*map(float, point), bool(o)) for point, o in zip(np.asarray(most['points'][row]), occ, strict=True)}
        assert found == expected
