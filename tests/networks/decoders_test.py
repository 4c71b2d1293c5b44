import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.networks.decoders import DECODERS, Decoder


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


def shapes_of(kind, cond_size, latent_size=0, hidden_size=256):
    decoder = Decoder(hidden_size, latent_size, **DECODERS[kind])
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


@pytest.mark.parametrize('kind', DECODERS)
def test_no_latent_code_is_the_mean_of_the_prior(kind):
    decoder = Decoder(8, 4, **DECODERS[kind])
    points, cond = jax.random.normal(jax.random.key(0), (2, 5, 3)), jnp.ones((2, 6))
    variables = decoder.init(jax.random.key(1), points, cond)
    np.testing.assert_array_equal(
        decoder.apply(variables, points, cond), decoder.apply(variables, points, cond, jnp.zeros((2, 4)))
    )
    with pytest.raises(ValueError, match=r'latent: expected \[B, 4\], found \[2, 3\]'):
        decoder.apply(variables, points, cond, jnp.zeros((2, 3)))


def test_without_a_condition_there_is_no_layer_for_it():
    assert 'fc_c' not in shapes_of('simple', 0, 4)['params']
    assert 'fc_c' in shapes_of('simple', 5, 4)['params']
