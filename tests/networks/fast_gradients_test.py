"""The rules for speed against plain JAX, and what their switch does."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from untrained import draw_weights

from onet_jax.networks.fast_gradients import (
    _convolve,
    _convolve_by_rows,
    _convolve_by_slices,
    _convolve_images,
    _convolve_pixels,
    choose_on_cpu,
    convolve,
    multiply,
    reverse_mode,
)
from onet_jax.networks.layers import BatchNorm, ConditionalBatchNorm, Conv, Linear, ResnetBlock

# A layer, the shapes of its inputs, and the mode. Convolutions without a rule are those of `check_convolution`.
LAYERS = {
    'linear': (Linear(5), ((2, 7, 3), (2, 1, 4)), {}),
    'conditional batch norm in evaluation': (ConditionalBatchNorm(), ((2, 7, 3), (2, 4)), {'train': False}),
    'conditional batch norm in training': (ConditionalBatchNorm(), ((2, 7, 3), (2, 4)), {'train': True}),
    'block in evaluation': (ResnetBlock(5, BatchNorm), ((2, 7, 3),), {'train': False}),
    'block in training': (ResnetBlock(5, BatchNorm), ((2, 7, 3),), {'train': True}),
    'images': (Conv(5, padding=1), ((2, 9, 8, 3),), {}),
}
WITH_RULES = ('conditional batch norm in training', 'block in training', 'images')


def scalar_of(name):
    """A function of all arrays of a layer, and where it is evaluated, in float64: no array is the initial one."""
    layer, shapes, mode = LAYERS[name]
    rng = np.random.default_rng(0)
    inputs = [rng.normal(0.5, 1, shape) for shape in shapes]
    variables = jax.eval_shape(lambda: layer.init(jax.random.key(0), *inputs, **mode))

    def scalar(variables, inputs):
        y, updated = layer.apply(variables, *inputs, **mode, mutable=['batch_stats'])
        return (jnp.sin(y) * jnp.cos(jnp.arange(y.size).reshape(y.shape))).sum(), updated

    return scalar, (jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape), variables), inputs)


@pytest.mark.parametrize('name', LAYERS)
def test_derivatives_agree_in_both_positions_of_the_switch(name):
    with jax.enable_x64(True):
        scalar, where = scalar_of(name)

        @jax.jit
        def derivatives(*where):
            by_all = jax.value_and_grad(scalar, argnums=(0, 1), has_aux=True)
            with reverse_mode(True):
                fast = by_all(*where)
            return fast, by_all(*where)

        fast, plain = derivatives(*where)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), fast, plain)


@pytest.mark.parametrize('name', WITH_RULES)
def test_within_the_switch_forward_differentiation_fails_and_nothing_traced_before_is_used(name):
    with jax.enable_x64(True):
        scalar, where = scalar_of(name)
        traced = []

        @jax.jit
        def value(*where):
            traced.append(reverse_mode.value)
            return scalar(*where)[0]

        def differentiate():
            return jax.jit(lambda *where: jax.jvp(value, where, where)).lower(*where)

        differentiate()
        with reverse_mode(True), pytest.raises(TypeError, match='forward-mode'):
            differentiate()
        differentiate()
    assert traced == [False, True]


@pytest.mark.parametrize('fast', [False, True])
def test_normalisation_of_a_batch_over_devices_has_the_gradient_of_the_whole_batch(fast):
    layer, x = BatchNorm(), np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    variables = draw_weights(jax.eval_shape(partial(layer.init, train=True), jax.random.key(1), x))

    def gradient(x, axis_name=None):
        def scalar(x):
            return jnp.sin(layer.apply(variables, x, train=True, axis_name=axis_name, mutable=['batch_stats'])[0]).sum()

        return jax.grad(scalar)(x)

    @jax.jit
    def both(x):
        with reverse_mode(fast):
            parts = jax.vmap(lambda x: gradient(x, 'data'), axis_name='data')(x.reshape(2, 3, 5, 3))
            return parts.reshape(x.shape), gradient(x)

    np.testing.assert_allclose(*both(x), atol=1e-5)


def test_no_points_are_multiplied_too():
    assert multiply(jnp.zeros((2, 0, 3)), jnp.ones((3, 4))).shape == (2, 0, 4)


@pytest.mark.parametrize(
    'convolve, shape, size, stride, padding',
    [
        (_convolve_by_rows, (2, 7, 8, 9, 3), 3, 1, 1),
        (_convolve_by_rows, (2, 7, 8, 9, 3), 3, 2, 0),
        (_convolve_by_rows, (3, 7, 8, 9, 3), 4, 3, 2),
        (_convolve_by_slices, (1, 32, 31, 30, 16), 3, 1, 1),
        (_convolve_by_slices, (1, 33, 62, 63, 16), 3, (2, 1, 2), 0),
        (_convolve_by_rows, (2, 7, 8, 9, 3), 3, (1, 2, 3), 1),
        (_convolve_pixels, (1, 3, 4, 3, 60), 3, (1, 2, 3), 1),
        (_convolve_pixels, (1, 3, 4, 3, 60), 3, 1, 1),
        (_convolve_pixels, (2, 7, 8, 9, 3), 1, 3, 2),
        (_convolve_pixels, (1, 4, 5, 60), 3, 2, 0),
        (_convolve_pixels, (1, 6, 7, 60), 5, 3, 2),
        (_convolve_pixels, (2, 9, 8, 3), 1, 2, 0),
    ],
)
def test_convolutions_on_a_cpu_are_those_of_xla(convolve, shape, size, stride, padding):
    check_convolution(convolve, shape, size, stride, padding)


@pytest.mark.parametrize(
    'convolve, shape, size, stride, padding',
    [
        (_convolve_images, (2, 9, 8, 3), 3, 1, 1),
        (_convolve_images, (3, 8, 7, 4), 5, 1, 2),
        (_convolve_pixels, (2, 9, 8, 3), 3, 2, 1),
    ],
)
def test_convolutions_of_images_in_training_are_those_of_xla(convolve, shape, size, stride, padding):
    with reverse_mode(True):
        check_convolution(convolve, shape, size, stride, padding)


def check_convolution(convolve, shape, size, stride, padding):
    kernel_shape = (*(size,) * (len(shape) - 2), shape[-1], 5)
    assert choose_on_cpu(shape, kernel_shape, stride, padding) is convolve
    x, kernel = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in (shape, kernel_shape))

    def differentiate(convolve, x, kernel):
        def value(x, kernel):
            y = convolve(x, kernel, stride, padding)
            return jnp.sin(0.1 * y).sum(), y

        (_, y), gradients = jax.value_and_grad(value, (0, 1), has_aux=True)(x, kernel)
        return y, gradients

    ours, theirs = jax.jit(lambda *where: [differentiate(f, *where) for f in (convolve, _convolve)])(x, kernel)
    assert ours[0].shape == theirs[0].shape
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3), ours, theirs)


def test_images_are_convolved_by_xla_out_of_the_switch_and_where_nothing_else_is_faster():
    for size, stride, padding, fast in ((7, 2, 3, True), (3, 1, 0, True), (3, 1, 1, False), (3, 2, 1, False)):
        with reverse_mode(fast):
            assert choose_on_cpu((2, 56, 56, 64), (size, size, 64, 64), stride, padding) is _convolve


@pytest.mark.parametrize(
    'shape, size, num_axes',
    [((1, 16, 17, 18, 3), 3, 2), ((1, 16, 15, 16, 3), 3, 3), ((1, 16, 16, 16, 3), 1, 3), ((1, 64, 64, 3), 3, 2)],
)
def test_a_tpu_convolves_the_slices_of_large_volumes(shape, size, num_axes):
    """What is lowered for one: 2D convolutions, or one of XLA with as many axes as there are."""
    x, kernel = jnp.zeros(shape), jnp.zeros((*(size,) * (len(shape) - 2), shape[-1], 5))
    convolved = jax.jit(lambda x, kernel: convolve(x, kernel, 1, size // 2))
    program = export.export(convolved, platforms=['tpu'])(x, kernel).mlir_module()
    kernels = re.findall(r'stablehlo\.convolution.*?tensor<[\dx]+xf32>, tensor<([\dx]+)xf32>', program)
    assert len(kernels) == (3 if num_axes < len(shape) - 2 else 1)
    assert {kernel.count('x') for kernel in kernels} == {num_axes + 1}


@pytest.mark.parametrize('fast', [False, True])
def test_gradients_of_bfloat16_have_its_precision(fast):
    x, kernel = (np.random.default_rng(0).normal(size=shape) for shape in ((2, 9, 8, 3), (3, 3, 3, 5)))

    @jax.jit
    def gradient(x, kernel):
        def value(x, kernel):
            layer = Conv(5, padding=1, use_bias=False)
            return layer.apply({'params': {'kernel': kernel}}, x).astype(jnp.float32).sum()

        return jax.grad(value, (0, 1))(x, kernel)

    with reverse_mode(fast):
        found, expected = (gradient(*(jnp.asarray(a, d) for a in (x, kernel))) for d in (jnp.bfloat16, jnp.float32))
    for rough, exact in zip(found, expected, strict=True):
        assert rough.dtype == jnp.bfloat16
        np.testing.assert_allclose(rough.astype(jnp.float32), exact, rtol=0.02, atol=0.1)
