import hashlib

import numpy as np
import pytest
from conftest import golden_names

from onet_jax.geometry import mise
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.mise import multiresolution_grid


def lattice(world, finest):
    """World coordinates back to the integers they came from."""
    return np.rint((world / BOX + 0.5) * finest).astype(np.int64)


def sphere(radius):
    return lambda p: radius - np.sqrt((p**2).sum(axis=1))


def torus(p):
    return 0.08 - np.hypot(np.hypot(p[:, 0], p[:, 1]) - 0.3, p[:, 2])


@pytest.mark.parametrize(
    'field, resolution, steps, queried, num_inside, total',
    [
        (sphere(0.3), 4, 1, (125, 344), 33, -203.987001),
        (sphere(0.3), 4, 2, (125, 344, 824), 365, -1188.249392),
        (sphere(0.3), 8, 2, (729, 824, 3698), 2801, -8148.351744),
        (sphere(0.4), 32, 2, (35937, 25298, 102026), 422501, -267445.500601),
        (sphere(0.4), 16, 3, (4913, 6098, 25298, 102026), 422501, -268460.354695),
        (sphere(0.4), 32, 0, (35937,), 6619, -5197.527584),
        (torus, 4, 2, (125, 262, 588), 108, -1446.452689),
        (torus, 8, 2, (729, 588, 2860), 984, -9953.935678),
        (torus, 32, 2, (35937, 11940, 45700), 60032, -565136.538138),
        (lambda p: np.full(len(p), -1.0), 4, 2, (125,), 0, -4913),
        (lambda p: np.zeros(len(p)), 4, 1, (125, 604), 729, 0),
    ],
)
def test_counts_equal_the_official_ones(field, resolution, steps, queried, num_inside, total):
    grid = multiresolution_grid(field, resolution=resolution, upsampling_steps=steps)
    assert grid.queried_per_round == queried
    assert (grid.values >= 0).sum() == num_inside
    np.testing.assert_allclose(grid.values.sum(), total, atol=1e-5)


@pytest.mark.parametrize(
    'resolution, steps, t, queried, total, num_inside',
    [
        (2, 2, 400, (27, 98, 600, 4), -407.834, 285),
        (4, 2, 20, (125, 76, 240, 177, 21), -7389.758, 18),
        (4, 3, 5, (125, 90, 108, 109), -52688.763, 3),
        (2, 3, 15, (27, 19, 19, 19), -7507.466, 1),
        (
            3, 3, 30,
            (64, 52, 94, 267, 311, 302, 340, 232, 577, 649, 792, 565, 310, 377, 488, 523, 331, 269, 139, 74, 52, 52),
            -23052.877, 203,
        ),
    ],
)  # fmt: skip
def test_hanging_nodes_split_coarse_cells_in_later_rounds(resolution, steps, t, queried, total, num_inside):
    finest = resolution << steps

    def field(world):
        x, y, z = lattice(world, finest).T
        h = (73 * x + 151 * y + 283 * z + 29 * ((x * y) % 17) + 31 * ((y * z) % 13)) % 997
        return np.where(h < t, 1, -1) * (1 + h / 1000)

    grid = multiresolution_grid(field, resolution=resolution, upsampling_steps=steps)
    assert grid.queried_per_round == queried
    assert (grid.values >= 0).sum() == num_inside
    np.testing.assert_allclose(grid.values.sum(), total, atol=1e-6)


def golden_field(name):
    def f(p):
        x, y, z = p.T
        if name == 'sphere':
            return 10 * (0.35 - np.sqrt(x * x + y * y + z * z))
        if name == 'torus':
            ring = np.sqrt(x * x + z * z) - 0.3
            return 10 * (0.12 - np.sqrt(ring * ring + y * y))
        if name == 'sparse':
            a = 0.06 - np.sqrt((x + 0.4) ** 2 + (y + 0.35) ** 2 + (z - 0.38) ** 2)
            b = 0.03 - np.sqrt((x - 0.41) ** 2 + (y - 0.4) ** 2 + (z + 0.37) ** 2)
            plate = np.minimum(np.minimum(0.008 - np.abs(x - 0.113), 0.3 - np.abs(y)), 0.3 - np.abs(z))
            return 20 * np.maximum(np.maximum(a, b), plate)
        k = 4 * np.pi
        return 3 * (np.sin(k * x) * np.cos(k * y) + np.sin(k * y) * np.cos(k * z) + np.sin(k * z) * np.cos(k * x))

    return lambda p: np.rint(256 * f(p)) / 256


@pytest.mark.parametrize('file', golden_names('mise/*.npz'))
def test_every_round_and_the_grid_equal_the_golden_files(golden, file, monkeypatch):
    data = golden(file)
    name, resolution, depth, probability = file.removeprefix('mise/').removesuffix('.npz').split('_')
    resolution, depth, p = int(resolution[1:]), int(depth[1:]), int(probability[1:]) / 100
    rounds = []

    def evaluate(field, points):
        rounds.append(points)
        return field(points)

    monkeypatch.setattr(mise, 'evaluate', evaluate)
    grid = multiresolution_grid(
        golden_field(name), resolution=resolution, upsampling_steps=depth, level=np.log(p) - np.log(1 - p)
    )
    finest = resolution << depth
    round_index = np.zeros((finest + 1,) * 3, np.uint8)
    for i, points in enumerate(rounds):
        round_index[tuple(lattice(points, finest).T)] = i + 1
    np.testing.assert_array_equal(round_index, data['out/round_index'])
    np.testing.assert_array_equal(grid.queried_per_round, data['out/counts'])
    assert sum(grid.queried_per_round) == data['out/total']
    assert hashlib.sha256(grid.values.tobytes()).hexdigest() == str(data['out/dense_sha256'])


def test_the_level_is_not_rounded_to_the_precision_of_the_field():
    """float32(0.1) is above 0.1, so no cell has two sides."""
    grid = multiresolution_grid(lambda p: np.full(len(p), 0.1, np.float32), resolution=2, upsampling_steps=2, level=0.1)
    assert grid.queried_per_round == (27,)
    assert grid.values.dtype == np.float32


def test_senseless_arguments_are_refused():
    with pytest.raises(ValueError, match='resolution >= 1'):
        multiresolution_grid(sphere(0.3), resolution=0)


def test_values_that_are_not_finite_are_named_and_not_filled():
    """NaN also marks what was never asked: it must not pass for a hole to be filled."""

    def field(points):
        return np.where(points[:, 0] > 0.2, np.nan, sphere(0.3)(points))

    with pytest.raises(ValueError, match=r'field: expected finite numbers, found \d+ of \d+ not finite'):
        multiresolution_grid(field, resolution=8, upsampling_steps=1)


def thin_sheet(p):
    """A square sheet of thickness 0.016, half of a finest cell of 64."""
    return np.minimum.reduce([0.008 - np.abs(p[:, 0] - 0.113), 0.3 - np.abs(p[:, 1]), 0.3 - np.abs(p[:, 2])])


def test_a_sheet_that_the_coarse_grid_misses_is_found_from_one_of_its_points():
    def inside(resolution, steps, **seeds):
        return multiresolution_grid(thin_sheet, resolution=resolution, upsampling_steps=steps, **seeds).values >= 0

    dense = inside(128, 0)
    assert dense.sum() > 4000
    assert not inside(16, 3).any(), 'without seeds nothing is found'
    np.testing.assert_array_equal(inside(16, 3, seeds=np.array([[0.113, 0.29, -0.2]])), dense)


def test_seeds_on_a_surface_that_is_found_anyway_cost_little():
    directions = np.random.default_rng(0).normal(size=(300, 3))
    seeds = 0.4 * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    plain, seeded = (
        multiresolution_grid(sphere(0.4), resolution=32, upsampling_steps=2, seeds=points) for points in (None, seeds)
    )
    assert sum(seeded.queried_per_round) < 1.01 * sum(plain.queried_per_round)
    np.testing.assert_array_equal(seeded.values >= 0, plain.values >= 0)


def test_seeds_outside_the_box_are_in_no_cell_and_bad_ones_are_named():
    arguments = {'resolution': 4, 'upsampling_steps': 2}
    plain = multiresolution_grid(sphere(0.3), **arguments)
    for y in (3.0, BOX / 2 + 0.01, -BOX / 2 - 0.01):
        far = multiresolution_grid(sphere(0.3), seeds=np.array([[0.0, y, 0.0]]), **arguments)
        assert far.queried_per_round == plain.queried_per_round
    with pytest.raises(ValueError, match=r'seeds: expected finite numbers, found 1 of 3 not finite'):
        multiresolution_grid(sphere(0.3), seeds=np.array([[0.0, np.nan, 0.0]]), **arguments)
