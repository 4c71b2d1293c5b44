import numpy as np
import pytest
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry import quality
from onet_jax.geometry.quality import distances_to_mesh, drop_unsupported, find_unsupported, measure_support


def torus():
    return trimesh.creation.torus(0.35, 0.15, major_sections=64, minor_sections=32)


def scan(mesh, num_points, noise=0.0, kept=lambda points: np.ones(len(points), bool)):
    """Noisy samples of what is kept of a surface."""
    points, _ = trimesh.sample.sample_surface(mesh, 4 * num_points, seed=1)
    points = points[kept(points)][:num_points]
    return points + np.random.default_rng(0).normal(scale=noise, size=points.shape)


@pytest.mark.parametrize('num_points, noise, recall', [(300, 0.005, 0.75), (3000, 0.01, 0.9), (60_000, 0.005, 0.95)])
def test_the_side_that_a_scan_lacks_is_found(num_points, noise, recall):
    mesh, places = torus(), [(1.0, 0.0), (1e-5, 0.0), (1.0, 4.6e6)][: 3 if num_points < 1000 else 1]
    surface, _ = trimesh.sample.sample_surface(mesh, 20_000, seed=2)
    missing = surface[:, 0] > 0.15
    for size, offset in places:
        whole, part = (
            offset + size * scan(mesh, num_points, noise, kept)
            for kept in (lambda p: np.ones(len(p), bool), lambda p: p[:, 0] <= 0.15)
        )
        moved = trimesh.Trimesh(offset + size * mesh.vertices, mesh.faces, process=False)
        assert measure_support(moved, whole).unsupported < 0.01
        found = find_unsupported(offset + size * surface, part)
        assert missing[found].mean() > 0.97, 'precision'
        assert found[missing].mean() > recall
        assert measure_support(moved, part).unsupported == pytest.approx(found.mean(), abs=0.02)


def test_stray_and_repeated_points_support_nothing_around_them():
    surface, part = scan(torus(), 5000), scan(torus(), 3000, 0.0, lambda points: points[:, 0] <= 0.15)
    found = find_unsupported(surface, part)
    stray = np.concatenate([part, [[0.45, 0.0, 0.1]], np.tile(part[:1], (50, 1))])
    assert (found & ~find_unsupported(surface, stray)).mean() < 0.01


def test_what_closes_a_thin_part_at_the_last_points_is_found():
    """Nearer to them than their spacing."""
    rod = trimesh.creation.capsule(0.4, 0.03)
    whole, part = (
        scan(rod, num, 0.002, kept) for num, kept in ((300, lambda p: p[:, 2] < 9), (150, lambda p: p[:, 2] < 0))
    )
    surface, _ = trimesh.sample.sample_surface(
        trimesh.creation.cylinder(0.03, segment=[[0, 0, -0.01], [0, 0, 0.01]]), 2000, seed=3
    )
    cap = surface[surface[:, 2] > 0.009]
    assert (quality.relative_gaps(cap, part) < 1).mean() > 0.5
    assert find_unsupported(cap, part).mean() > 0.9
    assert measure_support(rod, whole).unsupported < 0.03


def test_the_density_may_differ_from_place_to_place():
    """Half of a plane has a hundred times as many points as the other, but for a stripe; only where they meet the gap shows."""
    rng = np.random.default_rng(0)
    dense, sparse = rng.uniform((-1, 0, 0), (0, 1, 0), (40_000, 3)), rng.uniform((0, 0, 0), (1, 1, 0), (400, 3))
    cloud = np.concatenate([dense[np.abs(dense[:, 0] + 0.5) > 0.05], sparse])
    surface = rng.uniform((-1, 0, 0), (1, 1, 0), (20_000, 3))
    found, missing = find_unsupported(surface, cloud), np.abs(surface[:, 0] + 0.5) < 0.05
    assert found[missing].mean() > 0.8
    assert found[~missing].mean() < 0.05
    assert found[~missing & (np.abs(surface[:, 0]) > 0.2)].mean() < 0.02


@pytest.mark.parametrize('most', [quality.MAX_CENTRES, 1000])
def test_distances_are_those_to_the_nearest_of_all_faces(most, monkeypatch):
    """Of large and of tiny faces, and of some without area."""
    monkeypatch.setattr(quality, 'MAX_CENTRES', most)
    box, ball = trimesh.creation.box((1, 0.01, 1)), trimesh.creation.icosphere(4, 0.2)
    mesh = trimesh.util.concatenate([box, ball.apply_translation((0, 0.4, 0))])
    mesh = trimesh.Trimesh(mesh.vertices, np.concatenate([mesh.faces, [[0, 1, 1], [2, 2, 2]]]), process=False)
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (200, 3))
    faces = mesh.triangles[mesh.area_faces > 0]
    pairs = np.repeat(faces, len(points), axis=0), np.tile(points, (len(faces), 1))
    exact = (
        np.linalg.norm(trimesh.triangles.closest_point(*pairs) - pairs[1], axis=1).reshape(-1, len(points)).min(axis=0)
    )
    for size, offset in ((1.0, 0.0), (1e-6, 0.0), (1.0, 1e6)):
        moved = trimesh.Trimesh(offset + size * mesh.vertices, mesh.faces, process=False)
        found = distances_to_mesh(offset + size * points, moved) / size
        assert (found > exact - 1e-8).all()
        assert np.quantile(found - exact, 0.99) < (1e-8 if most > 1000 else 1e-3)


def test_few_points_and_no_surface():
    found = measure_support(trimesh.creation.box(), np.array([[0, 0, 1.0], [1, 0, 0]]))
    assert (found.median, found.high, found.longest_edge) == pytest.approx((0.5, 0.5, 1.0))
    with pytest.raises(InputError, match='mesh: expected a surface, found 1 faces of area zero'):
        measure_support(trimesh.Trimesh(np.eye(3), [[0, 1, 1]], process=False), np.eye(3))


def test_cavities_that_no_point_supports_are_filled():
    ball, hollow = trimesh.creation.icosphere(3, 1.0), trimesh.creation.icosphere(2, 0.5)
    hollow.invert()
    both = trimesh.util.concatenate([ball, hollow])
    filled = drop_unsupported(both, scan(ball, 3000, 0.005), cavities_only=True)
    np.testing.assert_array_equal(filled.vertices, ball.vertices)
    np.testing.assert_array_equal(filled.faces, ball.faces)
    seen_from_both_sides = np.concatenate([scan(ball, 3000, 0.005), scan(hollow, 1000, 0.005)])
    assert drop_unsupported(both, seen_from_both_sides) is both
    inside = scan(hollow, 1000, 0.005)
    assert drop_unsupported(both, inside, cavities_only=True) is both, 'a room that was scanned from inside'
    np.testing.assert_array_equal(drop_unsupported(both, inside).vertices, hollow.vertices)
    assert drop_unsupported(ball, inside) is ball, 'nothing else is left'
    assert not len(drop_unsupported(trimesh.Trimesh(), scan(ball, 100)).faces)
