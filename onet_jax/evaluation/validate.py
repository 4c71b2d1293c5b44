"""Validation during training: metrics of the network on a split, without meshes. B batch."""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.datasets import Shapes
from onet_jax.errors import InputError
from onet_jax.progress import track


def unreadable_examples(dataset: Shapes, split: str, bad_examples: BadExamples) -> frozenset[tuple[str, str]]:
    """(category, name) of the examples of a split that cannot be read.

    Raises InputError for more of them than `bad_examples` allows, and when no example can be read.
    """
    names = dataset.names(split)
    bad = frozenset(
        name
        for name in track(names, f'checking the files of the {split} split', 'shapes')
        if not bad_examples.attempt('/'.join(name), partial(dataset.check, *name))
    )
    if len(bad) == len(set(names)):
        raise InputError(f'{dataset.data_dir}: expected shapes in the split {split!r}, found none that can be read')
    return bad


def validate(metrics: Callable, variables: dict, batches: Iterable[dict]) -> dict[str, float]:
    """Means of `metrics(variables, batch) -> {name: [B]}` over all examples; rows with mask False are padding.

    An example whose IoU is 0/0 (nothing inside, nothing predicted) is left out of that mean, as in the official code.
    """
    collected: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        real = np.asarray(batch['mask'])
        for name, values in metrics(variables, batch).items():
            collected.setdefault(name, []).append(np.asarray(values)[real])
    return {name: float(np.nanmean(np.concatenate(values))) for name, values in collected.items()}
