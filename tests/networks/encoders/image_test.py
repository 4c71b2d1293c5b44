import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onet_jax.errors import InputError
from onet_jax.networks.encoders.image import ConvEncoder, ResNet, ResNetTrunk, _max_pool


@pytest.mark.slow
@pytest.mark.parametrize(
    'depth, width, total',
    [(18, 512, 11_176_512), (34, 512, 21_284_672), (50, 2048, 23_508_032), (101, 2048, 42_500_160)],
)
def test_trunks_have_the_size_of_those_of_torchvision(depth, width, total):
    """The published numbers of parameters, without the classifier of 1000 classes."""
    images = jnp.zeros((2, 224, 224, 3))
    trunk = ResNetTrunk(depth)
    shapes = jax.eval_shape(lambda: trunk.init_with_output(jax.random.key(0), images, train=False, axis_name=None))
    assert shapes[0].shape == (2, width)
    assert sum(x.size for x in jax.tree.leaves(shapes[1]['params'])) == total


@pytest.mark.parametrize('encoder', [ConvEncoder(7), ResNet(7, 18)])
def test_pictures_of_any_size_become_codes(encoder):
    for size in (64, 137):
        images = jnp.zeros((2, size, size, 3))
        shape = jax.eval_shape(lambda images: encoder.init_with_output(jax.random.key(0), images)[0], images).shape
        assert shape == (2, 7)


def test_the_mean_colour_of_imagenet_is_normalised_to_zero():
    """With weights of 1 the first convolution of the trunk has what it sees for a result."""
    encoder, images = ResNet(4, 18), np.broadcast_to(np.float32([0.485, 0.456, 0.406]), (1, 32, 32, 3))
    variables = jax.eval_shape(encoder.init, jax.random.key(0), images)

    @jax.jit
    def first(variables, images):
        _, state = encoder.apply(variables, images, capture_intermediates=True)
        return state['intermediates']['features']['conv1']['__call__'][0]

    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)
    np.testing.assert_allclose(first(ones, images), 0, atol=1e-4)
    assert np.abs(first(ones, images + 0.1)).max() > 1


def test_every_normalisation_sees_the_whole_batch():
    """Mean and variance of each of the 20 layers are averaged over the devices."""
    encoder, images = ResNet(4, 18), jax.ShapeDtypeStruct((2, 32, 32, 3), np.float32)
    variables = jax.eval_shape(encoder.init, jax.random.key(0), images)

    def count_divisions(**axis):
        def encode(variables, images):
            return encoder.apply(variables, images, train=True, mutable=['batch_stats'], **axis)

        return str(jax.make_jaxpr(encode, axis_env=[('data', 2)])(variables, images)).count('div')

    assert count_divisions(axis_name='data') > count_divisions() + 20, 'two means more in every layer'


def test_a_bottleneck_strides_in_its_middle():
    trunk, images = ResNetTrunk(50), jnp.zeros((1, 64, 64, 3))

    def shapes():
        variables = trunk.init(jax.random.key(0), images, train=False, axis_name=None)
        return trunk.apply(variables, images, train=False, axis_name=None, capture_intermediates=True)[1]

    block = jax.eval_shape(shapes)['intermediates']['layer2_0']
    assert block['conv1']['__call__'][0].shape[1] == 16
    assert block['conv2']['__call__'][0].shape[1] == 8


@pytest.mark.parametrize('size', [(4, 6), (5, 7), (1, 2)])
def test_maxima_of_windows_and_their_gradients_are_those_of_flax(size):
    """For distinct values; odd and even sides, and pictures smaller than a window, of negative values too."""
    x = np.random.default_rng(0).normal(-1, 1, (2, *size, 3)).astype(np.float32)
    pools = _max_pool, lambda x: nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    @jax.jit
    def differentiate(x):
        def value(x, pool):
            y = pool(x)
            return jnp.sin(y).sum(), y

        return [jax.value_and_grad(value, has_aux=True)(x, pool) for pool in pools]

    ours, theirs = differentiate(x)
    assert ours[0][1].shape == theirs[0][1].shape
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_a_picture_that_is_too_small_for_five_strides_is_refused():
    key = jax.random.key(0)
    jax.eval_shape(ConvEncoder(7).init, key, jnp.zeros((1, 63, 63, 3)))
    with pytest.raises(InputError, match=r'at least 63 px along each side, found 64 x 62; set config.data.image_size'):
        ConvEncoder(7).init(key, jnp.zeros((1, 62, 64, 3)))
