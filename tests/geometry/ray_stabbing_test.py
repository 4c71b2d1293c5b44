import numpy as np
import pytest
import trimesh

from onet_jax.geometry import ray_stabbing
from onet_jax.geometry.inside import contains

RESOLUTION = 24


def turned(mesh, angle=0.5):
    return mesh.apply_transform(trimesh.transformations.rotation_matrix(angle, (1, 2, 3)))


CELL = 1.1 / RESOLUTION
SOLIDS = {
    'sphere': trimesh.creation.icosphere(subdivisions=2, radius=0.45),
    'ring': turned(trimesh.creation.annulus(0.2, 0.4, 0.3, sections=9)),
    # Faces, edges and vertices on the lattice, where lines run within them.
    'box on the lattice': trimesh.creation.box(bounds=CELL * np.array([[-8, -4, -2], [4, 8, 6]])),
    'octahedron on the lattice': trimesh.Trimesh(
        8 * CELL * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]),
        [[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]],
    ),
}


def lattice_points(lattice):
    index = np.stack(np.meshgrid(*map(np.arange, lattice.shape), indexing='ij'), axis=-1)
    return lattice.to_world(index.reshape(-1, 3))


def on_planes(mesh, points):
    """Whether points lie in the plane of a face."""
    offset = np.einsum('fi,fi->f', mesh.face_normals, mesh.triangles[:, 0])
    return (np.abs(points @ mesh.face_normals.T - offset) < 1e-9).any(axis=1)


def cross_all(mesh):
    lattice = ray_stabbing.enclose(mesh.vertices, RESOLUTION)
    steps = lattice.from_world(mesh.vertices)
    return lattice, [ray_stabbing.cross(lattice, steps, mesh.faces, direction) for direction in ray_stabbing.DIRECTIONS]


def test_thirteen_directions_and_their_opposites_are_all_neighbours():
    both = {d for d in ray_stabbing.DIRECTIONS} | {tuple(-x for x in d) for d in ray_stabbing.DIRECTIONS}
    assert len(both) == ray_stabbing.NUM_SIDES == 26
    assert all(d[next(i for i in range(3) if d[i])] == 1 for d in ray_stabbing.DIRECTIONS)


@pytest.mark.parametrize('name', SOLIDS)
def test_all_sides_agree_on_a_closed_mesh(name):
    mesh = SOLIDS[name]
    lattice, hits = cross_all(mesh)
    inside, reverse, seen = ray_stabbing.vote(lattice, hits, np.ones(len(mesh.faces), np.int8))
    assert not reverse.any()
    points = lattice_points(lattice)
    # The lattice points on the surface itself belong to either side.
    clear = ~on_planes(mesh, points)
    expected = contains(mesh, points)[clear]
    np.testing.assert_array_equal(inside.reshape(-1)[clear], np.where(expected, 26, 0))
    assert not seen.reshape(-1)[clear][expected].any()


def test_hits_lie_on_their_faces():
    mesh = SOLIDS['ring']
    lattice, hits = cross_all(mesh)
    for h in hits:
        assert (np.diff(h.line) >= 0).all()
        assert (np.diff(h.height)[h.follows[1:]] >= 0).all()
        above = np.stack(np.unravel_index(h.above, lattice.shape), axis=-1)
        back = (above[:, h.axes[0]] - h.height)[:, None]
        assert (back >= 0).all()
        assert (back < 1).all()
        places = lattice.to_world(above - back * np.asarray(h.direction))
        offset = np.einsum('hi,hi->h', places - mesh.triangles[h.face, 0], mesh.face_normals[h.face])
        np.testing.assert_allclose(offset, 0, atol=1e-12)
        np.testing.assert_array_equal(h.sign, np.sign(mesh.face_normals[h.face] @ np.asarray(h.direction)))


def test_blocks_change_nothing(monkeypatch):
    mesh = SOLIDS['sphere']
    _, whole = cross_all(mesh)
    monkeypatch.setattr(ray_stabbing, 'MAX_COLUMNS', 7)
    _, pieces = cross_all(mesh)
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_array_equal(a.face, b.face)
        np.testing.assert_array_equal(a.height, b.height)


def test_more_layers_than_a_byte_counts():
    mesh = trimesh.creation.box((0.2, 0.2, 0.2))
    faces = np.tile(mesh.faces, (150, 1))
    lattice = ray_stabbing.enclose(mesh.vertices, RESOLUTION)
    hits = [ray_stabbing.cross(lattice, lattice.from_world(mesh.vertices), faces, (1, 0, 0))]
    inside, reverse, _ = ray_stabbing.vote(lattice, hits, np.ones(len(faces), np.int8))
    assert set(np.unique(inside)) == {0, 2}
    assert not reverse.any()


def test_the_front_of_an_outer_face_is_seen_and_an_inner_face_is_not():
    outer, inner = SOLIDS['sphere'], trimesh.creation.icosphere(subdivisions=1, radius=0.2)
    mesh = trimesh.util.concatenate([outer, inner])
    _, hits = cross_all(mesh)
    front, back = ray_stabbing.seen_from_outside(hits, len(mesh.faces))
    assert (front[: len(outer.faces)] > 0).all()
    assert not back.any()
    assert not front[len(outer.faces) :].any()


def test_a_mesh_between_the_lines_is_crossed_by_none():
    mesh = trimesh.Trimesh([[0.001, 0.002, 0.003], [0.002, 0.002, 0.003], [0.001, 0.003, 0.004]], [[0, 1, 2]])
    lattice, hits = cross_all(mesh)
    assert sum(len(h.line) for h in hits) == 0
    assert not ray_stabbing.vote(lattice, hits, np.ones(1, np.int8))[0].any()
