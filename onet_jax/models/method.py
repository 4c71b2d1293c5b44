"""Method: the interface of a paper to training, evaluation and inference, the same functions for every paper.

CONTRIBUTING.md has a whole paper of 60 lines; `r2n2.py` is a real one.
"""

import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.geometry.field import check_finite
from onet_jax.json_files import ANY, FLAG, TEXT, check_json, number, whole


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    mutated: Mapping[str, Any]  # the new values of the flax collections that change, such as {'batch_stats': ...}
    scalars: dict[str, jax.Array]  # named terms of the loss, for the log


# A paper's own public pure functions: a NamedTuple, of which kind depends on the paper. Some names have a meaning elsewhere:
# encode: (params, *inputs) -> cond, for the out-of-distribution score; occupancy: (params, points [B, T, 3], cond) ->
# logits [B, T], for the calibration of the threshold; bind: (params, cond, latent=None) -> field [T, 3] -> logits [T], for
# refinement, fitting and interpolation; advect, of shapes that move: see `velocity_field.move_mesh`, for samples and motion
# transfer, with cond and latent as pairs (of the shape, of the motion).
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
    signatures: Mapping[str, 'Signature'] = {}  # of the functions of the model that `onet export` can write, by name

    def __hash__(self) -> int:  # compiled functions take a method as a static argument, and a dict has no hash
        return hash(self[:-1])


class Signature(NamedTuple):
    """What a function of a model takes beside the parameters, and what it returns, by name."""

    # Name -> axes of a float32 array, each a number, 'B' or 'T' of any length; or a tuple of such axes. None: the input of that
    # name, or what another function returns under it; a network without it does not have the function. B is the first axis of
    # all arrays, or of none.
    arguments: Mapping[str, tuple | None]
    returns: tuple[str, ...]  # one name for each element of a tuple, or a single one for all that is returned


class Encoder(NamedTuple):
    """An encoder that a config can name."""

    reads: str  # the field that it sees, of `data/field_table.py`
    build: Callable[..., Any]  # k, the keywords of `make_model` and dtype -> module, or None


# Field that an encoder reads -> the axes of its array; a number is the only length that an axis may have.
INPUTS: dict[str, tuple[str | int, ...]] = {
    'cloud': ('B', 'P', 3),
    'scene': ('B', 'P', 3),
    'clip': ('B', 'L', 'P', 3),
    'end_clouds': ('B', 2, 'P', 3),
    'image': ('B', 'H', 'W', 3),
    'image_clip': ('B', 'L', 'H', 'W', 3),
    'voxels': ('B', 'N', 'N', 'N'),
    'oriented_cloud': ('B', 'P', 6),
    'index': ('B',),
}

POINTS = ('B', 'T', 3)  # of query points
TRAIN_DTYPES = {'float32': None, 'bfloat16': jnp.bfloat16}  # of the features in a training step (mixed precision)


# Annotation of a keyword of `make_model` -> what a config may hold.
KINDS = {int: whole(0, 2**24), float: number(0), str: TEXT, bool: FLAG}


def keywords_of(config: ConfigDict, make_model: Callable) -> dict[str, Any]:
    """The keywords of a paper's `make_model`: the group `model` without its name, and the precision of the training step.

    Raises InputError for an unknown precision, a key that `make_model` does not take, a value of another kind than its
    annotation says, and without encoder or decoder that it takes.
    """
    parameters = inspect.signature(make_model).parameters
    known = set(parameters) - {'train_dtype'}
    given, needed = set(config.model.keys()) - {'name'}, known & {'encoder', 'decoder'}
    if not needed <= given <= known:
        raise InputError(
            f'config.model: expected the keys {sorted(needed)} and others of {sorted(known)}, found {sorted(given)}'
        )
    if config.train.dtype not in TRAIN_DTYPES:
        raise InputError(f'config.train.dtype: expected one of {tuple(TRAIN_DTYPES)}, found {config.train.dtype!r}')
    keywords = {key: value for key, value in config.model.items() if key != 'name'}
    for key, value in keywords.items():
        annotation, items = parameters[key].annotation, get_args(parameters[key].annotation)  # items: of a tuple
        schema = [KINDS[items[0]]] if items else KINDS.get(annotation, ANY)
        check_json(list(value) if isinstance(value, tuple) else value, schema, f'config.model.{key}')
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

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self.function)
        return signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(self, *arrays: Any, **named_arrays: Any) -> Any:
        named_arrays = {name: as_array(array, name) for name, array in named_arrays.items()}
        return _jit(self.function)(self.module, *map(as_array, arrays), **named_arrays)


@lru_cache
def _jit(function):
    return jax.jit(function, static_argnums=0)


def as_array(value: Any, name: str = 'arguments') -> Any:
    """A list, or an object that numpy can convert, as an array; anything else as it is. Raises InputError for no numbers."""
    is_array = isinstance(value, jax.Array) or (isinstance(value, np.ndarray) and value.dtype.kind in 'biufc')
    if is_array or not (isinstance(value, list) or hasattr(value, '__array__')):
        return value
    try:
        array = np.asarray(value)
        jnp.result_type(array)
    except (TypeError, ValueError) as error:
        raise InputError(f'{name}: expected an array of numbers, found another ({error})') from error
    return array


def as_floats(array: jax.Array, name: str) -> jax.Array:
    """The array, in float32 where it holds integers or booleans. Raises InputError for complex numbers."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise InputError(f'{name}: expected real numbers, found {array.dtype}')
    return array if jnp.issubdtype(array.dtype, jnp.floating) else jnp.asarray(array, jnp.float32)


def as_inputs(inputs: Any, reads: str) -> jax.Array:
    """The inputs [B, ...] of an encoder that reads a field, in floating point; indices are integers.

    Raises InputError for an array of another shape, or of another kind of numbers; colours are no integers.
    """
    inputs, axes = jnp.asarray(inputs), INPUTS.get(reads)
    if axes is not None:
        fits = inputs.ndim == len(axes) and all(
            length == axis if isinstance(axis, int) else length or axis == 'B'
            for length, axis in zip(inputs.shape, axes, strict=True)
        )
        if not fits:
            wanted = ', '.join(map(str, axes))
            raise InputError(
                f'inputs: expected an array [{wanted}] of the field {reads!r}, found the shape {list(inputs.shape)}'
            )
    is_whole = jnp.issubdtype(inputs.dtype, jnp.integer)
    if (is_whole, reads) in ((False, 'index'), (True, 'image'), (True, 'image_clip')):
        wanted = 'whole numbers' if reads == 'index' else 'colours in [0, 1]'
        raise InputError(f'inputs: expected {wanted} of the field {reads!r}, found {inputs.dtype}')
    return inputs if reads == 'index' else as_floats(inputs, 'inputs')


def apply(module: nn.Module, params: dict, *arrays: Any, **options: Any) -> Any:
    """`module.apply`. Raises InputError for parameters of another network, and for inputs of a shape that it cannot read."""
    try:
        return module.apply(params, *arrays, **options)
    except FlaxError as error:
        raise InputError(f'params, inputs: expected those of this network, found others: {error}') from error


def encode(module: nn.Module, params: dict, inputs: jax.Array) -> Any:
    """inputs [B, ...] -> cond. Raises InputError where they are not finite, unless a transformation of JAX is tracing them."""
    if not isinstance(inputs, jax.core.Tracer):
        inputs = as_array(inputs, 'inputs')
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
