"""Frechet inception distance (FID, Heusel et al., NeurIPS 2017) and feature-L1 of rendered views, by weights of a user.

N pictures, F features.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.convert.official import split_checkpoint
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.errors import InputError
from onet_jax.evaluation.evaluate import Result
from onet_jax.networks import inception
from onet_jax.progress import track

BATCH_SIZE = 64  # of the official evaluation, which leaves out the pictures after the last whole batch
NOT_COMPUTED = (
    'not computed: they need the weights of inception_v3 of torchvision, --inception=FILE (.pth or .safetensors)'
)


def load_inception(path: str | Path, data: ConfigDict) -> Callable[[np.ndarray], np.ndarray]:
    """pictures [N, H, W, 3] in [0, 1] -> features [N, 2048], by the weights of a file of torch or safetensors.

    data: that group of the config of the network that is evaluated. Raises FileNotFoundError, and InputError for a network that
    renders no views and for a file without the weights of torchvision's inception_v3.
    """
    if 'views' not in data.targets:
        raise InputError(
            f'--inception: expected a network that learns views, found targets {data.targets}; leave it out'
        )
    state, _ = split_checkpoint(read_torch_file(path))
    weights = {name: np.asarray(w, np.float32) for name, w in state.items() if name.startswith(inception.TRUNK)}
    picture = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    try:
        size = jax.eval_shape(inception.features, weights, picture).shape
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'{path}: expected the weights of inception_v3 of torchvision, found others ({error})'
        ) from error
    if size != (1, inception.NUM_FEATURES):
        raise InputError(f'{path}: expected {inception.NUM_FEATURES} features, found {size[1]}')
    extract = partial(jax.jit(inception.features), weights)
    return lambda rgb: np.asarray(extract(rgb))


def compare_features(
    results: Sequence[Result], extract: Callable[[np.ndarray], np.ndarray] | None
) -> dict[str, float | str]:
    """'fid' and 'feature_l1' of the predicted views beside the true ones, means over the classes, and those of each class.

    extract: of `load_inception`; without it, a sentence on what is missing. {} for results that are no pictures, and for those
    of a scene, whose papers do not have these metrics. Raises InputError for a class with fewer than two pictures.
    """
    if results[0].truth is None or 'ssim_gaussian' in results[0].scores:
        return {}
    if extract is None:
        return {'FID and feature-L1': NOT_COMPUTED}
    by_class: dict[str, list[list[np.ndarray]]] = {}
    for result in track(results, 'comparing features of Inception', 'shapes'):
        both = np.concatenate([result.prediction.rgb, result.truth.rgb])
        found = extract(both / np.float32(255)).astype(np.float64)
        by_class.setdefault(result.category, []).append(np.split(found, 2))
    scores: dict[str, dict[str, float]] = {'fid': {}, 'feature_l1': {}}
    for category, pairs in by_class.items():
        predicted, true = (whole_batches(np.concatenate(part)) for part in zip(*pairs, strict=True))
        if len(true) < 2:
            raise InputError(f'--inception: expected at least 2 pictures of the class {category!r}, found {len(true)}')
        scores['fid'][category] = frechet_distance(predicted, true)
        scores['feature_l1'][category] = float(np.abs(predicted - true).mean())
    means = {name: float(np.mean(list(values.values()))) for name, values in scores.items()}
    several = len(by_class) > 1
    return {**means, **{f'{name}_{c}': v for name, values in scores.items() for c, v in values.items() if several}}


def whole_batches(features: np.ndarray) -> np.ndarray:
    """Those of [N, F] that the official evaluation uses: a multiple of 64, or all of fewer."""
    return features[: len(features) // BATCH_SIZE * BATCH_SIZE] if len(features) >= BATCH_SIZE else features


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The squared Frechet distance of the normal distributions that fit features [N, F] and [M, F].

    |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^1/2). With A = R_a^T R_a and B = R_b^T R_b, of the QR decompositions of the centred
    features, the last trace is the sum of the singular values of R_a R_b^T: exact for fewer pictures than features too.
    """
    difference = a.mean(axis=0) - b.mean(axis=0)
    centred = ((x - x.mean(axis=0)) / np.sqrt(len(x) - 1) for x in (a, b))
    root_a, root_b = (np.asarray(np.linalg.qr(x, mode='r')) for x in centred)
    overlap = np.linalg.norm(root_a @ root_b.T, 'nuc')
    return max(0.0, float(difference @ difference + np.square(root_a).sum() + np.square(root_b).sum() - 2 * overlap))
