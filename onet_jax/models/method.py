"""Method: the interface of a paper to training, evaluation and inference, the same functions for every paper.

CONTRIBUTING.md has a whole paper of 60 lines; `r2n2.py` is a real one.
"""

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.geometry.field import check_finite


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    mutated: Mapping[str, Any]  # the new values of the flax collections that change, such as {'batch_stats': ...}
    scalars: dict[str, jax.Array]  # named terms of the loss, for the log


# A paper's own public pure functions: a NamedTuple, of which kind depends on the paper. Three names have a meaning elsewhere:
# encode: (params, *inputs) -> cond, for the out-of-distribution score; occupancy: (params, points [B, T, 3], cond) ->
# logits [B, T], for the calibration of the threshold; bind: (params, cond, latent=None) -> field [T, 3] -> logits [T], for
# refinement, fitting and interpolation.
Model = Any


class Method(NamedTuple):
    """Pure functions. B batch.

    variables: any flax collections, of which 'params' is optimised: {'params': ..., 'batch_stats': ..., ...}.
    batch: {'inputs': {name: [B, ...]}, 'targets': {name: [B, ...]}, 'row': [B]}, see `data/fields.py`.
    """

    init: Callable  # (key, batch) -> variables
    loss: Callable  # (variables, batch, key, axis_name) -> (scalar, Aux), train mode
    # (variables, batch) -> {name: [B]}, evaluation mode, one value for each example; `config.eval.select_by` names one of them.
    metrics: Callable
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


def keywords_of(config: ConfigDict, make_model: Callable) -> dict[str, Any]:
    """The keywords of a paper's `make_model`: the group `model` without its name, and the precision of the training step.

    Raises InputError for an unknown precision, a key that `make_model` does not take, and without encoder or decoder that it
    takes.
    """
    known = set(inspect.signature(make_model).parameters) - {'train_dtype'}
    given, needed = set(config.model.keys()) - {'name'}, known & {'encoder', 'decoder'}
    if not needed <= given <= known:
        raise InputError(
            f'config.model: expected the keys {sorted(needed)} and others of {sorted(known)}, found {sorted(given)}'
        )
    if config.train.dtype not in TRAIN_DTYPES:
        raise InputError(f'config.train.dtype: expected one of {tuple(TRAIN_DTYPES)}, found {config.train.dtype!r}')
    keywords = {key: value for key, value in config.model.items() if key != 'name'}
    return {**keywords, 'train_dtype': TRAIN_DTYPES[config.train.dtype]}


def check_names(keywords: dict[str, Any], **known: Collection[str]) -> None:
    """Raises InputError for a keyword of `make_model` whose value is none of the names that are known for it."""
    for key, names in known.items():
        if keywords[key] not in names:
            raise InputError(f'config.model.{key}: expected one of {sorted(names)}, found {keywords[key]!r}')


@dataclass(frozen=True)
class Compiled:
    """(*arrays) -> function(module, *arrays), jitted: compiled once for all models of a configuration.

    Modules are frozen and hashable, and so is this, which may itself be the module of another. It can be pickled, a jitted
    function cannot.
    """

    function: Callable
    module: Any

    def __call__(self, *arrays: Any, **named_arrays: Any) -> Any:
        return _jit(self.function)(self.module, *arrays, **named_arrays)


@lru_cache
def _jit(function):
    return jax.jit(function, static_argnums=0)


def apply(module: nn.Module, params: dict, *arrays: Any, **options: Any) -> Any:
    """`module.apply`. Raises InputError for parameters of another network, and for inputs of a shape that it cannot read."""
    try:
        return module.apply(params, *arrays, **options)
    except FlaxError as error:
        raise InputError(f'params, inputs: expected those of this network, found others: {error}') from error


def encode(module: nn.Module, params: dict, inputs: jax.Array) -> Any:
    """inputs [B, ...] -> cond. Raises InputError where they are not finite, unless a transformation of JAX is tracing them."""
    if not isinstance(inputs, jax.core.Tracer):
        check_finite(np.asarray(inputs), 'inputs')
    return Compiled(_encode, module)(params, inputs)


def _encode(module, params, inputs):
    return apply(module, params, inputs, method='encode')


def digest_arrays(arrays: Any) -> str:
    """SHA-256 of a tree of arrays, as of weights, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    for array in jax.tree.leaves(arrays):
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()
