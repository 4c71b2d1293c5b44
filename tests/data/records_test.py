import json
import shutil

import numpy as np
import pytest

from onet_jax.data import records


def first_shape(dataset):
    index = records.read_index(dataset)
    return records.shape_path(dataset, *index.splits['train'][0])


def damaged_copy(path, tmp_path, change):
    """The shape file with its arrays changed."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(tmp_path / 'shape.npz', **arrays)
    return tmp_path / 'shape.npz'


def test_a_shape_comes_back_exactly(dataset, tmp_path):
    shape = records.read_shape(first_shape(dataset))
    records.write_shape(tmp_path / 'deep' / 'copy.npz', shape)
    copy = records.read_shape(tmp_path / 'deep' / 'copy.npz')
    for key, value in shape._asdict().items():
        np.testing.assert_array_equal(getattr(copy, key), value)
    assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['copy.npz']


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'text', 'empty'])
def test_a_damaged_file_is_named(dataset, tmp_path, damage):
    content = first_shape(dataset).read_bytes()
    middle = len(content) // 3
    broken = {
        'cut': content[:middle],
        'flipped': content[:middle] + bytes(255 - b for b in content[middle : middle + 99]) + content[middle + 99 :],
        'text': b'not an archive',
        'empty': b'',
    }[damage]
    (tmp_path / 'shape.npz').write_bytes(broken)
    with pytest.raises(ValueError, match=r'shape\.npz: expected a readable .npz archive, found \d+ bytes.*again'):
        records.read_shape(tmp_path / 'shape.npz')


def test_a_file_with_pickled_objects_is_refused(dataset, tmp_path):
    path = damaged_copy(first_shape(dataset), tmp_path, lambda a: a.update(points=np.array([{}], dtype=object)))
    with pytest.raises(ValueError, match=r'shape\.npz: expected a readable'):
        records.read_shape(path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda a: a.pop('occ'), r"key 'occ': expected an array of this name"),
        (
            lambda a: a.update(points=a['points'].astype('f4')),
            r"key 'points': expected float16 \[any, 3\], found float32",
        ),
        (lambda a: a.update(occ=a['occ'][:-1]), r"key 'occ': expected uint8 \[625\], found uint8 \[624\]"),
        (
            lambda a: a.update(normals=a['normals'][:9]),
            r"key 'normals': expected float16 \[5000, 3\], found .*\[9, 3\]",
        ),
    ],
)
def test_a_wrong_array_is_named(dataset, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        records.read_shape(damaged_copy(first_shape(dataset), tmp_path, change))


def test_a_missing_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere: expected the folder.*python -m launch.prepare --data_dir'):
        records.read_index(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match=r'dataset.json: expected the index.*launch.prepare'):
        records.read_index(tmp_path)
    (tmp_path / 'dataset.json').write_text('{')
    with pytest.raises(ValueError, match='expected JSON, found a damaged file'):
        records.read_index(tmp_path)
    (tmp_path / 'dataset.json').write_text(json.dumps({'version': 99}))
    with pytest.raises(ValueError, match='expected version 2, found 99'):
        records.read_index(tmp_path)


def test_splits_that_cannot_be_used_are_named(dataset):
    index = records.read_index(dataset)
    with pytest.raises(ValueError, match=r"expected a split of \['test', 'train', 'val'\], found 'dev'"):
        records.split_shapes(dataset, index, 'dev')
    with pytest.raises(ValueError, match=r"shapes in the split 'val', found none"):
        records.split_shapes(dataset, index._replace(splits={'val': ()}), 'val')
    with pytest.raises(ValueError, match=r'num_points of at least 2048 to train on, found 2000'):
        records.count_chunks(dataset, index._replace(num_points=2000))


def test_chunks_hold_every_point_once(dataset):
    shape = records.read_shape(first_shape(dataset))
    chunks = records.split_chunks(shape)
    assert chunks.points.shape == chunks.surface.shape == (2, 2048, 3)
    np.testing.assert_array_equal(chunks.points.reshape(-1, 3), shape.points[:4096])
    np.testing.assert_array_equal(np.unpackbits(chunks.occ, axis=1).ravel(), shape.occ[:4096])
    np.testing.assert_array_equal(np.unpackbits(chunks.voxels).reshape(32, 32, 32), shape.voxels)


@pytest.mark.parametrize('batch_size', [1, 2, 3, 5])
def test_evaluation_drops_no_shape_and_masks_the_padding(dataset, batch_size):
    """Three test shapes: one batch size divides them, one is larger than the split."""
    expected = records.read_index(dataset).splits['test']
    seen, rows = [], []
    for raw, names in records.evaluation_batches(dataset, 'test', batch_size):
        assert all(len(value) == batch_size for value in raw.values())
        assert raw['mask'].sum() == len(names)
        seen += names
        rows += raw['row'][raw['mask']].tolist()
        for i, name in enumerate(names):
            shape = records.read_shape(records.shape_path(dataset, *name))
            np.testing.assert_array_equal(raw['points'][i], shape.points)
            np.testing.assert_array_equal(np.unpackbits(raw['occ'][i], count=5000), shape.occ)
    assert tuple(seen) == expected
    assert rows == list(range(len(expected)))


def test_evaluation_stops_at_a_damaged_shape(dataset, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(dataset, copy)
    path = records.shape_path(copy, *records.read_index(copy).splits['test'][1])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f'{path.name}: expected a readable'):
        list(records.evaluation_batches(copy, 'test', 2))
