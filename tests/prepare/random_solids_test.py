import numpy as np
import pytest
from mesh_files import digest

from onet_jax.errors import InputError
from onet_jax.geometry.inside import contains
from onet_jax.prepare.random_solids import FAMILIES, make_random_solid

POINTS = np.random.default_rng(0).uniform(-0.55, 0.55, (20_000, 3))


@pytest.mark.parametrize('family', FAMILIES)
def test_solids_are_normalised_closed_and_as_their_points_say(family):
    for index in range(2):
        solid = make_random_solid(0, family, index)
        mesh = solid.mesh()
        assert mesh.is_watertight
        assert mesh.volume > 0
        np.testing.assert_allclose(np.ptp(mesh.bounds, axis=0).max(), 1, atol=1e-6)
        np.testing.assert_allclose(mesh.bounds.sum(axis=0), 0, atol=1e-6)
        # Nothing but what is within the chord error of the surface, or a cell of a blend, lies on another side.
        assert (contains(mesh, POINTS) != solid.contains(POINTS)).mean() < 2e-3


def test_the_solids_of_a_seed_are_those_that_they_have_always_been():
    """The weights that come with the package are trained on them."""
    assert digest(make_random_solid(0, family, 1) for family in FAMILIES) == '023002dfb98d4e8d'


def test_an_unknown_family_is_named():
    with pytest.raises(InputError, match=r"family: expected one of .*'blobs'.*found 'chair'"):
        make_random_solid(0, 'chair', 0)
