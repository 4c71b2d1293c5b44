"""Exports to StableHLO and ONNX: functions of a network with their weights, as files that run without this package.

StableHLO is that of `jax.export`, for JAX on any processor; ONNX is for ONNX Runtime and others. A batch may have any size,
and there may be any number of query points, and of points in a cloud. `Method.signatures` says which functions there are.

B batch, T query points, P points of an input cloud.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr
from ml_collections import ConfigDict

from onet_jax.data.fields import example_batch
from onet_jax.errors import InputError
from onet_jax.files import claim_folder, write_atomically
from onet_jax.models.method import INPUTS, Method
from onet_jax.networks.fast_gradients import one_platform
from onet_jax.progress import track

PLATFORMS = ('cpu', 'cuda', 'tpu')


class Exportable(NamedTuple):
    """A function with the shapes that it takes."""

    function: Callable  # (params, *arguments) -> a tree of arrays
    arguments: dict[str, Any]  # name -> a tree of jax.ShapeDtypeStruct, with symbolic axes
    returns: tuple[str, ...]  # as of `Signature`


def export_functions(
    method: Method,
    params: dict,
    data: ConfigDict,
    folder: str | Path,
    names: Sequence[str] = (),
    file_format: str = 'stablehlo',
) -> list[Path]:
    """Write functions of a network, by default all, as FOLDER/NAME.stablehlo or FOLDER/NAME.onnx; returns the files.

    data: the group of the config, which says what shape inputs have. Raises InputError for an unknown name or format, for a
    network that says of no function how it is called, for a folder that has files, and for what a format cannot express.
    """
    if file_format not in FORMATS:
        raise InputError(f'--format: expected one of {", ".join(FORMATS)}, found {file_format!r}')
    known = find_functions(method, params, data)
    unknown = [name for name in names if name not in known]
    if not known:
        raise InputError('--format: expected a network with `Method.signatures` of its functions, found one without')
    if unknown:
        raise InputError(f'--functions: expected some of {", ".join(known)}, found {", ".join(unknown)}')
    folder, paths = claim_folder(folder), []
    for name in track(tuple(names) or tuple(known), f'exporting to {folder}', 'functions'):
        content = FORMATS[file_format](known[name], params)
        paths.append(folder / f'{name}.{file_format}')
        write_atomically(paths[-1], content)
    return paths


def find_functions(method: Method, params: dict, data: ConfigDict) -> dict[str, Exportable]:
    """The functions of a network that can be exported, by name. What is always empty, the code of nothing, is no argument."""
    scope = export.SymbolicScope()
    sizes = {name: export.symbolic_shape(name, scope=scope)[0] for name in 'BTP'}

    def shape(axes, dtype=np.float32):
        if isinstance(axes[0], tuple):
            return tuple(map(shape, axes))
        return jax.ShapeDtypeStruct([sizes.get(axis, axis) for axis in axes], dtype)

    values: dict[str, Any] = {}
    for name, array in example_batch(data)['inputs'].items():
        axes = zip(INPUTS.get(name, 'B'), array.shape, strict=False)
        free = {i: axis for i, (axis, _) in enumerate(axes) if axis in sizes}
        values[name] = shape([free.get(i, length) for i, length in enumerate(array.shape)], array.dtype)
    needed = {key for axes_of, _ in method.signatures.values() for key, axes in axes_of.items() if axes is None}
    found = {}
    for name, (axes_of, returns) in method.signatures.items():
        if not {key for key, axes in axes_of.items() if axes is None} <= values.keys():
            continue
        arguments = {key: values[key] if axes is None else shape(axes) for key, axes in axes_of.items()}
        given = {key: tree for key, tree in arguments.items() if not _is_empty(tree)}
        function = getattr(method.model, name)
        if all(str(leaf.shape[0]) == 'B' for leaf in jax.tree.leaves(arguments)):
            of_one = _of_one(function, arguments)
            function = _of_batch(of_one)
            if needed & {*returns}:
                examples = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (*given.values(),)
                )
                one = jax.eval_shape(of_one, params, *examples)
                returned = jax.tree.map(lambda leaf: shape(['B', *leaf.shape], leaf.dtype), one)
                values |= dict(zip(returns, returned if len(returns) > 1 else (returned,), strict=True))
        if given:
            found[name] = Exportable(function, given, returns)
    return found


def _is_empty(tree):
    return all(0 in leaf.shape for leaf in jax.tree.leaves(tree))


def _of_one(function: Callable, arguments: dict[str, Any]) -> Callable:
    """A function of batches as one of an example, of the arguments that are not always empty.

    What it decides by the size of a batch it decides for a batch of 1.
    """

    def of_one(params, *given):
        rest = iter(given)
        batch = [
            jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), tree)
            if _is_empty(tree)
            else jax.tree.map(lambda array: array[None], next(rest))
            for tree in arguments.values()
        ]
        return jax.tree.map(lambda array: array[0], function(params, *batch))

    return of_one


def _of_batch(of_one: Callable) -> Callable:
    return lambda params, *given: jax.vmap(partial(of_one, params))(*given)


def to_stablehlo(exportable: Exportable, params: dict) -> bytes:
    """A function, for `jax.export.deserialize`. It is called with the arguments by their order, as trees."""
    arguments = exportable.arguments.values()
    with_weights = jax.jit(partial(exportable.function, used_weights(exportable, params)))
    return bytes(export.export(with_weights, platforms=PLATFORMS)(*arguments).serialize())


def used_weights(exportable: Exportable, params: dict) -> dict:
    """The weights, with zeros that a file need not store in place of those that the function does not use."""
    jaxpr = jax.jit(exportable.function).trace(params, *exportable.arguments.values()).jaxpr.jaxpr
    used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1]  # dead code elimination
    leaves, tree = jax.tree.flatten(params)
    kept = [
        np.asarray(leaf) if use else np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)
        for leaf, use in zip(leaves, used, strict=False)
    ]
    return jax.tree.unflatten(tree, kept)


def to_onnx(exportable: Exportable, params: dict) -> bytes:
    """A function, for ONNX Runtime. Names of arrays in a tree follow a dot: 'cond.grid'.

    Raises InputError where jax2onnx is missing, and for what it cannot convert.
    """
    try:
        import jax2onnx
    except ModuleNotFoundError as error:
        raise InputError(
            f"--format=onnx: expected jax2onnx, found none ({error}); pip install 'onet_jax[export]'"
        ) from error

    for library in ('jax2onnx', 'onnx_ir'):  # they warn of each array and of plugins that nothing here needs
        logging.getLogger(library).setLevel(logging.ERROR)
    function = partial(exportable.function, used_weights(exportable, params))
    with one_platform(True):
        # Traced here: jax2onnx replaces functions of JAX while it traces.
        program, outputs = jax.make_jaxpr(function, return_shape=True)(*exportable.arguments.values())
    leaves = jax.tree.leaves((*exportable.arguments.values(),))
    program = jax.make_jaxpr(partial(_evaluate, program))(*leaves)
    outputs = outputs if len(exportable.returns) > 1 else (outputs,)
    try:
        model = jax2onnx.to_onnx(
            jaxpr_as_fun(program),
            inputs=leaves,
            input_names=_names_of(exportable.arguments),
            output_names=_names_of(dict(zip(exportable.returns, outputs, strict=True))),
        )
    except Exception as error:  # of many kinds: what it does not know fails wherever it is met
        raise InputError(
            f'--format=onnx: expected a function that jax2onnx can convert, found one that it cannot ({type(error).__name__}: '
            f'{str(error).partition(chr(10))[0]}); --format=stablehlo can'
        ) from error
    return model.SerializeToString()


def _evaluate(program: ClosedJaxpr, *arrays: jax.Array) -> list[jax.Array]:
    """What a program returns, computed without the programs in it and without padding, which jax2onnx lacks for any batch."""
    jaxpr, values = program.jaxpr, dict[Any, Any]()
    values.update(zip(jaxpr.constvars, program.consts, strict=True))
    values.update(zip(jaxpr.invars, arrays, strict=True))
    for equation in jaxpr.eqns:
        given = [v.val if isinstance(v, Literal) else values[v] for v in equation.invars]
        name, settings = equation.primitive.name, equation.params
        if name in ('jit', 'custom_jvp_call', 'custom_vjp_call'):
            found = _evaluate(settings['jaxpr' if name == 'jit' else 'call_jaxpr'], *given)
        elif name == 'pad' and all(
            low >= 0 and high >= 0 and not inner for low, high, inner in settings['padding_config']
        ):
            array, value = given
            found = [_pad(array, value, settings['padding_config'])]
        else:
            variables = [v for v in equation.invars if not isinstance(v, Literal)]
            one = jaxpr.replace(constvars=[], invars=variables, outvars=equation.outvars, eqns=[equation])
            found = jax.core.eval_jaxpr(one, (), *map(values.__getitem__, variables))
        values.update(zip(equation.outvars, found, strict=True))
    return [v.val if isinstance(v, Literal) else values[v] for v in jaxpr.outvars]


def _pad(array: jax.Array, value: jax.Array, widths: Sequence[tuple[int, int, int]]) -> jax.Array:
    for axis, (low, high, _) in enumerate(widths):
        before, after = array.shape[:axis], array.shape[axis + 1 :]
        first, last = ([jax.lax.broadcast(value, (*before, width, *after))] if width else [] for width in (low, high))
        array = jax.lax.concatenate([*first, array, *last], axis)
    return array


def _names_of(trees: dict[str, Any]) -> list[str]:
    """A name for each array in trees: that of the tree, and where it is in it."""
    return [
        '.'.join(filter(None, (name, jax.tree_util.keystr(path, simple=True, separator='.'))))
        for name, tree in trees.items()
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


FORMATS = {'stablehlo': to_stablehlo, 'onnx': to_onnx}
