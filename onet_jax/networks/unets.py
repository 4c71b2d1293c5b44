"""U-Nets of images (Ronneberger et al., MICCAI 2015) and of volumes (3D U-Net), those of Convolutional Occupancy Networks.

B batch, F features in. Channels come last.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.layers import Conv, uniform


class UNet(nn.Module):
    """U-Net of images: [B, H, W, F] -> [B, H, W, features]. Two convolutions a level; max pooling halves the resolution and
    doubles the channels."""

    features: int
    depth: int = 4
    first_size: int = 32
    add_skips: bool = False  # add skip connections, or concatenate them as all published networks do

    @nn.compact
    def __call__(self, net: jax.Array) -> jax.Array:
        conv = partial(Conv, kernel_init=nn.initializers.xavier_normal(), bias_init=nn.initializers.zeros)

        def convolve_twice(net, size, name):
            for i in (1, 2):
                net = nn.relu(conv(size, padding=1, name=f'{name}_conv{i}')(net))
            return net

        skips = []
        for i in range(self.depth):
            net = convolve_twice(_max_pool(net) if i else net, self.first_size << i, f'down_convs_{i}')
            skips.append(net)
        for i, skip in enumerate(reversed(skips[:-1])):
            net = UpConv(skip.shape[-1], name=f'up_convs_{i}_upconv')(net)
            net = net + skip if self.add_skips else jnp.concatenate([net, skip], axis=-1)
            net = convolve_twice(net, skip.shape[-1], f'up_convs_{i}')
        return conv(self.features, kernel_size=1, name='conv_final')(net)


class UpConv(nn.Module):
    """Transposed convolution of 2 x 2 with stride 2: [B, H, W, F] -> [B, 2H, 2W, features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, size = x.shape
        init = uniform((4 * self.features) ** -0.5)
        # The kernel of the convolution, from `features` to `size` channels, that this is the transpose of.
        kernel = self.param('kernel', init, (2, 2, self.features, size))
        y = x.reshape(-1, size) @ kernel.reshape(-1, size).T
        y = y.reshape(batch, height, width, 2, 2, self.features).swapaxes(2, 3)
        return y.reshape(batch, 2 * height, 2 * width, -1) + self.param('bias', init, (self.features,))


class UNet3D(nn.Module):
    """U-Net of volumes: [B, D, H, W, F] -> [B, D, H, W, features]; group normalisation before every convolution."""

    features: int
    num_levels: int = 3
    first_size: int = 32

    @nn.compact
    def __call__(self, net: jax.Array) -> jax.Array:
        def convolve(net, size, name):
            groups = 8 if net.shape[-1] >= 8 else 1
            norm = nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False, name=f'{name}_groupnorm')
            return nn.relu(Conv(size, padding=1, use_bias=False, name=f'{name}_conv')(norm(net).astype(net.dtype)))

        skips = []
        for i in range(self.num_levels):
            size = self.first_size << i
            net = _max_pool(net) if i else net
            net = convolve(net, max(net.shape[-1], size // 2), f'encoders_{i}_SingleConv1')
            net = convolve(net, size, f'encoders_{i}_SingleConv2')
            skips.append(net)
        for i, skip in enumerate(reversed(skips[:-1])):
            net = jnp.concatenate([skip, _upsample_nearest(net, skip.shape[1:-1])], axis=-1)
            for j in (1, 2):
                net = convolve(net, skip.shape[-1], f'decoders_{i}_SingleConv{j}')
        return Conv(self.features, kernel_size=1, name='final_conv')(net)


def _max_pool(x: jax.Array) -> jax.Array:
    """Max pooling of 2 x 2 (x 2) values; an odd one at the end is dropped.

    Equal maxima share the gradient; after a ReLU these are zeros, which have none.
    """
    for axis in range(1, x.ndim - 1):
        half = x.shape[axis] // 2
        x = jax.lax.slice_in_dim(x, 0, 2 * half, axis=axis)
        x = x.reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :]).max(axis=axis + 1)
    return x


def _upsample_nearest(x: jax.Array, space: Sequence[int]) -> jax.Array:
    """Nearest-neighbour interpolation of [B, *space, F] to a larger `space`, as in PyTorch: rounded down."""
    for axis, size in enumerate(space, start=1):
        if size == 2 * x.shape[axis]:
            x = jnp.repeat(x, 2, axis=axis)  # its gradient is a sum, not a scatter
        else:
            x = jnp.take(x, jnp.arange(size) * x.shape[axis] // size, axis=axis)
    return x
