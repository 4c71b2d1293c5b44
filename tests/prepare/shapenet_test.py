import numpy as np
import pytest
from conftest import SHARED
from PIL import Image
from scipy.spatial.distance import cdist
from shapenet_layout import LOC, SCALE, jpeg, write_model

from onet_jax.data import records
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera, project
from onet_jax.prepare import shapenet
from onet_jax.prepare.runners import in_this_process, processes
from onet_jax.prepare.shapenet import export_shapenet, import_shapenet
from onet_jax.prepare.shapenet_files import read_shapenet_model

NUM_POINTS, NUM_SURFACE = 5000, 2500


@pytest.fixture
def root(tmp_path):
    """Chairs a, b and broken ones; a lamp; the lists name one model that is not there."""
    root = tmp_path / 'ShapeNet'
    for name in ('chair/a', 'chair/b', 'chair/cut', 'chair/bare', 'chair/empty', 'lamp/a'):
        write_model(root / name, NUM_POINTS, NUM_SURFACE)
    write_model(root / 'chair/few', 4000, NUM_SURFACE)
    write_model(root / 'chair/views', NUM_POINTS, NUM_SURFACE, num_views=3)
    path = root / 'chair/cut/points.npz'
    path.write_bytes(path.read_bytes()[:1000])
    (root / 'chair/bare/pointcloud.npz').unlink()
    (root / 'chair/empty/points.npz').unlink()
    (root / 'chair/train.lst').write_bytes(b'a\r\ncut\r\n\r\nfew\r\nlost\r\n')
    (root / 'chair/val.lst').write_bytes(b'bare\nempty\nviews')
    (root / 'chair/test.lst').write_bytes(b'b')
    (root / 'lamp/train.lst').write_bytes(b'a\n')
    (root / 'lamp/val.lst').write_bytes(b'a\n')
    (root / 'lamp/test.lst').write_bytes(b'')
    (root / 'metadata.yaml').write_text('chair: {id: chair, name: "chair,seat"}')
    return root


def rows(*arrays):
    """Rows of arrays in a fixed order."""
    table = np.column_stack([a.astype(np.float32) for a in arrays])
    return table[np.lexsort(table.T)]


def read_all(data_dir):
    return {str(path.relative_to(data_dir)): path.read_bytes() for path in sorted(data_dir.rglob('*.npz'))}


def test_a_collection_becomes_a_dataset(root, tmp_path, capsys):
    index = import_shapenet(root, tmp_path / 'data', run=in_this_process)
    assert index == records.read_index(tmp_path / 'data')
    assert index.categories == ('chair', 'lamp')
    assert index.splits == {
        'train': (('chair', 'a'), ('lamp', 'a')),
        'val': (('lamp', 'a'),),
        'test': (('chair', 'b'),),
    }
    assert (index.num_points, index.num_surface_points, index.num_views) == (NUM_POINTS, NUM_SURFACE, 2)
    names = {'chair': 'chair,seat', 'lamp': 'n/a'}
    assert index.source == {'kind': 'shapenet', 'root': str(root), 'names': names, 'sampling': 'uniform', 'seed': 0}
    unknown = {'colours', 'alpha', 'depth'}
    assert index.columns == tuple(name for name in records.SHAPES.columns if name not in unknown)
    assert list(index.rejected) == ['chair/bare', 'chair/cut', 'chair/empty', 'chair/few', 'chair/lost', 'chair/views']
    folder = root / 'chair'
    assert index.rejected['chair/bare'] == f'{folder}/bare: expected pointcloud.npz, found no such file'
    assert f'{folder}/cut/points.npz: expected an archive' in index.rejected['chair/cut']
    assert f'{folder}/empty/points.npz: expected an .npz archive' in index.rejected['chair/empty']
    usual = 'expected 5000 labelled points, 2500 surface samples and 2 views as most models have'
    assert index.rejected['chair/few'] == f'{usual}, found 4000, 2500 and 2'
    assert index.rejected['chair/views'] == f'{usual}, found 5000, 2500 and 3'
    assert f'{folder}/train.lst, line 5: expected the folder {folder}/lost' in index.rejected['chair/lost']
    shown = capsys.readouterr().out
    assert f'{folder}/train.lst, line 3: expected a model, found a blank line' in shown
    assert f'{root}/lamp/val.lst, line 1: expected each model in one split, found a in train.lst too' in shown
    assert len(read_all(tmp_path / 'data')) == 3, 'no file of a rejected shape'


def test_shapes_hold_the_stored_values(root, tmp_path):
    index = import_shapenet(root, tmp_path / 'data', run=in_this_process)
    shape = records.read_shape(records.shape_path(tmp_path / 'data', 'chair', 'a'), index)
    model = read_shapenet_model(root / 'chair/a')
    np.testing.assert_array_equal(rows(shape.points, shape.occ), rows(model.points, model.occ))
    np.testing.assert_array_equal(rows(shape.surface, shape.normals), rows(model.surface, model.normals))
    np.testing.assert_array_equal(shape.voxels, model.voxels.values)
    np.testing.assert_array_equal(shape.loc, LOC)
    assert shape.scale == SCALE
    assert shape.ambiguous == 0
    # Chunk by chunk from the surface outwards, each a sample of the whole cube.
    distance = cdist(shape.points.astype(float), shape.surface.astype(float)).min(axis=1)
    for start in (0, 2048, 4096):
        assert (np.diff(distance[start : start + 2048]) >= 0).all()
    chunks = shape.points[:4096].astype(float).reshape(2, 2048, 3)
    np.testing.assert_allclose(np.abs(chunks).mean(axis=1), 0.275, atol=0.02)


def test_views_are_resized_with_their_cameras_or_kept_as_they_are(root, tmp_path):
    picture = jpeg(size=(137, 137))
    (root / 'chair/a/img_choy2016/001.jpg').write_bytes(picture)
    import_shapenet(root, tmp_path / 'data', run=in_this_process)
    path = records.shape_path(tmp_path / 'data', 'chair', 'a')
    shape = records.read_shape(path)
    assert shape.image[1] == picture
    stored = read_shapenet_model(root / 'chair/a').views
    x = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3))
    before, depth = project(Camera(stored.stored_world_mat, stored.camera_mat), LOC + SCALE * x)
    after, same_depth = project(Camera(shape.world_mat, shape.camera_mat), x)
    np.testing.assert_allclose(same_depth, depth, atol=1e-5)
    scale = np.array([[[137 / 8, 137 / 6]], [[1, 1]]])  # the first picture has 8 x 6 px
    np.testing.assert_allclose(after, before * scale, rtol=1e-4, atol=1e-2)
    with Image.open(root / 'chair/a/img_choy2016/000.jpg') as image:
        small = np.asarray(image.convert('RGB'), np.float64)
    blocks = records.decode_views(path, 'image', shape.image[:1])[0].astype(np.float64)
    np.testing.assert_allclose(blocks.mean(axis=(0, 1)), small.mean(axis=(0, 1)), atol=2)
    np.testing.assert_allclose(blocks[64:73, 60:77].mean(axis=(0, 1)), small[2:4, 3:5].mean(axis=(0, 1)), atol=20)


def test_points_may_be_float32_and_in_any_order(root, tmp_path):
    points = np.sort(np.random.default_rng(0).uniform(-0.55, 0.55, (NUM_POINTS, 3)).astype(np.float32), axis=0)
    occ = points[:, 0] > 0
    write_model(root / 'sofa/a', NUM_POINTS, NUM_SURFACE, points=points, occupancies=occ)
    (root / 'sofa/train.lst').write_text('a')
    import_shapenet(root, tmp_path / 'data', run=in_this_process)
    shape = records.read_shape(records.shape_path(tmp_path / 'data', 'sofa', 'a'))
    np.testing.assert_array_equal(rows(shape.points, shape.occ), rows(points.astype(np.float16), occ))
    np.testing.assert_allclose(shape.occ[:2048].mean(), occ.mean(), atol=0.05)


@pytest.mark.parametrize(
    ('key', 'message'),
    [('surface', 'surface: expected object coordinates, at most 1.01, found'), ('voxels', r'expected 32\^3 voxels')],
)
def test_models_that_no_shape_can_hold(root, key, message):
    model = read_shapenet_model(root / 'chair/a')
    other = {
        'surface': model.surface * 3,
        'voxels': model.voxels._replace(values=np.zeros((16, 16, 16), bool)),
    }
    with pytest.raises(InputError, match=message):
        shapenet.to_shape(model._replace(**{key: other[key]}), 'chair', 'a')


@pytest.mark.slow
def test_workers_and_interruptions_do_not_change_the_result(root, tmp_path):
    alone, together = tmp_path / 'alone', tmp_path / 'together'
    index = import_shapenet(root, alone, run=in_this_process)
    assert import_shapenet(root, together, run=processes(1)) == index
    expected = read_all(alone)
    assert read_all(together) == expected

    kept, cut, lost = sorted(alone.rglob('*.npz'))
    before = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:500])
    lost.unlink()
    (alone / 'dataset.json').unlink()
    assert import_shapenet(root, alone, run=in_this_process) == index
    assert read_all(alone) == expected
    assert kept.stat().st_mtime_ns == before
    with pytest.raises(InputError, match='found other settings: seed 0 instead of 1'):
        import_shapenet(root, alone, seed=1, run=in_this_process)


def test_what_is_no_fault_of_a_model_stops_the_run(root, tmp_path, monkeypatch):
    def write(layout, path, shape):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(records, 'write_example', write)
    with pytest.raises(OSError, match='No space left'):
        import_shapenet(root, tmp_path / 'data', run=in_this_process)


def test_nothing_to_import(tmp_path):
    root = tmp_path / 'root'
    (root / 'sofa').mkdir(parents=True)
    (root / 'sofa/train.lst').write_text('x')
    with pytest.raises(
        InputError, match=r'expected lists that name models, found none that is there; sofa/x: .*train.lst, line 1'
    ):
        import_shapenet(root, tmp_path / 'data', run=in_this_process)
    (root / 'sofa/x').mkdir()
    with pytest.raises(
        InputError, match=r'expected a shape that can be made, found none, 1 rejected; sofa/x: .*points\.npz'
    ):
        import_shapenet(root, tmp_path / 'data', run=in_this_process)


def test_whatever_is_wrong_with_a_model_rejects_it_alone(root, tmp_path, monkeypatch):
    """Also what a library raises."""

    def stumble(folder, seed):
        if folder.name == 'b':
            raise ValueError('zero-size array')
        return read_shapenet_model(folder, seed)

    monkeypatch.setattr(shapenet, 'read_shapenet_model', stumble)
    index = import_shapenet(root, tmp_path / 'data', run=in_this_process)
    assert index.rejected['chair/b'] == f'{root}/chair/b: zero-size array'
    assert index.splits['train'] == (('chair', 'a'), ('lamp', 'a'))


def assert_equal_datasets(a, b):
    index, other = records.read_index(a), records.read_index(b)
    official = tuple(name for name in index.columns if name not in ('colours', 'alpha', 'depth'))
    assert other == index._replace(columns=official, rejected={}, source=other.source, content=other.content)
    for category, name in sum(index.splits.values(), ()):
        x, y = (records.read_shape(records.shape_path(folder, category, name)) for folder in (a, b))
        np.testing.assert_array_equal(rows(x.points, x.occ), rows(y.points, y.occ))
        np.testing.assert_array_equal(rows(x.surface, x.normals), rows(y.surface, y.normals))
        np.testing.assert_array_equal(x.voxels, y.voxels)
        np.testing.assert_array_equal(x.loc, y.loc)
        assert (x.scale, x.ambiguous) == (y.scale, y.ambiguous)
        assert x.image == y.image
        np.testing.assert_allclose(x.world_mat, y.world_mat, atol=2e-6)
        np.testing.assert_array_equal(x.camera_mat, y.camera_mat)


def test_a_dataset_comes_back_from_the_official_layout(dataset, tmp_path):
    export_shapenet(dataset, tmp_path / 'root')
    assert (tmp_path / 'root/mug/train.lst').read_bytes() == b'000000\n000001\n000002'
    with np.load(tmp_path / 'root/mug/000000/points.npz') as arrays:
        assert {key: (arrays[key].dtype, arrays[key].shape) for key in arrays.files} == {
            'points': (np.float16, (5000, 3)),
            'occupancies': (np.uint8, (625,)),
            'loc': (np.float64, (3,)),
            'scale': (np.float64, ()),
            'ambiguous': (np.float64, ()),
        }
    import_shapenet(tmp_path / 'root', tmp_path / 'again', run=in_this_process)
    assert_equal_datasets(dataset, tmp_path / 'again')
    with pytest.raises(InputError, match='root: expected a new or an empty folder to write to'):
        export_shapenet(dataset, tmp_path / 'root')


def test_an_imported_collection_goes_back(root, tmp_path):
    import_shapenet(root, tmp_path / 'data', run=in_this_process)
    export_shapenet(tmp_path / 'data', tmp_path / 'root')
    index = import_shapenet(tmp_path / 'root', tmp_path / 'again', run=in_this_process)
    assert index.source['names'] == {'chair': 'chair,seat', 'lamp': 'n/a'}
    assert_equal_datasets(tmp_path / 'data', tmp_path / 'again')


def test_the_official_collection(tmp_path):
    source = SHARED / 'golden/dataset/ShapeNet'
    if not source.exists():
        pytest.skip(f'no {source}')
    index = import_shapenet(source, tmp_path / 'data', run=in_this_process)
    assert not index.rejected
    for category, name in index.splits['test']:
        shape = records.read_shape(records.shape_path(tmp_path / 'data', category, name), index)
        model = read_shapenet_model(source / category / name)
        np.testing.assert_array_equal(rows(shape.points, shape.occ), rows(model.points, model.occ))
        assert shape.image == model.views.jpegs, 'of 137 px already'
        np.testing.assert_allclose(shape.world_mat, model.views.world_mat, atol=1e-6)
