"""A bound decoder against the decoder, with weights that hide nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.networks.bound_decoder import bind_decoder
from onet_jax.networks.decoders import DECODERS, Decoder

COND_SIZE = 6


def random_decoder(kind, latent_size=4, hidden_size=16, leaky=False, dtype=jnp.float32):
    """A decoder and variables of which none is the initial one: zero kernels and unit variances would be no test."""
    decoder = Decoder(hidden_size, latent_size, leaky=leaky, **DECODERS[kind])
    variables = decoder.init(jax.random.key(0), jnp.zeros((1, 2, 3)), jnp.zeros((1, COND_SIZE)))
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    drawn = [jax.random.uniform(key, leaf.shape, dtype, 0.1, 1.0) for key, leaf in zip(keys, leaves, strict=True)]
    signs = [jax.random.rademacher(key, leaf.shape, dtype) for key, leaf in zip(keys, leaves, strict=True)]
    params = jax.tree.unflatten(structure, [a * b / len(a) ** 0.5 for a, b in zip(drawn, signs, strict=True)])
    stats = jax.tree.unflatten(structure, drawn).get('batch_stats', {})
    return decoder, {'params': params['params'], 'batch_stats': stats}


def inputs(dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(2), 3)
    points = jax.random.uniform(keys[0], (50, 3), dtype, -0.55, 0.55)
    return points, jax.random.normal(keys[1], (COND_SIZE,), dtype), jax.random.normal(keys[2], (4,), dtype)


@pytest.mark.parametrize('leaky', [False, True])
@pytest.mark.parametrize('kind', DECODERS)
def test_a_bound_decoder_is_the_decoder(kind, leaky):
    with jax.enable_x64(True):
        decoder, variables = random_decoder(kind, leaky=leaky, dtype=jnp.float64)
        points, cond, latent = inputs(jnp.float64)
        for z in (latent, None):
            expected = decoder.apply(variables, points[None], cond[None], z if z is None else z[None])[0]
            found = bind_decoder(decoder, variables, cond, z, jnp.float64)(points)
            assert np.std(expected) > 1e-3
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('kind', DECODERS)
def test_many_shapes_are_bound_at_once_and_without_latent_code(kind):
    decoder, variables = random_decoder(kind, latent_size=0)
    points, _, _ = inputs()
    conds = jax.random.normal(jax.random.key(3), (3, COND_SIZE))
    bound = jax.vmap(lambda cond: bind_decoder(decoder, variables, cond))(conds)
    found = jax.vmap(lambda field: field(points))(bound)
    expected = decoder.apply(variables, jnp.broadcast_to(points, (3, 50, 3)), conds)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_products_of_bfloat16_have_its_precision():
    decoder, variables = random_decoder('cbatchnorm', hidden_size=64)
    points, cond, latent = inputs()
    exact = bind_decoder(decoder, variables, cond, latent)(points)
    bound = bind_decoder(decoder, variables, cond, latent, jnp.bfloat16)
    assert bound.blocks[0].inner.kernel.dtype == jnp.bfloat16
    assert bound.lift.kernel.dtype == jnp.float32
    rough = bound(points)
    assert rough.dtype == jnp.float32
    assert 1e-5 < np.abs(rough - exact).max() / np.abs(exact).max() < 0.05
