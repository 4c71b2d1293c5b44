"""A bound decoder against the decoder, with weights that hide nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.networks.bound_decoder import bind_decoder
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder

COND_SIZE = 6


def random_decoder(kind, latent_size=4, hidden_size=16, leaky=False, dtype=np.float32):
    """A decoder and variables of which none is the initial one: zero kernels and unit variances would be no test."""
    decoder = Decoder(hidden_size, latent_size, leaky=leaky, **{'num_blocks': 2, **DECODER_OPTIONS[kind]})
    shapes = jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 2, 3)), jnp.zeros((1, COND_SIZE)))
    rng = np.random.default_rng(5)

    def draw(leaf):
        return rng.uniform(0.1, 1.0, leaf.shape).astype(dtype)

    def draw_signed(leaf):
        return draw(leaf) * rng.choice([-1, 1], leaf.shape).astype(dtype) / len(leaf) ** 0.5

    stats = jax.tree.map(draw, shapes.get('batch_stats', {}))
    return decoder, {'params': jax.tree.map(draw_signed, shapes['params']), 'batch_stats': stats}


def inputs(dtype=np.float32):
    rng = np.random.default_rng(5)
    points = rng.uniform(-0.55, 0.55, (50, 3))
    return points.astype(dtype), rng.normal(size=COND_SIZE).astype(dtype), rng.normal(size=4).astype(dtype)


@pytest.mark.parametrize('kind, leaky', [(kind, i % 2 == 1) for i, kind in enumerate(DECODER_OPTIONS)])
def test_a_bound_decoder_is_the_decoder(kind, leaky):
    with jax.enable_x64(True):
        decoder, variables = random_decoder(kind, leaky=leaky, dtype=np.float64)
        points, cond, latent = inputs(np.float64)

        @jax.jit
        def both(variables, points, cond, latent):
            pairs = []
            for z in (latent, None):
                field = bind_decoder(decoder, variables, cond, z, jnp.float64)
                batch = points[None], cond[None], None if z is None else z[None]
                pairs.append((field(points), decoder.apply(variables, *batch)[0]))
            return pairs

        for found, expected in both(variables, points, cond, latent):
            assert np.std(expected) > 1e-3
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('kind', ['cbatchnorm', 'simple'])
def test_many_shapes_are_bound_at_once_and_without_latent_code(kind):
    decoder, variables = random_decoder(kind, latent_size=0)
    points, _, _ = inputs()
    conds = np.random.default_rng(3).normal(size=(3, COND_SIZE)).astype(np.float32)

    @jax.jit
    def both(variables, points, conds):
        bound = jax.vmap(lambda cond: bind_decoder(decoder, variables, cond))(conds)
        expected = decoder.apply(variables, jnp.broadcast_to(points, (3, 50, 3)), conds)
        return jax.vmap(lambda field: field(points))(bound), expected

    np.testing.assert_allclose(*both(variables, points, conds), rtol=1e-4, atol=1e-5)


def test_products_of_bfloat16_have_its_precision():
    decoder, variables = random_decoder('cbatchnorm', hidden_size=64)
    points, cond, latent = inputs()
    bind = jax.jit(lambda *shape: [bind_decoder(decoder, *shape, dtype) for dtype in (jnp.float32, jnp.bfloat16)])
    exact, bound = bind(variables, cond, latent)
    assert bound.blocks[0].inner.kernel.dtype == jnp.bfloat16
    assert bound.lift.kernel.dtype == jnp.float32
    rough, exact = bound(points), exact(points)
    assert rough.dtype == jnp.float32
    assert 1e-5 < np.abs(rough - exact).max() / np.abs(exact).max() < 0.05
