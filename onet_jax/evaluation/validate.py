"""Validation: the network itself against the labelled points of a split, without meshes."""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.fields import evaluation_key, make_evaluation_transform
from onet_jax.data.records import decode_views, evaluation_batches, read_index, read_shape, shape_path, split_shapes
from onet_jax.errors import InputError


def unreadable_shapes(data_dir: str | Path, split: str, bad_examples: BadExamples) -> frozenset[tuple[str, str]]:
    """(category, name) of the shapes of a split that cannot be read; raises ValueError for more than `bad_examples` allows."""
    index = read_index(data_dir)

    def read(path: Path) -> bool:
        shape = read_shape(path, index)
        if shape.views is not None:
            decode_views(path, shape.views.jpegs[:1])
        return True

    names = split_shapes(data_dir, index, split)
    bad = frozenset(n for n in names if not bad_examples.attempt('/'.join(n), partial(read, shape_path(data_dir, *n))))
    if len(bad) == len(set(names)):
        raise InputError(f'{data_dir}: expected shapes in the split {split!r}, found none that can be read')
    return bad


def validation_batches(
    config: ConfigDict, data_dir: str | Path, split: str, left_out: Collection[tuple[str, str]] = ()
) -> Iterator[dict]:
    """Whole shapes of a split, each with the input that belongs to (config.seed, position in the split)."""
    transform = jax.jit(make_evaluation_transform(config.data))
    key = evaluation_key(config.seed)
    for raw, _ in evaluation_batches(data_dir, split, config.eval.batch_size, left_out=left_out):
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
