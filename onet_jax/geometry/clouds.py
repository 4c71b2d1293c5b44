"""Point clouds as scanners deliver them: stray points, outliers, repeated points, statistics of the sampling. Imports no JAX.

P points of a cloud.
"""

import numpy as np
from scipy.spatial import KDTree

NUM_SEEN = 4096  # points from which the bulk of a cloud is found
TRIMMED = 0.03  # share of them beyond each side of the bulk
MIN_POINTS = 20  # distinct ones among them; fewer have no bulk
# Longest edges of the bounding box between it and stray points: they make it at least three times as large, or twice where they
# are at (0, 0, 0), the place of invalid returns.
GAP, GAP_OF_ZEROS = 2.0, 1.0
MAX_SHARE = 0.01  # of the distinct points: a larger part of a cloud is no stray
REPEATED = 0.01  # share of the points: from so many on, repeated points are dropped
NUM_NEAREST, OUTLYING = 16, 2.5  # neighbours whose mean distance says how isolated a point is; medians of it
# Nearest neighbours of a point, and of how many points, where the sampling is measured.
SURROUNDINGS, NUM_PROBES = 8, 1000


def bounding_box(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest corner of the box of points [P, 3], float64."""
    # Column by column: ten times as fast as along an axis of length 3.
    low, high = (np.array([bound(column) for column in points.T], np.float64) for bound in (np.min, np.max))
    return low, high


def longest_edge(points: np.ndarray) -> float:
    """That of the box of points [P, 3]."""
    low, high = bounding_box(points)
    return float((high - low).max())


def find_strays(points: np.ndarray) -> np.ndarray:
    """Which points [P, 3] are stray, such as the invalid returns of a scanner: [P] bool.

    They are at most `MAX_SHARE` of the points, or one, and the gap between them and the bounding box of the others is wider
    than `GAP` longest edges of that, or `GAP_OF_ZEROS`. What is joined to the others by a chain of points, such as an antenna,
    is not stray.
    """
    stray = np.zeros(len(points), bool)
    sample = points[np.random.default_rng(0).integers(len(points), size=NUM_SEEN)] if len(points) > NUM_SEEN else points
    distinct = np.unique(sample, axis=0)
    if len(distinct) < MIN_POINTS:
        return stray
    most = max(1, MAX_SHARE * len(points) * len(distinct) / len(sample))
    trimmed = int(np.ceil(TRIMMED * len(distinct)))
    low, high = np.sort(distinct, axis=0)[[trimmed, -1 - trimmed]].astype(np.float64)  # of the bulk, which grows
    first, last = bounding_box(points)
    if np.maximum(low - first, last - high).max() <= GAP_OF_ZEROS * (high - low).max():
        return stray
    rest, allowed = np.arange(len(points)), np.where((points == 0).all(axis=1), GAP_OF_ZEROS, GAP)
    while True:
        gaps = np.max([np.maximum(a - x, x - b) for a, b, x in zip(low, high, points[rest].T, strict=True)], axis=0)
        near = gaps <= allowed[rest] * (high - low).max()
        if not near.any():
            if len(rest) <= most or len(np.unique(points[rest], axis=0)) <= most:
                break
            near = gaps <= gaps.min()
        first, last = bounding_box(points[rest[near]])
        low, high = np.minimum(low, first), np.maximum(high, last)
        rest = rest[~near]
    stray[rest] = True
    return stray


def find_outliers(points: np.ndarray) -> np.ndarray:
    """Which points [P, 3] are scattered around the surface: [P] bool, by statistical outlier removal (Rusu et al., 2008).

    The mean distance to their `NUM_NEAREST` neighbours is more than `OUTLYING` times the median over the cloud. Of a scan whose
    density falls with the distance from the scanner, the thin parts are outliers too.
    """
    num = min(NUM_NEAREST, len(points) - 1)
    if num < 1:
        return np.zeros(len(points), bool)
    distances, _ = KDTree(points).query(points, k=range(2, num + 2), workers=-1)  # each point is the nearest to itself
    isolation = distances.mean(axis=1)
    return isolation > OUTLYING * np.median(isolation)


def describe_strays(points: np.ndarray, stray: np.ndarray) -> str:
    """What `find_strays` found, in words."""
    places = np.unique(points[stray], axis=0)
    shown = ', '.join('(' + ', '.join(f'{x:g}' for x in place) + ')' for place in places[:3])
    times = longest_edge(points) / longest_edge(points[~stray])
    return (
        f'{stray.sum()} of {len(points)} points, which make the box {times:.3g} times as large as the others do: at {shown}'
        + (', ...' if len(places) > 3 else '')
    )


def drop_repeated(points: np.ndarray) -> np.ndarray:
    """The distinct points [P', 3] in their order, where at least `REPEATED` of the points [P, 3] are repeated; else all."""
    bits = np.ascontiguousarray(points + 0.0, np.float64).view(np.uint64)  # -0.0 becomes 0.0
    # Hashes of rows are sorted much faster than rows, and 10^7 of them collide with a probability of 3e-6.
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
    hashes = (bits ^ (bits >> np.uint64(29))) @ factors
    _, first = np.unique(hashes, return_index=True)
    return points[np.sort(first)] if len(first) <= (1 - REPEATED) * len(points) else points


def measure_sampling(points: np.ndarray) -> np.ndarray:
    """Extent, density and noise of a cloud [P, 3] in object coordinates: [7].

    Edges of its box; the logarithm of the distance to the 8th neighbour, its quartiles; the median share of the variance of 9
    neighbours that is across their plane (surface variation, Pauly et al., 2002): 0 on a plane, 1/3 in a volume.
    """
    points = np.unique(points, axis=0)
    probes = points[:: -(-len(points) // NUM_PROBES)]
    distances, near = KDTree(points).query(probes, k=range(1, min(SURROUNDINGS + 1, len(points)) + 1))
    quartiles = np.quantile(np.log(np.maximum(distances[:, -1], 1e-3)), (0.25, 0.5, 0.75))
    patches = points[near] - points[near].mean(axis=1, keepdims=True)
    variances = np.linalg.eigvalsh(patches.transpose(0, 2, 1) @ patches)
    variation = variances[:, 0] / np.maximum(variances.sum(axis=1), 1e-12)
    return np.concatenate([np.ptp(points, axis=0), quartiles, [np.median(variation)]])
