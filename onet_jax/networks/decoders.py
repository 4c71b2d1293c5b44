"""Decoders of Occupancy Networks, multilayer perceptrons with conditional batch normalisation, and the velocity field of
Occupancy Flow.

B batch, T query points, C condition, Z latent.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.errors import InputError
from onet_jax.networks.bound_decoder import BoundDecoder, bind_decoder
from onet_jax.networks.layers import BatchNorm, ConditionalBatchNorm, Linear, ResnetBlock, cast


class Decoder(nn.Module):
    """f(point, condition, latent code) -> logit of occupancy: the paper's decoder, five ResNet blocks for each point.

    norm             the normalisation before each activation: `ConditionalBatchNorm` puts the condition into every layer;
                     otherwise (`BatchNorm`, None) it is added once to the features of the points
    residual         five ResNet blocks, or five plain layers
    latent_steers    the latent code is added to the condition, or else once to the features of the points
    leaky            leaky ReLU (slope 0.2) as the last activation; those of the blocks are ReLUs
    dtype            of the features of the points and of their products; points, condition and logits are float32
    """

    hidden_size: int = 256
    latent_size: int = 0
    norm: type[nn.Module] | None = ConditionalBatchNorm
    residual: bool = True
    latent_steers: bool = False
    leaky: bool = False
    num_blocks: int = 5
    dtype: jnp.dtype | None = None

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
        """points [B, T, 3] in object coordinates (ONet 4D: [B, T, 4], the last is the time), cond [B, C] -> logits [B, T].

        latent [B, Z]: None is the mean of the prior, 0. Raises InputError for a latent code of another size.
        """
        mode: dict[str, Any] = {'train': train, 'axis_name': axis_name}
        net = Linear(self.hidden_size, name='fc_p')(points)
        if latent is None:
            latent = jnp.zeros((len(points), self.latent_size), points.dtype)
        if latent.shape[-1] != self.latent_size:
            raise InputError(f'latent: expected [B, {self.latent_size}], found {list(latent.shape)}')
        if self.latent_size and self.latent_steers:
            cond = cond + Linear(cond.shape[-1], name='fc_z')(latent)
        elif self.latent_size:
            net = net + Linear(self.hidden_size, name='fc_z')(latent)[:, None]
        if cond.shape[-1] and self.norm is not ConditionalBatchNorm:
            net = net + Linear(self.hidden_size, name='fc_c')(cond)[:, None]
        net = cast(net, self.dtype)

        for i in range(self.num_blocks):
            if self.residual:
                net = ResnetBlock(self.hidden_size, self.norm, name=f'block{i}')(net, cond=cond, **mode)
            else:
                if self.norm is not None:
                    net = self.norm(name=f'bn_{i}')(net, cond, **mode)
                net = Linear(self.hidden_size, name=f'fc_{i}')(nn.relu(net))
        if self.norm is not None:
            net = self.norm(name='bn' if self.residual else f'bn_{self.num_blocks}')(net, cond, **mode)
        net = nn.leaky_relu(net, 0.2) if self.leaky else nn.relu(net)
        return Linear(1, name='fc_out')(net.astype(points.dtype))[..., 0]

    @nn.nowrap
    def bind_shape(
        self, variables: dict, cond: jax.Array, latent: jax.Array | None, dtype: Any = jnp.float32
    ) -> BoundDecoder:
        """The decoder of one shape, cond [C] and latent [Z]: what depends on the shape alone is computed once."""
        return bind_decoder(self, variables, cond, latent, dtype)


# Official name -> the options of `Decoder`.
DECODER_OPTIONS: dict[str, dict[str, Any]] = {
    'cbatchnorm': {},  # the paper
    'cbatchnorm_noresnet': {'residual': False},  # ablation "no ResNet"
    'batchnorm': {'norm': BatchNorm},  # ablation "no CBN"
    'cbatchnorm2': {'latent_steers': True},
    'simple': {'norm': None},  # unconditional models
}


class VelocityField(nn.Module):
    """v(point, time, motion code) -> velocity (Niemeyer et al., ICCV 2019, section 3.1). Official name `concat`.

    Five ResNet blocks for each point; before each of them the codes of the motion are added.

    It computes in float32 whatever the training does: the solver controls an error that bfloat16 cannot resolve.
    """

    hidden_size: int = 512
    num_blocks: int = 5
    leaky: bool = False  # leaky ReLU (slope 0.2) as the last activation

    @nn.compact
    def __call__(
        self, points: jax.Array, time: jax.Array, cond: jax.Array, latent: jax.Array | None = None
    ) -> jax.Array:
        """points [B, T, 3], time [B], motion codes cond [B, C] and latent [B, Z] -> velocities [B, T, 3].

        A code of size 0 (latent None) has no layers.
        """
        time = jnp.broadcast_to(time[:, None, None], (*points.shape[:-1], 1)).astype(points.dtype)
        net = Linear(self.hidden_size, name='fc_p')(points, time)
        for i in range(self.num_blocks):
            if cond.shape[-1]:
                net = net + Linear(self.hidden_size, name=f'fc_c_{i}')(cond)[:, None]
            if latent is not None and latent.shape[-1]:
                net = net + Linear(self.hidden_size, name=f'fc_z_{i}')(latent)[:, None]
            net = ResnetBlock(self.hidden_size, name=f'block_{i}')(net)
        net = nn.leaky_relu(net, 0.2) if self.leaky else nn.relu(net)
        return Linear(3, name='fc_out')(net)
