"""Temporal encoders of Occupancy Flow: of the motion in a clip of point clouds, in its two ends, or in a clip of pictures.

B batch, L frames, P input points, H and W pixels, C condition. `FirstFrame` and `JoinedFrames` make encoders of clips of those
of single inputs, which keep their official names of weights.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.layers import Conv, Linear, cast


class FirstFrame(nn.Module):
    """The spatial encoder: an encoder of clouds or pictures, which sees the first frame alone."""

    encoder: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.encoder)

    def __call__(self, clip: jax.Array, *more: jax.Array, **mode: Any) -> Any:
        """clip [B, L, ...], and what the encoder takes beside its input -> its output."""
        return self.encoder(clip[:, 0], *more, **mode)


class JoinedFrames(nn.Module):
    """A temporal encoder: one of clouds, to which the positions of a point in all frames are its 3 L coordinates.

    Point p of every frame must be the same place of the body. The number of frames is that of training.
    """

    encoder: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.encoder)

    def __call__(self, clip: jax.Array, *more: jax.Array, **mode: Any) -> Any:
        """clip [B, L, P, 3], and what the encoder takes beside its input -> its output."""
        points = jnp.moveaxis(clip, 1, 2)
        return self.encoder(points.reshape(*points.shape[:2], -1), *more, **mode)


class TwoStreamPointnet(nn.Module):
    """A temporal encoder of the first and the last cloud: one PointNet gives C / 2 values of each. C must be even.

    Official name `pointnet_2stream`. The clouds need no correspondence.
    """

    cond_size: int = 512
    hidden_size: int = 512
    dtype: jnp.dtype | None = None  # of the features of points

    @nn.compact
    def __call__(self, clip: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """clip [B, L, P, 3] -> cond [B, C]. No layer depends on the mode."""
        ends = clip[:, jnp.array([0, -1])].reshape(-1, *clip.shape[2:])
        codes = Pointnet(self.cond_size // 2, self.hidden_size, dtype=self.dtype, name='resnet_pointnet')(ends)
        return codes.reshape(len(clip), self.cond_size)


class VideoEncoder(nn.Module):
    """A temporal encoder of pictures: six convolutions over time and pixels, and global average pooling.

    Official name `conv_3D`.
    """

    cond_size: int = 256
    hidden_size: int = 32  # features of the first convolution; the last ones have 16 times as many
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, clip: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """clip [B, L, H, W, 3], RGB in [0, 1] -> cond [B, C]. No layer depends on the mode."""
        net = cast(clip, self.dtype)
        for i, (factor, time_stride) in enumerate(((1, 1), (2, 2), (4, 1), (8, 2), (16, 2), (16, 2))):
            conv = Conv(factor * self.hidden_size, stride=(time_stride, 2, 2), padding=1, name=f'conv{i}')
            net = conv(net if i == 0 else nn.relu(net))
        return Linear(self.cond_size, name='fc_out')(nn.relu(net.mean(axis=(1, 2, 3), dtype=clip.dtype)))
