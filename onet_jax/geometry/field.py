"""Implicit fields: their values at any number of query points, their gradients, and the normals of level sets.

A field is any callable, points [T, 3] -> values [T]: of JAX or of numpy for `evaluate`, of JAX for all that differentiates it.
T query points, N vertices.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from onet_jax.conventions import Array
from onet_jax.errors import InputError

# Points at a time. On a CPU the activations of a chunk stay in the cache: with 256 features 4,096 points are the fastest,
# half and twice as many cost 2 % and 6 % more, four times as many 30 %. An accelerator needs more points to be busy: it cuts
# matrix products into tiles of about 128 x 128, of which this many points give several to each multiprocessor.
QUERY_CHUNK = 4096
ACCELERATOR_QUERY_CHUNK = 65536


# The platform that is compiled for; '' is that of the default backend of JAX.
compiled_for = jax.make_user_context('')


def for_backend(cpu: int, accelerator: int) -> int:
    """`cpu` where a CPU is compiled for, else `accelerator`."""
    return cpu if (compiled_for.value or jax.default_backend()) == 'cpu' else accelerator


def bucket_size(size: int, least: int = 1) -> int:
    """The size rounded up to `least` times a power of two, so that few programs are compiled for arrays of many sizes."""
    return least << (max(int(size) - 1, 0) // least).bit_length()


def check_finite(values: np.ndarray, name: str) -> None:
    """Raises InputError, with the name, for values that are complex or not all finite."""
    if np.iscomplexobj(values):
        raise InputError(f'{name}: expected real numbers, found {values.dtype}')
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise InputError(f'{name}: expected finite numbers, found {bad} of {values.size} not finite')


def check_points(points: Array, name: str = 'points') -> None:
    """Raises InputError unless points are [T, 3], and real."""
    if jnp.ndim(points) != 2 or points.shape[1] != 3:
        raise InputError(f'{name}: expected an array [T, 3], found the shape {list(jnp.shape(points))}')
    if jnp.iscomplexobj(points):
        raise InputError(f'{name}: expected real numbers, found {points.dtype}')


def evaluate(field: Callable, points: np.ndarray, *, chunk_size: int | None = None) -> np.ndarray:
    """points [T, 3] -> values [T] in the dtype that the field returns (float64 where T is 0); [T, ...] if it returns that.

    The field is only called with [chunk_size, 3], the last chunk being padded: one compilation serves any T. Any other rows do
    as points. The default size
    is QUERY_CHUNK on a CPU, ACCELERATOR_QUERY_CHUNK elsewhere. All chunks are dispatched before the first result is awaited.
    Where the device runs out of memory, the evaluation is repeated with chunks of half the size. Raises InputError for another
    number of values than points.
    """
    if not len(points):
        return np.zeros(0)
    chunk_size = chunk_size or for_backend(QUERY_CHUNK, ACCELERATOR_QUERY_CHUNK)
    chunks = [points[start : start + chunk_size] for start in range(0, len(points), chunk_size)]
    chunks[-1] = np.resize(chunks[-1], (chunk_size, *points.shape[1:]))
    try:
        pieces = [field(chunk) for chunk in chunks]
        values = [np.asarray(piece) for piece in pieces]
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error) or chunk_size == 1:
            raise
        return evaluate(field, points, chunk_size=chunk_size // 2)
    if any(value.shape[:1] != (chunk_size,) for value in values):
        raise InputError(
            f'field: expected {chunk_size} values for as many points, found the shape {list(values[0].shape)}'
        )
    return np.concatenate(values)[: len(points)]


def field_normals(field: Callable, points: np.ndarray) -> np.ndarray:
    """Unit normals -grad / |grad| of the logits at points [N, 3], outwards where the inside is high: [N, 3] float32.

    Zero where the gradient vanishes. One compilation serves any N, and all shapes where the field is a pytree, as of
    `model.bind` or `jax.tree_util.Partial`. Any other callable is compiled anew for each object.
    """
    if not len(points):
        return np.zeros((0, 3), np.float32)
    return evaluate(partial(_normals, as_argument(field)), points).astype(np.float32)


def as_argument(field: Callable) -> Callable:
    """The field as an argument of a jitted function: arrays of a pytree are traced, those of other callables are constants."""
    return Partial(field) if jax.tree_util.all_leaves([field]) else field


def checked_call(field: Callable, points: jax.Array) -> jax.Array:
    """points [T, 3] -> values [T]. Raises InputError for values of another shape, and for a field that is not of JAX."""
    try:
        values = field(points)
    except jax.errors.TracerArrayConversionError as error:
        raise InputError('field: expected a function of JAX, to differentiate it, found one of numpy') from error
    if values.shape != points.shape[:1]:
        raise InputError(f'field: expected values of shape {points.shape[:1]}, found {values.shape}')
    return values


def value_and_gradient(field: Callable, points: jax.Array) -> tuple[jax.Array, jax.Array]:
    """points [T, 3] -> values [T] and the gradient [T, 3] of each value with respect to its own point."""

    def total(points):
        values = checked_call(field, points)
        return values.sum(), values

    (_, values), gradient = jax.value_and_grad(total, has_aux=True)(points)
    return values, gradient


@jax.jit
def _normals(field, points):
    _, gradient = value_and_gradient(field, points)
    norm = jnp.linalg.norm(gradient, axis=-1, keepdims=True)
    return jnp.where(norm > 0, -gradient / jnp.where(norm > 0, norm, 1), 0)
