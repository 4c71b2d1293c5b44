import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax import losses
from onet_jax.convert.official import from_state_dict
from onet_jax.networks.decoders import ConditionalBatchNormDecoder


def count(tree):
    return sum(x.size for x in jax.tree.leaves(tree))


@pytest.mark.parametrize('cond_size, total', [(256, 2_106_625), (512, 3_548_417)])
def test_the_paper_decoder_has_the_official_number_of_parameters(cond_size, total):
    shapes = jax.eval_shape(
        ConditionalBatchNormDecoder().init, jax.random.key(0), jnp.zeros((1, 2, 3)), jnp.zeros((1, cond_size))
    )
    assert count(shapes['params']) == total
    assert len(jax.tree.leaves(shapes['batch_stats'])) == 11 * 2, '11 conditional batch normalisations'


@pytest.mark.parametrize('name', ['cbatchnorm_c', 'cbatchnorm_cz'])
def test_decoder_equals_the_official_one(golden, name):
    """Logits, loss, gradients and running statistics, in evaluation and in training mode."""
    data = golden(f'decoders/{name}.npz')
    variables = from_state_dict({k.removeprefix('param/'): v for k, v in data.items() if k.startswith('param/')})
    decoder = ConditionalBatchNormDecoder(hidden_size=variables['params']['fc_p']['bias'].size)
    latent = data['in/z'] if data['in/z'].shape[1] else None

    def loss(trainable, points, cond, train):
        logits, updated = decoder.apply(
            {**variables, 'params': trainable}, points, cond, latent, train=train, mutable=['batch_stats']
        )
        return losses.occupancy_bce(logits, data['in/occ']).sum(axis=1).mean(), (logits, updated)

    for mode in ('eval', 'train'):
        (value, (logits, updated)), (by_params, by_points, by_cond) = jax.value_and_grad(
            loss, argnums=(0, 1, 2), has_aux=True
        )(variables['params'], data['in/p'], data['in/c'], mode == 'train')
        out = {k.removeprefix(f'out/{mode}/'): v for k, v in data.items() if k.startswith(f'out/{mode}/')}
        np.testing.assert_allclose(logits, out['logits'], atol=1e-4)
        np.testing.assert_allclose(value, out['loss'], rtol=1e-5)
        np.testing.assert_allclose(by_points, out['grad_in/p'], atol=1e-3)
        np.testing.assert_allclose(by_cond, out['grad_in/c'], atol=1e-3)
        if mode == 'train':
            expected = from_state_dict({k.removeprefix('grad/'): v for k, v in out.items() if k.startswith('grad/')})
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), by_params, expected['params'])
            buffers = {k.removeprefix('buffers/'): v for k, v in out.items() if k.startswith('buffers/')}
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                updated['batch_stats'],
                from_state_dict(buffers)['batch_stats'],
            )
