import io
import shutil

import numpy as np
import pytest
from conftest import SHARED, golden_names
from PIL import Image
from shapenet_layout import LOC, SCALE, jpeg, points_of, write_model

from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera, object_camera
from onet_jax.prepare import shapenet_files
from onet_jax.prepare.shapenet_files import find_models, read_shapenet_model, write_lists, write_shapenet_model

NDC = np.array([[2 / 137, 0, -1], [0, 2 / 137, -1], [0, 0, 1]])  # pixels of a view -> [-1, 1]


def test_a_model_is_read_as_it_is_stored(tmp_path):
    points, occ, surface, normals, voxels, cameras = write_model(tmp_path / 'm')
    model = read_shapenet_model(tmp_path / 'm')
    assert model.points.dtype == model.surface.dtype == model.normals.dtype == np.float16
    np.testing.assert_array_equal(model.points, points)
    np.testing.assert_array_equal(model.occ, occ)
    np.testing.assert_array_equal(model.surface, surface)
    np.testing.assert_array_equal(model.normals, normals)
    np.testing.assert_array_equal(model.voxels.values, voxels)
    np.testing.assert_array_equal(model.loc, LOC)
    assert model.scale == SCALE
    assert [Image.open(io.BytesIO(content)).mode for content in model.views.jpegs] == ['RGB', 'L']
    np.testing.assert_array_equal(model.views.stored_world_mat, cameras)
    np.testing.assert_array_equal(model.views.camera_mat, cameras[:, :, :3])
    assert model.near_points is None
    x = np.append(points[0].astype(np.float64), 1)
    in_own_file = np.append(LOC + SCALE * x[:3], 1)
    np.testing.assert_allclose(model.views.world_mat @ x, cameras @ in_own_file)
    # As a writer that has the object's frame only will go back.
    back = object_camera(Camera(model.views.world_mat, model.views.camera_mat), -LOC / SCALE, 1 / SCALE)
    np.testing.assert_allclose(back.world_mat, cameras)


def test_only_points_must_be_there(tmp_path):
    write_model(tmp_path / 'm')
    for name in ('pointcloud.npz', 'model.binvox'):
        (tmp_path / 'm' / name).unlink()
    shutil.rmtree(tmp_path / 'm/img_choy2016')
    model = read_shapenet_model(tmp_path / 'm')
    assert model.surface is model.normals is model.voxels is model.views is None
    (tmp_path / 'm/points.npz').unlink()
    with pytest.raises(FileNotFoundError, match=r'm/points\.npz: expected an \.npz archive'):
        read_shapenet_model(tmp_path / 'm')
    with pytest.raises(FileNotFoundError, match='other: expected the folder of a model'):
        read_shapenet_model(tmp_path / 'other')


@pytest.mark.parametrize('num', [3, 8, 13])
@pytest.mark.parametrize('pack', [np.packbits, np.asarray, np.uint8, np.float32])
def test_labels_packed_and_not(tmp_path, num, pack):
    points, occ = points_of(num, np.float32)
    write_model(tmp_path / 'm', points=points, occupancies=pack(occ))
    model = read_shapenet_model(tmp_path / 'm')
    np.testing.assert_array_equal(model.occ, occ)
    np.testing.assert_array_equal(model.points, points)
    assert model.occ.dtype == bool
    assert model.points.dtype == np.float32


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'points': None},
            r"key 'points': expected an array of this name, found only \['loc', 'occupancies', 'scale'\]",
        ),
        ({'occupancies': None}, "key 'occupancies': expected an array of this name"),
        ({'loc': None}, "key 'loc'"),
        ({'points': np.zeros((100, 2))}, r"key 'points': expected float \[any, 3\], found float64 \[100, 2\]"),
        ({'points': np.zeros((100, 3), int)}, r'found int64 \[100, 3\]'),
        ({'points': np.full((100, 3), None)}, 'found pickled objects'),
        ({'points': np.full((100, 3), np.nan)}, 'expected finite numbers, found NaN or infinity in 300 of 300'),
        ({'points': np.zeros((0, 3))}, 'expected at least one, found none'),
        ({'points': np.zeros((96, 3))}, r'expected 96 labels or uint8 \[12\], their bits, found uint8 \[13\]'),
        ({'occupancies': np.zeros(13, bool)}, r'expected 100 labels or uint8 \[13\], their bits, found bool \[13\]'),
        ({'occupancies': np.full(100, 2)}, 'expected 0 and 1, found 2 and the like in 100 of 100'),
        ({'scale': np.float64(0)}, 'expected a positive number, found 0.0'),
        ({'scale': np.ones(1)}, r"key 'scale': expected float \[\], found float64 \[1\]"),
    ],
)
def test_points_unlike_the_layout_are_reported(tmp_path, changes, message):
    write_model(tmp_path / 'm', **changes)
    with pytest.raises(InputError, match=rf'm/points\.npz.*{message}'):
        read_shapenet_model(tmp_path / 'm')


def break_model(folder, fault):
    views = folder / 'img_choy2016'
    cloud = dict(np.load(folder / 'pointcloud.npz'))
    cameras = dict(np.load(views / 'cameras.npz'))
    match fault:
        case 'normals':
            np.savez(folder / 'pointcloud.npz', **{**cloud, 'normals': cloud['normals'][1:]})
        case 'frame':
            np.savez(folder / 'pointcloud.npz', **{**cloud, 'loc': cloud['loc'] + 1})
        case 'voxels':
            (folder / 'model.binvox').write_bytes((folder / 'model.binvox').read_bytes()[:-3])
        case 'hole':
            (views / '000.jpg').unlink()
        case 'last':
            (views / '001.jpg').unlink()
        case 'all':
            (views / '000.jpg').unlink()
            (views / '001.jpg').unlink()
            np.savez(views / 'cameras.npz')
        case 'cut':
            (views / '001.jpg').write_bytes(jpeg(size=(64, 64))[:-200])
        case 'png':
            Image.new('RGB', (8, 8)).save(views / '001.jpg', 'PNG')
        case 'large':
            (views / '001.jpg').write_bytes(jpeg(size=(300, 300)))
        case 'cameras':
            (views / 'cameras.npz').unlink()
        case 'camera':
            np.savez(views / 'cameras.npz', **{key: value for key, value in cameras.items() if key != 'camera_mat_1'})
        case 'matrix':
            np.savez(views / 'cameras.npz', **{**cameras, 'world_mat_1': np.eye(4)})


@pytest.mark.parametrize(
    ('fault', 'message'),
    [
        ('normals', r"pointcloud\.npz, key 'normals': expected one for each point, at least 1, found 49 for 50 points"),
        ('frame', r"pointcloud\.npz, key 'loc': expected \[ 0.3 -0.2  0.1\] as in points\.npz, found \[1.3 0.8 1.1\]"),
        ('voxels', r'model\.binvox: expected runs of'),
        ('hole', r'img_choy2016: expected the views 000\.jpg, 001\.jpg and so on, found 001\.jpg as view 0'),
        ('last', r"cameras\.npz, key 'world_mat_<i>': expected one for each .*, found 2 beside 1 views"),
        ('all', 'at least 1, found 0 beside 0 views'),
        ('cut', r'001\.jpg: expected a whole JPEG image, found \d+ bytes \(image file is truncated'),
        ('png', r'001\.jpg: expected a whole JPEG image'),
        ('large', r'001\.jpg: .*300 x 300 pixels, 10000 at most'),
        ('cameras', r'cameras\.npz: expected an \.npz archive, found no such file'),
        ('camera', r"cameras\.npz, key 'camera_mat_1': expected an array of this name"),
        ('matrix', r"cameras\.npz, key 'world_mat_1': expected float \[3, 4\], found float64 \[4, 4\]"),
    ],
)
def test_other_files_unlike_the_layout_are_reported(tmp_path, monkeypatch, fault, message):
    monkeypatch.setattr(shapenet_files, 'MAX_PIXELS', 10_000)
    write_model(tmp_path / 'm')
    break_model(tmp_path / 'm', fault)
    with pytest.raises((InputError, FileNotFoundError), match=rf'{tmp_path}/m/.*{message}'):
        read_shapenet_model(tmp_path / 'm')


@pytest.fixture
def root(tmp_path):
    """Two categories; lists with CRLF, blank lines, without a last newline, with models that are not there."""
    root = tmp_path / 'ShapeNet'
    for folder in ('chair/a', 'chair/b', 'chair/c', 'lamp/d', 'lamp/a', 'notes/x'):
        (root / folder).mkdir(parents=True)
    (root / 'chair/train.lst').write_bytes(b'b\r\na\r\n')
    (root / 'chair/val.lst').write_bytes(b'\n c \n\nlost\n\n')
    (root / 'chair/test.lst').write_bytes(b'')
    (root / 'lamp/train.lst').write_bytes(b'\xef\xbb\xbfd\nd')
    (root / 'lamp/val.lst').write_bytes(b'd\n../chair/a\n..\n/tmp\na\\0\n')
    (root / 'metadata.yaml').write_text('{"chair": {"id": "chair", "name": "chair,seat"}, 03001627: {name: x}}')
    return root


def test_lists(root):
    found = find_models(root)
    assert found.names == {'chair': 'chair,seat', 'lamp': 'n/a'}
    assert found.splits == {
        'train': (('chair', 'b'), ('chair', 'a'), ('lamp', 'd')),
        'val': (('chair', 'c'), ('lamp', 'd')),
        'test': (),
    }
    assert sorted(found.missing) == ['chair/lost', 'lamp/..', 'lamp/../chair/a', 'lamp//tmp', 'lamp/a\\0']
    lost = f'{root}/chair/val.lst, line 4: expected the folder {root}/chair/lost, found none'
    assert found.missing['chair/lost'] == lost
    assert "line 3: expected the name of a folder, found '..'" in found.missing['lamp/..']
    assert [note.removeprefix(f'{root}/') for note in found.notes] == [
        'lamp/train.lst, line 2: expected each model once, found d again',
        'chair/val.lst, line 1: expected a model, found a blank line',
        'chair/val.lst, line 3: expected a model, found a blank line',
        'chair/val.lst, line 5: expected a model, found a blank line',
        'lamp/val.lst, line 1: expected each model in one split, found d in train.lst too',
        'lamp/test.lst: expected a list of models, found no such file',
    ]


def test_roots_that_list_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match='x: expected the root of the ShapeNet layout'):
        find_models(tmp_path / 'x')
    with pytest.raises(InputError, match=r'expected folders of categories with lists .*, found none'):
        find_models(tmp_path)


@pytest.mark.parametrize(
    'content',
    ['[1, 2]', '{a: b}', 'a: {id: a}', 'a: {name: [x]}', '"', '[' * 5000, '!!python/object:os.system {a: b}', '\udcff'],
)
def test_a_bad_metadata_file_is_reported(root, content):
    (root / 'metadata.yaml').write_bytes(content.encode(errors='surrogateescape'))
    with pytest.raises(InputError, match=r'metadata\.yaml: expected YAML that maps each category'):
        find_models(root)


def test_a_list_of_other_bytes_is_reported(root):
    (root / 'chair/val.lst').write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match=r'chair/val\.lst: expected a list of models as text'):
        find_models(root)


def assert_equal_models(a, b):
    for key, value in a._asdict().items():
        other = getattr(b, key)
        if key == 'views':
            assert value.jpegs == other.jpegs
            for x, y in zip(value[1:], other[1:], strict=True):
                np.testing.assert_array_equal(x, y)
        elif key == 'voxels':
            np.testing.assert_array_equal(value.values, other.values)
            np.testing.assert_array_equal(value.translate, other.translate)
            assert value.scale == other.scale
        elif value is None:
            assert other is None
        else:
            np.testing.assert_array_equal(value, other)
            assert np.asarray(value).dtype == np.asarray(other).dtype


def test_what_is_written_is_read_again(tmp_path):
    write_model(tmp_path / 'm', num_points=101)
    model = read_shapenet_model(tmp_path / 'm')
    write_shapenet_model(tmp_path / 'root/c/copy', model)
    assert_equal_models(model, read_shapenet_model(tmp_path / 'root/c/copy'))
    with np.load(tmp_path / 'root/c/copy/points.npz') as arrays:
        assert arrays['occupancies'].dtype == np.uint8
        assert arrays['occupancies'].shape == (13,)

    names = {'c': 'x,y', '03001627': 'chair'}
    write_lists(
        tmp_path / 'root', names, {'train': [('c', 'copy'), ('c', 'copy2')], 'val': [], 'test': [('c', 'copy')]}
    )
    assert (tmp_path / 'root/c/train.lst').read_bytes() == b'copy\ncopy2'
    assert (tmp_path / 'root/c/val.lst').read_bytes() == b''
    assert find_models(tmp_path / 'root').names == dict(sorted(names.items()))


@pytest.mark.parametrize('file', golden_names('dataset/fields_*.npz'))
def test_equals_the_official_code(golden, file, tmp_path):
    data = golden(file)
    name = file.removeprefix('dataset/fields_').removesuffix('.npz')
    (source,) = (SHARED / 'golden/dataset/ShapeNet').glob(f'*/{name}')
    for path in source.rglob('*'):
        if path.is_file():
            target = tmp_path / name / str(path.relative_to(source)).replace('_surface_f32', '_surface')
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    model = read_shapenet_model(tmp_path / name)
    view = 'image_view0_resize224_PIL_bilinear'
    for key, value in {
        'points_nonoise/None': model.points,
        'points_nonoise/occ': model.occ,
        'points_nonoise/loc': model.loc,
        'points_nonoise/scale': model.scale,
        'points_f32_surface/None': model.near_points,
        'points_f32_surface/occ': model.near_occ,
        'pointcloud/None': model.surface,
        'pointcloud/normals': model.normals,
        f'{view}/world_mat': model.views.stored_world_mat[0],
        f'{view}/camera_mat': model.views.camera_mat[0],
    }.items():
        np.testing.assert_array_equal(np.asarray(value, np.float32), data[key], err_msg=key)
    np.testing.assert_array_equal(model.voxels.values, data['voxels'])
    # The official code adds noise to the float16 points when it reads them; this one does not.
    jitter = 1e-4 * np.random.RandomState(0).randn(*model.points.shape)
    np.testing.assert_array_equal(
        (model.points.astype(np.float32) + jitter).astype(np.float32), data['points_seed0/None']
    )

    for i, content in enumerate(model.views.jpegs):
        image = Image.open(io.BytesIO(content))
        np.testing.assert_array_equal(np.asarray(image.convert('RGB')), data[f'image_view{i}_rgb_u8'])
        # The official code moves the cameras in float32.
        np.testing.assert_allclose(model.views.world_mat[i], data[f'camera_args_view{i}/Rt'][0], rtol=0, atol=3e-7)
        points = np.append(model.points[:50].astype(np.float64), np.ones((50, 1)), axis=1)
        pixels = points @ (NDC @ model.views.camera_mat[i] @ model.views.world_mat[i]).T
        np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], data[f'projected_view{i}'][0], atol=2e-6)
    write_shapenet_model(tmp_path / 'copy', model)
    assert_equal_models(model._replace(near_points=None, near_occ=None), read_shapenet_model(tmp_path / 'copy'))
