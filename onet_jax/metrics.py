"""Metrics of one shape: IoU, Chamfer distance, normal consistency, F-score; correspondence L2 of one that moves.

And of pictures: L1, SSIM, PSNR. Distances are in units of the longest edge. L frames, T query
points, N predicted and M target surface samples, V views, H, W pixels.
"""

import numpy as np
from scipy.spatial import cKDTree
from skimage.metrics import structural_similarity

from onet_jax.conventions import Array

F_SCORE_DISTANCE = 0.01  # 1 % of the longest edge
# Structural similarity of Wang et al. (2004): scikit-image cuts a Gaussian off at 3.5 standard deviations, 5 pixels.
WANG = {'gaussian_weights': True, 'sigma': 1.5, 'use_sample_covariance': False, 'data_range': 1}
WANG_WINDOW = 11  # px


def iou(occ_a: Array, occ_b: Array) -> Array:
    """Intersection over union of two sets of points, [..., T] bool -> [...]; 0/0 is NaN. numpy or JAX arrays."""
    return (occ_a & occ_b).sum(-1) / (occ_a | occ_b).sum(-1)


def surface_metrics(
    points: np.ndarray, normals: np.ndarray, target_points: np.ndarray, target_normals: np.ndarray
) -> dict[str, float]:
    """Chamfer distance, normal consistency and F-score from samples of the predicted surface [N, 3] and of the target [M, 3].

    accuracy        mean distance of a predicted point to the target        accuracy2      mean of its square
    completeness    mean distance of a target point to the prediction       completeness2  mean of its square
    chamfer_l1      mean of accuracy and completeness (Euclidean distances, unscaled; the paper prints ten times this)
    chamfer_l2      mean of accuracy2 and completeness2
    normals_*       mean |cosine| between the normal of a point and that of its nearest neighbour; normal_consistency
                    is the mean of both ways
    f_score         harmonic mean of the shares of points within 1 % of the longest edge, both ways
    """
    tree, target_tree = cKDTree(points), cKDTree(target_points)
    accuracy, nearest_target = _query(target_tree, tree)
    completeness, nearest = _query(tree, target_tree)
    return _summarise(
        accuracy,
        completeness,
        _cosines(normals, target_normals[nearest_target]),
        _cosines(target_normals, normals[nearest]),
    )


def sampling_floor(points: np.ndarray, normals: np.ndarray) -> dict[str, float]:
    """What `surface_metrics` gives for a perfect prediction: each sample [N, 3] against all others of the same surface.

    The nearest of the N - 1 other samples is about as far away as the nearest point of a second, independent sampling.
    """
    distances, others = _nearest_others(points)
    cosines = _cosines(normals, normals[others])
    return _summarise(distances, distances, cosines, cosines)


def _nearest_others(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of the points [N, 3] the distance to the nearest other one, and its index."""
    tree = cKDTree(points)
    distances, indices = _query(tree, tree, k=2)
    # The point itself is one of the two; where two samples coincide it may be the second.
    return distances[:, 1], np.where(indices[:, 0] == np.arange(len(points)), indices[:, 1], indices[:, 0])


def _query(tree: cKDTree, points: cKDTree, k: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """`tree.query(points, k)` of the points of another tree: distances and indices, [N] or [N, k].

    They are looked up leaf by leaf, in half of the time: those that follow each other are near each other, and what their
    searches read is in the cache.
    """
    order = points.indices
    found = tree.query(points.data[order], k)
    distances, indices = map(np.empty_like, found)
    distances[order], indices[order] = found
    return distances, indices


def correspondence_l2(points: np.ndarray, target: np.ndarray, project_last: bool = False) -> np.ndarray:
    """How far points that move [L, N, 3] are from the places of the body on which they begin, a mean of each frame: [L].

    The place is the one of the target [L, M, 3] that is nearest in frame 0, as in the official evaluation of Occupancy Flow.
    project_last: in the last frame points are moved to the nearest place of the target before, as in shape matching.
    """
    _, places = cKDTree(target[0]).query(points[0])
    if project_last:
        _, nearest = cKDTree(target[-1]).query(points[-1])
        points = np.concatenate([points[:-1], target[-1:, nearest]])
    return np.linalg.norm(points - target[:, places], axis=-1).mean(axis=-1)


def correspondence_floor(target: np.ndarray) -> np.ndarray:
    """What `correspondence_l2` gives for a perfect prediction: each sample [L, N, 3] and the nearest other of frame 0: [L]."""
    return np.linalg.norm(target - target[:, _nearest_others(target[0])[1]], axis=-1).mean(axis=-1)


def picture_metrics(rgb: np.ndarray, target: np.ndarray, gaussian: bool = False) -> dict[str, np.ndarray]:
    """Of pictures [V, H, W, 3] in [0, 1], H and W at least 7, beside the true ones: a value for each view, [V] float64.

    l1    mean absolute difference
    ssim  structural similarity as the official evaluation of Texture Fields computes it: windows of 7 x 7 pixels, sample
          covariance, and a data range of 2, which scikit-image took for the range of floats. The range of colours is 1, with
          which the usual SSIM is a little lower.
    psnr  peak signal-to-noise ratio in decibels; of equal pictures infinite

    gaussian: instead of 'ssim' 'ssim_gaussian', that of Wang et al. (2004), which papers of scenes report: Gaussian windows of
    11 x 11 pixels with a standard deviation of 1.5, which lie in the picture, a data range of 1, the mean of the channels. NaN
    for pictures that are smaller than a window.
    """
    rgb, target = np.asarray(rgb, np.float64), np.asarray(target, np.float64)
    name, options = 'ssim', {'data_range': 2}
    if gaussian:
        name, options = 'ssim_gaussian', WANG
    if gaussian and min(rgb.shape[1:3]) < WANG_WINDOW:
        similarity = [np.nan] * len(rgb)
    else:
        similarity = [
            structural_similarity(*pair, channel_axis=-1, **options) for pair in zip(rgb, target, strict=True)
        ]
    with np.errstate(divide='ignore'):
        psnr = -10 * np.log10(np.square(rgb - target).mean(axis=(1, 2, 3)))
    return {'l1': np.abs(rgb - target).mean(axis=(1, 2, 3)), name: np.array(similarity), 'psnr': psnr}


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|cos| of the angle between vectors [N, 3] of any length."""
    a = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return np.abs((a * b).sum(-1))


def _summarise(
    accuracy: np.ndarray, completeness: np.ndarray, normals_accuracy: np.ndarray, normals_completeness: np.ndarray
) -> dict[str, float]:
    precision, recall = (accuracy <= F_SCORE_DISTANCE).mean(), (completeness <= F_SCORE_DISTANCE).mean()
    scores = {
        'accuracy': accuracy.mean(),
        'completeness': completeness.mean(),
        'accuracy2': np.square(accuracy).mean(),
        'completeness2': np.square(completeness).mean(),
        'chamfer_l1': (accuracy.mean() + completeness.mean()) / 2,
        'chamfer_l2': (np.square(accuracy).mean() + np.square(completeness).mean()) / 2,
        'normals_accuracy': normals_accuracy.mean(),
        'normals_completeness': normals_completeness.mean(),
        'normal_consistency': (normals_accuracy.mean() + normals_completeness.mean()) / 2,
        'f_score': 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0,
    }
    return {name: float(value) for name, value in scores.items()}
