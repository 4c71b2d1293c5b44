"""Latent codes: the encoders of the variational autoencoder (VAE), and learned embeddings of the training shapes.

B batch, T query points, P input points, C condition, Z latent.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.layers import Linear, ResnetBlock, cast, global_max_pool


class LatentEncoder(nn.Module):
    """The approximate posterior q(z | points, occupancies, condition), a diagonal Gaussian (paper, section 3.2).

    Official name `simple`.
    """

    latent_size: int
    hidden_size: int = 128
    leaky: bool = False  # leaky ReLUs (slope 0.2), and mean instead of max pooling over the points
    dtype: jnp.dtype | None = None  # of features and their products; what comes in and goes out is float32

    @nn.compact
    def __call__(self, points: jax.Array, occ: jax.Array, cond: jax.Array) -> tuple[jax.Array, jax.Array]:
        """points [B, T, 3], occ [B, T] in {0, 1}, cond [B, C] -> mean [B, Z], log of the standard deviation [B, Z]."""

        def activate(x):
            return nn.leaky_relu(x, 0.2) if self.leaky else nn.relu(x)

        def pool(x):
            return x.mean(axis=1, keepdims=True) if self.leaky else global_max_pool(x, axis=1, keepdims=True)

        def layer(features, name, *inputs):
            return Linear(features, name=name)(*map(activate, inputs))

        net = Linear(self.hidden_size, name='fc_0')(occ[..., None]) + Linear(self.hidden_size, name='fc_pos')(points)
        if cond.shape[-1]:
            net = net + Linear(self.hidden_size, name='fc_c')(cond)[:, None]
        net = layer(self.hidden_size, 'fc_1', cast(net, self.dtype))
        net = layer(self.hidden_size, 'fc_2', net, pool(net))
        net = layer(self.hidden_size, 'fc_3', net, pool(net))
        net = pool(net)[:, 0].astype(cond.dtype)
        return Linear(self.latent_size, name='fc_mean')(net), Linear(self.latent_size, name='fc_logstd')(net)


class LatentPointnet(nn.Module):
    """The approximate posterior q(z | cloud, condition), a diagonal Gaussian: a PointNet (Occupancy Flow, section 3.3).

    Official name `pointnet`. Of a clip, `FirstFrame` gives the code of the shape and `JoinedFrames` that of the motion.
    """

    latent_size: int
    hidden_size: int = 128
    dtype: jnp.dtype | None = None  # of features and their products; what comes in and goes out is float32

    @nn.compact
    def __call__(self, points: jax.Array, cond: jax.Array) -> tuple[jax.Array, jax.Array]:
        """points [B, P, D], cond [B, C] -> mean [B, Z], log of the standard deviation [B, Z]."""
        features: tuple[jax.Array, ...] = (cast(Linear(2 * self.hidden_size, name='fc_pos')(points), self.dtype),)
        for i in range(3):
            if cond.shape[-1]:
                shift = cast(Linear(2 * self.hidden_size, name=f'c_layers_{i}')(cond)[:, None], self.dtype)
                shifts = jnp.split(shift, len(features), axis=-1)
                features = tuple(x + part for x, part in zip(features, shifts, strict=True))
            net = ResnetBlock(self.hidden_size, name=f'block_{i}')(*features)
            features = (net, global_max_pool(net, axis=1, keepdims=True))
        pooled = features[1][:, 0].astype(points.dtype)
        return Linear(self.latent_size, name='fc_mean')(pooled), Linear(self.latent_size, name='fc_logstd')(pooled)


class IndexEmbedding(nn.Module):
    """A learned code for each training shape (paper, section 4.1), initialised from N(0, std^2). Official name `idx`."""

    cond_size: int
    num_shapes: int
    std: float = 1.0

    @nn.compact
    def __call__(self, indices: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """indices [B] int in [0, num_shapes) -> cond [B, C]. Nothing depends on the mode."""
        table = self.param('embedding', nn.initializers.normal(self.std), (self.num_shapes, self.cond_size))
        return table[indices]
