"""Upright orientation: a doubt whether y points up, and a guess which axis does, from samples of the surface. Imports no JAX.

What people make stands on its base, and is a mirror image of itself from left to right, or all around, but not from top to
bottom (Fu et al., Upright orientation of man-made objects, SIGGRAPH 2008). Measured on 34 categories with y up (embedded ones,
and of the Princeton Shape Benchmark, SHREC 2007 and Quaternius): at most 36 % of the shapes of a category are doubtful; with z
taken for y more than half of them in 24 categories, and in all 9 of SHREC 2012, which are not aligned. N samples.
"""

import numpy as np
from scipy.spatial import Delaunay, KDTree, QhullError

from onet_jax.geometry.meshes import UPS

NUM_SAMPLES = 3000
BASE = 0.02  # thickness of the base, in units of the longest edge
# Up is doubtful where the shape differs from its mirror image from top to bottom by less than these parts of what it differs
# from the more and the less similar one of the other two.
MORE_ALIKE, LESS_ALIKE = 1.3, 0.6
FLAT = 1 / 3  # a scan of the ground has a height of less than this part of its width


def is_up_doubtful(surface: np.ndarray) -> bool:
    """Whether samples [N, 3] of the surface of a shape look as if another axis than y pointed up: a hint, no proof."""
    samples = _thin(surface)
    low, high = samples.min(axis=0), samples.max(axis=0)
    samples = (samples - (low + high) / 2) / max((high - low).max(), 1e-12)
    return _topples(samples) or _is_mirrored(samples)


def find_up(cloud: np.ndarray) -> str:
    """The axis of a cloud [N, 3] that points up, 'x', 'y' or 'z', where it can be told; else 'y'.

    It is the only one along which there is no doubt; a scan of the ground, which leaves doubts along all, is flat.
    """
    samples = _thin(cloud)
    upright = [up for up, turn in UPS.items() if not is_up_doubtful(samples @ turn.T)]
    if len(upright) == 1:
        return upright[0]
    low, middle, _ = np.sort(edges := np.ptp(cloud, axis=0))
    return [*UPS][int(np.argmin(edges))] if not upright and low < FLAT * middle else 'y'


def _thin(surface: np.ndarray) -> np.ndarray:
    return surface[:: max(1, len(surface) // NUM_SAMPLES)].astype(np.float64)


def _topples(samples: np.ndarray) -> bool:
    """Whether the centre of mass is not above the convex hull of the base."""
    base = samples[samples[:, 1] < samples[:, 1].min() + BASE][:, [0, 2]]
    try:
        return bool(Delaunay(base).find_simplex(samples[:, [0, 2]].mean(axis=0)) < 0)
    except (QhullError, ValueError):  # it stands on a point or a line
        return True


def _is_mirrored(samples: np.ndarray) -> bool:
    """Whether it is more like its mirror image from top to bottom than like those along the two other axes."""
    tree = KDTree(samples)
    along_x, along_y, along_z = (tree.query(samples * (1 - 2 * axis))[0].mean() for axis in np.eye(3))
    less, more = sorted((along_x, along_z))
    return bool(along_y < min(MORE_ALIKE * less, LESS_ALIKE * more))
