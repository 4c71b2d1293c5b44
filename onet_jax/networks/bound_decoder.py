"""Batch normalisation folding: condition and normalisations folded into the weights, for one shape and many query points.

With a fixed condition each normalisation, in evaluation mode, is an affine map of the channels, x -> scale x + shift. The one
after a block's first matrix is folded into this matrix; the one before it stays, since the shortcut carries its input past the
block. Of the paper's five blocks ten matrix products are left, and ReLUs.

T query points, F features in, G out, H of the hidden layers.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.geometry.field import check_points
from onet_jax.networks.affine_arithmetic import find_range


class Affine(flax.struct.PyTreeNode):
    """x -> x kernel + bias."""

    kernel: jax.Array  # [F, G]
    bias: jax.Array  # [G]

    def __call__(self, x: jax.Array) -> jax.Array:
        """[T, F] -> [T, G], in the precision of the bias; a product of bfloat16 where the kernel is."""
        return jnp.dot(x.astype(self.kernel.dtype), self.kernel, preferred_element_type=self.bias.dtype) + self.bias

    def then(self, scale: jax.Array, shift: jax.Array) -> 'Affine':
        """This map, followed by x -> scale x + shift."""
        return Affine(self.kernel * scale, self.bias * scale + shift)


class Block(flax.struct.PyTreeNode):
    """x -> x + outer(relu(inner(relu(scale x + shift)))), a ResNet block."""

    scale: jax.Array  # [H]
    shift: jax.Array
    inner: Affine
    outer: Affine


class BoundDecoder(flax.struct.PyTreeNode, eq=False):
    """The field of one shape, points [T, 3] in object coordinates -> logits [T]; jitted, and one compilation for all shapes.

    `lift` maps points to features. Then come ResNet `blocks` or, in a decoder without them, `layers`, each after a ReLU; then
    logits = output(activation(scale x + shift)).
    """

    lift: Affine
    blocks: tuple[Block, ...]
    layers: tuple[Affine, ...]
    scale: jax.Array  # [H]
    shift: jax.Array
    output: Affine
    leaky: bool = flax.struct.field(pytree_node=False)

    @jax.jit
    def __call__(self, points: jax.Array) -> jax.Array:
        """points [T, 3] in object coordinates -> logits [T]. Raises InputError for points of another shape."""
        check_points(points)
        x = self.lift(points)
        for block in self.blocks:
            x = x + block.outer(jax.nn.relu(block.inner(jax.nn.relu(block.scale * x + block.shift))))
        for layer in self.layers:
            x = layer(jax.nn.relu(x))
        x = self.scale * x + self.shift
        x = jax.nn.leaky_relu(x, 0.2) if self.leaky else jax.nn.relu(x)
        return self.output(x)[:, 0]

    def keeps_sign(self, centres: np.ndarray, half_edges: np.ndarray, level: float) -> np.ndarray:
        """centres [N, 3] of cuboids with edges 2 half_edges [3] -> bool [N]: a proof that on the closed cuboid all logits
        are above `level`, or all below it (see `affine_arithmetic.py`)."""
        low, high = find_range(self, centres, half_edges)
        return (low > level) | (high < level)


def bind_decoder(
    decoder: nn.Module, variables: dict, cond: jax.Array, latent: jax.Array | None = None, dtype: Any = jnp.float32
) -> BoundDecoder:
    """The field of one shape by a `Decoder`: cond [C], latent [Z] or None for the mean of the prior.

    dtype: of the H x H matrices and their products, with sums in float32; jnp.bfloat16 is for devices that multiply it
    faster.
    """
    params, stats = variables['params'], variables.get('batch_stats', {})
    lift = _affine(params['fc_p'])
    shift = jnp.zeros_like(lift.bias)
    if decoder.latent_size and latent is not None:
        shifted = _affine(params['fc_z'])(latent)
    elif decoder.latent_size:
        shifted = params['fc_z']['bias']
    if decoder.latent_size and decoder.latent_steers:
        cond = cond + shifted
    elif decoder.latent_size:
        shift += shifted
    if 'fc_c' in params:
        shift += _affine(params['fc_c'])(cond)
    lift = lift.replace(bias=lift.bias + shift)

    def norm(tree: dict, stats: dict, name: str) -> tuple[jax.Array, jax.Array]:
        """scale and shift of a normalisation, an affine map: its derivative, and its value at 0."""
        zeros, ones = jnp.zeros_like(lift.bias), jnp.ones_like(lift.bias)
        if decoder.norm is None:
            return ones, zeros
        layer = {'params': tree[name], 'batch_stats': stats[name]}

        def apply(x):
            return decoder.norm().apply(layer, x[None, None], cond[None], train=False)[0, 0]

        value, derivative = jax.jvp(apply, (zeros,), (ones,))
        return derivative, value

    blocks: tuple[Block, ...] = ()
    layers: tuple[Affine, ...] = ()
    if decoder.residual:
        for i in range(decoder.num_blocks):
            tree, tree_stats = params[f'block{i}'], stats.get(f'block{i}')
            inner = _affine(tree['fc_0']).then(*norm(tree, tree_stats, 'bn_1'))
            blocks += (Block(*norm(tree, tree_stats, 'bn_0'), inner, _affine(tree['fc_1'])),)
        scale, shift = norm(params, stats, 'bn')
    else:
        lift = lift.then(*norm(params, stats, 'bn_0'))
        for i in range(decoder.num_blocks):
            layers += (_affine(params[f'fc_{i}']).then(*norm(params, stats, f'bn_{i + 1}')),)
        scale, shift = jnp.ones_like(lift.bias), jnp.zeros_like(lift.bias)
    bound = BoundDecoder(lift, blocks, layers, scale, shift, _affine(params['fc_out']), decoder.leaky)

    def cast(array):
        return array.astype(dtype) if array.shape == (decoder.hidden_size,) * 2 else array

    return jax.tree.map(cast, bound)


def _affine(tree: dict) -> Affine:
    return Affine(tree['kernel'], tree['bias'])
