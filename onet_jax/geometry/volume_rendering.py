"""Volume rendering of a radiance field: stratified and hierarchical sampling of rays, compositing (NeRF, sections 4 and 5).

R rays, N samples of a ray, K further samples. A ray is o + t d; directions d are not normalised, distances t are in units of d.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

BACKGROUNDS = {'white': 1.0, 'black': 0.0}
FAR_AWAY = 1e10  # length of the last interval: what is left of a ray ends in its last sample
TINY_WEIGHT = 1e-5  # of each interval, so that a ray that meets nothing is sampled everywhere


class Rays(NamedTuple):
    """Rays and the part of each that is rendered. Of arrays of numpy or of JAX, which the types leave out."""

    origins: Any  # [R, 3]
    directions: Any  # [R, 3]
    view_directions: Any  # [R, 3], of length 1, in world coordinates: what the colour may depend on
    near: Any  # [R]
    far: Any  # [R]


class Rendering(NamedTuple):
    """What a ray sees; arrays as of `Rays`."""

    rgb: Any  # [R, 3]
    depth: Any  # [R], expected distance
    disparity: Any  # [R], opacity / depth
    opacity: Any  # [R] in [0, 1]
    weights: Any = None  # [R, N], the share of each sample in the colour


def points_on(rays: Rays, distances: jax.Array) -> jax.Array:
    """o + t d at distances [R, N]: [R, N, 3]."""
    return rays.origins[:, None] + distances[..., None] * rays.directions[:, None]


def stratify(rays: Rays, num_samples: int, jitter: jax.Array | None = None, in_disparity: bool = False) -> jax.Array:
    """Stratified sampling (eq. 2): ascending distances [R, N], one in each of N intervals of a ray.

    jitter: [R, N] in [0, 1), the place in each interval; None takes fixed places, the ends of the ray among them.
    in_disparity: intervals of equal length in 1 / t instead of t.
    """
    share = jnp.linspace(0.0, 1.0, num_samples, dtype=rays.near.dtype)
    near, far = rays.near[:, None], rays.far[:, None]
    start, end = (1 / near, 1 / far) if in_disparity else (near, far)
    distances = start * (1 - share) + end * share
    distances = 1 / distances if in_disparity else distances
    if jitter is None:
        return distances
    middles = (distances[:, 1:] + distances[:, :-1]) / 2
    lower = jnp.concatenate([distances[:, :1], middles], axis=-1)
    upper = jnp.concatenate([middles, distances[:, -1:]], axis=-1)
    return lower + (upper - lower) * jitter


def composite(
    rgb: jax.Array, density: jax.Array, distances: jax.Array, directions: jax.Array, background: float = 0.0
) -> Rendering:
    """Composite the samples of each ray, front to back (eq. 3).

    rgb [R, N, 3] and density [R, N] >= 0 at distances [R, N]; directions [R, 3], whose lengths are the unit of the distances.
    background: colour behind what the ray meets, of `BACKGROUNDS`.
    """
    lengths = jnp.diff(distances, append=jnp.full_like(distances[:, :1], jnp.inf))
    lengths = jnp.where(jnp.isinf(lengths), FAR_AWAY, lengths) * jnp.linalg.norm(directions, axis=-1, keepdims=True)
    alpha = 1 - jnp.exp(-density * lengths)
    # 1e-10 keeps the gradient of a product with a factor of zero.
    passed = jnp.cumprod(1 - alpha + 1e-10, axis=-1)
    transmittance = jnp.concatenate([jnp.ones_like(passed[:, :1]), passed[:, :-1]], axis=-1)
    weights = alpha * transmittance
    opacity, depth = weights.sum(axis=-1), (weights * distances).sum(axis=-1)
    seen = (weights[..., None] * rgb).sum(axis=-2) + background * (1 - opacity[:, None])
    met = opacity > 0  # else depth / opacity is 0 / 0
    disparity = jnp.where(met, 1 / jnp.maximum(1e-10, depth / jnp.where(met, opacity, 1)), 0)
    return Rendering(seen, depth, disparity, opacity, weights)


def sample_again(distances: jax.Array, weights: jax.Array, places: jax.Array) -> jax.Array:
    """Hierarchical sampling (section 5.2): the distances [R, N] and K more where the weights [R, N] are high, [R, N + K].

    places: [R, K] in [0, 1], as of the inverse of the cumulative distribution. No gradient passes through the result.
    """
    middles = (distances[:, 1:] + distances[:, :-1]) / 2
    found = invert_cdf(middles, weights[:, 1:-1], places)
    return jax.lax.stop_gradient(jnp.sort(jnp.concatenate([distances, found], axis=-1), axis=-1))


def invert_cdf(edges: jax.Array, weights: jax.Array, places: jax.Array) -> jax.Array:
    """Inverse transform sampling of a piecewise constant density: edges [R, M + 1], weights [R, M], places [R, K] -> [R, K]."""
    pdf = weights + TINY_WEIGHT
    cdf = jnp.cumsum(pdf / pdf.sum(axis=-1, keepdims=True), axis=-1)
    cdf = jnp.concatenate([jnp.zeros_like(cdf[:, :1]), cdf], axis=-1)
    # The number of edges at or before a place; a comparison of all pairs is parallel, a binary search is not.
    after = (places[..., None] >= cdf[:, None, :]).sum(axis=-1)
    below, above = jnp.maximum(after - 1, 0), jnp.minimum(after, cdf.shape[-1] - 1)
    cdf_below, cdf_above = (jnp.take_along_axis(cdf, i, axis=-1) for i in (below, above))
    edge_below, edge_above = (jnp.take_along_axis(edges, i, axis=-1) for i in (below, above))
    gap = cdf_above - cdf_below
    share = (places - cdf_below) / jnp.where(gap < 1e-5, 1, gap)  # as the official code, where an interval is empty
    return edge_below + share * (edge_above - edge_below)


def to_ndc(rays: Rays, focal: jax.Array, height: int, width: int, near: float = 1.0) -> Rays:
    """Rays of a forward-facing scene in normalised device coordinates (appendix C): from 0 at the near plane to 1 at infinity.

    Camera axes x right, y up, looking along -z; focal [R] in px. View directions stay those of the world.
    """
    origins, directions = rays.origins, rays.directions
    shift = -(near + origins[:, 2]) / directions[:, 2]
    origins = origins + shift[:, None] * directions
    x, y = -2 * focal / width, -2 * focal / height
    ox, oy, oz = jnp.moveaxis(origins, -1, 0)
    dx, dy, dz = jnp.moveaxis(directions, -1, 0)
    return rays._replace(
        origins=jnp.stack([x * ox / oz, y * oy / oz, 1 + 2 * near / oz], axis=-1),
        directions=jnp.stack([x * (dx / dz - ox / oz), y * (dy / dz - oy / oz), -2 * near / oz], axis=-1),
        near=jnp.zeros_like(rays.near),
        far=jnp.ones_like(rays.far),
    )
