"""Image encoders: ResNet (He et al., CVPR 2016), whose weights from ImageNet can be loaded, and two convolutional networks.

B batch, H and W pixels, C condition. Images are RGB in [0, 1], channels last.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.errors import InputError
from onet_jax.networks.layers import BatchNorm, Conv, Linear, cast

# By channel (RGB): pretrained weights expect images that are normalised by these.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# depth -> (blocks of each stage, whether they are bottlenecks); He et al., CVPR 2016, table 1.
STAGES = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
# The convolutions of each block of `PyramidEncoder`: features by those of the first one, kernel size, stride.
PYRAMID = (
    ((1, 3, 1), (1, 3, 1), (2, 3, 2), (2, 3, 1), (2, 3, 1), (4, 3, 2), (4, 3, 1), (4, 3, 1)),
    ((8, 3, 2), (8, 3, 1), (8, 3, 1)),
    ((16, 5, 2), (16, 3, 1), (16, 3, 1)),
    ((32, 5, 2), (32, 3, 1), (32, 3, 1), (32, 3, 1)),
)
SMALLEST = 63  # px, of which the five convolutions of `ConvEncoder` leave one
he_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class ConvEncoder(nn.Module):
    """Five strided convolutions and global average pooling. Official name `simple_conv`."""

    cond_size: int = 128
    hidden_size: int = 32  # features of the first convolution; the others double them
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """images [B, H, W, 3] in [0, 1] -> cond [B, C]. No layer depends on the mode. Raises InputError for too few pixels."""
        if min(images.shape[1:3]) < SMALLEST:
            raise InputError(
                f'images: expected at least {SMALLEST} px along each side, found {images.shape[2]} x {images.shape[1]}; set '
                'config.data.image_size'
            )
        net = Conv(self.hidden_size, stride=2, name='conv0')(cast(images, self.dtype))
        for i in range(1, 5):
            net = Conv(self.hidden_size << i, stride=2, name=f'conv{i}')(nn.relu(net))
        return Linear(self.cond_size, name='fc_out')(nn.relu(net.mean(axis=(1, 2), dtype=images.dtype)))


class PyramidEncoder(nn.Module):
    """Strided convolutions without pooling, whose outputs at four scales are kept. Official name `pixel2mesh_cond`."""

    hidden_size: int = 16  # features of the first convolution; the coarsest map has 32 times as many
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, ...]:
        """images [B, H, H, 3] in [0, 1] -> maps [B, H', H', F] with H' = H / 4, H / 8, H / 16 and H / 32, the finest first."""
        net, maps = cast(images, self.dtype), []
        for block, layers in enumerate(PYRAMID, start=1):
            for i, (factor, kernel_size, stride) in enumerate(layers):
                conv = Conv(
                    factor * self.hidden_size, kernel_size, stride, kernel_size // 2, name=f'block_{block}_{2 * i}'
                )
                net = nn.relu(conv(net))
            maps.append(net.astype(images.dtype))
        return tuple(maps)


class ResNet(nn.Module):
    """ResNet without its classifier, and a linear layer to the condition (paper, section 3.2).

    Official names `resnet18` to `resnet101`; the trunk is that of torchvision, which can initialise it. Images are
    normalised inside, by the statistics of ImageNet, unless `normalised` is False.
    """

    cond_size: int = 256
    depth: int = 18
    dtype: jnp.dtype | None = None  # of the trunk
    normalised: bool = True

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """images [B, H, W, 3] in [0, 1] -> cond [B, C]."""
        net = images
        if self.normalised:
            net = (images - jnp.asarray(IMAGENET_MEAN, images.dtype)) / jnp.asarray(IMAGENET_STD, images.dtype)
        net = ResNetTrunk(self.depth, name='features')(cast(net, self.dtype), train=train, axis_name=axis_name)
        return Linear(self.cond_size, name='fc')(net)


class ResNetTrunk(nn.Module):
    """Four stages of residual blocks and global average pooling."""

    depth: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None) -> jax.Array:
        """x [B, H, W, 3], normalised -> float32 [B, 512], or [B, 2048] with bottlenecks."""
        mode: dict[str, Any] = {'train': train, 'axis_name': axis_name}
        stages, bottleneck = STAGES[self.depth]
        net = Conv(64, 7, stride=2, padding=3, use_bias=False, kernel_init=he_normal, name='conv1')(x)
        net = nn.relu(BatchNorm(name='bn1')(net, **mode))
        net = _max_pool(net)
        for stage, num_blocks in enumerate(stages):
            for i in range(num_blocks):
                stride = 2 if stage > 0 and i == 0 else 1
                block = ResidualBlock(64 << stage, stride, bottleneck, name=f'layer{stage + 1}_{i}')
                net = block(net, **mode)
        return net.mean(axis=(1, 2), dtype=jnp.promote_types(net.dtype, jnp.float32))


class ResidualBlock(nn.Module):
    """relu(s(x) + F(x)): two convolutions of 3 x 3, or a bottleneck of 1 x 1, 3 x 3 and 1 x 1 with 4 x features."""

    features: int
    stride: int
    bottleneck: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None) -> jax.Array:
        """[B, H, W, F] -> [B, H / stride, W / stride, features, or four times as many]."""

        def conv_bn(net, features, kernel_size, stride, names):
            conv = Conv(features, kernel_size, stride, kernel_size // 2, False, he_normal, name=names[0])
            return BatchNorm(name=names[1])(conv(net), train=train, axis_name=axis_name)

        # (features, kernel size, stride); where a bottleneck strides, the 3 x 3 convolution does (torchvision's choice).
        layers = [(self.features, 3, self.stride), (self.features, 3, 1)]
        if self.bottleneck:
            layers = [(self.features, 1, 1), (self.features, 3, self.stride), (4 * self.features, 1, 1)]
        net = x
        for i, layer in enumerate(layers, start=1):
            net = conv_bn(net if i == 1 else nn.relu(net), *layer, (f'conv{i}', f'bn{i}'))
        if x.shape != net.shape:
            x = conv_bn(x, net.shape[-1], 1, self.stride, ('downsample_0', 'downsample_1'))
        return nn.relu(x + net)


def _max_pool(x: jax.Array) -> jax.Array:
    """Max pooling of 3 x 3 with stride 2 and a padding of 1: [B, H, W, F] -> [B, H / 2, W / 2, F].

    Axis by axis, because XLA's gradient of a maximum over windows takes a tenth of the training step on a CPU. Equal
    maxima share the gradient; after a ReLU these are zeros, which have none.
    """
    for axis in (1, 2):
        padding = [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)]
        padded, last = jnp.pad(x, padding, constant_values=-jnp.inf), (x.shape[axis] - 1) // 2 * 2
        first, second, third = (jax.lax.slice_in_dim(padded, i, i + last + 1, 2, axis) for i in range(3))
        x = jnp.maximum(jnp.maximum(first, second), third)
    return x
