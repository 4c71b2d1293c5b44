import jax
import jax.numpy as jnp
import pytest

from onet_jax.networks.unets import UNet, UNet3D


@pytest.mark.parametrize('module, total', [(UNet(32, 4), 1_934_976), (UNet(32, 5), 7_769_472)])
def test_unets_have_the_official_number_of_parameters(module, total):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 32)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == total


@pytest.mark.parametrize('levels, total', [(3, 1_025_312), (4, 4_123_424)])
def test_unets_of_volumes_have_the_official_number_of_parameters(levels, total):
    shapes = jax.eval_shape(UNet3D(32, levels).init, jax.random.key(0), jnp.zeros((1, 16, 16, 16, 32)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == total
