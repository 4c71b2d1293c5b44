import numpy as np
import trimesh
from PIL import Image

from onet_jax.data import records
from onet_jax.prepare.embedded import embedded_solid
from onet_jax.prepare.own_meshes import prepare_meshes
from onet_jax.prepare.runners import in_this_process
from onet_jax.viz.dataset import dataset_sheet, find_originals


def test_a_row_for_each_category(dataset, tmp_path):
    dataset_sheet(dataset, tmp_path / 'sheet.png')
    with Image.open(tmp_path / 'sheet.png') as sheet:
        width, height = sheet.size
        assert width > 6 * 224, 'mesh, three clouds, two views'
        assert height > 3 * 224
        assert np.asarray(sheet).std() > 5


def test_embedded_rooms_are_at_hand_as_objects_are(dataset):
    index = records.read_index(dataset)
    for family in ('mug', 'rooms_04'):
        room = records.Shape(family, '000001', *[None] * 7)
        shown = find_originals(index, {(family, '000001')})(room)
        np.testing.assert_array_equal(shown.vertices, embedded_solid(0, family, 1).mesh().vertices)


def test_the_mesh_is_shown_in_object_coordinates(tmp_path):
    mesh = trimesh.creation.box((4, 2, 1))
    mesh.apply_translation((7, 8, 9))
    (tmp_path / 'in' / 'box').mkdir(parents=True)
    for name in 'ab':
        mesh.export(tmp_path / 'in' / 'box' / f'{name}.off')
        mesh.apply_scale((1, 1.4, 1))  # another shape
    settings = {'num_points': 2100, 'num_views': 0, 'seed': 0, 'val_fraction': 0, 'test_fraction': 0.5, 'up': 'z'}
    index = prepare_meshes(tmp_path / 'in', tmp_path / 'out', **settings, run=in_this_process)
    shape = records.read_shape(records.shape_path(tmp_path / 'out', 'box', 'a'), index)
    shown = find_originals(index, {('box', 'a')})(shape)
    np.testing.assert_allclose(shown.bounds, [[-0.5, -0.125, -0.25], [0.5, 0.125, 0.25]], atol=1e-9)
    dataset_sheet(tmp_path / 'out', tmp_path / 'sheet.png')
    moved = index._replace(source={**index.source, 'root': str(tmp_path / 'gone')})
    assert find_originals(moved, {('box', 'a')}) is None
    assert find_originals(index, {('box', 'renamed')}) is None
