import numpy as np
import pytest

from onet_jax.data import records
from onet_jax.data.records import Shape
from onet_jax.errors import InputError
from onet_jax.prepare.runners import Outcome
from onet_jax.prepare.store import finish, recipe, store


def tiny_shape(**columns) -> Shape:
    cloud = np.zeros((5, 3), np.float16)
    required = {'points': cloud, 'occ': np.ones(5, bool), 'surface': cloud, 'normals': cloud, 'loc': np.zeros(3)}
    return Shape('c', 'a', **required, voxels=np.zeros((32,) * 3, bool), scale=np.float64(1), **columns)


def test_a_shape_is_made_once_for_each_recipe(tmp_path):
    made = []

    def make():
        made.append(1)
        return tiny_shape(colours=np.full((5, 3), len(made), np.uint8))

    first, second = (recipe({'seed': seed}) for seed in (0, 1))
    path = records.shape_path(tmp_path, 'c', 'a')
    for made_from, content, count in ((first, 1, 1), (first, 1, 1), (second, 2, 2)):
        found = store(tmp_path, 'c', 'a', made_from, make)
        assert found['recipe'] == made_from.hex()
        assert found['counts'] == [5, 5, 0]
        assert 'colours' in found['columns']
        assert 'image' not in found['columns']
        assert (records.read_shape(path).colours == content).all()
        assert len(made) == count
    path.write_bytes(path.read_bytes()[:99])
    store(tmp_path, 'c', 'a', second, make)
    assert (records.read_shape(path).colours == 3).all(), 'a damaged file is made again'


def test_a_shape_is_rejected_once_for_each_recipe(tmp_path):
    made = []

    def make():
        made.append(1)
        raise InputError(f'it is flat, found {len(made)}')

    for seed, count in ((0, 1), (0, 1), (1, 2)):
        with pytest.raises(InputError, match=f'it is flat, found {count}'):
            store(tmp_path, 'c', 'a', recipe({'seed': seed}), make)
    assert not records.shape_path(tmp_path, 'c', 'a').exists()


def test_the_index_lists_the_columns_that_all_shapes_have(tmp_path):
    colours, matrices = np.zeros((5, 3), np.uint8), np.zeros((2, 3, 4), np.float32)
    view = {'image': (b'x', b'y'), 'world_mat': matrices, 'camera_mat': matrices[..., :3]}
    shapes = {'a': {'colours': colours, **view}, 'b': {'alpha': (b'x', b'y'), **view}}
    results = {
        f'c/{name}': store(tmp_path, 'c', name, recipe({}), lambda columns=columns: tiny_shape(**columns))
        for name, columns in shapes.items()
    }
    splits = {'train': [('c', 'a'), ('c', 'b'), ('c', 'flat')], 'val': [], 'test': []}
    index = finish(tmp_path, ['c'], splits, Outcome(results, {'c/flat': 'it is flat'}), {'kind': 'none'})
    assert index == records.read_index(tmp_path)
    assert index.columns == tuple(name for name in records.COLUMNS if name not in ('colours', 'alpha', 'depth'))
    assert index.counts == {'shape': 1, 'point': 5, 'sample': 5, 'view': 2}
    assert index.splits['train'] == (('c', 'a'), ('c', 'b'))
    for name in shapes:
        assert records.read_shape(records.shape_path(tmp_path, 'c', name), index).colours is None
