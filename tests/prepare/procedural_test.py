import numpy as np
import pytest
from mesh_files import digest

from onet_jax.errors import InputError
from onet_jax.geometry.inside import contains
from onet_jax.prepare.constructive_solids import PALETTE
from onet_jax.prepare.procedural import FAMILIES, make_shape

POINTS = np.random.default_rng(0).uniform(-0.55, 0.55, (50_000, 3))


@pytest.mark.parametrize('family', FAMILIES)
def test_shapes_are_normalised_closed_and_exact(family):
    for index in range(4):
        solid = make_shape(0, family, index)
        mesh = solid.mesh()
        assert mesh.is_watertight
        np.testing.assert_allclose(np.ptp(mesh.bounds, axis=0).max(), 1, atol=1e-6)
        np.testing.assert_allclose(mesh.bounds.sum(axis=0), 0, atol=1e-6)
        by_mesh, exact = contains(mesh, POINTS), solid.contains(POINTS)
        assert (by_mesh & exact).sum() / (by_mesh | exact).sum() > 0.98
        assert 0.005 < exact.mean() < 0.6


@pytest.mark.parametrize('family', FAMILIES)
def test_shapes_depend_on_seed_family_and_index_alone(family):
    again = make_shape(3, family, 7).mesh()
    np.testing.assert_array_equal(make_shape(3, family, 7).mesh().vertices, again.vertices)
    occupied = [make_shape(seed, family, index).contains(POINTS) for seed, index in ((3, 7), (3, 8), (4, 7))]
    overlaps = [(a & b).sum() / (a | b).sum() for a, b in ((occupied[0], occupied[1]), (occupied[0], occupied[2]))]
    assert max(overlaps) < 0.95, 'neighbours in index and seed are different shapes'


def test_the_shapes_of_a_seed_are_those_that_they_have_always_been():
    """What was trained on them and the figures of the README's tables belong to these."""
    assert digest(make_shape(0, family, index) for family in FAMILIES for index in range(3)) == 'f51d1f00a6e44df8'


def test_parts_have_colours_that_depend_on_seed_family_and_index_alone():
    found = {}
    for seed, index in ((0, 0), (0, 1), (1, 0)):
        mesh, again = (make_shape(seed, 'chair', index).mesh() for _ in range(2))
        np.testing.assert_array_equal(mesh.visual.face_colors, again.visual.face_colors)
        colours = np.unique(mesh.visual.face_colors[:, :3], axis=0)
        assert {tuple(colour) for colour in colours} <= {tuple(colour) for colour in PALETTE}
        found[seed, index] = colours.tobytes()
        assert len(colours) > 1
    assert len(set(found.values())) == 3


def test_there_is_a_family_with_holes_and_one_with_thin_parts():
    assert all(make_shape(0, 'mug', i).mesh().euler_number == 0 for i in range(5))  # one handle
    assert min(make_shape(0, 'lamp', i).contains(POINTS).mean() for i in range(10)) < 0.03


def test_an_unknown_family_is_named():
    with pytest.raises(InputError, match=r"family: expected one of .*'airplane'.*found 'teapot'"):
        make_shape(0, 'teapot', 0)
