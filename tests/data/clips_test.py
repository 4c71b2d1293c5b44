import functools
import operator
import shutil
from itertools import islice

import jax
import numpy as np
import pytest
from numbered_sequences import LENGTHS, NUM_POINTS, NUM_SAMPLES, SPLITS, decode, make_config, write_numbered_sequences

from onet_jax.data import clips, fields, records
from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import find_need, make_transform
from onet_jax.data.schema import SEQUENCES
from onet_jax.errors import InputError
from onet_jax.evaluation.validate import unreadable_examples

KEY = jax.random.key(0)


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return open_dataset(write_numbered_sequences(tmp_path_factory.mktemp('numbered')))


def clips_of(raw):
    """(position in the split, first frame) of each row, which must be consecutive frames of one sequence."""
    numbers, frames, points = decode(raw['pcl_seq'])
    assert (numbers == numbers[:, :1, :1]).all()
    assert (points == points[:, :1]).all()
    assert (frames - frames[:, :1] == np.arange(frames.shape[1])[None, :, None]).all()
    order = list(LENGTHS)
    assert [SPLITS['train'][i] for i in raw['index']] == [order[number] for number in numbers[:, 0, 0]]
    return [(int(i), int(frame)) for i, frame in zip(raw['index'], frames[:, 0, 0], strict=True)]


def test_an_epoch_has_every_clip_once_in_an_order_of_its_own(dataset):
    """Of the training sequences of 6, 4 and 2 frames four clips of 4 frames: the last sequence is too short for any."""
    feed = dataset.feed(make_config().data, batch_size=3, seed=1)
    drawn = functools.reduce(operator.iadd, (clips_of(raw) for raw in islice(feed(0), 8)), [])
    epochs = [drawn[i : i + 4] for i in range(0, 24, 4)]
    for epoch in epochs:
        assert sorted(epoch) == [(0, 0), (0, 1), (0, 2), (1, 0)]
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_is_a_function_of_seed_and_step_and_rows_are_a_part_of_it(dataset):
    data = make_config().data
    whole, again = (list(islice(dataset.feed(data, batch_size=4, seed=5)(start), 3)) for start in (0, 2))
    for name, value in whole[2].items():
        np.testing.assert_array_equal(value, again[0][name])
    part = next(dataset.feed(data, batch_size=4, seed=5, rows=range(1, 3))(2))
    for name, value in part.items():
        np.testing.assert_array_equal(value, whole[2][name][1:3])
    need = find_need(data)
    assert need.chunks == {'point': 1, 'sample': 1}
    assert whole[0]['points_seq'].shape == (4, 4, 2048, 3)
    other = next(dataset.feed(data, batch_size=4, seed=6)(2))
    assert (np.asarray(other['pcl_seq']) != np.asarray(whole[2]['pcl_seq'])).any()


@pytest.mark.slow
def test_what_is_drawn_of_a_clip(dataset):
    """Points of the frames that the fields say, with the labels of these frames, and other points in the next step."""
    config = make_config()
    draw = jax.jit(make_transform(config.data))
    feed = dataset.feed(config.data, batch_size=8, seed=0)
    raws = list(islice(feed(0), 6))
    batches = [draw(jax.random.fold_in(KEY, step), raw) for step, raw in enumerate(raws)]
    frames_seen = set()
    for raw, batch in zip(raws, batches, strict=True):
        targets, first = batch['targets'], decode(raw['pcl_seq'])[1][:, 0, 0]
        _, frames, points = decode(targets['points'])
        assert (frames == first[:, None]).all()
        assert ((points + frames) % 2 == 0).astype(int).tolist() == targets['occ'].tolist()
        _, frames, points = decode(targets['later_points'])
        later = frames - first[:, None]
        np.testing.assert_allclose(targets['time'], later[:, 0] / 3, atol=1e-6)
        assert (later == later[:, :1]).all()
        assert len(set(map(tuple, points.tolist()))) > 1
        assert ((points + frames) % 2 == 0).astype(int).tolist() == targets['later_occ'].tolist()
        frames_seen |= set(later[:, 0].tolist())
        for drawn in (targets['trajectories'], batch['inputs']['clip']):
            _, frames, points = decode(drawn)
            assert (frames - first[:, None, None] == np.arange(4)[None, :, None]).all()
            assert (points == points[:, :1]).all()
            assert all(len(set(row)) == drawn.shape[2] for row in points[:, 0].tolist())
    assert frames_seen == {0, 1, 2, 3}
    example = fields.example_batch(config.data)
    assert jax.tree.map(lambda x: x.shape[1:], batches[0]) == jax.tree.map(lambda x: x.shape[1:], example)


@pytest.mark.slow
@pytest.mark.parametrize('field, num_frames', [('clip', 4), ('end_clouds', 2)])
def test_without_correspondence_no_place_is_in_two_frames(dataset, field, num_frames):
    config = make_config(inputs=(field,), corresponding=False, num_input_points=600)
    assert find_need(config.data).num_samples == 600 * num_frames
    raw = next(dataset.feed(config.data, batch_size=4, seed=0)(0))
    _, frames, points = decode(jax.jit(make_transform(config.data))(KEY, raw)['inputs'][field])
    assert points.shape == (4, num_frames, 600)
    for row in points.reshape(4, -1).tolist():
        assert len(set(row)) == 600 * num_frames
    ends = np.array([0, 3]) if field == 'end_clouds' else np.arange(4)
    assert (frames - frames[:, :1] == ends[None, :, None]).all()


@pytest.mark.slow
def test_noise_is_added_to_clips(dataset):
    raw = next(dataset.feed(make_config().data, batch_size=4, seed=0)(0))
    clean, noisy = (
        jax.jit(make_transform(make_config(noise_std=std).data))(KEY, raw)['inputs']['clip'] for std in (0.0, 0.01)
    )
    assert 0.009 < float(np.std(noisy - clean)) < 0.011


def test_far_from_the_origin_clips_are_the_same(dataset, tmp_path):
    """Coordinates as of a map, which float32 does not hold."""
    far, config = open_dataset(write_numbered_sequences(tmp_path)), make_config()
    for one, shift in ((dataset, 0.0), (far, 1e8)):
        for name, num_frames in LENGTHS.items():
            loc = shift + np.arange(num_frames)[:, None] * np.array([1.0, 0.5, 0])
            path = records.sequence_path(tmp_path / str(shift), *name)
            records.write_example(SEQUENCES, path, one.read(*name)._replace(loc_seq=loc))
        records.write_index(tmp_path / str(shift), dataset.index)
    near, far = (open_dataset(tmp_path / str(shift)) for shift in (0.0, 1e8))
    for batches in zip(*(one.evaluation_batches(config, 'val') for one in (near, far)), strict=True):
        first, second = (examples.batch for examples in batches)
        np.testing.assert_array_equal(first['targets']['trajectories'], second['targets']['trajectories'])
        assert np.ptp(first['targets']['trajectories'][0, :, 0, 0]) >= 3
    first, second = (next(one.feed(config.data, batch_size=4, seed=0)(0)) for one in (near, far))
    np.testing.assert_array_equal(first['loc_seq'], second['loc_seq'])


def test_evaluation_has_clips_that_do_not_overlap(dataset):
    config = make_config()
    expected = {0: ('cat', '1/0'), 1: ('cat', '1/4'), 2: ('dog', '1/0')}
    assert dataset.examples(config, 'val') == expected
    found = list(dataset.evaluation_batches(config, 'val'))
    assert [examples.names for examples in found] == [(expected[0], expected[1]), (expected[2],)]
    batch = found[0].batch
    assert batch['mask'].tolist() == [True, True]
    assert found[1].batch['mask'].tolist() == [True, False]
    assert found[1].batch['row'].tolist() == [2, 2]
    numbers, frames, points = decode(batch['targets']['points'])
    assert points.shape == (2, 4, NUM_POINTS)
    assert (points == np.arange(NUM_POINTS)).all()
    assert (numbers == 1).all()
    assert (frames == np.array([[0], [4]])[..., None] + np.arange(4)[None, :, None]).all()
    np.testing.assert_array_equal(batch['targets']['occ'], (points + frames) % 2 == 0)
    assert decode(batch['targets']['trajectories'])[2].shape == (2, 4, NUM_SAMPLES)
    (one,) = dataset.evaluation_batches(config, 'val', positions=[1], batch_size=1)
    np.testing.assert_array_equal(one.batch['inputs']['clip'][0], batch['inputs']['clip'][1])
    (rest,) = dataset.evaluation_batches(config, 'val', left_out={('cat', '1')})
    assert rest.names == (('dog', '1/0'),) == tuple(dataset.examples(config, 'val', {('cat', '1')}).values())


def test_clips_begin_where_the_dataset_says(dataset):
    index = dataset.index._replace(source={'first_frame': 2, 'stride': 1})
    listed = clips.list_clips(index, SPLITS['val'], 4)
    assert listed == (*(('cat', f'1/{i}') for i in range(2, 6)), ('dog', '1/2'), ('dog', '1/3'))
    with pytest.raises(InputError, match=r'num_frames: expected at most 7, .* after the first 2, found 8'):
        clips.list_clips(index, SPLITS['val'], 8)


def test_what_cannot_be_trained_on_is_refused(dataset, tmp_path):
    def refused(message, **data):
        with pytest.raises(InputError, match=message):
            dataset.feed(make_config(**data).data, batch_size=2, seed=0)

    refused(
        "data.feed: expected 'resident' for .*, a dataset of sequences, which is not streamed, found 'tfds'",
        feed='tfds',
    )
    refused('expected sequences of at least config.data.num_frames = 7 frames .*, found 6 at most', num_frames=7)
    refused('config.data.num_frames: expected at least 2, a clip that moves, found 1', num_frames=1)
    refused(r'expected at least 8192 surface samples .* draws 6400', corresponding=False, num_input_points=1600)
    refused(r"expected the columns \['image_seq'\]", inputs=('image_clip',), image_size=32)
    refused(r"expected the columns \['surface'\]", inputs=('cloud',), partial=False)
    refused('num_trajectories: expected at least 1, found 0', num_trajectories=0)
    with pytest.raises(InputError, match='expected a dataset of shapes, found one of sequences'):
        records.read_index(dataset.data_dir)
    later = open_dataset(write_numbered_sequences(tmp_path, source={'kind': 'dfaust', 'first_frame': 4}))
    with pytest.raises(
        InputError, match=r'at least config.data.num_frames = 4 frames .* after the first 4, .* found 2'
    ):
        later.feed(make_config().data, batch_size=2, seed=0)


def test_a_sequence_that_cannot_be_read_is_left_out(dataset, tmp_path):
    copy = open_dataset(shutil.copytree(dataset.data_dir, tmp_path / 'copy'))
    for name in (('cat', '0'), ('cat', '1')):
        records.sequence_path(copy.data_dir, *name).write_bytes(b'no archive')
    with pytest.raises(InputError, match=r'sequences/cat/0\.npz: expected an archive'):
        copy.feed(make_config().data, batch_size=2, seed=0)
    raw = next(copy.feed(make_config().data, batch_size=2, seed=0, bad_examples=BadExamples(1))(0))
    assert clips_of(raw) == [(1, 0), (1, 0)], 'position in the split'
    left_out = unreadable_examples(copy, 'val', BadExamples(1))
    assert left_out == {('cat', '1')}
    (examples,) = copy.evaluation_batches(make_config(), 'val', left_out=left_out)
    assert examples.names == (('dog', '1/0'),)


def test_a_file_of_another_length_or_shape_is_named(dataset, tmp_path):
    sequence = dataset.read('cat', '0')
    path = records.sequence_path(tmp_path, 'cat', '0')
    for changes, message in (
        ({'scale_seq': sequence.scale_seq[:5]}, r"key 'points_seq': expected length 5, found 6"),
        ({'occ_seq': sequence.occ_seq[:, :4000]}, r"key 'occ_seq': expected length 512 along axis 1, found 500"),
        ({'pcl_seq': sequence.pcl_seq[:5]}, r"key 'pcl_seq': expected length 6, found 5"),
        ({'loc_seq': np.full((6, 3), np.nan)}, r"key 'loc_seq': expected finite numbers"),
    ):
        records.write_example(SEQUENCES, path, sequence._replace(**changes))
        with pytest.raises(InputError, match=message):
            records.read_sequence(path)
    records.write_example(SEQUENCES, path, sequence)
    for name, value in records.read_sequence(path, dataset.index)._asdict().items():
        np.testing.assert_array_equal(value, getattr(sequence, name))
    with pytest.raises(InputError, match=r'expected length 9, found 6'):
        records.read_sequence(path, dataset.index._replace(num_frames={'cat/0': 9}))
