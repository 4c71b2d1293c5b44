"""PointNet encoders of point clouds (Qi et al., CVPR 2017). B batch, P input points, C condition."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.layers import Linear, ResnetBlock, cast, global_max_pool


class Pointnet(nn.Module):
    """PointNet whose layers see, beside the features of a point, their maximum over all points (global max pooling).

    Official names `pointnet_resnet` (five ResNet blocks) and `pointnet_simple` (residual=False: four plain layers). Those of
    Texture Fields, `resnet` and `simple`, see oriented points. Invariant to the order of the points, which may have any number
    D of coordinates. dtype: of the features and their products; points and condition are float32. leaky: leaky ReLUs (slope
    0.2), and mean instead of max pooling.
    """

    cond_size: int = 512
    hidden_size: int = 512
    residual: bool = True
    dtype: jnp.dtype | None = None
    leaky: bool = False

    @nn.compact
    def __call__(self, points: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """points [B, P, D] in object coordinates -> cond [B, C]. No layer depends on the mode."""

        def activate(x):
            return nn.leaky_relu(x, 0.2) if self.leaky else nn.relu(x)

        features: tuple[jax.Array, ...] = (cast(Linear(2 * self.hidden_size, name='fc_pos')(points), self.dtype),)
        for i in range(5 if self.residual else 4):
            if self.residual:
                net = ResnetBlock(self.hidden_size, leaky=self.leaky, name=f'block_{i}')(*features)
            else:
                net = Linear(self.hidden_size, name=f'fc_{i}')(*map(activate, features))
            pooled = net.mean(axis=1, keepdims=True) if self.leaky else global_max_pool(net, axis=1, keepdims=True)
            features = (net, pooled)
        return Linear(self.cond_size, name='fc_c')(activate(features[1][:, 0].astype(points.dtype)))
