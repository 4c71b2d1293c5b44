"""Validation: the network itself against the labelled points of a split, without meshes."""

from collections.abc import Callable, Iterable

import numpy as np


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
