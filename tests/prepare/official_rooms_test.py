import numpy as np
import pytest

from onet_jax.data import records
from onet_jax.prepare.embedded import prepare_procedural
from onet_jax.prepare.runners import in_this_process
from onet_jax.prepare.shapenet import export_shapenet, import_shapenet
from onet_jax.prepare.shapenet_files import read_shapenet_model

SHAPE = ('rooms_04', '000000')


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    """A dataset of three rooms, and its folder in the official layout."""
    folder = tmp_path_factory.mktemp('rooms')
    settings = {'families': ('rooms_04',), 'num_shapes_per_family': 3, 'num_points': 20_000, 'seed': 0}
    settings |= {'val_fraction': 0.3, 'test_fraction': 0.3, 'run': in_this_process}
    prepare_procedural(folder / 'data', **settings)
    export_shapenet(folder / 'data', folder / 'official')
    return folder


def test_rooms_go_to_the_official_layout_and_back(exported):
    room = exported / 'official' / '/'.join(SHAPE)
    assert sorted(p.relative_to(room).as_posix() for p in room.rglob('*.npz')) == [
        'item_dict.npz',
        'pointcloud/pointcloud_00.npz',
        'points_iou/points_iou_00.npz',
    ]
    with np.load(room / 'points_iou/points_iou_00.npz') as stored:
        assert set(stored) == {'points', 'occupancies', 'semantics', 'z_scale'}
        assert stored['points'].dtype == np.float16
    index = import_shapenet(exported / 'official', exported / 'again', run=in_this_process)
    assert index.splits == records.read_index(exported / 'data').splits
    before, after = (records.read_shape(records.shape_path(exported / d, *SHAPE)) for d in ('data', 'again'))
    for points, labels in (('points', 'occ'), ('surface', 'normals')):
        a, b = (np.column_stack([getattr(x, points), getattr(x, labels)]) for x in (before, after))
        np.testing.assert_array_equal(a[np.lexsort(a.T)], b[np.lexsort(b.T)])
    assert (before.voxels == after.voxels).mean() > 0.95, 'the labels of the nearest points'


def test_the_seed_says_which_sampling_of_a_room_is_read(exported):
    room = exported / 'official' / '/'.join(SHAPE)
    for name in ('points_iou', 'pointcloud'):
        with np.load(room / name / f'{name}_00.npz') as stored:
            arrays = dict(stored)
        for number in range(1, 10):
            moved = (arrays['points'] + np.float16(number / 100)).astype(np.float16)
            np.savez(room / name / f'{name}_{number:02d}.npz', **{**arrays, 'points': moved})
    first = np.load(room / 'points_iou/points_iou_00.npz')['points']
    shifts = [(read_shapenet_model(room, seed).points - first).mean() for seed in range(12)]
    assert len(np.unique(np.round(shifts, 2))) > 3
    again = read_shapenet_model(room, 5)
    assert (again.points - first).mean() == shifts[5]
    number = round(float(shifts[5]) * 100)
    with np.load(room / f'pointcloud/pointcloud_{number:02d}.npz') as stored:
        np.testing.assert_array_equal(again.surface, stored['points'])


def test_a_room_without_its_files_is_named(tmp_path):
    (tmp_path / 'rooms_04/1/points_iou').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r'points_iou: expected points_iou_00.npz and so on, found none'):
        read_shapenet_model(tmp_path / 'rooms_04/1')
