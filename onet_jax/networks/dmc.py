"""The network of Deep Marching Cubes (Liao et al., CVPR 2018): PointNet with local pooling, U-Net with max-unpooling.

B batch, N cells along an axis, M = N + 1 points of the lattice, F features. Channels come last; modules have the official
names.
"""

from functools import reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.geometry.dmc import find_cells, to_grid
from onet_jax.networks.fast_gradients import convolve, multiply
from onet_jax.networks.layers import BatchNorm, Conv, Linear, cast, uniform
from onet_jax.networks.scatter import pool_max


class LocalPointnet(nn.Module):
    """Two layers for each point, and the maximum over the points of each cell, at least 0. Official name `pointnet_local`."""

    num_cells: int = 32
    features: int = 16
    hidden_size: int = 256

    @nn.compact
    def __call__(self, cloud: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """cloud [B, P, 3] in object coordinates -> [B, M, M, M, F]: zeros where there is no point, and in the last layers.

        Points outside of the cells are left out. No layer depends on the mode.
        """
        n, points = self.num_cells, to_grid(cloud, self.num_cells)
        net = Linear(self.features, name='conv2')(nn.relu(Linear(self.hidden_size, name='conv1_0')(points)))
        cells = find_cells(points, n)
        net = nn.relu(jax.vmap(pool_max)(net, cells))
        # All points of a cell have the same features, so that their order does not matter.
        place = jax.vmap(
            lambda values, at: jnp.zeros((n**3, self.features), values.dtype).at[at].set(values, mode='drop')
        )
        return jnp.pad(place(net, cells).reshape(-1, n, n, n, self.features), ((0, 0), *((0, 1),) * 3, (0, 0)))


class UNetDecoder(nn.Module):
    """Features -> occupancy and offsets of a surface. Official name `unet`."""

    size: int = 16  # features at the finest of four levels; each coarser one has twice as many
    dtype: jnp.dtype | None = None  # of the convolutions

    def setup(self) -> None:
        self.encoder = LocalEncoder(self.size)
        self.decoder = SurfaceDecoder(self.size)

    def __call__(
        self, features: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[B, M, M, M, F] -> occupancy [B, M, M, M] in [0, 1], offsets [B, M, M, M, 3] in [-1/2, 1/2]."""
        mode: dict[str, Any] = {'train': train, 'axis_name': axis_name}
        net, skips, places = self.encoder(cast(features, self.dtype), mode)
        occupancy, offset = (head.astype(features.dtype) for head in self.decoder(net, skips, places, mode))
        return nn.sigmoid(occupancy[..., 0]), nn.sigmoid(offset) - 0.5


class LocalEncoder(nn.Module):
    """Two convolutions at each of three levels, max pooling after each, one convolution at the fourth."""

    size: int

    @nn.compact
    def __call__(self, net: jax.Array, mode: dict[str, Any]) -> tuple[jax.Array, list[jax.Array], list[jax.Array]]:
        """-> the coarsest features; of the other levels, the finest first, the features and where their maxima were."""
        skips, places = [], []
        for level in (1, 2, 3):
            for i in (1, 2):
                # The first convolution makes room for four more points along each axis.
                conv = Conv(self.size << level - 1, padding=3 if (level, i) == (1, 1) else 1, name=f'conv{level}_{i}')
                net = nn.relu(BatchNorm(name=f'conv{level}_{i}_bn')(conv(net), **mode))
            skips.append(net)
            net, place = max_pool(net)
            places.append(place)
        net = Conv(self.size << 3, padding=1, name='conv4')(net)
        return nn.relu(BatchNorm(name='conv4_bn')(net, **mode)), skips, places


class SurfaceDecoder(nn.Module):
    """Max-unpooling and transposed convolutions, with skip connections; from the second level on, a head for each output."""

    size: int

    @nn.compact
    def __call__(
        self, net: jax.Array, skips: list[jax.Array], places: list[jax.Array], mode: dict[str, Any]
    ) -> tuple[jax.Array, jax.Array]:
        """-> logits of the occupancy [B, M, M, M, 1] and of the offsets [B, M, M, M, 3]."""

        def unpool_and_join(net, level):
            return jnp.concatenate([skips[level], max_unpool(net, places[level], skips[level].shape)], axis=-1)

        def layer(net, conv):
            return nn.relu(BatchNorm(name=f'{conv.name}_bn')(conv(net), **mode))

        size, heads = self.size, []
        net = unpool_and_join(layer(net, Conv(4 * size, padding=1, name='deconv4')), 2)
        net = layer(net, Deconv(8 * size, name='deconv3_1'))
        net = unpool_and_join(layer(net, Deconv(2 * size, name='deconv3_2')), 1)
        for head, features in (('occ', 1), ('off', 3)):
            fine = layer(net, Deconv(4 * size, name=f'deconv2_{head}_1'))
            fine = unpool_and_join(layer(fine, Deconv(size, name=f'deconv2_{head}_2')), 0)
            fine = layer(fine, Deconv(2 * size, name=f'deconv1_{head}_1'))
            heads.append(Deconv(features, padding=3, name=f'deconv1_{head}_2')(fine))
        return heads[0], heads[1]


class Deconv(nn.Module):
    """Transposed convolution of 3 x 3 x 3 with stride 1: each axis grows by 2 (1 - padding). PyTorch's initialisation."""

    features: int
    padding: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *space, F] -> [B, *space, features]."""
        init = uniform((27 * self.features) ** -0.5)
        # The kernel of the convolution, from `features` to F channels, that this is the transpose of.
        kernel = self.param('kernel', init, (3, 3, 3, self.features, x.shape[-1])).astype(x.dtype)
        if 4 * self.features > x.shape[-1] and self.padding <= 2:
            y = convolve(x, jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4), 1, 2 - self.padding)
        else:
            # Of few outputs what every input adds to its 27 neighbours takes a fifth of the time.
            y = multiply(x, kernel.reshape(-1, x.shape[-1]).T)
            for axis in (1, 2, 3):
                length = x.shape[axis]
                shifts = [[(i, 2 - i) if other == axis else (0, 0) for other in range(5)] for i in range(3)]
                parts = zip(jnp.split(y, 3, axis=-1), shifts, strict=True)
                y = reduce(jnp.add, (jnp.pad(part, shift) for part, shift in parts))
                y = jax.lax.slice_in_dim(y, self.padding, length + 2 - self.padding, axis=axis)
        return y + self.param('bias', init, (self.features,)).astype(y.dtype)


def max_pool(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Max pooling of 2 x 2 x 2 values: [B, X, Y, Z, F] -> [B, X // 2, Y // 2, Z // 2, F], and where each maximum was, the first
    one of equals: bool, with an axis of 8 before the last. An odd layer at the end is dropped."""
    batch, *space, features = x.shape
    a, b, c = (length // 2 for length in space)
    x = x[:, : 2 * a, : 2 * b, : 2 * c].reshape(batch, a, 2, b, 2, c, 2, features)
    windows = x.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, a, b, c, 8, features)
    places = windows.argmax(axis=-2)[..., None, :] == jnp.arange(8)[:, None]
    return jnp.where(places, windows, 0).sum(axis=-2), places


def max_unpool(x: jax.Array, places: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The values x [B, X, Y, Z, F] at the places of the maxima, zeros elsewhere: [B, *space, F], space that of `shape`."""
    batch, a, b, c, features = x.shape
    windows = jnp.where(places, x[..., None, :], 0).reshape(batch, a, b, c, 2, 2, 2, features)
    y = windows.transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, 2 * a, 2 * b, 2 * c, features)
    missing = [(0, 0), *((0, shape[i] - y.shape[i]) for i in (1, 2, 3)), (0, 0)]
    return jnp.pad(y, missing)
