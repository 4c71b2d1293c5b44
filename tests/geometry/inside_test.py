import numpy as np
import pytest
import trimesh
from conftest import golden_names

from onet_jax.geometry import inside
from onet_jax.geometry.inside import contains, winding_numbers


def contains_slowly(mesh, points):
    """Every face against every point, strict inequalities: right for points in general position."""
    result = []
    for p in points:
        parity = [0, 0]
        for a, b, c in mesh.vertices[mesh.faces]:
            m = np.array([[a[0] - c[0], b[0] - c[0]], [a[1] - c[1], b[1] - c[1]]])
            if np.linalg.det(m) == 0:
                continue
            u, v = np.linalg.solve(m, p[:2] - c[:2])
            if u > 0 and v > 0 and u + v < 1:
                parity[int(u * a[2] + v * b[2] + (1 - u - v) * c[2] >= p[2])] += 1
        result.append(parity[0] % 2 == 1 and parity[1] % 2 == 1)
    return np.array(result)


@pytest.mark.parametrize('file', [f for f in golden_names('metrics/contains_*.npz') if 'degenerate' not in f])
def test_equals_the_official_test_in_general_position(golden, file):
    data = golden(file)
    mesh = trimesh.Trimesh(data['in/vertices'], data['in/faces'], process=False)
    expected = np.unpackbits(data['out/contains_packbits'], count=len(data['in/points'])).astype(bool)
    np.testing.assert_array_equal(contains(mesh, data['in/points']), expected)


@pytest.mark.parametrize('spacing', [19, 23])
def test_lattice_points_whose_lines_run_through_edges_and_vertices(spacing):
    """The official test drops such crossings and calls many interior points outside."""
    axis = np.linspace(-0.5, 0.5, spacing)
    points = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    cube = trimesh.creation.box((0.75, 0.75, 0.75))
    octahedron = trimesh.Trimesh(
        0.45 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]),
        [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]],
    )
    for mesh, distance in (
        (cube, 0.375 - np.abs(points).max(axis=1)),
        (octahedron, 0.45 - np.abs(points).sum(axis=1)),
    ):
        clear = np.abs(distance) > 1e-9
        np.testing.assert_array_equal(contains(mesh, points)[clear], distance[clear] > 0)


def test_against_the_slow_test_in_blocks(monkeypatch):
    monkeypatch.setattr(inside, 'MAX_PAIRS', 50)
    mesh = trimesh.creation.annulus(0.2, 0.4, 0.3, sections=9)
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (200, 3))
    np.testing.assert_array_equal(contains(mesh, points), contains_slowly(mesh, points))


def test_winding_numbers_tell_what_a_closed_mesh_does():
    """Two balls that overlap, one of them inside out in the second case, and one alone."""
    ball, points = trimesh.creation.icosphere(2), np.random.default_rng(0).uniform(-1.2, 2.2, (4000, 3))
    other = ball.copy().apply_translation([1, 0, 0])
    flipped = trimesh.Trimesh(other.vertices, other.faces[:, ::-1])
    inside = [contains(mesh, points).astype(int) for mesh in (ball, other)]
    np.testing.assert_array_equal(winding_numbers(ball, points), inside[0])
    np.testing.assert_array_equal(winding_numbers(ball + other, points), inside[0] + inside[1])
    np.testing.assert_array_equal(winding_numbers(ball + flipped, points), inside[0] - inside[1])
    assert (inside[0] & inside[1]).any()


def test_an_empty_mesh_contains_nothing():
    assert not contains(trimesh.Trimesh(), np.zeros((3, 3))).any()
    assert contains(trimesh.creation.box(), np.zeros((0, 3))).shape == (0,)
