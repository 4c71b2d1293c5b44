"""Custom derivative rules (`jax.custom_vjp`), and convolutions faster than those of XLA on CPUs and TPUs, with their switches.

All that exists for speed alone. By default everything here is plain JAX, differentiable in forward and in reverse mode. Inside
`with reverse_mode(True)` custom rules compute the same gradients in less time; forward mode (`jax.jvp`, `jax.jacfwd`) then
raises. The switch is part of the key of jit's cache: a function that was traced outside is traced anew inside. Inside
`with one_platform(True)` nothing depends on the processor, for functions that are exported.

B batch, F features in, G out, *space spatial axes. Channels come last.
"""

import itertools
import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim

VARIANCE_EPSILON = 1e-5  # added to the variance by every batch normalisation
MOST_TAPS = 4_000_000  # values that a 3D convolution gathers: about the cache of a processor
LEAST_EDGE = 16  # voxels, of a volume whose slices a TPU convolves: smaller ones gain nothing

Stride = int | tuple[int, ...]  # of all spatial axes, or of each

reverse_mode = jax.make_user_context(False)
one_platform = jax.make_user_context(False)


def platform_dependent(*arrays: jax.Array, default: Callable, **platforms: Callable) -> jax.Array:
    """cpu(*arrays) on a CPU, tpu(*arrays) on a TPU, default(*arrays) on a processor that is not among the `platforms`.

    `with one_platform(True)` makes one program of the default for all processors.
    """
    return default(*arrays) if one_platform.value else jax.lax.platform_dependent(*arrays, default=default, **platforms)


def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., F] times kernel [F, G] -> [..., G]."""
    # Rows as one matrix: of a batched operand XLA would take twice the time for the gradient of the kernel, to transpose it.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def symmetric(function: Callable) -> Callable:
    """A function that is linear and its own transpose, x -> A x with A = A': its gradient is itself.

    JAX would make a scatter of each gather in it, which takes ten times as long.
    """
    if not reverse_mode.value:
        return function
    ruled = jax.custom_vjp(function)
    ruled.defvjp(lambda x: (function(x), None), lambda _, grad: (function(grad),))
    return ruled


def normalise(x: jax.Array, gamma: jax.Array, beta: jax.Array, mean: jax.Array, var: jax.Array) -> jax.Array:
    """gamma (x - mean) / sqrt(var + eps) + beta: x [..., F], mean and var [F], gamma and beta broadcast against x."""
    # One multiply-add for each value: what does not depend on the point is computed once.
    scale = gamma * jax.lax.rsqrt(var + VARIANCE_EPSILON)
    return (x * scale + (beta - mean * scale)).astype(x.dtype)


def normalise_batch(
    axis_name: str | None, x: jax.Array, gamma: jax.Array, beta: jax.Array, mean: jax.Array, var: jax.Array
) -> jax.Array:
    """`normalise` by the mean and variance of x itself, over the devices of `axis_name` too; gradients go through both.

    The custom rule is the closed formula, which passes over the data half as often as the chain rule through both.
    """
    if reverse_mode.value:
        return _normalise_batch(axis_name, x, gamma, beta, *jax.lax.stop_gradient((mean, var)))
    return normalise(x, gamma, beta, mean, var)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _normalise_batch(axis_name, x, gamma, beta, mean, var):
    return normalise(x, gamma, beta, mean, var)


def _normalise_forward(axis_name, x, gamma, beta, mean, var):
    return normalise(x, gamma, beta, mean, var), (x, gamma, mean, var)


def _normalise_backward(axis_name, saved, grad):
    x, gamma, mean, var = saved
    inverse, count = jax.lax.rsqrt(var + VARIANCE_EPSILON), x.size // x.shape[-1]
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
    """The transpose of broadcasting: x summed over the axes along which `like` is broadcast, in the shape of `like`."""
    axes = tuple(i for i in range(x.ndim) if i < x.ndim - like.ndim or like.shape[i - x.ndim] < x.shape[i])
    return x.sum(axes).reshape(like.shape)


def convolve(x: jax.Array, kernel: jax.Array, stride: Stride, padding: int) -> jax.Array:
    """Convolution (cross-correlation) of x [B, *space, F] by a cubic kernel [*size, F, G], zero padding on both sides."""
    where: dict[str, Any] = {'stride': stride, 'padding': padding}
    chosen = {name: choose(x.shape, kernel.shape, **where) for name, choose in CHOICES.items()}
    faster = {name: partial(form, **where) for name, form in chosen.items() if form is not _convolve}
    if not faster:
        return _convolve(x, kernel, **where)
    return platform_dependent(x, kernel, default=partial(_convolve, **where), **faster)


def choose_on_cpu(shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: Stride, padding: int) -> Callable:
    """The fastest way to convolve [B, *space, F] by [*size, F, G] on a CPU, measured with its gradients.

    XLA's 3D convolutions are slow: as 2D convolutions of slices they take a quarter of the time, with their gradients too. As
    1D convolutions of rows small ones, whose taps fit into the cache, take two thirds of that. Where the output has few pixels,
    its patches (im2col) are small beside the kernel, and one matrix product takes a thirtieth of the time of a strided 3D
    convolution. In training, 3 x 3 convolutions of images with a stride are such products too, because XLA transposes both
    operands of the gradient of the kernel. Without a stride this gradient, as matrix products, takes between half and all of
    XLA's time.
    """
    strides = zip(shape[1:-1], _of_axes(stride, len(shape) - 2), strict=True)
    batch = 1 if is_symbolic_dim(shape[0]) else shape[0]  # symbolic: of a function that is exported
    num_pixels = batch * math.prod((n + 2 * padding - kernel_shape[0]) // step + 1 for n, step in strides)
    if kernel_shape[0] == 1 or 4 * num_pixels < math.prod(kernel_shape[:-1]):
        return _convolve_pixels
    if len(shape) == 5:
        num_taps = num_pixels * kernel_shape[0] ** 2 * shape[-1]
        return _convolve_by_slices if num_taps > MOST_TAPS else _convolve_by_rows
    if not reverse_mode.value:
        return _convolve
    if stride != 1:
        return _convolve_pixels if kernel_shape[0] == 3 else _convolve
    return _convolve_images if kernel_shape[0] == 2 * padding + 1 else _convolve


def choose_on_tpu(shape: tuple[int, ...], kernel_shape: tuple[int, ...], stride: Stride, padding: int) -> Callable:
    """As `choose_on_cpu`, by the cycles that the compiler of TPUs expects of a convolution with its gradients (not measured).

    A 3D convolution as 2D convolutions of slices takes 0.2 to 0.5 of them, and compiles in less time, unless an axis is short.
    """
    is_large = len(shape) == 5 and min(shape[1:-1]) >= LEAST_EDGE and kernel_shape[0] > 1
    return _convolve_by_slices if is_large else _convolve


CHOICES = {'cpu': choose_on_cpu, 'tpu': choose_on_tpu}


def _of_axes(stride: Stride, num_axes: int) -> tuple[int, ...]:
    return (stride,) * num_axes if isinstance(stride, int) else stride


def _convolve(x: jax.Array, kernel: jax.Array, stride: Stride, padding: int) -> jax.Array:
    num_axes = x.ndim - 2
    axes = 'DHW'[-num_axes:]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=_of_axes(stride, num_axes),
        padding=((padding, padding),) * num_axes,
        dimension_numbers=(f'N{axes}C', f'{axes}IO', f'N{axes}C'),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve_images(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """`_convolve` with stride 1, an odd kernel and 'same' padding; with a custom derivative rule."""
    return _convolve(x, kernel, stride, padding)


def _convolve_images_backward(stride, padding, saved, grad):
    x, kernel = saved
    size, (height, width) = len(kernel), x.shape[1:3]
    # The gradient of each row of the kernel is a matrix product, of x moved by that row and grad moved by every column.
    rows = jnp.pad(x, ((0, 0), (padding, padding), (0, 0), (0, 0)))
    columns = jnp.pad(grad, ((0, 0), (0, 0), (padding, padding), (0, 0)))
    columns = jnp.concatenate([columns[:, :, j : j + width] for j in reversed(range(size))], axis=-1)
    columns = columns.reshape(-1, columns.shape[-1])
    products = [rows[:, i : i + height].reshape(-1, x.shape[-1]).T @ columns for i in range(size)]
    grad_kernel = jnp.stack(products).reshape(size, x.shape[-1], size, -1).swapaxes(1, 2)
    return _convolve(grad, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), 1, padding), grad_kernel


_convolve_images.defvjp(
    lambda x, kernel, *where: (_convolve(x, kernel, *where), (x, kernel)), _convolve_images_backward
)


def _convolve_pixels(x: jax.Array, kernel: jax.Array, stride: Stride, padding: int) -> jax.Array:
    """As one matrix product, of the patch of each output pixel (im2col)."""
    return multiply(_gather_taps(x, x.ndim - 2, len(kernel), stride, padding), kernel.reshape(-1, kernel.shape[-1]))


def _convolve_by_rows(x: jax.Array, kernel: jax.Array, stride: Stride, padding: int) -> jax.Array:
    """As a 1D convolution of rows: the taps along all axes but the last become channels."""
    size, stride = len(kernel), _of_axes(stride, x.ndim - 2)
    taps = _gather_taps(x, x.ndim - 3, size, stride[:-1], padding)
    rows, kernel = taps.reshape(-1, *taps.shape[-2:]), jnp.moveaxis(kernel, -3, 0).reshape(size, taps.shape[-1], -1)
    return _convolve(rows, kernel, stride[-1:], padding).reshape(*taps.shape[:-2], -1, kernel.shape[-1])


def _convolve_by_slices(x: jax.Array, kernel: jax.Array, stride: Stride, padding: int) -> jax.Array:
    """As the sum of 2D convolutions, one for each tap along the first axis."""
    stride = _of_axes(stride, x.ndim - 2)
    taps = jnp.split(_gather_taps(x, 1, len(kernel), stride[:1], padding), len(kernel), axis=-1)
    batch, depth, *space, size = taps[0].shape
    convolved = (
        _convolve(tap.reshape(-1, *space, size), of_tap, stride[1:], padding)
        for tap, of_tap in zip(taps, kernel, strict=True)
    )
    total = reduce(jnp.add, convolved)
    return total.reshape(batch, depth, *total.shape[1:])


def _gather_taps(x: jax.Array, num_axes: int, size: int, stride: Stride, padding: int) -> jax.Array:
    """Patches along the first `num_axes` spatial axes, their taps as features: [B, *pixels, *rest, taps F]."""
    x = jnp.pad(x, [(padding, padding) if 1 <= i <= num_axes else (0, 0) for i in range(x.ndim)])
    strides = _of_axes(stride, num_axes)
    spans = [(n - size) // step * step + 1 for n, step in zip(x.shape[1:], strides, strict=False)]
    starts = itertools.product(range(size), repeat=num_axes)
    taps = [
        x[:, *(slice(i, i + n, step) for i, n, step in zip(start, spans, strides, strict=True))] for start in starts
    ]
    return jnp.concatenate(taps, axis=-1)
