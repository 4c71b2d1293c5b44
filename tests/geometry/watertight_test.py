import io
import tarfile

import numpy as np
import pytest
import trimesh
from conftest import SHARED

from onet_jax.geometry import watertight
from onet_jax.geometry.inside import contains
from onet_jax.geometry.meshes import normalise
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.watertight import close
from onet_jax.prepare.procedural import make_shape

POINTS = np.random.default_rng(0).uniform(-0.55, 0.55, (5000, 3))
COARSE, MIDDLE = {'resolution': 96, 'thickness': 0.018}, {'resolution': 128, 'thickness': 0.014}


def mesh_of(vertices, faces):
    return trimesh.Trimesh(vertices, faces, process=False)


def boxes(*bounds):
    return [trimesh.creation.box(bounds=b) for b in bounds]


def ball(radius=0.5, subdivisions=3):
    return trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)


def union_of(meshes):
    return np.any([contains(m, POINTS) for m in meshes], axis=0)


def damage(mesh, kind, rng):
    """holes: 5 % of the faces are lost. mess: and 20 % are reversed, 20 % doubled, and the vertices shared by none."""
    faces = np.asarray(mesh.faces)
    faces = faces[rng.permutation(len(faces))[round(0.05 * len(faces)) :]]
    if kind == 'holes':
        return mesh_of(mesh.vertices, faces)
    reverse, double = rng.random((2, len(faces), 1)) < 0.2
    faces = np.where(reverse, faces[:, ::-1], faces)
    faces = np.concatenate([faces, faces[double[:, 0]][:, ::-1]])
    return mesh_of(np.asarray(mesh.vertices)[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3))


def check_surface(solid):
    """Closed, oriented outwards, and what the labels say."""
    assert solid.surface.is_watertight
    assert solid.surface.volume > 0
    np.testing.assert_allclose(solid.surface.volume / 1.1**3, solid.volume, rtol=1e-6)
    np.testing.assert_array_equal(solid.contains(POINTS), contains(solid.surface, POINTS))


# Closed meshes.


@pytest.mark.parametrize('change', ['none', 'reversed', 'flips', 'copies', 'both sides', 'unshared vertices'])
def test_closed_meshes_keep_their_surface(change):
    mesh = trimesh.creation.annulus(0.25, 0.5, 0.4, sections=24)
    faces = np.asarray(mesh.faces)
    if change == 'flips':
        odd = (np.arange(len(faces)) % 3 == 0)[:, None]
        changed = mesh_of(mesh.vertices, np.where(odd, faces[:, ::-1], faces))
    elif change == 'unshared vertices':
        changed = mesh_of(mesh.triangles.reshape(-1, 3), np.arange(faces.size).reshape(-1, 3))
    else:
        choices = {
            'none': faces,
            'reversed': faces[:, ::-1],
            'copies': np.tile(faces, (7, 1)),
            'both sides': np.concatenate([faces, faces[:, ::-1]]),
        }
        changed = mesh_of(mesh.vertices, choices[change])
    solid = close(changed)
    assert solid.method == 'exact'
    assert solid.ambiguous == 0
    assert len(solid.surface.faces) == len(faces)
    np.testing.assert_array_equal(solid.contains(POINTS), contains(mesh, POINTS))
    check_surface(solid)


@pytest.mark.parametrize('reverse', [False, True])
def test_pieces_that_overlap_are_one_solid(reverse):
    """Even-odd parity would make holes where the legs of this stool enter its seat."""
    feet = [([x, -0.5, z], [x + 0.1, 0.25, z + 0.1]) for x in (-0.5, 0.4) for z in (-0.5, 0.4)]
    parts = boxes(([-0.5, 0.2, -0.5], [0.5, 0.3, 0.5]), *feet)
    whole = trimesh.util.concatenate(parts)
    assert not np.array_equal(contains(whole, POINTS), union_of(parts))
    if reverse:  # one of the pieces alone
        parts[0].invert()
        whole = trimesh.util.concatenate(parts)
    solid = close(whole)
    assert solid.method == 'exact'
    np.testing.assert_array_equal(solid.contains(POINTS), union_of(parts))
    check_surface(solid)


@pytest.mark.parametrize(
    'sign_of_inner, sign_of_core, inside',
    [
        (1, 0, (True, True, True)),  # a ball in a ball is a ball
        (-1, 0, (True, False, False)),  # a hollow ball
        (-1, 1, (True, False, True)),  # with a core
    ],
)
@pytest.mark.parametrize('all_reversed', [False, True])
def test_an_inner_piece_is_a_cavity_when_it_is_oriented_against_the_outer(
    sign_of_inner, sign_of_core, inside, all_reversed
):
    parts = [ball(0.5)]
    for radius, sign in ((0.4, sign_of_inner), (0.2, sign_of_core)):
        if sign:
            parts.append(ball(radius))
            if sign < 0:
                parts[-1].invert()
    mesh = trimesh.util.concatenate(parts[::-1])
    if all_reversed:
        mesh.invert()
    solid = close(mesh)
    assert solid.method == 'exact'
    assert tuple(solid.contains([[0.45, 0, 0], [0.3, 0, 0], [0, 0, 0]])) == inside


def test_pieces_that_touch_along_edges_and_faces():
    parts = boxes(
        ([-0.5, -0.5, -0.5], [0, 0, 0]), ([0, 0, -0.5], [0.5, 0.5, 0]), ([-0.5, -0.5, 0], [0, 0, 0.5])
    )  # the first and second share an edge, the first and third a side
    solid = close(trimesh.util.concatenate(parts[:2]))
    assert solid.method == 'exact'
    np.testing.assert_array_equal(solid.contains(POINTS), union_of(parts[:2]))
    solid = close(trimesh.util.concatenate(parts), **COARSE)
    assert (solid.contains(POINTS) == union_of(parts)).mean() > 0.999


def test_lost_triangles_are_put_back():
    mesh = make_shape(0, 'table', 0).mesh()
    lost = np.delete(mesh.faces, [3, 17], axis=0)
    solid = close(mesh_of(mesh.vertices, lost))
    assert solid.method == 'exact'
    np.testing.assert_array_equal(solid.contains(POINTS), contains(mesh, POINTS))


def test_a_corner_on_the_edge_of_a_neighbour_is_no_hole():
    """A T-junction: two triangles meet half of the long edge of a third each."""
    box = trimesh.creation.box((1, 1, 1))
    middle = box.vertices[box.faces[0, :2]].mean(axis=0)
    a, b, c = box.faces[0]
    faces = np.concatenate([box.faces[1:], [[a, 8, c], [8, b, c]]])
    solid = close(mesh_of(np.concatenate([box.vertices, [middle]]), faces))
    assert solid.method == 'exact'
    np.testing.assert_array_equal(solid.contains(POINTS), contains(box, POINTS))


def test_a_closed_piece_that_overlaps_itself_is_rebuilt():
    tube = trimesh.creation.cylinder(radius=0.1, height=1.0, sections=16).subdivide().subdivide().subdivide()
    vertices = np.array(tube.vertices)
    angle = 2.2 * np.pi * (vertices[:, 2] + 0.5)  # bent to a ring whose ends overlap
    radius = 0.39 + vertices[:, 0]
    vertices = np.stack([radius * np.cos(angle), radius * np.sin(angle), vertices[:, 1]], axis=1)
    solid = close(mesh_of(vertices, tube.faces), **COARSE)
    assert solid.method == 'votes'
    overlap = [0.39 * np.cos(0.1 * np.pi), 0.39 * np.sin(0.1 * np.pi), 0]
    assert solid.contains([overlap, [-0.39, 0, 0], [0, 0, 0]]).tolist() == [True, True, False]


# Damaged ones.


@pytest.mark.parametrize('kind', ['holes', 'mess'])
@pytest.mark.parametrize('family', ['chair', 'lamp', 'car'])
def test_damaged_solids_are_labelled_like_the_intact_ones(family, kind):
    mesh = make_shape(0, family, 1).mesh()
    truth = contains(mesh, POINTS)
    solid = close(damage(mesh, kind, np.random.default_rng(1)), **MIDDLE)
    found = solid.contains(POINTS)
    assert (found == truth).mean() > 0.998
    assert (found & truth).sum() / (found | truth).sum() > 0.95
    assert solid.ambiguous < 0.1
    check_surface(solid)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['holes', 'mess'])
def test_a_deep_mug_with_holes_stays_hollow(kind):
    mesh = make_shape(0, 'mug', 0).mesh()
    truth = contains(mesh, POINTS)
    solid = close(damage(mesh, kind, np.random.default_rng(0)), **COARSE)
    assert solid.method == 'votes'
    hollow = ~truth & mesh.convex_hull.contains(POINTS)
    assert hollow.sum() > 125
    assert solid.contains(POINTS[hollow]).mean() < 0.03


@pytest.mark.slow
def test_the_rebuilt_surface_of_a_closed_mesh_is_close_to_it():
    mesh = trimesh.creation.annulus(0.25, 0.5, 0.4, sections=64)
    solid = close(mesh, exact=False)
    assert solid.method == 'votes'
    truth, found = contains(mesh, POINTS), solid.contains(POINTS)
    assert (found == truth).mean() > 0.9995
    assert solid.ambiguous == 0
    points, normals = sample_surface(solid.surface, 5000, 0)
    radius, height = np.hypot(points[:, 0], points[:, 1]), np.abs(points[:, 2])
    offsets = np.stack([radius - 0.5, 0.25 - radius, height - 0.2])
    nearest = np.abs(offsets).argmin(axis=0)
    assert np.abs(offsets).min(axis=0).max() < 0.003
    around = points * [[1, 1, 0]] / radius[:, None]
    expected = np.choose(nearest[:, None], [around, -around, np.sign(points[:, 2:]) * [[0, 0, 1]]])
    cosine = (normals * expected).sum(axis=1)
    assert np.median(cosine) > 0.998  # of 64 flat sides
    assert (cosine > 0.5).mean() > 0.995


def test_an_internal_wall_disappears():
    body = trimesh.creation.box((1, 0.5, 0.5)).subdivide()
    wall = mesh_of([[0, -0.25, -0.25], [0, 0.25, -0.25], [0, 0.25, 0.25], [0, -0.25, 0.25]], [[0, 1, 2], [0, 2, 3]])
    solid = close(trimesh.util.concatenate([body, wall]), **COARSE)
    assert (solid.contains(POINTS) == contains(body, POINTS)).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize('doubled', [False, True])
def test_a_sheet_becomes_thick(doubled):
    """A table: its top is a rectangle without thickness, single or with a face on each side."""
    legs = boxes(*(([x, -0.5, z], [x + 0.1, 0.2, z + 0.1]) for x in (-0.5, 0.4) for z in (-0.3, 0.2)))
    corners = [[-0.5, 0.2, -0.3], [0.5, 0.2, -0.3], [0.5, 0.2, 0.3], [-0.5, 0.2, 0.3]]
    top = mesh_of(corners, [[0, 1, 2], [0, 2, 3]] + [[0, 2, 1], [0, 3, 2]] * doubled)
    solid = close(trimesh.util.concatenate([*legs, top]), **MIDDLE)
    check_surface(solid)
    x, z = np.random.default_rng(0).uniform([-0.35, -0.15], [0.35, 0.15], (500, 2)).T
    for height, inside in ((-0.7, False), (-0.3, True), (0.3, True), (0.7, False)):
        points = np.stack([x, np.full(500, 0.2 + height * MIDDLE['thickness']), z], axis=1)
        assert (solid.contains(points) == inside).all()
    assert union_of(legs)[solid.contains(POINTS) & (POINTS[:, 1] < 0.19)].all()


@pytest.mark.slow
def test_a_vessel_of_one_sheet_stays_open_unless_told_otherwise():
    bowl = ball()
    bowl = mesh_of(bowl.vertices, bowl.faces[bowl.triangles_center[:, 1] < 0.1])
    open_, filled = close(bowl, **COARSE), close(bowl, **COARSE, least_closed=0.5)
    inner = [[0, -0.2, 0], [0.2, -0.3, 0.1]]
    assert not open_.contains(inner).any()
    assert open_.contains([[0, -0.5, 0]]).all()
    assert filled.contains(inner).all()
    assert not filled.contains([[0, 0.2, 0]]).any()
    for solid in (open_, filled):
        check_surface(solid)
        assert solid.ambiguous > 0.3


def test_the_same_mesh_gives_the_same_surface():
    mesh = damage(ball(), 'mess', np.random.default_rng(0))
    a, b = close(mesh, **COARSE), close(mesh, **COARSE)
    np.testing.assert_array_equal(a.surface.vertices, b.surface.vertices)
    np.testing.assert_array_equal(a.surface.faces, b.surface.faces)


# Hostile ones.


def plane(axes):
    axis = np.linspace(-0.5, 0.5, 12)
    grid = np.stack(np.meshgrid(axis, axis, [0.0]), axis=-1).reshape(-1, 3)
    corner = (12 * np.arange(11)[:, None] + np.arange(11)).reshape(-1, 1)
    points = grid @ axes
    points /= np.ptp(points, axis=0).max()
    return mesh_of(points, np.concatenate([corner + np.array(c) for c in ((0, 1, 12), (1, 13, 12))]))


def spoiled(vertices=None, faces=None, scale=1.0):
    mesh = ball()
    v, f = scale * np.array(mesh.vertices), np.array(mesh.faces)
    if vertices is not None:
        v[5, 1] = vertices
    if faces is not None:
        f[3, 2] = faces
    return mesh_of(v, f)


rng = np.random.default_rng(0)
TILT = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3))[:3, :3]
HOSTILE = {
    'NaN': (lambda: spoiled(vertices=np.nan), 'NaN or infinity in 1 of 642'),
    'infinity': (lambda: spoiled(vertices=-np.inf), 'NaN or infinity'),
    'index too large': (lambda: spoiled(faces=642), 'vertices 0 to 641, found 0 to 642'),
    'negative index': (lambda: spoiled(faces=-1), 'found -1 to'),
    'no faces': (lambda: mesh_of(ball().vertices, np.zeros((0, 3), int)), r'found arrays of shape \[642, 3\]'),
    'nothing': (lambda: trimesh.Trimesh(), 'found arrays of shape'),
    'a million degenerate faces': (
        lambda: mesh_of(ball().vertices, np.repeat(rng.integers(0, 642, (1_000_000, 1)), 3, axis=1)),
        'at least 4 different triangles with an area, found 0',
    ),
    'a million copies of one face': (
        lambda: mesh_of(ball().vertices, np.tile([[0, 100, 200]], (1_000_000, 1))),
        'flat',
    ),
    'three million faces': (lambda: mesh_of(ball().vertices, np.zeros((3_000_000, 3), int)), 'at most 1,200,000'),
    'one triangle': (lambda: mesh_of([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]], [[0, 1, 2]]), 'flat'),
    'three triangles': (
        lambda: mesh_of([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0], [0, 0, 0.5]], [[0, 1, 2], [0, 1, 3], [1, 2, 3]]),
        'at least 4 different triangles with an area, found 3',
    ),
    'a plane': (lambda: plane(np.eye(3)), 'flat'),
    'a tilted plane': (lambda: plane(TILT), 'flat'),
    'extents 1e-30': (lambda: spoiled(scale=1e-30), 'normalise it'),
    'extents 1e30': (lambda: spoiled(scale=1e30), 'normalise it'),
    'extents 1e300': (lambda: spoiled(scale=1e300), 'normalise it'),
    'a point': (lambda: spoiled(scale=0.0), 'normalise it'),
    'a hair': (lambda: trimesh.creation.box((1, 0.004, 0.004)), 'fills 1.2e-05 of the cube'),
    'random large faces': (
        lambda: mesh_of(rng.uniform(-0.5, 0.5, (600_000, 3)), np.arange(600_000).reshape(-1, 3)),
        'tangle of faces',
    ),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_meshes_are_refused_with_their_fault(name):
    make, fault = HOSTILE[name]
    with pytest.raises(ValueError, match=fault):
        close(make())


def test_what_hangs_on_no_face_does_not_matter():
    mesh = ball()
    more = mesh_of(
        np.concatenate([mesh.vertices, [[np.nan] * 3, [1e30] * 3]]),
        np.concatenate([mesh.faces, np.repeat(rng.integers(0, 642, (300_000, 1)), 3, axis=1)]),
    )
    assert close(more).method == 'exact'


@pytest.mark.slow
def test_a_hundred_thousand_faces():
    mesh = ball(subdivisions=6)  # 81,920
    keep = rng.random(len(mesh.faces)) > 0.01
    faces = np.concatenate([mesh.faces[keep], mesh.faces[keep][:20_000]])
    solid = close(mesh_of(mesh.vertices, faces), **COARSE)
    assert (solid.contains(POINTS) == (np.linalg.norm(POINTS, axis=1) < 0.5)).mean() > 0.999


def test_the_thickness_must_suit_the_lattice():
    for thickness in (0.001, 0.1):
        with pytest.raises(ValueError, match=r'thickness: expected 1\.5 to 4 cells, 0\.00859 to 0\.0229'):
            close(ball(), thickness=thickness)


# Real ones.


def shared_mesh(category, name):
    archive = SHARED / 'data' / 'meshes' / f'{category}.tar.xz'
    if not archive.exists():
        pytest.skip(f'{archive} not found (set ONET_JAX_SHARED)')
    with tarfile.open(archive) as files:
        member = next(m for m in files if m.name.endswith(f'/{name}'))
        content = files.extractfile(member).read()
    mesh = trimesh.load(io.BytesIO(content), file_type=name[-3:], process=False)
    return mesh_of(normalise(mesh.vertices).to_object(mesh.vertices), mesh.faces)


@pytest.mark.parametrize('category, name', [('fourleg', 'shrec07_398.off'), ('plier', 'shrec07_203.off')])
def test_real_watertight_meshes_are_exact(category, name):
    mesh = shared_mesh(category, name)
    truth = contains(mesh, POINTS)
    solid = close(mesh)
    assert solid.method == 'exact'
    np.testing.assert_array_equal(solid.contains(POINTS), truth)
    found = close(mesh, exact=False, **MIDDLE).contains(POINTS)
    assert (found == truth).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize('name', ['modelnet10_chair_0890.off', 'psb_NonWheelChair_m824.obj'])
def test_real_soups(name):
    """The winding number of the first is 0 everywhere: it has a face on either side of every wall."""
    solid = close(shared_mesh('chair', name))
    assert solid.method == 'votes'
    assert 0.003 < solid.volume < 0.05
    check_surface(solid)


def test_a_solid_about_which_rays_disagree_is_rebuilt(monkeypatch):
    """As where faces lie folded upon each other; here one ray in fifty is told wrong."""
    mesh = trimesh.creation.box((1, 0.6, 0.4))
    assert close(mesh).method == 'exact'
    rng, inside_test = np.random.default_rng(0), watertight._inside_test
    with monkeypatch.context() as patch:
        patch.setattr(watertight, '_inside_test', lambda s: lambda p: inside_test(s)(p) ^ (rng.random(len(p)) < 0.02))
        assert close(mesh).method == 'votes'
