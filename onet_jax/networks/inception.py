"""Inception-v3 (Szegedy et al., CVPR 2016) in evaluation mode: the features of the Frechet inception distance (FID).

Its weights are those of torchvision, by their names there: convolutions [out, in, *kernel]. N pictures, H, W pixels.
"""

from collections.abc import Mapping
from functools import reduce

import jax
import jax.numpy as jnp

INPUT_SIZE, NUM_FEATURES = 299, 2048  # px, of the last pooling
EPSILON = 1e-3  # of the batch normalisations
TRUNK = ('Conv2d_', 'Mixed_')  # names of the weights that the features need begin so
# The branches of a block, chains of convolutions; several at the end of a chain see the same and are concatenated.
BLOCKS_5 = (('branch1x1',), ('branch5x5_1', 'branch5x5_2'), tuple(f'branch3x3dbl_{i}' for i in (1, 2, 3)))
BLOCKS_6 = (
    ('branch1x1',), tuple(f'branch7x7_{i}' for i in (1, 2, 3)), tuple(f'branch7x7dbl_{i}' for i in (1, 2, 3, 4, 5))
)  # fmt: skip
BLOCKS_7 = (
    ('branch1x1',),
    ('branch3x3_1', ('branch3x3_2a', 'branch3x3_2b')),
    ('branch3x3dbl_1', 'branch3x3dbl_2', ('branch3x3dbl_3a', 'branch3x3dbl_3b')),
)
HALVED_6 = (('branch3x3',), tuple(f'branch3x3dbl_{i}' for i in (1, 2, 3)))
HALVED_7 = (('branch3x3_1', 'branch3x3_2'), tuple(f'branch7x7x3_{i}' for i in (1, 2, 3, 4)))
BLOCKS = (
    *((f'Mixed_{name}', BLOCKS_5) for name in ('5b', '5c', '5d')),
    ('Mixed_6a', HALVED_6),
    *((f'Mixed_{name}', BLOCKS_6) for name in ('6b', '6c', '6d', '6e')),
    ('Mixed_7a', HALVED_7),
    *((f'Mixed_{name}', BLOCKS_7) for name in ('7b', '7c')),
)


def features(weights: Mapping[str, jax.Array], rgb: jax.Array) -> jax.Array:
    """Pictures [N, H, W, 3] in [0, 1] -> [N, 2048].

    They are resized to 299 x 299 bilinearly, without a low-pass filter, and mapped to [-1, 1], as pytorch-fid does.
    """
    resized = jax.image.resize(rgb, (len(rgb), INPUT_SIZE, INPUT_SIZE, 3), 'bilinear', antialias=False)
    net = 2 * resized - 1
    net = convolve(weights, net, 'Conv2d_1a_3x3', 2, 'VALID')
    net = convolve(weights, net, 'Conv2d_2a_3x3', 1, 'VALID')
    net = max_pool(convolve(weights, net, 'Conv2d_2b_3x3'))
    net = convolve(weights, net, 'Conv2d_3b_1x1')
    net = max_pool(convolve(weights, net, 'Conv2d_4a_3x3', 1, 'VALID'))
    for name, branches in BLOCKS:
        net = mix(weights, net, name, branches)
    return net.mean(axis=(1, 2))


def mix(weights: Mapping[str, jax.Array], x: jax.Array, block: str, branches: tuple) -> jax.Array:
    """Branches of a block [N, H, W, F] side by side; a block that halves the sides does so in the last layer of each."""
    halves = branches in (HALVED_6, HALVED_7)

    def apply(net, layer):
        if isinstance(layer, tuple):
            return jnp.concatenate([apply(net, each) for each in layer], axis=-1)
        return convolve(weights, net, f'{block}.{layer}')

    found = []
    for *layers, last in branches:
        net = reduce(apply, layers, x)
        found.append(convolve(weights, net, f'{block}.{last}', 2, 'VALID') if halves else apply(net, last))
    return jnp.concatenate([*found, max_pool(x) if halves else apply(mean_pool(x), 'branch_pool')], axis=-1)


def convolve(
    weights: Mapping[str, jax.Array], x: jax.Array, name: str, stride: int = 1, padding: str = 'SAME'
) -> jax.Array:
    """A convolution without bias, batch normalisation by its running statistics, and a ReLU."""
    scale = weights[f'{name}.bn.weight'] / jnp.sqrt(weights[f'{name}.bn.running_var'] + EPSILON)
    shift = weights[f'{name}.bn.bias'] - scale * weights[f'{name}.bn.running_mean']
    axes = ('NHWC', 'OIHW', 'NHWC')
    y = jax.lax.conv_general_dilated(
        x, weights[f'{name}.conv.weight'], (stride, stride), padding, dimension_numbers=axes
    )
    return jax.nn.relu(scale * y + shift)


def max_pool(x: jax.Array) -> jax.Array:
    """The maxima of windows of 3 x 3 with stride 2."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), 'VALID')


def mean_pool(x: jax.Array) -> jax.Array:
    """The means of windows of 3 x 3 around each pixel; beyond the border it sees zeros, which count."""
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), 'SAME') / 9
