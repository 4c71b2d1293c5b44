import numpy as np
import pytest
import trimesh
from mesh_files import box_with_hole, copy_of, plate

from onet_jax.prepare import procedural, splits
from onet_jax.prepare.splits import draw_splits, invariants


def describe(mesh):
    return invariants(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces))


SHAPES = [procedural.make_shape(0, family, i).mesh() for family in procedural.FAMILIES for i in range(3)]
SHAPES += [box_with_hole(0.2), box_with_hole(0.4), plate(0), plate(1), trimesh.creation.icosphere()]


def test_invariants_are_those_of_the_surface():
    for i, mesh in enumerate(SHAPES):
        np.testing.assert_allclose(describe(copy_of(mesh, i)), describe(mesh), rtol=0, atol=1e-6)
        soup = trimesh.Trimesh(
            mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3), process=False
        )
        np.testing.assert_allclose(describe(soup), describe(mesh), rtol=0, atol=1e-9, err_msg='unwelded')


def test_other_shapes_have_other_invariants():
    table = np.array([describe(mesh) for mesh in SHAPES])
    apart = np.abs(table[:, None] - table[None]).max(axis=2)[np.triu_indices(len(table), 1)]
    assert apart.min() > 4 * splits.SAME


def test_invariants_equal_integrals():
    """Of a box with edges 2, 4, 6 around the origin, by a fine grid of points on its faces."""
    size = np.array([2.0, 4.0, 6.0])
    side = (np.arange(300) + 0.5) / 300 - 0.5
    u, v = (axis.ravel() for axis in np.meshgrid(side, side))
    points, weights = [], []
    for axis in range(3):
        for sign in (-0.5, 0.5):
            p = np.insert(np.stack([u, v], axis=1), axis, sign, axis=1) * size
            points.append(p)
            weights.append(np.full(len(p), np.delete(size, axis).prod() / len(p)))
    points, weights = np.concatenate(points), np.concatenate(weights)
    area = weights.sum()
    weights /= area
    squared = np.square(points).sum(axis=1)
    scale = weights @ squared
    second = np.sort(weights @ np.square(points)) / scale
    fourth = np.sort((weights * squared) @ np.square(points)) / scale**2
    expected = [second[0], second[1], np.sqrt(area / scale) / 3, 0, fourth.sum(), fourth[0]]
    np.testing.assert_allclose(describe(trimesh.creation.box(size)), expected, atol=1e-4)


@pytest.mark.parametrize('seed', range(5))
def test_drawn_splits_keep_groups_together_and_their_sizes(seed):
    rng = np.random.default_rng(seed)
    group_of = {(category, f'{i:03d}'): rng.integers(60) for category in ('a', 'b', 'c') for i in range(40)}
    shapes = {key: np.array([group, 1.0]) for key, group in group_of.items()}
    splits = draw_splits(shapes, seed, 0.1, 0.2)
    assert sorted(key for keys in splits.values() for key in keys) == sorted(shapes)
    assert splits == draw_splits(shapes, seed, 0.1, 0.2)
    split_of = {key: split for split, keys in splits.items() for key in keys}
    for group in set(group_of.values()):
        assert len({split_of[key] for key, other in group_of.items() if other == group}) == 1
    assert 20 <= len(splits['test']) <= 26, 'a fifth of 120, but for rounding and groups that do not fit'
    assert 6 <= len(splits['val']) <= 14


def test_drawn_splits_of_different_shapes_have_the_asked_sizes():
    shapes = {(category, str(i)): np.array([i, ord(category)]) for category in 'ab' for i in range(20)}
    splits = draw_splits(shapes, 0, 0.1, 0.2)
    for category in 'ab':
        counts = {split: sum(key[0] == category for key in keys) for split, keys in splits.items()}
        assert counts == {'train': 14, 'val': 2, 'test': 4}
    assert draw_splits(shapes, 1, 0.1, 0.2) != splits
    assert draw_splits({('a', '0'): np.zeros(2)}, 0, 0.4, 0.4)['train'] == [('a', '0')], (
        'a single shape is for training'
    )
    everything = draw_splits(shapes, 0, 0, 0)
    assert (len(everything['train']), everything['val'], everything['test']) == (40, [], [])
