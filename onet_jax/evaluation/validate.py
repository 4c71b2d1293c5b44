"""Validation: the network itself against the targets of a split, without meshes."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.datasets import Shapes
from onet_jax.errors import InputError


def unreadable_examples(dataset: Shapes, split: str, bad_examples: BadExamples) -> frozenset[tuple[str, str]]:
    """(category, name) of the examples of a split that cannot be read; raises InputError for more than `bad_examples`
    allows."""
    names = dataset.names(split)
    bad = frozenset(name for name in names if not bad_examples.attempt('/'.join(name), partial(dataset.check, *name)))
    if len(bad) == len(set(names)):
        raise InputError(f'{dataset.data_dir}: expected shapes in the split {split!r}, found none that can be read')
    return bad


def validate(metrics: Callable, variables: dict, batches: Iterable[dict]) -> dict[str, float]:
    """Means over all examples of `metrics(variables, batch) -> {name: [B]}`; rows with a false `mask` only pad and do not
    count.

    An example whose IoU is 0/0 (nothing inside, nothing predicted) is left out of that mean, as pandas does for the
    reference.
    """
    collected: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        real = np.asarray(batch['mask'])
        for name, values in metrics(variables, batch).items():
            collected.setdefault(name, []).append(np.asarray(values)[real])
    return {name: float(np.nanmean(np.concatenate(values))) for name, values in collected.items()}
