"""Affine arithmetic: guaranteed bounds of the logits of a `BoundDecoder` on whole cuboids (range analysis).

On the cuboid centre + half_edges e, e in [-1, 1]^3 (the noise symbols), every unit x of the network is an affine form

    |x(e) - (middle + slopes . e)| <= error

A linear layer maps middle and slopes by its matrix, and the error by the absolute values of the matrix. A ReLU is replaced by
its best linear approximation on the range of the unit (Chebyshev approximation), whose largest deviation is added to the error;
where the range does not contain the kink, nothing is. Source: Sharp and Jacobson, Spelunking the Deep: Guaranteed Queries on
General Neural Implicit Surfaces via Range Analysis, SIGGRAPH 2022 (their "affine fixed").

With one error for each unit, errors of earlier layers cannot cancel in later ones. In the logit they can: once lines replace
ReLUs, it is a linear function of the errors that the units add. The factors are derivatives, and one backward pass finds all
of them. Their "affine all" keeps a row of features for each error instead: it costs more and bounds the hidden units better.

The bounds hold for the numbers that the network computes, not for exact arithmetic only. A sum of F products, taken in any
order and without underflow, is off by at most F eps / 2 times the sum of their magnitudes (Higham, Accuracy and Stability of
Numerical Algorithms, section 3.1), itself bounded by the product of the norms (Cauchy-Schwarz). Each unit adds that as another
error, twice: once for the network, and once for the forward and the backward pass here, which share the magnitude. This
supposes products in the precision of the arrays: on an accelerator, `jax.default_matmul_precision('highest')`.

N cuboids, F features in, G out.
"""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.geometry.field import evaluate, for_backend

if TYPE_CHECKING:
    from onet_jax.networks.bound_decoder import Affine, BoundDecoder

# Cuboids at a time (see `geometry/field.py`). Each takes five rows of features: middle, three slopes, error.
CUBOID_CHUNK = 512
ACCELERATOR_CUBOID_CHUNK = 2048
SLACK = 8  # in eps of the magnitude: bounds all rounding errors but those of sums of products


class AffineForm(NamedTuple):
    """Affine forms of units, functions of e in [-1, 1]^3."""

    middle: jax.Array  # [N, F]
    slopes: tuple[jax.Array, ...]  # [N, F] along each of the three axes
    error: jax.Array  # [N, F]

    def radius(self) -> jax.Array:
        """[N, F]: the largest distance from the middle."""
        return sum(jnp.abs(slope) for slope in self.slopes) + self.error

    def magnitude(self) -> jax.Array:
        """[N, F]: the largest absolute value."""
        return jnp.abs(self.middle) + self.radius()


class Errors:
    """The errors that the units add, in order: their sizes, and a shift of each unit, by which the logit is differentiated."""

    def __init__(self, shifts: list[jax.Array]):
        self.shifts = shifts
        self.sizes: list[jax.Array] = []

    def add(self, size: jax.Array, x: AffineForm) -> AffineForm:
        """x with another error of `size` [N, F], and moved by the shift that stands for it."""
        shift = self.shifts[len(self.sizes)]
        self.sizes.append(size)
        return AffineForm(x.middle + shift, x.slopes, x.error + size)


def find_range(decoder: 'BoundDecoder', centres: np.ndarray, half_edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the logits on closed cuboids: centres [N, 3], edges 2 half_edges -> low [N], high [N].

    half_edges: [3] along each axis, or a number for cubes. The bounds hold for the logits that `decoder` computes, rounding
    errors included; on overflow they are infinite or NaN. One compilation serves any N and half_edges.
    """
    if not len(centres):
        return np.zeros(0), np.zeros(0)
    half_edges = np.broadcast_to(np.asarray(half_edges, decoder.scale.dtype), 3)
    bounds = partial(_find_range, decoder, half_edges)
    low, high = evaluate(bounds, centres, chunk_size=for_backend(CUBOID_CHUNK, ACCELERATOR_CUBOID_CHUNK)).T
    return low, high


@jax.jit
def _find_range(decoder: 'BoundDecoder', half_edges: jax.Array, centres: jax.Array) -> jax.Array:
    """half_edges [3], centres [N, 3] -> low and high [N, 2]."""
    num_errors = 2 + 4 * len(decoder.blocks) + 2 * len(decoder.layers)
    zeros = jnp.zeros((len(centres), len(decoder.scale)), decoder.scale.dtype)

    def decode(shifts):
        errors = Errors(shifts)
        logit = _decode(decoder, _cuboids(centres, half_edges), errors)
        return logit.middle.sum(), (logit, errors.sizes)

    factors, (logit, sizes) = jax.grad(decode, has_aux=True)([zeros] * num_errors + [zeros[:, :1]])
    error = sum((jnp.abs(factor) * size).sum(axis=1) for factor, size in zip(factors, sizes, strict=True))
    middle, radius = logit.middle[:, 0], logit._replace(error=error[:, None]).radius()[:, 0]
    # The rounding errors of these sums and of the last difference.
    eps = jnp.finfo(zeros.dtype).eps
    radius = radius * (1 + (zeros.shape[1] + num_errors) * eps) + eps * jnp.abs(middle)
    return jnp.stack([middle - radius, middle + radius], axis=1)


def _cuboids(centres: jax.Array, half_edges: jax.Array) -> AffineForm:
    """The affine forms of coordinates, F = 3. The cuboids are a little larger, as points, centres and edges are rounded."""
    half = half_edges + SLACK * jnp.finfo(centres.dtype).eps * (jnp.abs(centres) + half_edges)
    return AffineForm(centres, tuple(half * axis for axis in np.eye(3, dtype=centres.dtype)), jnp.zeros_like(centres))


def _decode(decoder: 'BoundDecoder', x: AffineForm, errors: Errors) -> AffineForm:
    """The affine forms of points, F = 3, -> those of the logits, F = 1: `BoundDecoder.__call__`, line by line."""
    x = _linear(decoder.lift, x, errors)
    for block in decoder.blocks:
        inner = _linear(block.inner, _relu(x, errors, block.scale, block.shift), errors)
        x = _linear(block.outer, _relu(inner, errors), errors, carried=x)
    for layer in decoder.layers:
        x = _linear(layer, _relu(x, errors), errors)
    x = _relu(x, errors, decoder.scale, decoder.shift, 0.2 if decoder.leaky else 0.0)
    return _linear(decoder.output, x, errors)


def _linear(affine: 'Affine', x: AffineForm, errors: Errors, carried: AffineForm | None = None) -> AffineForm:
    """carried + x kernel + bias: [N, F] -> [N, G]."""
    kernel = affine.kernel.astype(affine.bias.dtype)
    # For the sums, for x rounded to the precision of the kernel, and slack for the additions.
    slack = SLACK * jnp.finfo(kernel.dtype).eps
    relative = len(kernel) * jnp.finfo(kernel.dtype).eps + jnp.finfo(affine.kernel.dtype).eps + slack
    size = relative * jnp.linalg.norm(x.magnitude(), axis=1, keepdims=True) * jnp.linalg.norm(kernel, axis=0)
    size += slack * jnp.abs(affine.bias)
    mapped = AffineForm(x.middle @ kernel + affine.bias, tuple(s @ kernel for s in x.slopes), x.error @ jnp.abs(kernel))
    if carried is not None:
        size += slack * carried.magnitude()
        mapped = jax.tree.map(jnp.add, carried, mapped)
    return errors.add(size, mapped)


def _relu(
    x: AffineForm, errors: Errors, scale: jax.Array | float = 1.0, shift: jax.Array | float = 0.0, slope: float = 0.0
) -> AffineForm:
    """(Leaky) ReLU max(y, slope y) of y = scale x + shift: for y in [low, high] it is within `gap` of the line chord y + gap.

    A y that rounding moves past an end adds at most the rounding: neither ReLU nor line has a slope above 1.
    """
    middle, radius = scale * x.middle + shift, jnp.abs(scale) * x.radius()
    low, high = middle - radius, middle + radius
    crossed = (low < 0) & (high > 0)
    chord = (high - slope * low) / jnp.where(crossed, high - low, 1)
    chord = jnp.where(crossed, chord, jnp.where(high > 0, 1.0, slope))
    # ReLU minus chord y: 0 at the kink, and largest at one of the ends.
    gap = jnp.maximum(jnp.maximum((slope - chord) * low, (1 - chord) * high), 0) / 2
    # Twice: for y, and for the line.
    slack = 2 * SLACK * jnp.finfo(gap.dtype).eps * (jnp.abs(middle) + radius + jnp.abs(shift))
    chord, gap, slack = jax.lax.stop_gradient((chord, gap, slack))
    line = AffineForm(
        chord * middle + gap, tuple(chord * scale * s for s in x.slopes), chord * jnp.abs(scale) * x.error
    )
    return errors.add(gap + slack, line)
