"""Validation: the network itself against the labelled points of a split, without meshes."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.records import evaluation_batches
from onet_jax.data.transforms import evaluation_key, make_evaluation_transform


def validation_batches(config: ConfigDict, data_dir: str | Path, split: str) -> Iterator[dict]:
    """Whole shapes of a split, each with the input that belongs to (config.seed, position in the split)."""
    transform = jax.jit(make_evaluation_transform(config.data))
    key = evaluation_key(config.seed)
    for raw, _ in evaluation_batches(data_dir, split, config.eval.batch_size):
        yield {**transform(key, raw), 'mask': raw['mask']}


def validate(metrics: Callable, params: dict, batches: Iterable[dict]) -> dict[str, float]:
    """Means over all examples of `metrics(params, batch) -> {name: [B]}`; rows with a false `mask` only pad and do not count.

    An example whose IoU is 0/0 (nothing inside, nothing predicted) is left out of that mean, as pandas does for the
    reference.
    """
    collected: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        real = np.asarray(batch['mask'])
        for name, values in metrics(params, batch).items():
            collected.setdefault(name, []).append(np.asarray(values)[real])
    return {name: float(np.nanmean(np.concatenate(values))) for name, values in collected.items()}
