import jax
import jax.numpy as jnp
import numpy as np
from untrained import draw_weights

from onet_jax.networks.encoders.latent import IndexEmbedding, LatentEncoder


def test_the_posterior_has_the_official_number_of_parameters():
    inputs = jnp.zeros((1, 2, 3)), jnp.zeros((1, 2)), jnp.zeros((1, 0))
    shapes = jax.eval_shape(LatentEncoder(128).init, jax.random.key(0), *inputs)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 116_096


def test_the_posterior_depends_on_occupancies_and_not_on_the_order():
    rng, cond = np.random.default_rng(0), np.zeros((2, 0), np.float32)
    points, occ = rng.normal(size=(2, 9, 3)).astype(np.float32), rng.integers(0, 2, (2, 9)).astype(np.float32)
    for leaky in (False, True):
        encoder = LatentEncoder(4, 16, leaky)
        encode = jax.jit(encoder.apply)
        weights = draw_weights(jax.eval_shape(encoder.init, jax.random.key(0), points, occ, cond))
        mean, log_std = encode(weights, points, occ, cond)
        turned, _ = encode(weights, points[:, ::-1], occ[:, ::-1], cond)
        np.testing.assert_allclose(mean, turned, atol=1e-5)
        assert np.abs(mean - encode(weights, points, 1 - occ, cond)[0]).max() > 1e-3
        assert log_std.shape == mean.shape == (2, 4)


def test_an_index_is_looked_up():
    encoder = IndexEmbedding(5, 7)
    variables = draw_weights(jax.eval_shape(encoder.init, jax.random.key(0), np.zeros(1, int)))
    codes = encoder.apply(variables, np.array([6, 0, 6]))
    np.testing.assert_array_equal(codes, variables['params']['embedding'][[6, 0, 6]])
