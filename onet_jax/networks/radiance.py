"""The network of NeRF (Mildenhall et al., ECCV 2020): positional encoding, and a multilayer perceptron for density and colour.

R rays, N points of a ray. Sub-modules carry the names of the checkpoints of nerf-pytorch.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.networks.layers import Linear


def encode_positions(x: jax.Array, num_frequencies: int) -> jax.Array:
    """Positional encoding (eq. 4), with x itself and without pi: [..., D] -> [..., D (1 + 2 L)].

    x, sin(x), cos(x), sin(2 x), cos(2 x), ..., cos(2^(L - 1) x).
    """
    if not num_frequencies:
        return x
    scaled = x[..., None, :] * jnp.asarray(2.0 ** np.arange(num_frequencies), x.dtype)[:, None]
    waves = jnp.concatenate([wave(scaled)[..., None, :] for wave in (jnp.sin, jnp.cos)], axis=-2)  # [..., L, 2, D]
    return jnp.concatenate([x, waves.reshape(*x.shape[:-1], 2 * num_frequencies * x.shape[-1])], axis=-1)


class RadianceField(nn.Module):
    """F(x, d) -> (logits of the colour, density before its activation), figure 7.

    After the layers of `skips` the encoded position is seen again. The colour depends on the directions unless
    `view_directions` is False.
    """

    width: int = 256
    depth: int = 8
    skips: Sequence[int] = (4,)
    bottleneck_size: int = 256  # features of a point that the colour sees; in the official code whatever the width is
    num_frequencies: int = 10
    num_direction_frequencies: int = 4
    view_directions: bool = True
    dtype: jnp.dtype | None = None  # of the features

    @nn.compact
    def __call__(self, points: jax.Array, view_directions: jax.Array | None) -> jax.Array:
        """points [R, N, 3], view_directions [R, 3] of length 1 -> [R, N, 4] float32."""

        def linear(features, name):
            kernel = nn.initializers.glorot_uniform()
            return Linear(features, kernel_init=kernel, bias_init=nn.initializers.zeros, name=name)

        def encode(x, num_frequencies):
            encoded = encode_positions(x, num_frequencies)
            return encoded if self.dtype is None else encoded.astype(self.dtype)

        seen = encode(points, self.num_frequencies)
        net: tuple[jax.Array, ...] = (seen,)
        for i in range(self.depth):
            hidden = nn.relu(linear(self.width, f'pts_linears_{i}')(*net))
            net = (seen, hidden) if i in self.skips else (hidden,)
        if not self.view_directions:
            return linear(4, 'output_linear')(*net).astype(points.dtype)
        density = linear(1, 'alpha_linear')(*net)
        features = linear(self.bottleneck_size, 'feature_linear')(*net)
        directions = encode(view_directions, self.num_direction_frequencies)[:, None]  # multiplied once for each ray
        hidden = nn.relu(linear(self.width // 2, 'views_linears_0')(features, directions))
        return jnp.concatenate([linear(3, 'rgb_linear')(hidden), density], axis=-1).astype(points.dtype)
