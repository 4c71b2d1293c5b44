"""Layers shared by all networks, with the initialisation and the normalisation of the official PyTorch code.

linear, batch normalisation, conditional batch normalisation, pre-activation ResNet block, convolution,
transposed convolution

B batch, T points, F features, C condition. All layers act on the last axis: channels come last, in images and volumes too.
`train` is the mode of the normalisations: the statistics of the batch, or the running ones. Sub-modules carry the names of
the official checkpoints (`fc_0`, `bn_1`, `conv_gamma`, ...), so that converting weights is a table of names.

Mixed precision: a layer computes in the precision of its input, float32 or bfloat16; parameters, the statistics of
normalisations and the sums inside matrix products are float32 in either.
"""

from functools import partial, reduce
from itertools import product

import flax.linen as nn
import jax
import jax.numpy as jnp

from onet_jax.networks.fast_gradients import Stride, convolve, multiply, normalise, normalise_batch

MOMENTUM = 0.9  # of the running statistics: new = 0.9 old + 0.1 batch

# PyTorch's default for linear and convolutional kernels, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def uniform(bound: float) -> nn.initializers.Initializer:
    """U(-bound, bound)."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def cast(x: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
    """x in the precision for the layers that follow; None leaves it."""
    return x if dtype is None else x.astype(dtype)


class Linear(nn.Module):
    """Affine map of the last axis.

    Several inputs stand for their concatenation, [x_1, x_2] W = x_1 W_1 + x_2 W_2, and may broadcast against each other:
    a feature that is the same for all points is multiplied once for each shape, not once for each point.
    Kernel and bias start as U(-1/sqrt(fan_in), 1/sqrt(fan_in)) unless an initialiser is given.
    """

    features: int
    kernel_init: nn.initializers.Initializer = torch_uniform
    bias_init: nn.initializers.Initializer | None = None
    use_bias: bool = True

    @nn.compact
    def __call__(self, *inputs: jax.Array) -> jax.Array:
        """[..., F_1], [..., F_2], ... -> [..., features]."""
        fan_in = sum(x.shape[-1] for x in inputs)
        kernel = self.param('kernel', self.kernel_init, (fan_in, self.features))
        products, start = [], 0
        for x in inputs:
            stop = start + x.shape[-1]
            products.append(multiply(x, kernel[start:stop].astype(x.dtype)))
            start = stop
        y = reduce(jnp.add, products)
        if self.use_bias:
            y = y + self.param('bias', self.bias_init or uniform(fan_in**-0.5), (self.features,)).astype(y.dtype)
        return y


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def global_max_pool(x: jax.Array, axis: int, keepdims: bool = False) -> jax.Array:
    """Global max pooling: the maximum of x along an axis, with PyTorch's gradient, which goes to the first of equal maxima.

    JAX's own rule compares x with its maximum. XLA may compute x twice, rounded differently, and where then no value is the
    maximum, that rule divides 0 by 0.
    """
    return x.max(axis, keepdims=keepdims)


@global_max_pool.defjvp
def _global_max_pool_jvp(axis, keepdims, primals, tangents):
    (x,), (slope,) = primals, tangents
    first = jnp.argmax(x, axis, keepdims=True)
    chosen = jax.lax.broadcasted_iota(first.dtype, x.shape, axis) == first
    return global_max_pool(x, axis, keepdims), jnp.where(chosen, slope, 0).sum(axis, keepdims=keepdims)


class Normalisation(nn.Module):
    """gamma (x - mean) / sqrt(var + eps) + beta, by channel: statistics of the batch in training, running ones in evaluation.

    The batch is normalised with the biased variance while the running variance takes the unbiased one (PyTorch's
    semantics; flax's own BatchNorm stores the biased one). With `axis_name` the statistics are those of the whole batch,
    spread over the devices of that axis.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, gamma: jax.Array, beta: jax.Array, *, train: bool, axis_name: str | None = None
    ) -> jax.Array:
        """x [..., F], gamma and beta broadcasting against it -> [..., F]."""
        running_mean = self.variable('batch_stats', 'running_mean', jnp.zeros, x.shape[-1:])
        running_var = self.variable('batch_stats', 'running_var', jnp.ones, x.shape[-1:])
        if not train:
            return normalise(x, gamma, beta, running_mean.value, running_var.value)

        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        wide = x.astype(running_mean.value.dtype)
        mean = wide.mean(axes)
        var = jnp.square(wide - mean).mean(axes)
        if axis_name is not None:
            count = count * jax.lax.axis_size(axis_name)
            # Mean and variance in one collective, about the running mean: near it little is lost in the difference of squares.
            shift = mean - running_mean.value
            shift, square = jax.lax.pmean((shift, var + jnp.square(shift)), axis_name)
            mean, var = running_mean.value + shift, jnp.maximum(square - jnp.square(shift), 0)
        if not self.is_initializing():
            running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
            running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var * (count / max(count - 1, 1))
        return normalise_batch(axis_name, x, gamma, beta, mean, var)


class BatchNorm(nn.Module):
    """Batch normalisation with a learned gamma and beta for each channel.

    It takes a condition, as `ConditionalBatchNorm` does, and does not look at it.
    """

    scale_init: nn.initializers.Initializer = nn.initializers.ones  # of gamma

    @nn.compact
    def __call__(
        self, x: jax.Array, cond: jax.Array | None = None, *, train: bool, axis_name: str | None = None
    ) -> jax.Array:
        """x [..., F] -> [..., F]."""
        normalisation = Normalisation()
        nn.share_scope(self, normalisation)  # one layer, as in the official checkpoints
        gamma = self.param('scale', self.scale_init, x.shape[-1:])
        beta = self.param('bias', nn.initializers.zeros, x.shape[-1:])
        return normalisation(x, gamma, beta, train=train, axis_name=axis_name)


class ConditionalBatchNorm(nn.Module):
    """Batch normalisation with gamma(c) and beta(c), both linear in the condition (supplementary, eq. 1).

    gamma starts at 1 and beta at 0 for every condition (zero kernels).
    """

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        """x [B, T, F], cond [B, C], or [B, T, C] where every point has its own -> [B, T, F]."""
        features, zeros = x.shape[-1], nn.initializers.zeros
        cond = cond[:, None] if cond.ndim == 2 else cond
        gamma = Linear(features, kernel_init=zeros, bias_init=nn.initializers.ones, name='conv_gamma')(cond)
        beta = Linear(features, kernel_init=zeros, bias_init=zeros, name='conv_beta')(cond)
        return Normalisation(name='bn')(x, gamma, beta, train=train, axis_name=axis_name)


class ResnetBlock(nn.Module):
    """Pre-activation ResNet block, x -> s(x) + fc_1(relu(n_1(fc_0(relu(n_0(x)))))) (supplementary, figures 1 and 2).

    norm: `BatchNorm`, `ConditionalBatchNorm` or None, the class of n_0 and n_1. The hidden size is min(in, out) unless
    given; the shortcut s is the identity where the sizes agree, else linear without bias.
    """

    features: int
    norm: type[nn.Module] | None = None
    hidden_size: int | None = None
    leaky: bool = False  # leaky ReLUs (slope 0.2)

    @nn.compact
    def __call__(
        self, *inputs: jax.Array, cond: jax.Array | None = None, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """[..., F] -> [..., features]. Without a norm several inputs stand for their concatenation, as in `Linear`."""

        def activate(x, name):
            if self.norm is not None:
                x = self.norm(name=name)(x, cond, train=train, axis_name=axis_name)
            return nn.leaky_relu(x, 0.2) if self.leaky else nn.relu(x)

        fan_in = sum(x.shape[-1] for x in inputs)
        hidden_size = self.hidden_size or min(fan_in, self.features)
        net = Linear(hidden_size, name='fc_0')(*(activate(x, 'bn_0') for x in inputs))
        net = Linear(self.features, kernel_init=nn.initializers.zeros, name='fc_1')(activate(net, 'bn_1'))
        if len(inputs) == 1 and fan_in == self.features:
            return inputs[0] + net
        return Linear(self.features, use_bias=False, name='shortcut')(*inputs) + net


class Conv(nn.Module):
    """Convolution (cross-correlation) of images [B, H, W, F] or volumes [B, D, H, W, F] with zero padding.

    `padding` is on both sides of every axis, as in PyTorch (with a stride that differs from 'SAME'); `stride` is of all axes,
    or one for each. Kernel and bias start as in `Linear`.
    """

    features: int
    kernel_size: int = 3
    stride: Stride = 1
    padding: int = 0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = torch_uniform
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *space, F] -> [B, *space, features]."""
        size = (self.kernel_size,) * (x.ndim - 2)
        kernel = self.param('kernel', self.kernel_init, (*size, x.shape[-1], self.features))
        y = convolve(x, kernel.astype(x.dtype), self.stride, self.padding)
        if self.use_bias:
            fan_in = kernel.size // self.features
            y = y + self.param('bias', self.bias_init or uniform(fan_in**-0.5), (self.features,)).astype(y.dtype)
        return y


class TransposedConv(nn.Module):
    """Transposed convolution with an odd kernel and stride 2, which doubles each spatial axis.

    In PyTorch's terms the padding is (kernel_size - 1) / 2 and the output padding 1. Its default initialisation.
    """

    features: int
    kernel_size: int = 3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *space, F] -> [B, *(2 space), features]."""
        batch, *space, size = x.shape
        num_axes, half = len(space), (self.kernel_size - 1) // 2
        init = uniform((self.kernel_size**num_axes * self.features) ** -0.5)
        # The kernel of the convolution, from `features` to `size` channels, that this is the transpose of.
        kernel = self.param('kernel', init, (*(self.kernel_size,) * num_axes, self.features, size)).astype(x.dtype)
        # Along an axis, output o sees input i by tap t where 2 i + t = o + half. For each parity of o this is one matrix
        # product, of the pairs (i - o // 2, t).
        seen = [
            [((parity + half - t) // 2, t) for t in range(self.kernel_size) if (parity + half - t) % 2 == 0]
            for parity in (0, 1)
        ]
        padded = jnp.pad(x, ((0, 0), *((half // 2, (half + 1) // 2),) * num_axes, (0, 0)))
        parts = []
        for parity in product((0, 1), repeat=num_axes):
            pairs = [list(zip(*pair, strict=True)) for pair in product(*(seen[p] for p in parity))]
            starts = [[step + half // 2 for step in steps] for steps, _ in pairs]
            values = [padded[:, *(slice(i, i + n) for i, n in zip(start, space, strict=True))] for start in starts]
            weights = [kernel[taps].T for _, taps in pairs]  # [size, features] each
            parts.append(multiply(jnp.concatenate(values, axis=-1), jnp.concatenate(weights)))
        y = jnp.concatenate(parts, axis=-1).reshape(batch, *space, *(2,) * num_axes, self.features)
        order = [axis for i in range(num_axes) for axis in (1 + i, 1 + num_axes + i)]
        y = y.transpose(0, *order, y.ndim - 1).reshape(batch, *(2 * n for n in space), self.features)
        return y + self.param('bias', init, (self.features,)).astype(y.dtype)
