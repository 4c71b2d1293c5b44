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
    assert (copy.category, copy.name) == ('deep', 'copy'), 'the path says what a shape is'
    assert copy.views.jpegs == shape.views.jpegs
    assert len(copy.views.jpegs) == 3
    for matrices in ('world_mat', 'camera_mat'):
        np.testing.assert_array_equal(getattr(copy.views, matrices), getattr(shape.views, matrices))
    for key in set(shape._fields) - {'category', 'name', 'views'}:
        np.testing.assert_array_equal(getattr(copy, key), getattr(shape, key))
        assert np.asarray(getattr(copy, key)).dtype == np.asarray(getattr(shape, key)).dtype
    assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['copy.npz']


def test_a_shape_without_views_and_with_a_frame_comes_back(dataset, tmp_path):
    shape = records.read_shape(first_shape(dataset))
    shape = shape._replace(views=None, ambiguous=0.125, loc=np.array([1.0, -2.0, 1 / 3]), scale=1e-3)
    records.write_shape(tmp_path / 'copy.npz', shape)
    copy = records.read_shape(tmp_path / 'copy.npz')
    assert copy.views is None
    assert (copy.ambiguous, copy.scale) == (0.125, 1e-3)
    np.testing.assert_array_equal(copy.loc, shape.loc)


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
    with pytest.raises(
        ValueError, match=r'shape\.npz: expected an archive .* found \d+ bytes.*delete the file and run .* again'
    ):
        records.read_shape(tmp_path / 'shape.npz')


def test_a_file_with_pickled_objects_is_refused(dataset, tmp_path):
    path = damaged_copy(first_shape(dataset), tmp_path, lambda a: a.update(points=np.array([{}], dtype=object)))
    with pytest.raises(ValueError, match=r"shape\.npz, key 'points': .*found pickled objects .*again"):
        records.read_shape(path)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda a: a.pop('occ'), r"key 'occ': expected an array of this name"),
        (
            lambda a: a.update(points=a['points'].astype('f4')),
            r"key 'points': expected float16, found float32; delete the file and run .* again",
        ),
        (lambda a: a.update(occ=a['occ'][:-1]), r"key 'occ': expected length 625, found 624"),
        (lambda a: a.update(normals=a['normals'][:9]), r"key 'normals': expected length 5000, found 9"),
        (lambda a: a.update(loc=np.zeros(2)), r"key 'loc': expected float \[3\], found float64 \[2\]"),
        (lambda a: a.update(scale=np.float64('nan')), r"key 'scale': expected finite numbers"),
        (lambda a: a.pop('ambiguous'), r"key 'ambiguous': expected an array of this name"),
        (lambda a: a.pop('jpeg_ends'), r"key 'jpeg_ends': expected an array of this name"),
        (lambda a: a.update(jpeg_ends=a['jpeg_ends'][::-1]), r"key 'jpeg_ends': expected rising numbers up to \d+"),
        (lambda a: a.update(jpegs=a['jpegs'][:-1]), r"key 'jpeg_ends': expected rising numbers up to \d+, found"),
        (
            lambda a: a.update(world_mat=a['world_mat'][:2]),
            r"key 'world_mat': expected one for each of 3 views, found 2",
        ),
        (
            lambda a: a.update(camera_mat=np.eye(3, dtype='f4')),
            r"key 'camera_mat': expected float \[any, 3, 3\], found",
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
    with pytest.raises(ValueError, match='expected version 4, found 99'):
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
            np.testing.assert_array_equal(raw['view'][i], records.decode_view(shape.views.jpegs[0]))
    assert tuple(seen) == expected
    assert rows == list(range(len(expected)))


def test_a_dataset_has_as_many_views_of_every_shape(dataset, tmp_path):
    index = records.read_index(dataset)
    assert index.num_views == 3
    shape = records.read_shape(first_shape(dataset), index)
    for views, found in ((None, 0), (records.Views(*(part[:2] for part in shape.views)), 2)):
        records.write_shape(tmp_path / 'a.npz', shape._replace(views=views))
        with pytest.raises(ValueError, match=rf"a\.npz, key 'jpeg_ends': expected length 3, found {found}; delete"):
            records.read_shape(tmp_path / 'a.npz', index)
    with pytest.raises(ValueError, match="key 'jpeg_ends': expected length 0, found 3"):
        records.read_shape(first_shape(dataset), index._replace(num_views=0))


def test_views_are_encoded_nearly_without_loss_and_checked():
    x, y = np.meshgrid(np.arange(137), np.arange(137))
    pixels = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    jpeg = records.encode_view(pixels)
    np.testing.assert_allclose(records.decode_view(jpeg).astype(int), pixels, atol=6)
    for damaged in (jpeg[: len(jpeg) // 2], b'', b'not a picture'):
        with pytest.raises(
            ValueError, match=f'view: expected a JPEG file, found {len(damaged)} bytes that are damaged'
        ):
            records.decode_view(damaged)
    with pytest.raises(ValueError, match='view: expected 137 x 137 px, found 137 x 64'):
        records.decode_view(records.encode_view(pixels[:64]))


def test_evaluation_stops_at_a_damaged_shape(dataset, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(dataset, copy)
    path = records.shape_path(copy, *records.read_index(copy).splits['test'][1])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f'{path.name}: expected an archive'):
        list(records.evaluation_batches(copy, 'test', 2))
