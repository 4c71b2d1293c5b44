import json
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from onet_jax.data import records
from onet_jax.data.records import Shape
from onet_jax.errors import InputError
from onet_jax.prepare.runners import SPAWN, Outcome
from onet_jax.prepare.store import claim_folder, finish, recipe, recipe_of, store


def tiny_shape(**columns) -> Shape:
    cloud = np.zeros((5, 3), np.float16)
    required = {'points': cloud, 'occ': np.ones(5, bool), 'surface': cloud, 'normals': cloud, 'loc': np.zeros(3)}
    return Shape('c', 'a', **required, voxels=np.zeros((32,) * 3, bool), scale=np.float64(1), **columns)


def test_a_shape_is_made_once_for_each_recipe(tmp_path):
    made = []

    def make():
        made.append(1)
        return tiny_shape(colours=np.full((5, 3), len(made), np.uint8))

    path = records.shape_path(tmp_path, 'c', 'a')
    for seed, content, count in ((0, 1, 1), (0, 1, 1), (1, 2, 2)):
        found = store(tmp_path, 'c', 'a', {'seed': seed}, (), make)
        assert found['recipe'] == recipe({'seed': seed}).hex()
        assert found['counts'] == [5, 5, 0]
        assert 'colours' in found['columns']
        assert 'image' not in found['columns']
        assert (records.read_shape(path).colours == content).all()
        assert len(made) == count
    path.write_bytes(path.read_bytes()[:99])
    store(tmp_path, 'c', 'a', {'seed': 1}, (), make)
    assert (records.read_shape(path).colours == 3).all(), 'a damaged file is made again'


def test_a_shape_is_rejected_once_for_each_recipe(tmp_path):
    made = []

    def make():
        made.append(1)
        raise InputError(f'it is flat, found {len(made)}')

    for seed, count in ((0, 1), (0, 1), (1, 2)):
        with pytest.raises(InputError, match=f'it is flat, found {count}'):
            store(tmp_path, 'c', 'a', {'seed': seed}, (), make)
    note = tmp_path / 'notes/rejected/c/a.json'
    content = json.loads(note.read_text())
    for count, damaged in enumerate((content | {'reason': 5}, {'recipe': content['recipe']}, {'reason': 'x'}), 3):
        note.write_text(json.dumps(damaged))
        with pytest.raises(InputError, match=f'it is flat, found {count}'):
            store(tmp_path, 'c', 'a', {'seed': 1}, (), make)
    assert not records.shape_path(tmp_path, 'c', 'a').exists()


def test_the_index_lists_the_columns_that_all_shapes_have(tmp_path):
    colours, matrices = np.zeros((5, 3), np.uint8), np.zeros((2, 3, 4), np.float32)
    view = {'image': (b'x', b'y'), 'world_mat': matrices, 'camera_mat': matrices[..., :3]}
    shapes = {'a': {'colours': colours, **view}, 'b': {'alpha': (b'x', b'y'), **view}}
    results = {
        f'c/{name}': store(tmp_path, 'c', name, {}, (), lambda columns=columns: tiny_shape(**columns))
        for name, columns in shapes.items()
    }
    splits = {'train': [('c', 'a'), ('c', 'b'), ('c', 'flat')], 'val': [], 'test': []}
    index = finish(tmp_path, ['c'], splits, Outcome(results, {'c/flat': 'it is flat'}), {'kind': 'none'})
    assert index == records.read_index(tmp_path)
    assert index.columns == tuple(name for name in records.SHAPES.columns if name not in ('colours', 'alpha', 'depth'))
    assert index.counts == {'shape': 1, 'point': 5, 'sample': 5, 'view': 2}
    assert index.splits['train'] == (('c', 'a'), ('c', 'b'))
    for name in shapes:
        assert records.read_shape(records.shape_path(tmp_path, 'c', name), index).colours is None


def test_a_file_that_changes_while_it_is_read_leaves_nothing_behind(tmp_path):
    """Neither a shape nor a rejection, of which the recipe would vouch that it is that of the old content."""
    source = tmp_path / 'source'

    def read(then):
        source.write_text('other content')
        if then is not None:
            raise then
        return tiny_shape()

    for error in (None, InputError('half of it is missing')):
        source.write_text('content')
        with pytest.raises(InputError, match='source: expected a file that stays, found that it has changed'):
            store(tmp_path / 'data', 'c', 'a', {}, [source], lambda error=error: read(error))
    assert not (tmp_path / 'data').exists()
    with (
        pytest.raises(InputError, match='nowhere: expected a file that can be read'),
        recipe_of({}, tmp_path / 'nowhere'),
    ):
        pass


def claim(folder, seed, barrier):
    """Of the tests' module, so that other processes can import it."""
    won = []
    for i in range(40):
        barrier.wait()
        try:
            claim_folder(folder / str(i), {'kind': 'meshes', 'seed': seed})
            won.append(i)
        except InputError:
            pass
    return won


def test_of_two_preparations_with_other_settings_one_gets_the_folder(tmp_path):
    with SPAWN.Manager() as manager, ProcessPoolExecutor(2, SPAWN) as processes:
        barrier = manager.Barrier(2)
        won = [processes.submit(claim, tmp_path, seed, barrier) for seed in range(2)]
        first, second = (future.result() for future in won)
    assert sorted(first + second) == list(range(40))
    for seed, numbers in enumerate((first, second)):
        for i in numbers:
            assert json.loads((tmp_path / str(i) / 'source.json').read_text())['seed'] == seed
            assert [path.name for path in (tmp_path / str(i)).iterdir()] == ['source.json'], 'no lock is left'
