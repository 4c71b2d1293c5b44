"""Encoders and decoder of 3D-R2N2 (Choy et al., ECCV 2016), as the authors of Occupancy Networks re-implemented it.

B batch, H and W pixels, C condition, F features. Channels come last.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.encoders.image import IMAGENET_MEAN, IMAGENET_STD
from onet_jax.networks.layers import Conv, Linear, TransposedConv, cast

NUM_VOXELS = 32  # on each axis of the output
IMAGE_SIZE = 127  # px, of the images that the two encoders see


class VoxelDecoder(nn.Module):
    """Code -> logits of 32^3 voxels: a linear layer to 4^3 voxels, three transposed convolutions. Official name `simple`."""

    hidden_size: int = 256  # features of the 4^3 voxels; each transposed convolution halves them
    dtype: jnp.dtype | None = None  # of features and their products

    @nn.compact
    def __call__(self, cond: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """cond [B, C] -> logits [B, 32, 32, 32], x slowest. No layer depends on the mode."""
        net = Linear(self.hidden_size * 4**3, name='fc_in')(cond)
        # Channels first, the order in which the official weights of `fc_in` give them.
        net = cast(jnp.moveaxis(net.reshape(-1, self.hidden_size, 4, 4, 4), 1, -1), self.dtype)
        for i in range(3):
            net = TransposedConv(self.hidden_size >> i + 1, name=f'convtrp_{i}')(nn.relu(net))
        return Conv(1, 1, name='conv_out')(nn.relu(net)).astype(cond.dtype)[..., 0]


class R2N2Encoder(nn.Module):
    """The image encoders of 3D-R2N2 for images of 127 px: convolutions, each with max pooling of 2 x 2.

    Official names `r2n2_simple` and, with residual blocks, `r2n2_resnet`.
    """

    cond_size: int = 1024
    residual: bool = False
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """images [B, 127, 127, 3] in [0, 1] -> cond [B, C]. No layer depends on the mode."""
        net = (images - jnp.asarray(IMAGENET_MEAN, images.dtype)) / jnp.asarray(IMAGENET_STD, images.dtype)
        net = cast(net, self.dtype)
        if self.residual:
            for name, kernel_size in (('convnet_0', 7), ('convnet_2', 3)):
                net = nn.leaky_relu(Conv(96, kernel_size, padding=kernel_size // 2, name=name)(net))
            net = _max_pool(net)
            for i, features in zip((5, 7, 9, 11, 13), (128, 256, 256, 256, 256), strict=True):
                net = _max_pool(ResidualConvs(features, name=f'convnet_{i}')(net))
        else:
            for i, features in zip((0, 3, 6, 9, 12, 15), (96, 128, 256, 256, 256, 256), strict=True):
                kernel_size = 3 if i else 7
                net = Conv(features, kernel_size, padding=kernel_size // 2, name=f'convnet_{i}')(net)
                net = nn.leaky_relu(_max_pool(net))
        # Channels first, the order in which the official weights of `fc_out` take them.
        net = jnp.moveaxis(net, -1, 1).reshape(len(net), -1)
        return Linear(self.cond_size, name='fc_out')(net.astype(images.dtype))


class ResidualConvs(nn.Module):
    """Residual block of two convolutions, shortcut of 1 x 1: [B, H, W, F] -> [B, H, W, features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        net = x
        for i in (0, 2):
            net = nn.leaky_relu(Conv(self.features, padding=1, name=f'convnet_{i}')(net))
        return net + Conv(self.features, 1, name='shortcut')(x)


def _max_pool(x: jax.Array) -> jax.Array:
    """Max pooling of 2 x 2 with stride 2 and a padding of 1: [B, H, W, F] -> [B, H // 2 + 1, W // 2 + 1, F]."""
    return nn.max_pool(x, (2, 2), (2, 2), ((1, 1), (1, 1)))
