"""Layers shared by every network of the family, with the initialisation and normalisation of the official code.

B batch, T points, F features, C condition. All layers act on the last axis: channels come last, in images and volumes too.
Sub-modules carry the names of the official PyTorch checkpoints (`fc_0`, `bn_1`, `conv_gamma`, ...), so that converting
weights is a table of names. A layer computes in the precision of its input, float32 or bfloat16; parameters, the statistics
of normalisations and the sums inside matrix products are float32 in either.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5  # added to the variance by every batch normalisation
MOMENTUM = 0.9  # of the running statistics: new = 0.9 old + 0.1 batch

# PyTorch's default for linear and convolutional kernels, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
torch_uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def lower(x: jax.Array, dtype: jnp.dtype | None) -> jax.Array:
    """x in the precision in which the layers after it are to compute; None is that of x."""
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
    def __call__(self, *inputs: jax.Array, train: bool = False) -> jax.Array:
        """[..., F_1], [..., F_2], ... -> [..., features]. train: the gradient is faster, and forward differentiation fails."""
        fan_in = sum(x.shape[-1] for x in inputs)
        kernel = self.param('kernel', self.kernel_init, (fan_in, self.features))
        multiply = _product if train else jnp.matmul
        y, start = 0.0, 0
        for x in inputs:
            stop = start + x.shape[-1]
            # As one matrix: XLA would transpose a batched operand for the gradient of the kernel, at twice the time.
            rows = multiply(x.reshape(-1, x.shape[-1]), kernel[start:stop].astype(x.dtype))
            y = y + rows.reshape(*x.shape[:-1], self.features)
            start = stop
        if self.use_bias:
            y = y + self.param('bias', self.bias_init or _uniform(fan_in**-0.5), (self.features,)).astype(y.dtype)
        return y


@jax.custom_vjp
def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[N, F] x [F, G]. Its own derivative only differs in how long it takes."""
    return x @ kernel


def _product_backward(saved, grad):
    x, kernel = saved
    # XLA on a CPU multiplies a transposed left operand at two thirds of the speed, unless it is kept from knowing of it.
    return grad @ kernel.T, jax.lax.optimization_barrier(x.T) @ grad


_product.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _product_backward)


def _uniform(bound: float) -> nn.initializers.Initializer:
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class BatchStatistics(nn.Module):
    """Mean and variance of every channel, over the batch in training and as running averages in evaluation.

    The batch is normalised with the biased variance while the running variance takes the unbiased one (PyTorch's
    semantics; flax's own BatchNorm stores the biased one). With `axis_name` the statistics are those of the whole batch,
    spread over the devices of that axis.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> tuple[jax.Array, jax.Array]:
        """[..., F] -> mean [F], variance [F]."""
        running_mean = self.variable('batch_stats', 'running_mean', jnp.zeros, x.shape[-1:])
        running_var = self.variable('batch_stats', 'running_var', jnp.ones, x.shape[-1:])
        if not train:
            return running_mean.value, running_var.value

        axes = tuple(range(x.ndim - 1))
        count = x.size // x.shape[-1]
        x = x.astype(running_mean.value.dtype)
        mean = x.mean(axes)
        if axis_name is not None:
            count = count * jax.lax.axis_size(axis_name)
            mean = jax.lax.pmean(mean, axis_name)
        var = jnp.square(x - mean).mean(axes)
        if axis_name is not None:
            var = jax.lax.pmean(var, axis_name)
        if not self.is_initializing():
            running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * mean
            running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * var * (count / max(count - 1, 1))
        return mean, var


class BatchNorm(nn.Module):
    """gamma * (x - mean) / sqrt(var + eps) + beta with a learned gamma and beta for each channel.

    It takes a condition, as `ConditionalBatchNorm` does, and does not look at it.
    """

    @nn.compact
    def __call__(
        self, x: jax.Array, cond: jax.Array | None = None, *, train: bool, axis_name: str | None = None
    ) -> jax.Array:
        """x [..., F] -> [..., F]."""
        statistics = BatchStatistics()
        nn.share_scope(self, statistics)  # one layer, as in the official checkpoints
        mean, var = statistics(x, train=train, axis_name=axis_name)
        gamma = self.param('scale', nn.initializers.ones, x.shape[-1:])
        beta = self.param('bias', nn.initializers.zeros, x.shape[-1:])
        if train:
            return _normalise_batch(axis_name, x, gamma, beta, *jax.lax.stop_gradient((mean, var)))
        return _normalise(x, gamma, beta, mean, var)


class ConditionalBatchNorm(nn.Module):
    """gamma(c) * (x - mean) / sqrt(var + eps) + beta(c), gamma and beta linear in the condition (supplementary, eq. 1).

    gamma starts at 1 and beta at 0 for every condition (zero kernels).
    """

    @nn.compact
    def __call__(self, x: jax.Array, cond: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        """x [B, T, F], cond [B, C], or [B, T, C] where every point has its own -> [B, T, F]."""
        features, zeros = x.shape[-1], nn.initializers.zeros
        cond = cond[:, None] if cond.ndim == 2 else cond
        gamma = Linear(features, kernel_init=zeros, bias_init=nn.initializers.ones, name='conv_gamma')(cond)
        beta = Linear(features, kernel_init=zeros, bias_init=zeros, name='conv_beta')(cond)
        mean, var = BatchStatistics(name='bn')(x, train=train, axis_name=axis_name)
        if train:
            return _normalise_batch(axis_name, x, gamma, beta, *jax.lax.stop_gradient((mean, var)))
        return _normalise(x, gamma, beta, mean, var)


def _normalise(x, gamma, beta, mean, var):
    """x [..., F], mean and var [F], gamma and beta that broadcast against x -> [..., F]."""
    # One multiply-add for each value: everything that does not depend on the point is combined before.
    scale = gamma * jax.lax.rsqrt(var + EPSILON)
    return (x * scale + (beta - mean * scale)).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalise_batch(axis_name, x, gamma, beta, mean, var):
    """`_normalise` with the statistics of x itself, whose derivative by x is part of that of the result.

    In one formula it takes half of the passes over the data that the chain rule takes through mean and variance.
    """
    return _normalise(x, gamma, beta, mean, var)


def _normalise_forward(axis_name, x, gamma, beta, mean, var):
    return _normalise(x, gamma, beta, mean, var), (x, gamma, mean, var)


def _normalise_backward(axis_name, saved, grad):
    x, gamma, mean, var = saved
    inverse, count = jax.lax.rsqrt(var + EPSILON), x.size // x.shape[-1]
    wide, grad = x.astype(mean.dtype), grad.astype(mean.dtype)
    grad_beta = _sum_like(grad, gamma)
    grad_gamma = _sum_like(grad * (wide - mean), gamma) * inverse
    # How the loss changes with the mean of the normalised values and with their spread.
    shift, spread = (_sum_like(gamma * part, mean) / count for part in (grad_beta, grad_gamma))
    if axis_name is not None:
        shift, spread = jax.lax.pmean((shift, spread), axis_name)
    slope = spread * inverse * inverse
    grad_x = grad * (gamma * inverse) - wide * slope + (mean * slope - shift * inverse)
    return grad_x.astype(x.dtype), grad_gamma, grad_beta, jnp.zeros_like(mean), jnp.zeros_like(var)


_normalise_batch.defvjp(_normalise_forward, _normalise_backward)


def _sum_like(x: jax.Array, like: jax.Array) -> jax.Array:
    """The sum of x over what `like` is broadcast along to have its shape."""
    axes = tuple(i for i in range(x.ndim) if i < x.ndim - like.ndim or like.shape[i - x.ndim] < x.shape[i])
    return x.sum(axes).reshape(like.shape)


class ResnetBlock(nn.Module):
    """Pre-activation ResNet block, x -> s(x) + fc_1(relu(n_1(fc_0(relu(n_0(x)))))) (supplementary, figures 1 and 2).

    norm: `BatchNorm`, `ConditionalBatchNorm` or None, the class of n_0 and n_1. The hidden size is min(in, out) unless
    given; the shortcut s is the identity where the sizes agree, else linear without bias.
    """

    features: int
    norm: type[nn.Module] | None = None
    hidden_size: int | None = None

    @nn.compact
    def __call__(
        self, *inputs: jax.Array, cond: jax.Array | None = None, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """[..., F] -> [..., features]. Without a norm several inputs stand for their concatenation, as in `Linear`."""

        def activate(x, name):
            if self.norm is not None:
                x = self.norm(name=name)(x, cond, train=train, axis_name=axis_name)
            return nn.relu(x)

        fan_in = sum(x.shape[-1] for x in inputs)
        hidden_size = self.hidden_size or min(fan_in, self.features)
        net = Linear(hidden_size, name='fc_0')(*(activate(x, 'bn_0') for x in inputs), train=train)
        net = Linear(self.features, kernel_init=nn.initializers.zeros, name='fc_1')(activate(net, 'bn_1'), train=train)
        if len(inputs) == 1 and fan_in == self.features:
            return inputs[0] + net
        return Linear(self.features, use_bias=False, name='shortcut')(*inputs, train=train) + net


class Conv(nn.Module):
    """Cross-correlation of images [B, H, W, F] or volumes [B, D, H, W, F] with zeros around them.

    `padding` is on both sides of every axis, as in PyTorch (with a stride that differs from 'SAME'). Kernel and bias start
    as in `Linear`.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int = 0
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = torch_uniform
    bias_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, *space, F] -> [B, *space, features]."""
        num_axes = x.ndim - 2
        shape = (*(self.kernel_size,) * num_axes, x.shape[-1], self.features)
        kernel = self.param('kernel', self.kernel_init, shape).astype(x.dtype)
        convolve = partial(_convolve, stride=self.stride, padding=self.padding)
        fastest = choose_on_cpu(x.shape, shape, self.stride, self.padding)
        if fastest is _convolve:
            y = convolve(x, kernel)
        else:
            on_cpu = partial(fastest, stride=self.stride, padding=self.padding)
            y = jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)
        if self.use_bias:
            fan_in = x.shape[-1] * self.kernel_size**num_axes
            y = y + self.param('bias', self.bias_init or _uniform(fan_in**-0.5), (self.features,)).astype(y.dtype)
        return y


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    num_axes = x.ndim - 2
    axes = 'DHW'[-num_axes:]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,) * num_axes,
        padding=((padding, padding),) * num_axes,
        dimension_numbers=(f'N{axes}C', f'{axes}IO', f'N{axes}C'),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_images(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`_convolve` with a stride of 1 and half of an odd kernel as padding. Its own derivative only differs in how long it
    takes, and forward differentiation fails."""
    return _convolve(x, kernel, stride, padding)


def _convolve_images_backward(stride, padding, saved, grad):
    x, kernel = saved
    size, width = len(kernel), x.shape[2]
    # That by the kernel is one product, of x moved by every row of the kernel and of grad moved by every column.
    rows = _gather_taps(x, 1, size, 1, padding)
    columns = jnp.pad(grad, ((0, 0), (0, 0), (padding, padding), (0, 0)))
    columns = jnp.concatenate([columns[:, :, j : j + width] for j in reversed(range(size))], axis=-1)
    product = rows.reshape(-1, rows.shape[-1]).T @ columns.reshape(-1, columns.shape[-1])
    grad_kernel = product.reshape(size, x.shape[-1], size, -1).swapaxes(1, 2)
    return _convolve(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1, padding), grad_kernel


_convolve_images.defvjp(
    lambda x, kernel, *where: (_convolve(x, kernel, *where), (x, kernel)), _convolve_images_backward
)


def _convolve_pixels(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """As one matrix product, of what each pixel of the result sees."""
    return _gather_taps(x, x.ndim - 2, len(kernel), stride, padding) @ kernel.reshape(-1, kernel.shape[-1])


def _convolve_by_rows(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """As a convolution of rows: the taps along all axes but the last become channels."""
    size = len(kernel)
    taps = _gather_taps(x, x.ndim - 3, size, stride, padding)
    rows, kernel = taps.reshape(-1, *taps.shape[-2:]), jnp.moveaxis(kernel, -3, 0).reshape(size, taps.shape[-1], -1)
    return _convolve(rows, kernel, stride, padding).reshape(*taps.shape[:-2], -1, kernel.shape[-1])


def choose_on_cpu(shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: int, padding: int) -> Callable:
    """The fastest way to convolve [B, *space, F] by [*size, F, G] on a CPU, as measured forward and backward together.

    XLA has no fast gradient of volumes: by rows it takes a fifteenth of the time. Where the result has few pixels, copies of
    what they see are nothing beside the kernel, and the product takes a thirtieth of the time of a strided volume. The gradient
    by the kernel of images, as a product, takes from half of XLA's time to all of it.
    """
    num_pixels = shape[0] * math.prod((n + 2 * padding - kernel_shape[0]) // stride + 1 for n in shape[1:-1])
    if kernel_shape[0] == 1 or 4 * num_pixels < math.prod(kernel_shape[:-1]):
        return _convolve_pixels
    if len(shape) == 5:
        return _convolve_by_rows
    return _convolve_images if stride == 1 and kernel_shape[0] == 2 * padding + 1 else _convolve


def _gather_taps(x: jax.Array, num_axes: int, size: int, stride: int, padding: int) -> jax.Array:
    """What the taps of a kernel along the first `num_axes` axes of space meet, as features: [B, *pixels, *rest, taps F]."""
    x = jnp.pad(x, [(padding, padding) if 1 <= i <= num_axes else (0, 0) for i in range(x.ndim)])
    spans = [(n - size) // stride * stride + 1 for n in x.shape[1 : num_axes + 1]]
    starts = itertools.product(range(size), repeat=num_axes)
    taps = [x[:, *(slice(i, i + n, stride) for i, n in zip(start, spans, strict=True))] for start in starts]
    return jnp.concatenate(taps, axis=-1)
