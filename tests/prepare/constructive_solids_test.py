import numpy as np
import pytest
from mesh_files import solid_of

from onet_jax.geometry.inside import contains
from onet_jax.prepare.constructive_solids import Box, ConstructiveSolid, Ellipsoid, Frustum, Hull, Revolution, Torus

CUBE = tuple((x, y, z) for x in (-0.3, 0.3) for y in (-0.2, 0.2) for z in (-0.1, 0.1))
PRIMITIVES = {
    # a primitive and its volume
    'box': (Box((0.1, 0.0, -0.2), (0.4, 0.3, 0.2)), 0.4 * 0.3 * 0.2),
    'hull': (Hull(CUBE), 0.6 * 0.4 * 0.2),
    'frustum': (Frustum((0, 0, 0), (0.3, 0.4, 0.1), 0.2, 0.1), np.pi * np.sqrt(0.26) / 3 * (0.04 + 0.02 + 0.01)),
    'ellipsoid': (Ellipsoid((0.1, 0.2, 0.3), (0.3, 0.2, 0.1)), 4 / 3 * np.pi * 0.3 * 0.2 * 0.1),
    'torus': (Torus((0, 0.1, 0), (1, 1, 0), 0.3, 0.1), 2 * np.pi**2 * 0.3 * 0.01),
    'revolution': (Revolution((0, 0, 0), ((0, 0.1, 0.2), (0.5, 0.1, 0.2))), np.pi * (0.04 - 0.01) * 0.5),
}


@pytest.mark.parametrize('name', PRIMITIVES)
def test_inside_test_bounds_and_mesh_of_a_primitive_agree(name):
    primitive, volume = PRIMITIVES[name]
    low, high = primitive.bounds()
    points = np.random.default_rng(0).uniform(low - 0.05, high + 0.05, (200_000, 3))
    inside = primitive.contains(points)
    assert ((points[inside] >= low) & (points[inside] <= high)).all()
    np.testing.assert_allclose(inside.mean() * np.prod(high - low + 0.1), volume, rtol=0.02)

    solid = solid_of([primitive])
    mesh = solid.mesh()
    assert mesh.is_watertight
    assert mesh.volume > 0
    np.testing.assert_allclose(mesh.bounds.sum(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(np.ptp(mesh.bounds, axis=0).max(), 1, atol=1e-6)
    points = np.random.default_rng(1).uniform(-0.55, 0.55, (20_000, 3))
    by_mesh, exact = contains(mesh, points), solid.contains(points)
    assert (by_mesh & exact).sum() / (by_mesh | exact).sum() > 0.99


def test_unions_and_cuts_are_sets():
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (20_000, 3))
    box, more, hole = (Box((c, c, c), size) for c, size in ((0, (1, 1, 1)), (0.5, (0.6,) * 3), (0, (0.4, 2, 0.4))))
    solid = solid_of([box, more], [hole])
    scaled = points * 1.3 + 0.15  # the two boxes reach from -0.5 to 0.8
    expected = (box.contains(scaled) | more.contains(scaled)) & ~hole.contains(scaled)
    np.testing.assert_array_equal(solid.contains(points), expected)
    assert solid.mesh().euler_number == 0  # one hole through the body


def test_faces_have_the_colour_of_the_part_that_they_bound():
    """And those of a cut that of the cut, also where operands are hidden whole by others."""
    box, hidden, more, hole = (
        Box((c, 0, 0), size)
        for c, size in ((0, (1, 0.6, 0.4)), (0, (0.1,) * 3), (0.6, (0.8, 0.3, 0.2)), (-0.3, (0.2, 0.3, 1)))
    )
    colours = np.array([(1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)], np.uint8)
    solid = ConstructiveSolid([box, hidden, more], [hole], colours)
    mesh = solid.mesh()
    assert mesh.visual.kind == 'face'
    _, _, centre, scale = solid._body
    places = mesh.triangles_center * scale + centre
    found = mesh.visual.face_colors[:, 0]
    assert set(found) == {1, 3, 4}
    np.testing.assert_array_equal(found == 3, places[:, 0] > 0.5 + 1e-6)
    np.testing.assert_array_equal(
        found == 4, (np.abs(places[:, :2] - (-0.3, 0)) < (0.1 + 1e-6, 0.15 + 1e-6)).all(axis=1)
    )
