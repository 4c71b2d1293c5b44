"""The threshold tau at which a network's field is cut, chosen on the validation split (paper, section 3.3).

B batch, T labelled points of a shape, K thresholds. The network itself is measured, without meshes.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.fields import evaluation_key, make_evaluation_transform
from onet_jax.data.records import digest, evaluation_batches
from onet_jax.errors import InputError
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.models import occupancy_network
from onet_jax.models.occupancy import sample_prior

THRESHOLDS = np.arange(2, 99) / 100  # probabilities


class Calibration(NamedTuple):
    """What was chosen, and on what. IoU is the mean of the class means, as in the tables."""

    threshold: float  # a probability
    iou: float
    default_threshold: float  # that of the config
    default_iou: float
    split: str
    num_shapes: int
    dataset: str  # `records.digest`
    step: int  # of the checkpoint


def calibrate(params: dict, config: ConfigDict, data_dir: str | Path, step: int) -> Calibration:
    """The best of `THRESHOLDS` and the config's own on `config.eval.split`; of equally good ones the nearest to the config's.

    Shapes of which no labelled point is inside say nothing of it and are left out. Raises ValueError for a split that is
    unknown, empty or of such shapes only.
    """
    split, default = config.eval.split, config.eval.threshold
    thresholds = np.unique([*THRESHOLDS, default])
    curves: dict[str, list[np.ndarray]] = {}
    for category, logits, occ in _labelled_logits(params, config, data_dir, split):
        if occ.any():
            curves.setdefault(category, []).append(iou_curve(logits, occ, thresholds))
    if not curves:
        raise InputError(
            f'{data_dir}: expected shapes with points inside in the split {split!r} to choose a threshold on, found none; '
            'prepare the dataset with more points'
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
        dataset=digest(data_dir),
        step=step,
    )


def iou_curve(logits: np.ndarray, occ: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Logits [T], labels [T] bool with one inside at least, rising thresholds [K] -> IoU [K] of {sigmoid >= threshold}."""
    levels = [threshold_to_logit(threshold) for threshold in thresholds]
    reached = np.searchsorted(levels, logits, side='right')  # how many of the levels a point is not below
    # Of the points with either label, how many are not below level k: those that reach more than k levels.
    inside, outside = (np.bincount(reached[occ == label], minlength=len(levels) + 1) for label in (True, False))
    found, wrong = (counts[:0:-1].cumsum()[::-1] for counts in (inside, outside))
    return found / (inside.sum() + wrong)


def _labelled_logits(params: dict, config: ConfigDict, data_dir: str | Path, split: str):
    """Category, logits [T] and labels [T] bool of every shape, each with the input and latent code that validation gives it."""
    model, transform = occupancy_network(config.model), jax.jit(make_evaluation_transform(config.data))
    _, latent_key = jax.random.split(jax.random.key(config.seed))
    for raw, shapes in evaluation_batches(data_dir, split, config.eval.batch_size):
        batch = transform(evaluation_key(config.seed), raw)
        latent = sample_prior(latent_key, batch['row'], config.model.latent_size) if config.eval.sample else None
        logits = model.occupancy(params, batch['points'], model.encode(params, batch['inputs']), latent)
        for (category, _), *values in zip(shapes, np.asarray(logits), np.asarray(batch['occ']) >= 0.5, strict=False):
            yield category, *values
