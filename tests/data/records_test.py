import json
import shutil

import numpy as np
import pytest

from onet_jax.data import batches, records
from onet_jax.data.records import Need
from onet_jax.errors import InputError
from onet_jax.prepare.shapenet import export_shapenet


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


def assert_equal_shapes(a, b):
    assert records.SHAPES.present(a) == records.SHAPES.present(b)
    for key in records.SHAPES.present(a):
        x, y = getattr(a, key), getattr(b, key)
        if records.COLUMNS[key].is_picture:
            assert x == y, key
        else:
            np.testing.assert_array_equal(x, y, err_msg=key)
            assert np.asarray(x).dtype == np.asarray(y).dtype == records.COLUMNS[key].dtype, key


def test_a_shape_comes_back_exactly(dataset, tmp_path):
    shape = records.read_shape(first_shape(dataset))
    assert records.SHAPES.present(shape) == records.read_index(dataset).columns == columns_but('depth')
    depth = np.arange(137 * 137, dtype=np.uint16).reshape(137, 137)
    shape = shape._replace(depth=(records.encode_picture(depth),) * 3)
    records.write_shape(tmp_path / 'deep' / 'copy.npz', shape)
    copy = records.read_shape(tmp_path / 'deep' / 'copy.npz')
    assert (copy.category, copy.name) == ('deep', 'copy'), 'the path says what a shape is'
    assert_equal_shapes(copy, shape)
    assert records.SHAPES.present(copy) == records.SHAPES.columns
    np.testing.assert_array_equal(records.decode_picture('depth', copy.depth[2]), depth)
    assert [p.name for p in (tmp_path / 'deep').iterdir()] == ['copy.npz']


def columns_but(*left_out):
    return tuple(name for name in records.SHAPES.columns if name not in left_out)


def test_a_shape_of_the_required_columns_and_with_a_frame_comes_back(dataset, tmp_path):
    shape = records.read_shape(first_shape(dataset))
    required = {name for name in records.SHAPES.columns if records.COLUMNS[name].required}
    shape = shape._replace(**dict.fromkeys(set(records.SHAPES.columns) - required))
    frame = {'ambiguous': np.float64(0.125), 'loc': np.array([1.0, -2.0, 1 / 3]), 'scale': np.float64(1e-3)}
    shape = shape._replace(**frame)
    records.write_shape(tmp_path / 'copy.npz', shape)
    copy = records.read_shape(tmp_path / 'copy.npz')
    assert set(records.SHAPES.present(copy)) == required
    assert_equal_shapes(copy, shape)
    assert copy.image is None


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
        InputError, match=r'shape\.npz: expected an archive .* found \d+ bytes.*delete the file and run .* again'
    ):
        records.read_shape(tmp_path / 'shape.npz')


def test_a_file_with_pickled_objects_is_refused(dataset, tmp_path):
    path = damaged_copy(first_shape(dataset), tmp_path, lambda a: a.update(points=np.array([{}], dtype=object)))
    with pytest.raises(InputError, match=r"shape\.npz, key 'points': .*found pickled objects .*again"):
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
        (lambda a: a.update(recipe=a['recipe'][:9]), r"key 'recipe': expected unsigned \[32\], found uint8 \[9\]"),
        (lambda a: a.update(colours=a['colours'][:9]), r"key 'colours': expected length 5000, found 9"),
        (lambda a: a.update(colours=a['colours'] / 1), r"key 'colours': expected unsigned \[any, 3\], found float64"),
        (lambda a: a.pop('image_ends'), r"key 'image_ends': expected an array of this name"),
        (lambda a: a.update(image_ends=a['image_ends'][::-1]), r"key 'image_ends': expected rising numbers up to \d+"),
        (lambda a: a.update(alpha=a['alpha'][:-1]), r"key 'alpha_ends': expected rising numbers up to \d+, found"),
        (lambda a: a.update(alpha_ends=a['alpha_ends'][1:]), r"key 'alpha': expected length 3, found 2"),
        (lambda a: a.update(world_mat=a['world_mat'][:2]), r"key 'world_mat': expected length 3, found 2"),
        (
            lambda a: a.update(camera_mat=np.eye(3, dtype='f4')),
            r"key 'camera_mat': expected float \[any, 3, 3\], found",
        ),
    ],
)
def test_a_wrong_array_is_named(dataset, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        records.read_shape(damaged_copy(first_shape(dataset), tmp_path, change))


def test_a_missing_dataset_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere: expected the folder.*onet prepare --data_dir'):
        records.read_index(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match=r'dataset.json: expected the index.*onet prepare'):
        records.read_index(tmp_path)
    (tmp_path / 'dataset.json').write_text('{')
    with pytest.raises(InputError, match='expected JSON, found a damaged file'):
        records.read_index(tmp_path)
    (tmp_path / 'dataset.json').write_text(json.dumps({'version': 99}))
    with pytest.raises(InputError, match='version: expected 5, found 99'):
        records.read_index(tmp_path)


def test_columns_that_nobody_knows_are_named(dataset, tmp_path):
    index = records.read_index(dataset)
    records.write_index(tmp_path, index._replace(columns=(*index.columns, 'smell')))
    with pytest.raises(InputError, match=r"dataset\.json: columns\[\d+\]: expected one of .* found 'smell'; make"):
        records.read_index(tmp_path)


def test_splits_that_cannot_be_used_are_named(dataset):
    index = records.read_index(dataset)
    with pytest.raises(InputError, match=r"expected a split of \['test', 'train', 'val'\], found 'dev'"):
        records.split_shapes(dataset, index, 'dev')
    with pytest.raises(InputError, match=r"shapes in the split 'val', found none"):
        records.split_shapes(dataset, index._replace(splits={'val': ()}), 'val')


def test_what_a_training_row_needs_and_the_dataset_lacks_is_named(dataset):
    index = records.read_index(dataset)
    need = Need(('points', 'occ', 'surface', 'image'), num_points=2 * 2048, num_samples=2049)
    assert need.chunks == {'point': 2, 'sample': 2}
    records.check_need(dataset, index, need)
    with pytest.raises(
        InputError, match=r"expected the columns \['depth'\], which the fields .*; prepare .*--depth for depth"
    ):
        records.check_need(dataset, index, Need(('points', 'depth')))
    for more, message in (
        (
            need._replace(num_points=4097),
            r'expected at least 6144 labelled points of a shape, found 5000: .*draws 4097',
        ),
        (
            need._replace(num_samples=5000),
            r'expected at least 6144 surface samples of a shape, found 5000: .*draws 5000',
        ),
    ):
        with pytest.raises(InputError, match=rf'dataset\.json: {message} different ones'):
            records.check_need(dataset, index, more)


@pytest.mark.parametrize('key', ['points', 'occ', 'surface', 'normals', 'colours'])
def test_chunks_hold_every_point_once(dataset, key):
    shape = records.read_shape(first_shape(dataset))
    chunks = records.cut_chunks(shape, key)
    assert chunks.shape[:2] == (2, 256 if key == 'occ' else 2048)
    if key == 'occ':
        chunks = np.unpackbits(chunks, axis=1)
    np.testing.assert_array_equal(np.concatenate(chunks), getattr(shape, key)[:4096])


@pytest.mark.parametrize('batch_size', [1, 2, 3, 5])
def test_evaluation_drops_no_shape_and_masks_the_padding(dataset, batch_size):
    """Three test shapes: one batch size divides them, one is larger than the split."""
    expected = records.read_index(dataset).splits['test']
    seen, rows = [], []
    columns = ('points', 'occ', 'voxels', 'image', 'alpha', 'world_mat')
    for raw, names in batches.evaluation_batches(dataset, 'test', batch_size, columns, view=1):
        assert raw.keys() == {*columns, 'row', 'index', 'mask'}
        assert all(len(value) == batch_size for value in raw.values())
        assert raw['mask'].sum() == len(names)
        seen += names
        rows += raw['row'][raw['mask']].tolist()
        for i, name in enumerate(names):
            path = records.shape_path(dataset, *name)
            shape = records.read_shape(path)
            np.testing.assert_array_equal(raw['points'][i], shape.points)
            np.testing.assert_array_equal(np.unpackbits(raw['occ'][i], count=5000), shape.occ)
            np.testing.assert_array_equal(np.unpackbits(raw['voxels'][i]).reshape(32, 32, 32), shape.voxels)
            np.testing.assert_array_equal(raw['image'][i], records.decode_views(path, 'image', shape.image)[1])
            np.testing.assert_array_equal(raw['alpha'][i], records.decode_picture('alpha', shape.alpha[1]))
            np.testing.assert_array_equal(raw['world_mat'][i], shape.world_mat[1])
    assert tuple(seen) == expected
    assert rows == list(range(len(expected)))


def test_a_dataset_has_the_same_columns_and_as_many_views_of_every_shape(dataset, tmp_path):
    index = records.read_index(dataset)
    assert index.counts == {'shape': 1, 'point': 5000, 'sample': 5000, 'view': 3}
    shape = records.read_shape(first_shape(dataset), index)
    views = [name for name in index.columns if records.COLUMNS[name].per == 'view']
    for change, message in (
        ({'image': None}, r"'image': expected an array of this name"),
        ({name: getattr(shape, name)[:2] for name in views}, r"'image': expected length 3, found 2"),
    ):
        records.write_shape(tmp_path / 'a.npz', shape._replace(**change))
        with pytest.raises(InputError, match=rf'a\.npz, key {message}.*; delete'):
            records.read_shape(tmp_path / 'a.npz', index)
    few = index._replace(columns=('points', 'occ', 'surface', 'normals', 'voxels', 'loc', 'scale'))
    assert records.read_shape(first_shape(dataset), few).image is None, 'what the index does not promise is not read'


def test_pictures_are_encoded_nearly_without_loss_and_checked():
    x, y = np.meshgrid(np.arange(137), np.arange(137))
    pixels = np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)
    jpeg = records.encode_picture(pixels)
    np.testing.assert_allclose(records.decode_picture('image', jpeg).astype(int), pixels, atol=6)
    for name, channel in (('alpha', pixels[..., 2]), ('depth', (400 * x).astype(np.uint16))):
        found = records.decode_picture(name, records.encode_picture(channel))
        assert found.dtype == channel.dtype
        np.testing.assert_array_equal(found, channel)
    for damaged in (jpeg[: len(jpeg) // 2], b'', b'not a picture'):
        with pytest.raises(
            InputError, match=f'image: expected a JPEG file, found {len(damaged)} bytes that are damaged'
        ):
            records.decode_picture('image', damaged)
    with pytest.raises(InputError, match='image: expected 137 x 137 px, found 137 x 64'):
        records.decode_picture('image', records.encode_picture(pixels[:64]))
    with pytest.raises(
        InputError, match=r'shapes/a\.npz: alpha: expected a PNG file, found 1 bytes .*; delete the file and run'
    ):
        records.decode_views('shapes/a.npz', 'alpha', [records.encode_picture(pixels[..., 0]), b'x'])


def test_evaluation_stops_at_a_damaged_shape(dataset, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(dataset, copy)
    path = records.shape_path(copy, *records.read_index(copy).splits['test'][1])
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=f'{path.name}: expected an archive'):
        list(batches.evaluation_batches(copy, 'test', 2, ['points']))


@pytest.mark.parametrize('name', ['../evil', '/evil', 'a/b', 'a\\b', '..', 'con', 'x\n'])
def test_names_that_are_no_names_of_files_are_refused_where_they_are_read(dataset, tmp_path, name):
    index = records.read_index(dataset)
    for changes, where in [
        ({'categories': (name,)}, r'categories\[0\]'),
        ({'splits': {'val': ((name, '0001'),)}}, r'splits.val\[0\]'),
        ({'splits': {'val': (('mug', '0001'), ('mug', name))}}, r'splits.val\[1\]'),
    ]:
        records.write_index(tmp_path, index._replace(**changes))
        with pytest.raises(InputError, match=rf'dataset.json: {where}: expected .*name'):
            export_shapenet(tmp_path, tmp_path / 'out' / 'root')
    assert not (tmp_path / 'out').exists()


def test_a_dataset_of_one_shape_says_how_it_is_used(dataset):
    index = records.read_index(dataset)._replace(splits={'train': (('mug', '0001'),), 'val': ()})
    with pytest.raises(InputError, match=r"'train' has 1, 'val' has 0; .*--config.eval.split=train"):
        records.split_shapes(dataset, index, 'val')
