import numpy as np
import pytest
import trimesh

from onet_jax.data.records import Index
from onet_jax.prepare.check import _list_hints
from onet_jax.prepare.embedded import embedded_solid
from onet_jax.prepare.runners import Outcome
from onet_jax.prepare.upright import is_up_doubtful

AXES = {
    'y': np.eye(3),
    'z': np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    'x': np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
}


@pytest.mark.parametrize('family', ['chair', 'mug', 'table'])
def test_of_furniture_that_lies_up_is_doubted_more_often_than_of_furniture_that_stands(family):
    clouds = [trimesh.sample.sample_surface(embedded_solid(0, family, i).mesh(), 3000, seed=0)[0] for i in range(4)]
    doubted = {up: sum(is_up_doubtful(cloud @ axes.T) for cloud in clouds) for up, axes in AXES.items()}
    assert doubted['y'] <= 1
    assert doubted['z'] + doubted['x'] >= 4


@pytest.mark.parametrize('cloud', [np.zeros((1, 3)), np.eye(3), np.ones((50, 3))])
def test_a_shape_without_a_base_is_doubtful(cloud):
    assert is_up_doubtful(cloud)


def test_a_category_is_named_where_most_of_its_shapes_are_doubtful():
    found = {f'{name}/{i}': {'up_doubtful': float(i < limit)} for name, limit in (('a', 2), ('b', 3)) for i in range(4)}
    (hint,) = _list_hints(Index(('a', 'b', 'c'), {}, (), 1, 1, 0, {}, {}, ''), Outcome(found, {}))
    assert hint.startswith('b: 3 of 4 shapes look as if y did not point up')
