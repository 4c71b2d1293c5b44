import numpy as np
import pytest
import trimesh

from onet_jax.data.records import Index
from onet_jax.geometry.meshes import UPS
from onet_jax.geometry.upright import find_up, is_up_doubtful
from onet_jax.prepare.check import _list_hints
from onet_jax.prepare.embedded import embedded_solid
from onet_jax.prepare.runners import Outcome

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


@pytest.mark.parametrize('up', ['x', 'y', 'z'])
def test_up_is_found_or_left_as_it_is(up):
    families = ('airplane', 'bottle', 'chair', 'lamp', 'table', 'sofa')
    clouds = [
        trimesh.sample.sample_surface(embedded_solid(0, family, 1).mesh(), 3000, seed=0)[0] for family in families
    ]
    found = [find_up(cloud @ UPS[up]) for cloud in clouds]
    assert set(found) <= {up, 'y'}
    assert found.count(up) >= 4


def test_up_of_ground_is_its_height():
    rng = np.random.default_rng(0)
    distance, angle = rng.exponential(10, 3000), rng.uniform(0, 2 * np.pi, 3000)  # from a scanner
    ground = np.column_stack([distance * np.cos(angle), distance * np.sin(angle), np.sin(distance / 5)])
    pit = rng.normal([60, 60, -15], size=(30, 3))
    ground = np.concatenate([ground, pit])  # so that it does not stand
    assert all(is_up_doubtful(ground @ turn.T) for turn in UPS.values())
    assert find_up(ground) == 'z'
    assert find_up(ground[:, [2, 1, 0]]) == 'x'


@pytest.mark.parametrize('cloud', [np.zeros((1, 3)), np.eye(3), np.ones((50, 3))])
def test_a_shape_without_a_base_is_doubtful(cloud):
    assert is_up_doubtful(cloud)


def test_a_category_is_named_where_most_of_its_shapes_are_doubtful():
    found = {f'{name}/{i}': {'up_doubtful': float(i < limit)} for name, limit in (('a', 2), ('b', 3)) for i in range(4)}
    (hint,) = _list_hints(Index(('a', 'b', 'c'), {}, (), 1, 1, 0, {}, {}, ''), Outcome(found, {}))
    assert hint.startswith('b: 3 of 4 shapes look as if y did not point up')
