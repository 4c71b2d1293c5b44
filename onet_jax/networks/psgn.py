"""Encoder and decoders of PSGN, the Point Set Generation Network (Fan et al., CVPR 2017), as the authors of Occupancy Networks
re-implemented it.

B batch, H and W pixels, C condition, N predicted points. Channels come last.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.layers import Conv, Linear, TransposedConv, cast

NUM_POINTS = 1024


class PointSetDecoder(nn.Module):
    """Multilayer perceptron of four layers, code -> points. Official name `simple`."""

    hidden_size: int = 512
    dtype: jnp.dtype | None = None  # of features and their products
    shape: tuple[int, ...] = (NUM_POINTS,)  # N, or for a set of points in each frame (L, N)

    @nn.compact
    def __call__(self, cond: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """cond [B, C] -> points [B, N, 3] or [B, L, N, 3]. No layer depends on the mode."""
        net = Linear(self.hidden_size, name='fc_0')(cast(cond, self.dtype))
        for i in (1, 2):
            net = Linear(self.hidden_size, name=f'fc_{i}')(nn.relu(net))
        net = Linear(3 * math.prod(self.shape), name='fc_out')(nn.relu(net.astype(cond.dtype)))
        return net.reshape(-1, *self.shape, 3)


class HourglassEncoder(nn.Module):
    """Seven blocks of convolutions, with skip connections from three of them. Official name `psgn_cond`.

    Images are padded with white to the aspect 4 : 3 that the official widths of the decoder ask for, 256 x 192 px.
    """

    cond_size: int = 512
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """images [B, H, W, 3] in [0, 1] -> features [B, H / 64, W / 64, C] and the skip connections, the coarsest first."""
        missing = 4 * images.shape[1] // 3 - images.shape[2]
        padding = ((0, 0), (0, 0), (missing // 2, missing - missing // 2), (0, 0))
        net = cast(jnp.pad(images, padding, constant_values=1), self.dtype)
        width, sides = self.cond_size // 32, []
        for block in range(1, 7):
            features, num_convs = width << (block - 1), {1: 2, 6: 4}.get(block, 3)
            for i in range(num_convs):
                stride = 2 if i == 0 and block > 1 else 1
                conv = Conv(features, stride=stride, padding=1, name=f'conv_block{block}_{2 * i}')
                net = nn.relu(conv(net))
            if block > 3:
                sides.append(Conv(features // 2, padding=1, name=f'trans_conv{block - 3}')(net))
        net = nn.relu(Conv(self.cond_size, 5, stride=2, padding=2, name='conv_block7_0')(net))
        return net.astype(images.dtype), tuple(sides[::-1])


class TwoBranchDecoder(nn.Module):
    """Two branches: a linear layer gives 256 points, in the positive octant; transposed convolutions give one point for each
    of 24 x 32 pixels. Official name `psgn_2branch`."""

    cond_size: int = 512
    dtype: jnp.dtype | None = None  # of features and their products

    @nn.compact
    def __call__(self, cond: tuple, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """cond as of `HourglassEncoder` -> points [B, N, 3]. No layer depends on the mode."""
        features, sides = cond
        # Channels first, the order in which the official weights of `fc_branch` take them.
        flat = jnp.moveaxis(features, -1, 1).reshape(len(features), -1)
        few = nn.relu(Linear(3 * 256, name='fc_branch_0')(flat)).reshape(len(flat), 256, 3)
        net = cast(features, self.dtype)
        for i, side in enumerate(sides, start=1):
            net = nn.relu(TransposedConv(self.cond_size >> i, 5, name=f'deconv_{i}')(net) + side)
            net = nn.relu(Conv(self.cond_size >> i, padding=1, name=f'conv_{i}_0')(net))
        if self.is_initializing():
            TransposedConv(3, 5, name='deconv_4')(net)  # in the official checkpoints, and never used
        net = Conv(3, padding=1, name='conv_4')(net).astype(features.dtype)
        # As in the official code, [3, 24, 32] is reshaped to 768 points, which mixes up coordinates and pixels.
        many = jnp.moveaxis(net, -1, 1).reshape(len(net), -1, 3)
        return jnp.concatenate([few, many], axis=1)
