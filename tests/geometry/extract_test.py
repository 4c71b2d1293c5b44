import numpy as np
import pytest
from conftest import golden_names
from lattices import corner_points
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes as lewiner_marching_cubes

from onet_jax.errors import InputError
from onet_jax.geometry.extract import (
    MIN_SCALED_VALUE,
    SCALED_OUTSIDE,
    check_memory,
    extract_mesh,
    marching_cubes,
    threshold_to_logit,
)
from onet_jax.geometry.grid import BOX, lattice_to_world
from onet_jax.geometry.mise import multiresolution_grid


def sphere(points, radius=0.35):
    return 10 * (radius - np.linalg.norm(points, axis=-1))


def torus(points):
    x, y, z = np.moveaxis(points, -1, 0)
    return 10 * (0.12 - np.hypot(np.hypot(x, z) - 0.3, y))


def box(points):
    return 10 * (np.array([0.31, 0.22, 0.17]) - np.abs(points)).min(axis=-1)


def largest_distance(a, b):
    return max(cKDTree(a).query(b)[0].max(), cKDTree(b).query(a)[0].max())


@pytest.mark.parametrize('file', golden_names('mesh/extract_sphere*.npz'))
def test_surfaces_equal_the_official_ones(golden, file):
    data = golden(file)
    mesh = marching_cubes(data['in/grid'], float(data['in/threshold_logit']))
    assert mesh.is_watertight
    assert largest_distance(mesh.vertices, data['out/vertices']) < 1e-4
    assert mesh.euler_number == data['out/euler_number']
    np.testing.assert_allclose(mesh.volume, data['out/volume'], rtol=1e-4)


@pytest.mark.parametrize('name', ['up0', 'up2'])
def test_official_generation_of_a_sphere(golden, name):
    data = golden(f'mesh/generate_analytic_sphere_{name}.npz')
    mesh = extract_mesh(
        sphere, resolution=int(data['in/resolution0']), upsampling_steps=int(data['in/upsampling_steps']), threshold=0.2
    )
    assert largest_distance(mesh.vertices, data['out/vertices']) < 1e-4
    assert len(mesh.vertices) == len(data['out/vertices'])


def test_all_empty_and_all_full_grids(golden):
    data = golden('mesh/extract_degenerate.npz')
    empty = marching_cubes(data['in/grid_empty'], 0.0)
    assert len(empty.vertices) == len(empty.faces) == 0
    full = marching_cubes(data['in/grid_full'], 0.0)
    assert full.is_watertight
    np.testing.assert_allclose(full.bounds, [[-BOX / 2] * 3, [BOX / 2] * 3], atol=1e-5)


@pytest.mark.parametrize('num_points', [32, 33, 64, 65])
@pytest.mark.parametrize('field, euler_number', [(sphere, 2), (torus, 0), (box, 2)])
def test_no_lattice_shifts_the_surface(field, euler_number, num_points):
    mesh = marching_cubes(field(corner_points(num_points)), 0.0)
    assert mesh.is_watertight
    assert mesh.volume > 0, 'oriented outwards'
    assert mesh.euler_number == euler_number
    np.testing.assert_allclose(mesh.bounds.sum(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(mesh.center_mass, 0, atol=1e-5)
    assert np.abs(field(mesh.vertices)).max() / 10 < 0.35 * BOX / (num_points - 1)


def nasty_grids():
    """Noise up to the box, values exactly on the level, tiny and huge values."""
    rng = np.random.default_rng(0)
    return (
        rng.normal(size=(12, 12, 12)),
        rng.integers(-1, 2, (12, 12, 12)).astype(float),
        rng.normal(size=(9, 9, 9)) * 10.0 ** rng.integers(-30, 30, (9, 9, 9)),
        np.where(rng.random((8, 8, 8)) < 0.5, 1e-12, -1e12),
    )


def march_through_all(values, level):
    """Vertices and faces from the whole lattice, no cell left out; the largest value is at a cell that is crossed."""
    shifted = values - level
    shifted = np.ldexp(shifted, -np.frexp(np.abs(shifted).max())[1])
    shifted = np.where(shifted > 0, np.maximum(shifted, MIN_SCALED_VALUE), np.minimum(shifted, -MIN_SCALED_VALUE))
    padded = np.pad(shifted, 1, constant_values=SCALED_OUTSIDE).astype(np.float32)
    vertices, faces, _, _ = lewiner_marching_cubes(padded, 0.0, gradient_direction='ascent', allow_degenerate=False)
    return lattice_to_world(vertices - 1.0, len(values) - 1), faces


def test_what_the_surface_does_not_cross_may_be_left_out():
    small = np.full((14, 15, 16), -1.0)
    small[4:7, 5:9, 8:10] = np.random.default_rng(1).normal(size=(3, 4, 2))
    for grid in (*nasty_grids(), small[:14, :14, :14], 1 - small[:14, :14, :14]):
        mesh = marching_cubes(grid, 0.0)
        vertices, faces = march_through_all(grid, 0.0)
        np.testing.assert_array_equal(mesh.faces, faces)
        np.testing.assert_allclose(mesh.vertices, vertices, atol=1e-6)


def test_values_far_from_the_surface_have_no_influence():
    values = sphere(corner_points(33)) - 0.7
    clipped = np.clip(values, -1.0, 1.0)  # an edge of a cell is 0.34 long
    assert (clipped != values).mean() > 0.5
    mesh, expected = marching_cubes(clipped, 0.0), marching_cubes(values, 0.0)
    np.testing.assert_array_equal(mesh.faces, expected.faces)
    np.testing.assert_array_equal(mesh.vertices, expected.vertices)


def test_the_level_is_not_rounded_to_the_precision_of_the_values():
    values = np.full((3, 3, 3), 0.1, np.float32)
    assert values[0, 0, 0].astype(float) > 0.1
    assert len(marching_cubes(values, 0.1).faces)
    assert marching_cubes(values, float(values[0, 0, 0])).is_empty


def test_nasty_grids_stay_closed():
    for grid in nasty_grids():
        mesh = marching_cubes(grid, 0.0)
        # Cells that touch at an edge share it fourfold: closed means that every edge is crossed evenly often.
        edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
        _, counts = np.unique(edges, axis=0, return_counts=True)
        assert (counts % 2 == 0).all()
        assert mesh.volume > 0
        assert np.abs(mesh.vertices).max() <= BOX / 2 + 1e-6


def test_vertices_are_not_merged_however_fine_the_lattice():
    """Around a point on the level vertices are a millionth of a cell apart: merged, they would flatten faces."""
    coarse, fine = np.full((7, 7, 7), -1.0), np.full((200, 200, 200), -1.0, np.float32)
    coarse[2:5, 2:5, 2:5] = np.random.default_rng(2).integers(-1, 2, (3, 3, 3))
    fine[90:97, 10:17, 100:107] = coarse
    np.testing.assert_array_equal(marching_cubes(fine, 0.0).faces, marching_cubes(coarse, 0.0).faces)


def test_the_surface_sits_at_the_threshold():
    logit = threshold_to_logit(0.2)
    assert logit == pytest.approx(-1.3862943611198906)
    mesh = extract_mesh(sphere, resolution=16, upsampling_steps=2, threshold=0.2)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    np.testing.assert_allclose(radius, 0.35 - logit / 10, atol=2e-4)


def test_the_defaults_are_those_of_the_paper():
    """32^3 cells, split twice, and the probability 0.2 (paper, section 3.3)."""
    for function in (extract_mesh, multiresolution_grid):
        assert (function.__kwdefaults__['resolution'], function.__kwdefaults__['upsampling_steps']) == (32, 2)
    assert extract_mesh.__kwdefaults__['threshold'] == 0.2


def test_bad_arguments():
    for threshold in (0, 1, 1.5, float('nan')):
        with pytest.raises(ValueError, match='threshold: expected a probability'):
            extract_mesh(sphere, threshold=threshold)
    grid = np.zeros((4, 4, 4))
    grid[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match='1 of 64 not finite'):
        marching_cubes(grid, 0.0)


def test_a_grid_that_does_not_fit_is_refused():
    check_memory(128)
    check_memory(512, max_memory_gb=3)
    message = r'resolution: expected a grid of at most 2.0 GB, found 3.0 GB for 512 cells .*, or raise --max_memory_gb$'
    with pytest.raises(ValueError, match=message):
        check_memory(512, max_memory_gb=2)
    with pytest.raises(ValueError, match=r'resolution: .* for 8192 cells along an axis; choose a lower one$'):
        check_memory(8192)
    for resolution, steps in [(10**6, 0), (10**6, 2), (32, 30)]:
        with pytest.raises(InputError, match=r'resolution: expected a grid of at most .* GB'):
            extract_mesh(sphere, resolution=resolution, upsampling_steps=steps)


@pytest.mark.parametrize('steps', [0, 1])
def test_a_field_that_does_not_give_a_value_for_each_point_is_named(steps):
    for field, message in [
        (
            lambda points: sphere(points)[:, None],
            r'field: expected one value for each point, \[T\], found .* \[\d+, 1\]',
        ),
        (lambda points: sphere(points)[1:], r'field: expected (\d+) values for as many points, found the shape'),
        (lambda points: np.resize(sphere(points), len(points) + 1), r'field: expected (\d+) values for as many points'),
        (lambda points: 1.0, r'field: expected (\d+) values for as many points, found the shape \[\]'),
    ]:
        with pytest.raises(InputError, match=message):
            extract_mesh(field, resolution=8, upsampling_steps=steps)
    with pytest.raises(InputError, match='resolution: expected at least 2, found 1'):
        extract_mesh(sphere, resolution=1, upsampling_steps=0)
    with pytest.raises(InputError, match=r'expected resolution >= 1 .* found 8.0 .*; both are whole'):
        extract_mesh(sphere, resolution=8.0, upsampling_steps=steps)
    with pytest.raises(InputError, match=r'expected resolution >= 1 .* found True'):
        extract_mesh(sphere, resolution=True, upsampling_steps=2)
    with pytest.raises(InputError, match='field: expected real numbers, found complex128'):
        extract_mesh(lambda points: sphere(points) + 0j, resolution=8, upsampling_steps=steps)


@pytest.mark.parametrize('threshold, is_empty', [(0.2, False), (0.9, True)])
def test_a_field_of_probabilities_is_told_from_one_of_logits(threshold, is_empty):
    def probability(points):
        return 1 / (1 + np.exp(-sphere(points)))

    with pytest.warns(UserWarning, match=r'field: expected logits, found values from .* to 0.97.*log\(p / \(1 - p\)\)'):
        mesh = extract_mesh(probability, resolution=8, upsampling_steps=1, threshold=threshold)
    assert mesh.is_empty == is_empty
    assert not extract_mesh(lambda points: np.ones(len(points)), resolution=8, upsampling_steps=0).is_empty, (
        'no warning'
    )
