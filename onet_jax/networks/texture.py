"""Networks of Texture Fields (Oechsle et al., ICCV 2019): the decoder, the encoder of pictures of the variational autoencoder,
the discriminator, and the U-Net of the baseline.

B batch, T points, S pixels along each side, C code of the geometry, Z code of the appearance. Channels come last. The geometry
encoders are those of `encoders/points.py`.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.errors import InputError
from onet_jax.networks.layers import Conv, Linear, ResnetBlock, TransposedConv, cast
from onet_jax.networks.radiance import encode_positions

MOST_FEATURES = 1024  # of a convolution
SMALLEST = 4  # px, to which a picture is reduced


def _leaky(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, 0.2)


class TextureDecoder(nn.Module):
    """The texture field t(point, geometry, appearance) -> colour: ResNet blocks for each point, before each of which the codes
    are added (paper, section 3). Official names `each_layer_c` (five blocks) and `each_layer_c_larger` (seven).

    dtype: of the features of the points and of their products.
    """

    hidden_size: int = 128
    num_blocks: int = 5
    leaky: bool = True  # leaky ReLU (slope 0.2) as the last activation
    leaky_blocks: bool = False  # and in the blocks
    dtype: jnp.dtype | None = None
    num_frequencies: int = 0  # of a positional encoding of the points; 0, as in the paper, is none

    @nn.compact
    def __call__(self, points: jax.Array, geometry: jax.Array, cond: jax.Array) -> jax.Array:
        """points [B, T, 3] in object coordinates, geometry [B, C], cond [B, Z] -> RGB [B, T, 3] in [0, 1]."""
        seen = encode_positions(points, self.num_frequencies)
        net = cast(Linear(self.hidden_size, name='conv_p')(seen), self.dtype)
        for i in range(self.num_blocks):
            shift = Linear(self.hidden_size, name=f'fc_cz_{i}')(geometry, cond)[:, None]
            block = ResnetBlock(self.hidden_size, leaky=self.leaky_blocks, name=f'block{i}')
            net = block(net + cast(shift, self.dtype))
        net = _leaky(net) if self.leaky else nn.relu(net)
        last = Linear(3, kernel_init=nn.initializers.zeros, name='conv_out')
        return nn.sigmoid(last(net.astype(points.dtype)))


class ConvolutionalBlock(nn.Module):
    """Pre-activation ResNet block of two convolutions of 3 x 3."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, S, S, F] -> [B, S, S, features]."""
        size = x.shape[-1]
        net = Conv(min(size, self.features), padding=1, name='conv_0')(_leaky(x))
        net = Conv(self.features, padding=1, kernel_init=nn.initializers.zeros, name='conv_1')(_leaky(net))
        if size != self.features:
            x = Conv(self.features, 1, use_bias=False, name='shortcut')(x)
        return x + net


class PictureTrunk(nn.Module):
    """ResNet blocks and average pooling until a picture has 4 x 4 pixels, which are features in the end."""

    hidden_size: int  # features of the first block; those after a pooling have twice as many, up to `MOST_FEATURES`
    most_features: int = MOST_FEATURES

    @nn.compact
    def __call__(self, net: jax.Array) -> jax.Array:
        """[B, S, S, F] -> [B, features]. Raises InputError unless S is 4 times a power of two."""
        size = net.shape[1]
        num_poolings = (size // SMALLEST).bit_length() - 1
        if net.shape[2] != size or size != SMALLEST << num_poolings:
            raise InputError(
                f'views: expected pictures of 4, 8, 16, ... px along each side, found the shape {list(net.shape)}; set '
                'config.data.view_size'
            )
        net = ConvolutionalBlock(self.hidden_size, name='resnet_0')(net)
        for i in range(1, num_poolings + 1):
            # As in the official code zeros around the picture count in the mean.
            net = nn.avg_pool(net, (3, 3), (2, 2), ((1, 1), (1, 1)))
            features = min(self.hidden_size << i, self.most_features)
            net = ConvolutionalBlock(features, name=f'resnet_{2 * i}')(net)
        # Channels first, the order in which the official weights of the last layers take them.
        return jnp.moveaxis(_leaky(net), -1, 1).reshape(len(net), -1)


class AppearanceEncoder(nn.Module):
    """The approximate posterior q(z | picture, geometry), a diagonal Gaussian. Official name `resnet`."""

    latent_size: int
    hidden_size: int = 32
    most_features: int = MOST_FEATURES
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, images: jax.Array, geometry: jax.Array) -> tuple[jax.Array, jax.Array]:
        """images [B, S, S, 3] in [0, 1], geometry [B, C] -> mean [B, Z], log of the standard deviation [B, Z]."""
        shift = Linear(self.hidden_size, name='fc_inject_c')(geometry)[:, None, None]
        net = Conv(self.hidden_size, padding=1, name='conv_img')(cast(images, self.dtype)) + cast(shift, self.dtype)
        trunk = PictureTrunk(self.hidden_size, self.most_features)
        nn.share_scope(self, trunk)
        net = trunk(net).astype(images.dtype)
        return Linear(self.latent_size, name='fc_mean')(net), Linear(self.latent_size, name='fc_logstd')(net)


class Discriminator(nn.Module):
    """Whether a picture of a shape is a real one, by the picture and its depth. Official name `resnet_conditional`."""

    hidden_size: int = 64
    most_features: int = MOST_FEATURES
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, images: jax.Array, depth: jax.Array) -> jax.Array:
        """images [B, S, S, 3] in [0, 1], depth [B, S, S], 0 for the background -> logits [B] of being real."""
        seen = jnp.concatenate([images, depth[..., None]], axis=-1)
        net = Conv(self.hidden_size, padding=1, name='conv_img')(cast(seen, self.dtype))
        trunk = PictureTrunk(self.hidden_size, self.most_features)
        nn.share_scope(self, trunk)
        net = trunk(net).astype(images.dtype)
        return Linear(1, kernel_init=nn.initializers.zeros, name='fc')(net)[..., 0]


class ViewUNet(nn.Module):
    """U-Net from the depth of a view to its colours, the baseline of novel view synthesis; the condition is added to the
    features of each convolution."""

    hidden_size: int = 64  # features of the first of five convolutions; the others double them
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, depth: jax.Array, cond: jax.Array) -> jax.Array:
        """depth [B, S, S], 0 for the background, cond [B, Z] -> RGB [B, S, S, 3] in [0, 1]. S is a multiple of 32."""
        if depth.shape[1] % 32 or depth.shape[2] % 32:
            raise InputError(
                f'views: expected pictures of 32, 64, 96, ... px along each side, found the shape {list(depth.shape)}; set '
                'config.data.view_size'
            )
        net, skips = cast(depth[..., None], self.dtype), []
        for i in range(5):
            shift = Linear(self.hidden_size << i, name=f'fc_{i}')(cond)[:, None, None]
            net = Conv(self.hidden_size << i, stride=2, padding=1, name=f'conv_{i}')(net)
            net = nn.relu(net + cast(shift, self.dtype))
            skips.append(net)
        net = TransposedConv(self.hidden_size << 3, name='conv_trp_0')(net)
        for i in range(1, 5):
            features = 3 if i == 4 else self.hidden_size << 3 - i
            net = jnp.concatenate([nn.relu(net), skips[4 - i]], axis=-1)
            net = TransposedConv(features, name=f'conv_trp_{i}')(net)
        return nn.sigmoid(net.astype(depth.dtype))


class TextureModule(nn.Module):
    """The parts of a network, under the names of the official checkpoints; those that it lacks are None."""

    decoder: nn.Module
    cond_size: int
    geometry_encoder: nn.Module | None = None
    encoder: nn.Module | None = None
    vae_encoder: nn.Module | None = None
    discriminator: nn.Module | None = None

    def __call__(self, inputs: dict, rgb: jax.Array) -> None:
        """Calls every part once, which makes its weights."""
        depth, geometry = inputs['view_depth'][:, 0], None
        cond = jnp.zeros((len(rgb), self.cond_size), rgb.dtype)
        if self.geometry_encoder is not None:
            geometry = self.encode_geometry(inputs['oriented_cloud'])
        if self.encoder is not None:
            cond = self.encode(inputs['image'])
        if self.vae_encoder is not None:
            self.posterior(rgb[:, 0], geometry)
        if self.discriminator is not None:
            self.judge(rgb, inputs['view_depth'])
        self.decoder(depth, cond) if self.is_baseline else self.decoder(rgb[:, 0, 0], geometry, cond)

    @property
    def is_baseline(self) -> bool:
        return isinstance(self.decoder, ViewUNet)

    def encode(self, image: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        return _part(self.encoder, 'encode', 'an encoder')(image, train=train, axis_name=axis_name)

    def encode_geometry(self, oriented_cloud: jax.Array) -> jax.Array:
        return _part(self.geometry_encoder, 'encode_geometry', 'a geometry_encoder')(oriented_cloud)

    def decode(self, points: jax.Array, geometry: jax.Array, cond: jax.Array) -> jax.Array:
        decoder = None if self.is_baseline else self.decoder
        return _part(decoder, 'color', "a decoder of points, not 'unet',")(points, geometry, cond)

    def decode_view(self, depth: jax.Array, cond: jax.Array) -> jax.Array:
        """depth [B, S, S], cond [B, Z] -> RGB [B, S, S, 3] of the baseline."""
        return self.decoder(depth, cond)

    def posterior(self, rgb: jax.Array, geometry: Any) -> tuple[jax.Array, jax.Array]:
        """-> mean and log of the standard deviation, [B, Z] each."""
        return _part(self.vae_encoder, 'posterior', 'a vae_encoder')(rgb, geometry)

    def judge(self, rgb: jax.Array, depth: jax.Array) -> jax.Array:
        """rgb [B, V, S, S, 3], depth [B, V, S, S] -> logits [B, V] of being real."""
        pictures, views = (x.reshape(-1, *x.shape[2:]) for x in (rgb, depth))
        discriminator = _part(self.discriminator, 'discriminator_loss', 'a discriminator')
        return discriminator(pictures, views).reshape(depth.shape[:2])


def _part(module: nn.Module | None, function: str, what: str) -> nn.Module:
    if module is None:
        raise InputError(f'{function}: expected a network with {what} in config.model, found one without')
    return module
