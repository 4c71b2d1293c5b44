import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import draw_weights

from onet_jax.errors import InputError
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def shapes_of(kind, cond_size, latent_size=0, hidden_size=256):
    decoder = Decoder(hidden_size, latent_size, **DECODER_OPTIONS[kind])
    return jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 2, 3)), jnp.zeros((1, cond_size)))


@pytest.mark.parametrize(
    'kind, sizes, total',
    [
        ('cbatchnorm', (256,), 2_106_625),
        ('cbatchnorm', (512,), 3_548_417),
        ('cbatchnorm_noresnet', (256,), 1_119_745),
        ('batchnorm', (256,), 730_625),
        ('simple', (0, 128, 128), 182_273),
    ],
)
def test_decoders_have_the_official_number_of_parameters(kind, sizes, total):
    assert count(shapes_of(kind, *sizes)['params']) == total


def test_the_paper_decoder_has_eleven_conditional_batch_normalisations():
    assert len(jax.tree.leaves(shapes_of('cbatchnorm', 256)['batch_stats'])) == 11 * 2


@pytest.mark.parametrize('kind', DECODER_OPTIONS)
def test_no_latent_code_is_the_mean_of_the_prior(kind):
    decoder = Decoder(8, 4, **{'num_blocks': 1, **DECODER_OPTIONS[kind]})
    points, cond = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32), np.ones((2, 6), np.float32)
    weights = draw_weights(jax.eval_shape(decoder.init, jax.random.key(1), points, cond))

    @jax.jit
    def decode(*latents):
        return [decoder.apply(weights, points, cond, latent) for latent in (None, *latents)]

    mean, zero, other = decode(np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32))
    np.testing.assert_allclose(mean, zero, rtol=1e-5, atol=1e-6)
    assert np.abs(mean - other).max() > 1e-3
    with pytest.raises(InputError, match=r'latent: expected \[B, 4\], found \[2, 3\]'):
        decode(np.zeros((2, 3)))


def test_without_a_condition_there_is_no_layer_for_it():
    assert 'fc_c' not in shapes_of('simple', 0, 4)['params']
    assert 'fc_c' in shapes_of('simple', 5, 4)['params']
