"""PointNet++ (Qi et al., NIPS 2017) and a decoder that interpolates its features: the baseline PointConv of Peng et al., ECCV
2020.

Set abstraction, twice: centres by farthest point sampling, groups by a ball query, a shared multilayer perceptron and max
pooling. Feature propagation then interpolates the features of the groups back to all points. All of it is deterministic: the
first centre is the first point of the cloud, where the official code draws one.

B batch, P points of a cloud, S centres, K points of a group, T query points, C features.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

from onet_jax.networks.feature_planes import BoundLocalDecoder, LocalDecoder
from onet_jax.networks.layers import BatchNorm, Linear, cast, global_max_pool
from onet_jax.networks.scatter import reduce_cells

BALL_RADII = (0.2, 0.4)  # of the groups of each level
GROUP_SIZES = (32, 64)
GAUSSIAN_WIDTH = 0.2  # of the weights in the decoder


def square_distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """a [N, 3], b [M, 3] -> [N, M]. From differences: the expansion |a|^2 - 2 a b + |b|^2 would lose small distances."""
    x, y, z = (jnp.square(a[:, None, axis] - b[None, :, axis]) for axis in range(3))
    return x + y + z


def sample_farthest(points: jax.Array, num_chosen: int) -> jax.Array:
    """Farthest point sampling of points [P, 3] -> indices [num_chosen] int32: the first point, then always the one that is
    farthest from those chosen. The first point is repeated where there are fewer."""

    def choose(state, _):
        distances, last = state
        distances = jnp.minimum(distances, square_distances(points[last][None], points)[0])
        return (distances, jnp.argmax(distances).astype(jnp.int32)), last

    start = jnp.full(points.shape[0], jnp.inf, points.dtype), jnp.int32(0)
    return jax.lax.scan(choose, start, length=num_chosen)[1]


def query_ball(centres: jax.Array, points: jax.Array, radius: float, size: int) -> jax.Array:
    """Ball query: for each centre [S, 3], one of the points [P, 3], indices [S, size] int32 of the first points within the
    radius. The first of them is repeated where there are fewer."""
    counts = jnp.cumsum(square_distances(centres, points) <= radius**2, axis=1, dtype=jnp.int32)
    wanted = jnp.arange(1, size + 1)
    if is_symbolic_dim(points.shape[0]):  # of a function that is exported: such an axis has no binary search
        found = (counts[:, None] < wanted[:, None]).sum(axis=-1, dtype=jnp.int32)
    else:
        found = jax.vmap(lambda row: jnp.searchsorted(row, wanted))(counts).astype(jnp.int32)
    return jnp.where(found < points.shape[0], found, found[:, :1])


@jax.custom_vjp
def gather_rows(values: jax.Array, rows: jax.Array) -> jax.Array:
    """values [N, C], rows [M] int -> [M, C]. The gradient is deterministic, a `reduce_cells`."""
    return values[rows]


def _gather_backward(kept, gradient):
    values, rows = kept
    return jnp.zeros_like(values).at[rows].set(reduce_cells(gradient, rows, 'sum')), None


gather_rows.defvjp(lambda values, rows: (values[rows], (values, rows)), _gather_backward)


def gather(values: jax.Array, rows: jax.Array) -> jax.Array:
    """values [B, N, C], rows [B, ...] int -> [B, ..., C]."""
    taken = jax.vmap(gather_rows)(values, rows.reshape(len(rows), -1))
    return taken.reshape(*rows.shape, values.shape[-1])


def interpolate_three(features: jax.Array, centres: jax.Array, points: jax.Array) -> jax.Array:
    """Features [B, S, C] at centres [B, S, 3] -> [B, P, C] at points [B, P, 3]: three nearest, weights 1 / distance^2."""
    distances = jax.vmap(square_distances)(points, centres)
    third = -jax.lax.top_k(-distances, 3)[0].min(axis=-1, keepdims=True)  # XLA sorts all of them for a slice
    weights = jnp.where(distances <= third, 1 / (distances + 1e-8), 0)
    # A dense product: its gradient is deterministic, and it is faster than a gather, though most weights are zero.
    return (weights / weights.sum(axis=-1, keepdims=True)).astype(features.dtype) @ features


class SharedMLP(nn.Module):
    """Multilayer perceptron, shared by all points: linear, batch normalisation and ReLU."""

    widths: Sequence[int]

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool, axis_name: str | None) -> jax.Array:
        """[..., F_1], [..., F_2], ... stand for their concatenation -> [..., the last width]."""
        for i, width in enumerate(self.widths):
            net = Linear(width, name=f'mlp_convs_{i}')(*inputs)
            inputs = (nn.relu(BatchNorm(name=f'mlp_bns_{i}')(net, train=train, axis_name=axis_name)),)
        return inputs[0]


class PointnetPlus(nn.Module):
    """PointNet++. Official name `pointnet_plus_plus`; widths are multiples of `hidden_size`, officially 64."""

    cond_size: int
    hidden_size: int = 64
    num_centres: Sequence[int] = (512, 128)  # of both levels
    dtype: jnp.dtype | None = None  # of features and their products

    @nn.compact
    def __call__(self, points: jax.Array, *, train: bool = False, axis_name: str | None = None) -> dict[str, jax.Array]:
        """points [B, P, 3] in object coordinates -> {'points': the same, 'features': [B, P, C]}."""

        def apply(name, widths, *inputs):
            return SharedMLP(widths, name=name)(*inputs, train=train, axis_name=axis_name)

        w = self.hidden_size
        levels = [(points, points)]
        for i, widths in enumerate(((w, w, 2 * w), (2 * w, 2 * w, 4 * w))):
            places, features = levels[-1]
            centres = gather(places, jax.vmap(lambda x, i=i: sample_farthest(x, self.num_centres[i]))(places))
            near = jax.vmap(lambda a, b, i=i: query_ball(a, b, BALL_RADII[i], GROUP_SIZES[i]))(centres, places)
            relative = gather(places, near) - centres[:, :, None]
            group = (cast(x, self.dtype) for x in (relative, gather(features, near)))
            levels.append((centres, global_max_pool(apply(f'sa{i + 1}', widths, *group), axis=2)))
        (places1, net1), (places2, net2) = levels[1:]
        whole = apply('sa3', (4 * w, 8 * w, 16 * w), cast(places2, self.dtype), net2)
        whole = global_max_pool(whole, axis=1, keepdims=True)
        net2 = apply('fp3', (4 * w, 4 * w), net2, whole)
        net1 = apply('fp2', (4 * w, 2 * w), net1, interpolate_three(net2, places2, places1))
        net = apply('fp1', (2 * w, 2 * w, self.cond_size), interpolate_three(net1, places1, points))
        return {'points': points, 'features': net.astype(points.dtype)}


class PointDecoder(LocalDecoder):
    """`LocalDecoder` of features at the points of a cloud, interpolated with Gaussian weights of the distance.

    Official name `simple_local_point`.
    """

    @nn.nowrap
    def sample(self, points: jax.Array, cond: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """points [B, T, 3], cond as of `PointnetPlus` -> points, features [B, T, C]."""
        squares = jax.vmap(square_distances)(points, cond['points'])
        # The derivative of the root is infinite at 0.
        distances = jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))
        weights = jax.nn.softmax(-jnp.square((distances + 1e-5) / GAUSSIAN_WIDTH), axis=-1)
        return points, weights @ cond['features']

    @nn.nowrap
    def bind_shape(
        self, variables: dict, cond: dict, latent: None = None, dtype: Any = jnp.float32
    ) -> BoundLocalDecoder:
        """As of `LocalDecoder`; the points of the cloud keep their precision."""
        bound = super().bind_shape(variables, cond, latent, dtype)
        return bound.replace(cond={**bound.cond, 'points': cond['points']})
