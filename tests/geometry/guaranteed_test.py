"""The guaranteed grid against the dense one."""

import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.geometry.extract import extract_mesh, marching_cubes, threshold_to_logit
from onet_jax.geometry.grid import BOX, lattice_to_world
from onet_jax.geometry.guaranteed import guaranteed_grid
from onet_jax.geometry.mise import dense_grid, multiresolution_grid
from onet_jax.networks.bound_decoder import Affine, Block, BoundDecoder


class Ball:
    """radius - |p|, proven by the distance of the centre: a field of numpy that counts what it is asked."""

    def __init__(self, radius):
        self.radius, self.proofs = radius, []

    def __call__(self, points):
        return self.radius - np.linalg.norm(points, axis=1)

    def keeps_sign(self, centres, half_edges, level):
        self.proofs.append((half_edges, len(centres)))
        return np.abs(self(centres) - level) > np.linalg.norm(half_edges)


def random_network(seed, hidden=12):
    """Of blocks or, where the seed is odd, of plain layers; two compilations in all."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return (rng.normal(size=shape) * (2 / shape[0]) ** 0.5).astype(np.float32)

    def affine(num_in, num_out):
        return Affine(draw(num_in, num_out), np.float32(0.3) * draw(num_out))

    blocks, layers = (), ()
    if seed % 2:
        layers = tuple(affine(hidden, hidden) for _ in range(2))
    else:
        blocks = tuple(
            Block(1 + draw(hidden), draw(hidden), affine(hidden, hidden), affine(hidden, hidden)) for _ in range(2)
        )
    lift = affine(3, hidden)
    lift = lift.replace(kernel=lift.kernel * np.float32(rng.uniform(0.2, 1)))
    return BoundDecoder(lift, blocks, layers, 1 + draw(hidden), draw(hidden), affine(hidden, 1), leaky=False)


def values_at_corners(values):
    """[R + 1]^3 -> [R, R, R, 8]."""
    return np.lib.stride_tricks.sliding_window_view(values, (2, 2, 2)).reshape(*[len(values) - 1] * 3, 8)


def find_crossed_cells(values, level):
    """[R + 1]^3 -> bool [R]^3."""
    inside = values_at_corners(values) >= level
    return inside.any(axis=-1) & ~inside.all(axis=-1)


def assert_same_mesh(found, expected):
    np.testing.assert_array_equal(found.faces, expected.faces)
    np.testing.assert_array_equal(found.vertices, expected.vertices)


def assert_equals_dense_grid(field, level, **cells):
    """Every sign, and the values at the corners of all cells that the surface crosses."""
    dense = dense_grid(field, num_points=(cells['resolution'] << cells['upsampling_steps']) + 1)
    grid = guaranteed_grid(field, level=level, **cells)
    np.testing.assert_array_equal(grid.values >= level, dense >= level)
    np.testing.assert_array_equal(grid.values > level, dense > level)
    crossed = find_crossed_cells(dense, level)
    np.testing.assert_array_equal(values_at_corners(grid.values)[crossed], values_at_corners(dense)[crossed])
    return grid, dense


def test_equals_the_dense_grid_on_random_networks():
    share, num_crossed = [], 0
    for seed in range(24):
        field = random_network(seed)
        level = float(np.quantile(field(np.random.default_rng(seed).uniform(-0.55, 0.55, (64, 3))), 0.9))
        cells = [{'resolution': 4, 'upsampling_steps': 2}, {'resolution': 2, 'upsampling_steps': 3}][seed // 2 % 2]
        grid, dense = assert_equals_dense_grid(field, level, **cells)
        assert_same_mesh(marching_cubes(grid.values, level), marching_cubes(dense, level))
        share.append(sum(grid.queried_per_round) / dense.size)
        num_crossed += find_crossed_cells(dense, level).any()
    assert num_crossed > 20
    for kind in (0, 1):
        assert np.median(share[kind::2]) < 0.85, 'cells are left out'


def hand_made(kernel, offset, inside):
    """inside - sum_i |a_i . p - b_i| as a network of plain layers; kernel [3, K] of the a_i, offset [K] of the b_i."""
    kernel, offset = np.concatenate([kernel, -kernel], axis=1), np.concatenate([offset, -offset])
    ones, zeros = jnp.ones(len(offset)), jnp.zeros(len(offset))
    lift = Affine(jnp.asarray(kernel, jnp.float32), jnp.asarray(-offset, jnp.float32))
    output = Affine(-ones[:, None], jnp.full(1, inside))
    return BoundDecoder(lift, (), (Affine(jnp.eye(len(offset)), zeros),), ones, zeros, output, False)


@pytest.mark.parametrize('kind', ['sheet', 'blob'])
def test_finds_what_is_thinner_than_a_coarse_cell(kind):
    """A sheet of one layer of points, and a blob around a single one, between the corners of the coarse cells."""
    cells = {'resolution': 4, 'upsampling_steps': 3}
    centre = lattice_to_world(np.array([11, 19, 13]), 32)
    axes = np.diag([1, 0, 0]) if kind == 'sheet' else np.eye(3)
    field = hand_made(20 * axes, 20 * centre @ axes, 20 * 0.7 * BOX / 32)
    assert not (multiresolution_grid(field, **cells).values >= 0).any(), 'corners alone do not see it'
    grid, dense = assert_equals_dense_grid(field, 0.0, **cells)
    assert (dense >= 0).sum() == (33**2 if kind == 'sheet' else 1)
    assert sum(grid.queried_per_round) < 0.5 * dense.size
    assert extract_mesh(field, threshold=0.5, **cells).is_empty
    mesh = extract_mesh(field, threshold=0.5, guaranteed=True, **cells)
    assert_same_mesh(mesh, marching_cubes(dense, 0.0))
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_proofs_stop_where_points_are_cheaper():
    field = Ball(0.3)
    grid, dense = assert_equals_dense_grid(field, 0.0, resolution=4, upsampling_steps=3)
    edges = [tuple(np.round(2 * half_edges * 32 / BOX)) for half_edges, _ in field.proofs]
    halved = [(8, 8, 8), (4, 8, 8), (4, 4, 8), (4, 4, 4), (2, 4, 4), (2, 2, 4)]
    assert edges == halved, 'none for cells of two points an edge'
    assert len(grid.queried_per_round) == len(halved) + 1
    assert sum(grid.queried_per_round) < 0.5 * dense.size


def test_proofs_that_fail_are_given_up_and_cost_no_surface():
    class Reticent(Ball):
        def keeps_sign(self, centres, half_edges, level):
            return super().keeps_sign(centres, half_edges, level) & False

    field = Reticent(0.3)
    grid, dense = assert_equals_dense_grid(field, 0.0, resolution=16, upsampling_steps=2)
    assert [n for _, n in field.proofs] == [2048] * 3, 'one batch of the 4096 cells, and of their halves and quarters'
    np.testing.assert_array_equal(grid.values, dense)
    assert sum(grid.queried_per_round) == dense.size, 'no point is evaluated twice'


@pytest.mark.parametrize('radius', [0.0, 2.0])
def test_boxes_without_a_surface(radius):
    cells = {'resolution': 4, 'upsampling_steps': 2}
    grid, _ = assert_equals_dense_grid(Ball(radius), -0.3 if radius else 0.3, **cells)
    assert sum(grid.queried_per_round) == 64


def test_without_upsampling_it_is_the_dense_grid():
    grid, dense = assert_equals_dense_grid(Ball(0.3), 0.0, resolution=8, upsampling_steps=0)
    np.testing.assert_array_equal(grid.values, dense)


def test_seeds_are_not_needed():
    cells = {'resolution': 4, 'upsampling_steps': 2, 'threshold': 0.4, 'guaranteed': True}
    plain, seeded = (extract_mesh(Ball(0.3), seeds=seeds, **cells) for seeds in (None, np.full((5, 3), 0.1)))
    np.testing.assert_array_equal(plain.vertices, seeded.vertices)
    assert_same_mesh(plain, marching_cubes(dense_grid(Ball(0.3), num_points=17), threshold_to_logit(0.4)))


def test_bad_fields_and_arguments_are_named():
    with pytest.raises(ValueError, match=r'expected one with a method keeps_sign, as `model\.bind\(.* found function'):
        extract_mesh(lambda points: -points[:, 0], guaranteed=True)
    with pytest.raises(ValueError, match='expected resolution >= 1 and upsampling_steps >= 0, found 0 and 2'):
        guaranteed_grid(Ball(0.3), resolution=0)
    with pytest.raises(ValueError, match=r'field: expected finite numbers, found 64 of 64 not finite'):
        guaranteed_grid(Ball(np.nan), resolution=4)
