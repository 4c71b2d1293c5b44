"""Encoders of point clouds. B batch, N input points, C condition."""

import flax.linen as nn
import jax

from onet_jax.networks.layers import Linear, ResnetBlock


class ResnetPointnet(nn.Module):
    """PointNet of five ResNet blocks, each followed by a global max-pooling that is given back to every point.

    Official name `pointnet_resnet`. Invariant to the order of the points.
    """

    cond_size: int = 512
    hidden_size: int = 512
    num_blocks: int = 5

    @nn.compact
    def __call__(self, points: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """points [B, N, 3] in object coordinates -> cond [B, C]. No layer depends on the mode."""
        net = Linear(2 * self.hidden_size, name='fc_pos')(points)
        net = ResnetBlock(self.hidden_size, name='block_0')(net)
        for i in range(1, self.num_blocks):
            pooled = net.max(axis=1, keepdims=True)
            net = ResnetBlock(self.hidden_size, name=f'block_{i}')(net, pooled)
        return Linear(self.cond_size, name='fc_c')(nn.relu(net.max(axis=1)))
