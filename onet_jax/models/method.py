"""Method: the interface of a paper to training, evaluation and inference, the same functions for every paper.

A new paper is a file `models/NAME.py` that exports `build` (`r2n2.py` is a short one), and a config with `model.name` NAME:

    def build(config):
        model = make_model(**keywords_of(config))  # the paper's own pure functions, in a NamedTuple

        def init(key, batch):
            return model.init(key, batch['inputs']['cloud'])

        def loss(variables, batch, key, axis_name):
            targets = batch['targets']  # of `config.data.targets`, such as 'points' [B, T, 3] and 'occ' [B, T]
            return model.loss(variables, targets['points'], targets['occ'], batch['inputs']['cloud'], axis_name)

        def metrics(variables, batch):
            return {'iou': ...}  # [B], of the names in `scores.METRICS`; any others are logged only

        def predict(variables, inputs, key, workspace=None):
            return [...]  # B of the types that `scores.score` takes, such as trimesh.Trimesh or trimesh.PointCloud

        return Method(init, loss, metrics, predict, model)
"""

import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.errors import InputError


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    mutated: Mapping[str, Any]  # the new values of the flax collections that change, such as {'batch_stats': ...}
    scalars: dict[str, jax.Array]  # named terms of the loss, for the log


# A paper's own public pure functions (encode, occupancy, bind, ...): a NamedTuple, of which kind depends on the paper.
Model = Any


class Method(NamedTuple):
    """Pure functions. B batch.

    variables: any flax collections, of which 'params' is optimised: {'params': ..., 'batch_stats': ..., ...}.
    batch: {'inputs': {name: [B, ...]}, 'targets': {name: [B, ...]}, 'row': [B]}, see `data/fields.py`.
    """

    init: Callable  # (key, batch) -> variables
    loss: Callable  # (variables, batch, key, axis_name) -> (scalar, Aux), train mode
    metrics: Callable  # (variables, batch) -> {name: [B]}, evaluation mode, one value for each example
    # (variables, inputs, key, workspace=None) -> list of B predictions in object coordinates (see `scores.py`). workspace: a
    # folder in which a long prediction saves its progress, to resume from it.
    predict: Callable
    model: Model
    # (method, tx, transform, axis_name, ema_decay) -> step; None takes `make_train_step` of `training/step.py`.
    make_step: Callable | None = None


class Encoder(NamedTuple):
    """An encoder that a config can name."""

    reads: str  # the field that it sees, of `data/fields.py`
    build: Callable[..., Any]  # k, the keywords of `make_model` and dtype -> module, or None


TRAIN_DTYPES = {'float32': None, 'bfloat16': jnp.bfloat16}  # of the features in a training step (mixed precision)


def keywords_of(config: ConfigDict) -> dict[str, Any]:
    """The keywords of a paper's `make_model`: the group `model` without its name, and the precision of the training step.

    Raises InputError for an unknown precision.
    """
    if config.train.dtype not in TRAIN_DTYPES:
        raise InputError(f'config.train.dtype: expected one of {tuple(TRAIN_DTYPES)}, found {config.train.dtype!r}')
    keywords = {key: value for key, value in config.model.items() if key != 'name'}
    return {**keywords, 'train_dtype': TRAIN_DTYPES[config.train.dtype]}


def check_names(keywords: dict[str, Any], **known: Collection[str]) -> None:
    """Raises InputError for a keyword of `make_model` whose value is none of the names that are known for it."""
    for key, names in known.items():
        if keywords[key] not in names:
            raise InputError(f'config.model.{key}: expected one of {sorted(names)}, found {keywords[key]!r}')


def digest_arrays(arrays: Any) -> str:
    """SHA-256 of a tree of arrays, as of weights, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    for array in jax.tree.leaves(arrays):
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()
