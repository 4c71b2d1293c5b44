import numpy as np
import pytest
import trimesh
from PIL import Image

from onet_jax.data import records
from onet_jax.prepare.embedded import embedded_solid
from onet_jax.prepare.own_meshes import prepare_meshes
from onet_jax.prepare.runners import in_this_process
from onet_jax.viz import pictures
from onet_jax.viz.dataset import dataset_sheet, find_originals


@pytest.fixture
def sheets(monkeypatch):
    """(items, titles) of the sheets that are drawn, of which the first row is."""
    drawn = []

    def contact_sheet(items, titles, path):
        drawn.append((items, titles))
        pictures.contact_sheet(items[:1], titles, path)

    monkeypatch.setattr('onet_jax.viz.dataset.contact_sheet', contact_sheet)
    return drawn


def test_a_few_rows_for_each_category(dataset, tmp_path, sheets):
    dataset_sheet(dataset, tmp_path / 'sheet.png')
    ((items, titles),) = sheets
    assert titles == ('mesh', 'points inside', 'surface samples', 'voxels', 'view 0', 'view 1')
    assert [item.name.split()[0] for item in items] == [name for name in ('chair', 'mug', 'table') for _ in range(3)]
    for item in items:
        mesh, inside, surface, voxels, *views = item.shapes
        for points in (inside, surface, voxels):
            np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], mesh.bounds, atol=0.15)
        assert len(views) == 2
        assert all(view.ndim == 3 for view in views)
    with Image.open(tmp_path / 'sheet.png') as sheet:
        width, height = sheet.size
        assert width > 6 * 224
        assert height > 224
        assert np.asarray(sheet).std() > 5


def test_embedded_rooms_are_at_hand_as_objects_are(dataset):
    index = records.read_index(dataset)
    for family in ('mug', 'rooms_04'):
        room = records.Shape(family, '000001', *[None] * 7)
        shown = find_originals(index, {(family, '000001')})(room)
        np.testing.assert_array_equal(shown.vertices, embedded_solid(0, family, 1).mesh().vertices)


@pytest.mark.slow
def test_the_mesh_is_shown_in_object_coordinates(tmp_path, monkeypatch):
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
    drawn = []
    monkeypatch.setattr('onet_jax.viz.dataset.contact_sheet', lambda items, titles, path: drawn.extend(items))
    dataset_sheet(tmp_path / 'out', tmp_path / 'sheet.png')
    moved = index._replace(source={**index.source, 'root': str(tmp_path / 'gone')})
    assert find_originals(moved, {('box', 'a')}) is None
    assert sorted(item.name for item in drawn) == ['box a', 'box b']
    for item in drawn:
        np.testing.assert_allclose(item.shapes[0].extents.max(), 1)
    assert find_originals(index, {('box', 'renamed')}) is None
