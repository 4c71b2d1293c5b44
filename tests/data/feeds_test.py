"""What both feeds have in common, and how one of them is chosen; `resident_test.py` and `streamed_test.py` have the rest."""

import importlib.util
from itertools import islice

import jax
import numpy as np
import pytest
from model_configs import small_data
from numbered_shapes import NUM_VIEWS, SPLITS, decode, make_shape, make_view, write_numbered_shapes

from onet_jax.data import feeds, fields, records, resident
from onet_jax.data.feeds import FEEDS, open_feed
from onet_jax.data.records import CHUNK_POINTS, Need
from onet_jax.errors import InputError

NEEDS_TENSORFLOW = pytest.mark.skipif(
    importlib.util.find_spec('tensorflow_datasets') is None, reason='the extra `data` is not installed'
)
BOTH = pytest.mark.parametrize('feed', ['resident', pytest.param('tfds', marks=NEEDS_TENSORFLOW)])
NUM_SHAPES = len(SPLITS['train'])
CLOUDS = Need(('points', 'occ', 'surface', 'voxels', 'scale'), 64, 30)
VIEWS = Need(('points', 'occ', 'image', 'alpha', 'depth', 'world_mat', 'camera_mat'), 64)


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    return write_numbered_shapes(tmp_path_factory.mktemp('numbered'))


def take(feed, start, count):
    return [jax.tree.map(np.asarray, raw) for raw in islice(feed(start), count)]


def find_rows(batches):
    """(shape, chunk of points) of every row."""
    found = []
    for raw in batches:
        shapes, points = decode(raw['points'])
        assert (shapes == raw['index'][:, None]).all(), 'the position in the split'
        found += zip(raw['index'].tolist(), (points[:, 0] // CHUNK_POINTS).tolist(), strict=True)
    return found


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize('num_cloud, num_queries, num_near', [(10_000, 5000, 416), (16_384, 20_480, 0)])
def test_a_step_draws_as_many_different_samples_as_its_config_says(numbered, feed, num_cloud, num_queries, num_near):
    """Of its own shape and with its own labels and normals; the last case is all that a shape has."""
    sizes = {'num_input_points': num_cloud, 'num_target_points': num_cloud, 'num_points_per_step': num_queries}
    data = small_data(targets=('volume_points', 'surface_samples'), num_near_points=num_near, **sizes)
    raw = next(FEEDS[feed](numbered, fields.find_need(data), batch_size=3, seed=0)(0))
    batch = jax.jit(fields.make_transform(data))(jax.random.key(0), raw)
    targets = batch['targets']
    for name, points, count in (
        ('cloud', batch['inputs']['cloud'], num_cloud),
        ('queries', targets['points'], num_queries),
        ('samples', targets['surface'], num_cloud),
    ):
        shapes, numbers = decode(points)
        assert points.shape == (3, count, 3)
        assert [len(set(row)) for row in numbers] == [count] * 3, name
        np.testing.assert_array_equal(shapes, np.tile(raw['index'], (count, 1)).T)
    _, numbers = decode(targets['points'])
    occ = [make_shape(shape).occ[row] for shape, row in zip(np.asarray(raw['index']), numbers, strict=True)]
    np.testing.assert_array_equal(targets['occ'], occ)
    np.testing.assert_array_equal(targets['normals'], -targets['surface'])


@pytest.mark.parametrize(
    'need, message',
    [
        (Need(('points', 'occ'), 20_481), r'22528 labelled points of a shape, found 20480: a training step draws 20481 diff'),
        (Need(('surface',), 0, 16_385), r'18432 surface samples of a shape, found 16384: a training step draws 16385 diff'),
        (Need(('points', 'occ', 'colours'), 64), r"the columns \['colours'\], which the fields of the config read, found \["),
    ],
)  # fmt: skip
def test_both_feeds_refuse_in_the_same_words_what_a_dataset_does_not_have(numbered, need, message):
    with pytest.raises(
        InputError, match=rf'{numbered}/dataset\.json: expected (at least )?{message}'
    ) as resident_error:
        FEEDS['resident'](numbered, need, batch_size=2, seed=0)
    with pytest.raises(InputError) as streamed_error:
        FEEDS['tfds'](numbered, need, batch_size=2, seed=0)
    assert str(streamed_error.value) == str(resident_error.value)


@BOTH
def test_a_batch_is_a_function_of_seed_and_step(numbered, feed):
    whole = take(FEEDS[feed](numbered, CLOUDS, batch_size=4, seed=1), 0, 17)
    later = take(FEEDS[feed](numbered, CLOUDS, batch_size=4, seed=1), 13, 4)
    jax.tree.map(np.testing.assert_array_equal, whole[13:], later)
    assert all(raw['row'].tolist() == [0, 1, 2, 3] for raw in whole)
    other = take(FEEDS[feed](numbered, CLOUDS, batch_size=4, seed=2), 0, 17)
    assert find_rows(whole) != find_rows(other)


@BOTH
@pytest.mark.parametrize('batch_size', [1, 4, 7, 60])
def test_an_epoch_has_everything_once_in_an_order_of_its_own_and_as_it_is_stored(numbered, feed, batch_size):
    """Each shape, or each record of a shape, also for batches that span epochs or are larger than one."""
    open_one = FEEDS[feed](numbered, CLOUDS, batch_size=batch_size, seed=0)
    all_chunks = [(shape, chunk) for shape in range(NUM_SHAPES) for chunk in range(10)]
    batches = take(open_one, 0, -(-100 // batch_size))
    found, length = find_rows(batches), NUM_SHAPES if feed == 'resident' else len(all_chunks)
    epochs = [found[start : start + length] for start in range(0, 100, length)]
    for epoch in epochs:
        if feed == 'resident':
            assert sorted(shape for shape, _ in epoch) == list(range(NUM_SHAPES))
        else:
            assert sorted(epoch) == all_chunks
    assert epochs[0] != epochs[1]
    assert {chunk for _, chunk in found} == set(range(10))
    for raw in batches[:3]:
        assert raw.keys() == {*CLOUDS.columns, 'index', 'row'}
        for row, (shape, chunk) in enumerate(find_rows([raw])):
            stored = make_shape(shape)
            for name in CLOUDS.columns:
                expected = records.as_stored(name, getattr(stored, name))
                if name in ('points', 'occ'):
                    expected = records.cut_chunks(stored, name)[chunk]
                elif name == 'surface':
                    (_, numbers) = decode(raw[name][row])
                    expected = stored.surface[numbers[0] : numbers[0] + CHUNK_POINTS]
                np.testing.assert_array_equal(raw[name][row], expected, err_msg=name)


@BOTH
@pytest.mark.parametrize('start', [0, 5])
def test_the_parts_of_a_batch_make_the_whole(numbered, feed, start):
    """What each of three processes is given of batches that span epochs."""
    whole = take(FEEDS[feed](numbered, CLOUDS, batch_size=12, seed=1), start, 6)
    parts = [
        take(FEEDS[feed](numbered, CLOUDS, batch_size=12, seed=1, rows=range(first, first + 4)), start, 6)
        for first in (0, 4, 8)
    ]
    for raw, *pieces in zip(whole, *parts, strict=True):
        assert [piece['row'].tolist() for piece in pieces] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
        jax.tree.map(np.testing.assert_array_equal, raw, jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces))


@BOTH
def test_whatever_is_stored_of_views_is_of_the_same_one_and_every_view_comes(numbered, feed):
    """Pictures are decoded; the two decoders of JPEG differ by rounding. There are more views than chunks of points."""
    seen = set()
    for raw in take(FEEDS[feed](numbered, VIEWS, batch_size=20, seed=0), 0, 12):
        for row, shape in enumerate(raw['index'].tolist()):
            view = int(raw['world_mat'][row, 0, 3])
            np.testing.assert_array_equal(raw['camera_mat'][row], np.eye(3))
            assert raw['world_mat'][row, 1, 3] == shape
            for name, expected in make_view(shape, view).items():
                assert raw[name].dtype == expected.dtype
                tolerance = 3 if name == 'image' else 0
                np.testing.assert_allclose(raw[name][row].astype(int), expected, rtol=0, atol=tolerance, err_msg=name)
            seen.add((shape, view))
    assert seen == {(shape, view) for shape in range(NUM_SHAPES) for view in range(NUM_VIEWS)}


def test_what_fits_is_resident(numbered, capsys):
    [rows] = take(open_feed('resident', numbered, CLOUDS, batch_size=4, seed=1), 2, 1)
    [expected] = take(FEEDS['resident'](numbered, CLOUDS, batch_size=4, seed=1), 2, 1)
    jax.tree.map(np.testing.assert_array_equal, rows, expected)
    assert not capsys.readouterr().out


@NEEDS_TENSORFLOW
@pytest.mark.parametrize('where', ['here', 'in another process'])
def test_what_does_not_fit_is_streamed_by_all_processes_and_a_message_says_so(numbered, monkeypatch, capsys, where):
    if where == 'here':
        monkeypatch.setattr(resident, '_free_bytes', lambda: 1000)
    else:
        monkeypatch.setattr(feeds, 'any_process', lambda flag: True)
    [rows] = take(open_feed('resident', numbered, CLOUDS, batch_size=4, seed=1, rows=range(2)), 2, 1)
    [expected] = take(FEEDS['tfds'](numbered, CLOUDS, batch_size=4, seed=1, rows=range(2)), 2, 1)
    jax.tree.map(np.testing.assert_array_equal, rows, expected)
    told = capsys.readouterr().out
    reason = {'here': 'fits into the memory of the device', 'in another process': 'the memory of another process'}
    assert reason[where] in told
    assert 'streamed instead' in told


def test_without_tensorflow_what_does_not_fit_is_an_error(numbered, monkeypatch):
    monkeypatch.setattr(resident, '_free_bytes', lambda: 1000)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(resident.DoesNotFitError, match='fits into the memory of the device'):
        open_feed('resident', numbered, CLOUDS, batch_size=4, seed=1)
