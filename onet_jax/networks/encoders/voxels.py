"""3D convolutional encoder of voxels. B batch, C condition."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.layers import Conv, Linear, cast


class VoxelEncoder(nn.Module):
    """Five convolutions in 3D, four of them strided. Official name `voxel_simple`."""

    cond_size: int = 256
    hidden_size: int = 32  # features of the first convolution; the others double them
    dtype: jnp.dtype | None = None  # of the convolutions

    @nn.compact
    def __call__(self, voxels: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """voxels [B, 32, 32, 32] in {0, 1}, x slowest -> cond [B, C]. No layer depends on the mode."""
        net = Conv(self.hidden_size, padding=1, name='conv_in')(cast(voxels[..., None], self.dtype))
        for i in range(4):
            net = Conv(self.hidden_size << i + 1, stride=2, padding=1, name=f'conv_{i}')(nn.relu(net))
        # Channels first, the order in which the official weights of `fc` take them.
        net = jnp.moveaxis(net, -1, 1).reshape(len(net), -1)
        return Linear(self.cond_size, name='fc')(nn.relu(net.astype(voxels.dtype)))
