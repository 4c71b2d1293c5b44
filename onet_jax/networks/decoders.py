"""Decoders: points and a condition to logits of occupancy. B batch, T points, C condition, Z latent."""

import flax.linen as nn
import jax

from onet_jax.networks.layers import ConditionalBatchNorm, ConditionalResnetBlock, Linear


class ConditionalBatchNormDecoder(nn.Module):
    """The decoder of the paper: five pre-activation ResNet blocks with conditional batch normalisation.

    Official name `cbatchnorm`; 11 conditional batch normalisations in all. A latent code, where the model has one, is
    added once to the features of every point.
    """

    hidden_size: int = 256
    num_blocks: int = 5

    @nn.compact
    def __call__(
        self,
        points: jax.Array,
        cond: jax.Array,
        latent: jax.Array | None = None,
        *,
        train: bool = False,
        axis_name: str | None = None,
    ) -> jax.Array:
        """points [B, T, 3] in object coordinates, cond [B, C], latent [B, Z] or None -> logits [B, T]."""
        mode = {'train': train, 'axis_name': axis_name}
        net = Linear(self.hidden_size, name='fc_p')(points)
        if latent is not None:
            net = net + Linear(self.hidden_size, name='fc_z')(latent)[:, None]
        for i in range(self.num_blocks):
            net = ConditionalResnetBlock(self.hidden_size, name=f'block{i}')(net, cond, **mode)
        net = nn.relu(ConditionalBatchNorm(name='bn')(net, cond, **mode))
        return Linear(1, name='fc_out')(net)[..., 0]
