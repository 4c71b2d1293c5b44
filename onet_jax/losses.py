"""Losses without reduction: the caller sums over points and averages over the batch.

B batch, N and M points of D coordinates.
"""

import jax
import jax.numpy as jnp


def occupancy_bce(logits: jax.Array, occ: jax.Array) -> jax.Array:
    """Binary cross-entropy of occupancy (paper, eq. 2), elementwise, in nats.

    logits and occ (in [0, 1]) of any common shape. Stable for large logits: max(l, 0) - l o + log(1 + exp(-|l|)).
    """
    return jnp.maximum(logits, 0) - logits * occ + jnp.log1p(jnp.exp(-jnp.abs(logits)))


def kl_to_standard_normal(mean: jax.Array, log_std: jax.Array) -> jax.Array:
    """Kullback-Leibler (KL) divergence of N(mean, exp(log_std)^2) from N(0, 1), elementwise, in nats (paper, eq. 3).

    mean and log_std of one shape: (std^2 + mean^2 - 1) / 2 - log_std.
    """
    return 0.5 * (jnp.exp(2 * log_std) + jnp.square(mean) - 1) - log_std


def distances(a: jax.Array, b: jax.Array) -> jax.Array:
    """Euclidean distances of points [..., 3]; the gradient of a distance 0 is 0."""
    squares = jnp.square(a - b).sum(axis=-1)
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def chamfer(points: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squared Chamfer distances: of each point to the nearest point of the other set (Fan et al., CVPR 2017).

    points [B, N, D], targets [B, M, D] -> [B, N] and [B, M], in squared units of the points. The differences are squared: the
    expansion |a|^2 - 2 a b + |b|^2 would lose small distances. The gradient goes through the nearest pairs.
    """
    to_targets = jnp.square(points - take(targets, find_nearest(points, targets))).sum(axis=-1)
    return to_targets, jnp.square(targets - take(points, find_nearest(targets, points))).sum(axis=-1)


def chamfer_distance(points: jax.Array, targets: jax.Array) -> jax.Array:
    """The squared Chamfer distance of points [B, N, D] and targets [B, M, D], mean plus mean -> [B]."""
    to_targets, to_points = chamfer(points, targets)
    return to_targets.mean(axis=1) + to_points.mean(axis=1)


PAIRS_AT_ONCE = 1 << 22  # of points, whose distances are in memory at a time
UNROLLED = 8  # targets of one step of the loop on a CPU


def find_nearest(points: jax.Array, targets: jax.Array) -> jax.Array:
    """points [B, N, D], targets [B, M, D] -> the number [B, N] of the target nearest to each point, the first of several."""
    find_each = jax.vmap(_find_nearest)
    points, targets = jax.lax.stop_gradient((points, targets))
    return jax.lax.platform_dependent(points, targets, cpu=_keep_nearest, default=find_each)


def take(rows: jax.Array, numbers: jax.Array) -> jax.Array:
    """rows [B, M, F] by their numbers [B, N] -> [B, N, F]."""
    return jax.vmap(lambda rows, numbers: rows[numbers])(rows, numbers)


def _find_nearest(points: jax.Array, others: jax.Array) -> jax.Array:
    """points [N, D], others [M, D] -> [N]."""

    def find(point):
        return jnp.argmin(_squared_distance(point, others)).astype(jnp.int32)

    at_once = max(1, min(len(points), PAIRS_AT_ONCE // len(others)))
    return jax.lax.map(find, points, batch_size=at_once)


def _keep_nearest(points: jax.Array, targets: jax.Array) -> jax.Array:
    """`find_nearest`, one target after the other: XLA on a CPU takes thirty times as long for the minimum of a row."""

    def compare(nearest, target):
        best, number, count = nearest
        distance = _squared_distance(points, target[:, None])
        is_nearer = distance < best
        return (jnp.where(is_nearer, distance, best), jnp.where(is_nearer, count, number), count + 1), None

    start = (
        jnp.full(points.shape[:2], jnp.inf, jnp.result_type(points, targets)),
        jnp.zeros(points.shape[:2], jnp.int32),
        jnp.int32(0),
    )
    (_, number, _), _ = jax.lax.scan(compare, start, jnp.moveaxis(targets, 1, 0), unroll=UNROLLED)
    return number


def _squared_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """Points [..., D] that broadcast -> [...]."""
    if a.shape[-1] > 3:
        return jnp.square(a - b).sum(axis=-1)
    x, y, z = (jnp.square(a[..., axis] - b[..., axis]) for axis in range(3))
    return x + y + z
