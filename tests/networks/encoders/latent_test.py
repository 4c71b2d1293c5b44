import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.networks.encoders.latent import IndexEmbedding, LatentEncoder


def test_the_posterior_has_the_official_number_of_parameters():
    inputs = jnp.zeros((1, 2, 3)), jnp.zeros((1, 2)), jnp.zeros((1, 0))
    shapes = jax.eval_shape(LatentEncoder(128).init, jax.random.key(0), *inputs)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 116_096


def test_the_posterior_depends_on_occupancies_and_not_on_the_order():
    keys = jax.random.split(jax.random.key(0), 3)
    points = jax.random.normal(keys[0], (2, 9, 3))
    occ = (jax.random.uniform(keys[1], (2, 9)) < 0.5).astype(jnp.float32)
    cond = jnp.zeros((2, 0))
    for leaky in (False, True):
        encoder = LatentEncoder(4, 16, leaky)
        variables = encoder.init(keys[2], points, occ, cond)
        mean, log_std = encoder.apply(variables, points, occ, cond)
        turned, _ = encoder.apply(variables, points[:, ::-1], occ[:, ::-1], cond)
        np.testing.assert_allclose(mean, turned, atol=1e-6)
        assert np.abs(mean - encoder.apply(variables, points, 1 - occ, cond)[0]).max() > 1e-3
        assert log_std.shape == mean.shape == (2, 4)


def test_an_index_is_looked_up():
    encoder = IndexEmbedding(5, 7)
    variables = encoder.init(jax.random.key(0), jnp.zeros(1, int))
    codes = encoder.apply(variables, jnp.asarray([6, 0, 6]))
    np.testing.assert_array_equal(codes, variables['params']['embedding'][jnp.asarray([6, 0, 6])])
