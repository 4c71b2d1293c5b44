import numpy as np
import pytest
import trimesh

from onet_jax.geometry import ray_stabbing, solidify

RESOLUTION = 48


def trace(mesh):
    lattice = ray_stabbing.enclose(mesh.vertices, RESOLUTION)
    steps = lattice.from_world(mesh.vertices)
    return lattice, [ray_stabbing.cross(lattice, steps, mesh.faces, direction) for direction in ray_stabbing.DIRECTIONS]


def solid_of(mesh, least_closed=0.9):
    lattice, hits = trace(mesh)
    votes = ray_stabbing.vote(lattice, hits, np.ones(len(mesh.faces), np.int8))
    solid, is_open = solidify.fill(lattice, hits, votes, least_closed)
    return lattice, hits, votes, solid, is_open


@pytest.mark.parametrize('removed, filled', [(0, True), (1, True), (2, True), (8, False)])
def test_a_region_is_filled_unless_much_of_it_is_open(removed, filled):
    """A box of 48 faces, 8 on each side; all 8 of one side make an open crate."""
    box = trimesh.creation.box((0.7, 0.5, 0.6)).subdivide()
    top = np.argsort(-box.triangles_center[:, 1], kind='stable')[:8]
    mesh = trimesh.Trimesh(box.vertices, np.delete(box.faces, top[:removed], axis=0))
    *_, solid, is_open = solid_of(mesh)
    assert solid.any() == filled
    assert is_open.any() != filled


def test_regions_beyond_a_wall_are_judged_on_their_own():
    crate = trimesh.creation.box(bounds=[[-0.5, -0.2, -0.2], [0.0, 0.2, 0.2]])
    crate = trimesh.Trimesh(crate.vertices, crate.faces[crate.face_normals[:, 1] < 0.5])
    full = trimesh.creation.box(bounds=[[0.0, -0.2, -0.2], [0.5, 0.2, 0.2]])
    lattice, _, _, solid, is_open = solid_of(trimesh.util.concatenate([crate, full]))
    solid_x, open_x = (lattice.to_world(np.argwhere(part))[:, 0] for part in (solid, is_open))
    assert solid_x.min() > -1e-9
    assert open_x.max() < 1e-9


@pytest.mark.parametrize('normal', [(0, 0, 1), (1, 1, 0), (1, 2, 3)])
@pytest.mark.parametrize('gap', [0.0, 0.4, 1.1])
def test_sheets_and_thin_walls_become_slabs_of_the_thickness(normal, gap):
    thickness = 1.7
    normal = np.divide(normal, np.linalg.norm(normal))
    plate = trimesh.creation.box((0.8, 0.8, gap * 1.1 / RESOLUTION or 1.0))
    if gap == 0:
        plate = trimesh.Trimesh(
            0.4 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]), [[0, 1, 2], [0, 2, 3]]
        )
    plate.apply_transform(trimesh.geometry.align_vectors((0, 0, 1), normal))
    plate.apply_translation((0.003, 0.005, 0.002))
    lattice, hits = trace(plate)
    outside = np.zeros(lattice.shape, bool)
    depth = solidify.slabs(lattice, hits, outside, plate.face_normals, np.ones(len(plate.faces), np.int8), thickness)
    points = lattice.to_world(np.argwhere(depth > -1))
    height = (points - plate.bounds.mean(axis=0)) @ normal / lattice.spacing
    middle = np.linalg.norm(points - plate.bounds.mean(axis=0), axis=1) < 0.3
    np.testing.assert_allclose(depth[depth > -1][middle], (thickness / 2 - np.abs(height))[middle], atol=1e-5)
    surface = solidify.mesh_boundary(lattice, hits, depth > 0, outside, depth, np.zeros(lattice.shape))
    assert surface.is_watertight
    height = (surface.vertices - plate.bounds.mean(axis=0)) @ normal / lattice.spacing
    middle = np.linalg.norm(surface.vertices - plate.bounds.mean(axis=0), axis=1) < 0.3
    np.testing.assert_allclose(np.abs(height[middle]), thickness / 2, atol=0.25)


def test_the_edges_of_a_solid_are_no_sheets():
    box = trimesh.creation.box((0.5, 0.6, 0.7))
    box.apply_transform(trimesh.transformations.rotation_matrix(0.6, (1, 2, 3)))
    lattice, hits, _, solid, _ = solid_of(box)
    depth = solidify.slabs(lattice, hits, solid, box.face_normals, np.ones(12, np.int8), 1.7)
    assert not ((depth > 0) & ~solid).any()


def test_the_boundary_lies_on_the_mesh():
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.45)
    lattice, hits, votes, solid, _ = solid_of(ball)
    depth = np.full(lattice.shape, -9.0, np.float32)
    surface = solidify.mesh_boundary(lattice, hits, solid, solid, depth, votes[0] / 26)
    assert surface.is_watertight
    np.testing.assert_allclose(surface.volume, ball.volume, rtol=5e-3)
    inner, outer = 0.45 * 0.99, 0.45 + 1e-6
    distance = np.linalg.norm(surface.vertices, axis=1)
    assert (distance > inner - 0.02 * lattice.spacing).all()
    assert (distance < outer + 0.02 * lattice.spacing).all()


def test_specks_and_small_voids_go():
    inside = np.zeros((20, 20, 20), bool)
    inside[4:15, 4:15, 4:15] = True
    expected = inside.copy()
    inside[2, 2, 2] = True
    inside[8, 8, 8:11] = False
    np.testing.assert_array_equal(solidify.remove_specks(inside), expected)


def test_nothing_inside_makes_an_empty_mesh_and_too_much_surface_is_refused(monkeypatch):
    lattice, hits = trace(trimesh.creation.box((0.5, 0.5, 0.5)))
    none, depth = np.zeros(lattice.shape, bool), np.zeros(lattice.shape, np.float32)
    assert not len(solidify.mesh_boundary(lattice, hits, none, none, depth, depth).faces)
    monkeypatch.setattr(solidify, 'MAX_VERTICES', 5)
    some = none.copy()
    some[5, 5, 5] = True
    with pytest.raises(ValueError, match='crumbles into 6 points'):
        solidify.mesh_boundary(lattice, hits, some, some, depth, depth)
