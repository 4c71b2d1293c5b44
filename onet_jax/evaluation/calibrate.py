"""Calibration: the threshold tau of occupancy with the highest IoU on the validation split (paper, section 3.3).

The IoU is that of the network at the labelled points, of sequences those of the first frame, without meshes. T labelled points
of a shape, K thresholds.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.datasets import Shapes, digest
from onet_jax.errors import InputError
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.models.method import Model
from onet_jax.progress import working

THRESHOLDS = np.arange(2, 99) / 100  # probabilities


class Calibration(NamedTuple):
    """The chosen threshold, and what it was chosen on. IoU is the mean of class means, as in the tables."""

    threshold: float  # a probability
    iou: float
    default_threshold: float  # that of the config
    default_iou: float
    split: str
    num_shapes: int
    dataset: str  # `records.digest`
    step: int  # of the checkpoint


def calibrate(model: Model, params: dict, config: ConfigDict, dataset: Shapes, step: int) -> Calibration:
    """The best of `THRESHOLDS` and the config's own on `config.eval.split`; of ties the nearest to the config's.

    Shapes without a labelled point inside are left out: their IoU is 0 or 0/0. Raises InputError for a model without
    occupancy, and for a split that is unknown, empty or of such shapes only.
    """
    if not hasattr(model, 'occupancy') or 'threshold' not in config.eval:
        raise InputError(
            f'--calibrate: expected a model with a field of occupancy to cut, found {type(model).__name__}; '
            'leave it out'
        )
    split, default = config.eval.split, config.eval.threshold
    thresholds = np.unique([*THRESHOLDS, default])
    curves: dict[str, list[np.ndarray]] = {}
    with working('calibrating the threshold', len(dataset.examples(config, split)), 'shapes') as calibrating:
        for category, logits, occ in _labelled_logits(model, params, config, dataset):
            if occ.any():
                curves.setdefault(category, []).append(iou_curve(logits, occ, thresholds))
            calibrating.advance()
    if not curves:
        raise InputError(
            f'{dataset.data_dir}: expected shapes with points inside in the split {split!r} to choose a threshold on, '
            'found none; prepare the dataset with more points'
        )
    curve = np.mean([np.mean(shapes, axis=0) for shapes in curves.values()], axis=0)
    best = np.lexsort([np.abs(thresholds - default), -curve])[0]
    return Calibration(
        threshold=float(thresholds[best]),
        iou=float(curve[best]),
        default_threshold=default,
        default_iou=float(curve[thresholds == default].item()),
        split=split,
        num_shapes=sum(map(len, curves.values())),
        dataset=digest(dataset.data_dir),
        step=step,
    )


def iou_curve(logits: np.ndarray, occ: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Logits [T], labels [T] bool, at least one of them True, ascending thresholds [K] -> IoU [K] of {sigmoid >= threshold}."""
    levels = [threshold_to_logit(threshold) for threshold in thresholds]
    reached = np.searchsorted(levels, logits, side='right')  # how many of the levels a point is not below
    # Of the points with either label, how many are not below level k: those that reach more than k levels.
    inside, outside = (np.bincount(reached[occ == label], minlength=len(levels) + 1) for label in (True, False))
    found, wrong = (counts[:0:-1].cumsum()[::-1] for counts in (inside, outside))
    return found / (inside.sum() + wrong)


def _labelled_logits(
    model: Model, params: dict, config: ConfigDict, dataset: Shapes
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Category, logits [T] and labels [T] bool of every shape, with the same input and latent code as in validation."""
    _, latent_key = jax.random.split(jax.random.key(config.seed))
    for batch, names in dataset.evaluation_batches(config, config.eval.split, targets=(dataset.labelled_field,)):
        inputs, targets = batch['inputs'].values(), batch['targets']
        latents = (model.prior(latent_key, batch['row']),) if config.eval.get('sample') else ()
        logits = model.occupancy(params, targets['points'], model.encode(params, *inputs), *latents)
        for (category, _), *values in zip(names, np.asarray(logits), np.asarray(targets['occ']) >= 0.5, strict=False):
            yield category, *values
