"""Ahead-of-time compilation: the programs of a config, compiled for a slice of TPUs without having one, and what they cost.

The compiler of TPUs (libtpu) needs the name of a slice, not the slice. It plans the memory of a chip to the byte, schedules
every instruction and says how many cycles it expects of most; nothing is run, and no weights are made. B batch.
"""

import inspect
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from onet_jax import models
from onet_jax.data.fields import (
    columns_of,
    count_views,
    describe_rows,
    find_need,
    in_order,
    input_names,
    make_evaluation_transform,
    make_transform,
    sees_first_view,
    sees_rays,
    unseen_inputs,
)
from onet_jax.data.records import Need
from onet_jax.data.scenes import LoadedViews
from onet_jax.errors import InputError
from onet_jax.geometry.batched_extraction import first_capacity, march_each, multiresolution_grids
from onet_jax.geometry.field import ACCELERATOR_QUERY_CHUNK
from onet_jax.models.occupancy import meshes_at_once
from onet_jax.parallel import make_parallel
from onet_jax.training.chips import CHIPS, Chip
from onet_jax.training.hlo import Work, read_work
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

NUM_POINTS = 100_000  # labelled points, and surface samples, of a shape in evaluation, as datasets are prepared
STEP = 'training step'  # the name of the program that runs on the whole slice
VIEW_EDGE = 800  # px, of the pictures of a scene, as those of NeRF's synthetic scenes
# What libtpu asks the machine of a TPU for, and complains of where there is none; it may run beside another program.
ENVIRONMENT = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


class Slice(NamedTuple):
    """TPUs that programs are compiled for."""

    topology: str  # such as 'v5e:16x16'
    chip: Chip
    shape: tuple[int, ...]  # chips along each axis
    devices: list


class Program(NamedTuple):
    """A program of a config, not yet compiled."""

    name: str
    shape: tuple[int, ...]  # of the chips that run it together
    lower: Callable[[], jax.stages.Lowered]


class Figures(NamedTuple):
    """What one chip does and holds in one run of a program."""

    compile_seconds: float  # of CPUs
    hlo_bytes: int  # of the text of the compiled program
    held: int  # bytes of arguments and results, what is donated once, and of the program itself
    temporaries: int  # bytes beside these
    work: Work


class TooLargeError(InputError):
    """A program that does not fit into the memory of a chip."""


def read_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """The chip, and the chips along each axis, of a name such as 'v5e:16x16' or 'v5p:4x4x8'. Raises InputError for others."""
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', topology)
    kinds = [name for name, chip in CHIPS.items() if chip.num_axes]
    if match is None or match[1] not in kinds:
        raise InputError(
            f'--topology: expected one of {", ".join(kinds)} and the chips along each axis, such as v5e:16x16, '
            f'found {topology!r}'
        )
    return CHIPS[match[1]], tuple(map(int, match[2].split('x')))


def open_slice(topology: str) -> Slice:
    """The TPUs of a name (`read_topology`).

    Raises InputError for a name that libtpu does not know, and where that is not installed.
    """
    chip, shape = read_topology(topology)
    if find_spec('libtpu') is None:
        raise InputError("--topology: expected the compiler of TPUs, found none; pip install 'onet_jax[tpu]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update('jax_platforms', 'cpu')  # a TPU that is there is left alone
    # Of v4 the two cores of a chip are one device, as in training.
    options = {'chip_config_name': 'megacore'} if chip is CHIPS['v4'] else {}
    try:
        devices = topologies.get_topology_desc(topology, platform='tpu', **options).devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f'--topology: expected a slice that can be had, found {topology!r}: {error}') from error
    return Slice(topology, chip, shape, devices)


def with_batch(config: ConfigDict, num_devices: int, batch_size: int | None = None) -> ConfigDict:
    """The config with a batch of this size, by default its own one rounded up to a multiple of the devices."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.batch_size = batch_size or -(-config.train.batch_size // num_devices) * num_devices
    return config


def lower_step(config: ConfigDict, devices: list) -> jax.stages.Lowered:
    """The training step of `onet train` on these devices, as `config.train.backend` says, traced and not compiled.

    Raises InputError for a batch that does not divide evenly.
    """
    parallel = make_parallel(config.train.backend, config.train.batch_size, devices)
    method, transform = models.build(config), make_transform(config.data)
    tx = make_optimizer(config, config.train.num_steps)
    raw = describe_rows(find_need(config.data), config.train.batch_size)
    make_step = method.make_step or make_train_step
    step = make_step(method, tx, transform, parallel.axis_name, config.optim.ema_decay)
    return parallel.lower(step, describe_state(config, method), raw, _key())


def describe_state(config: ConfigDict, method: models.Method) -> Any:
    """Shapes and dtypes of the state of a run."""
    key, raw = _key(), describe_rows(find_need(config.data), 2)
    return jax.eval_shape(partial(_create, config, method), key, raw)


def _create(config, method, key, raw):
    tx, transform = make_optimizer(config, config.train.num_steps), make_transform(config.data)
    return create_state(key, method, tx, transform(key, raw), config.optim.ema_decay)


def _key() -> Any:
    return jax.eval_shape(partial(jax.random.key, 0))


def describe_evaluation(config: ConfigDict) -> dict:
    """Shapes and dtypes of a batch of validation: whole shapes, or the pixels of a view."""
    inputs, targets = unseen_inputs(input_names(config.data), config.eval.split), tuple(config.eval.targets)
    names = (*inputs, *targets)
    if sees_rays(config.data):
        edge = round(VIEW_EDGE / config.data.downscale)
        view = LoadedViews(*(np.zeros((1, *dims)) for dims in ((edge, edge, 4), (3, 4), (3, 3), (2,))))
        raw = {name: _shape_of(array) for name, array in view.whole(*np.mgrid[:edge, :edge]).items() if name != 'mask'}
    else:
        num_views = count_views(names) and config.data.num_views + sees_first_view(names)
        need = Need(columns_of(names), NUM_POINTS, NUM_POINTS, config.data.get('num_frames', 0), num_views)
        raw = describe_rows(need, config.eval.batch_size)
    return jax.eval_shape(make_evaluation_transform(config.data, inputs, targets), _key(), raw)


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, jax.dtypes.canonicalize_dtype(array.dtype))


def list_programs(config: ConfigDict, slice_: Slice) -> Iterator[Program]:
    """The programs of a config: of training and validation, the functions of its model, the extraction of a batch of meshes.

    The step runs on the whole slice, all else on one chip. Of the functions of a model those are taken that need nothing but
    the weights, fields of the evaluation and what `encode` returns.
    """
    method = models.build(config)
    here = jax.sharding.SingleDeviceSharding(slice_.devices[0])

    def on_chip(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree)

    def program(name, function, *shapes, **options):
        lower = getattr(function, 'lower', None) or jax.jit(function).lower
        return Program(name, (1,), partial(lower, *on_chip(shapes), **options))

    yield program('initial weights', partial(_create, config, method), _key(), describe_rows(find_need(config.data), 2))
    yield Program(STEP, slice_.shape, partial(lower_step, config, slice_.devices))
    params, batch = describe_state(config, method).variables, describe_evaluation(config)
    yield program('validation', method.metrics, params, batch)

    model, inputs = method.model, batch['inputs']
    given = {**batch['targets'], **inputs, 'params': params}
    if 'points' in batch['targets']:  # of clips those of one frame
        num_rows, *_, num_points, _ = given['points'].shape
        given['points'] = jax.ShapeDtypeStruct((num_rows, num_points, 3), jnp.float32)
        given['occ'] = jax.ShapeDtypeStruct((num_rows, num_points), jnp.float32)
    if len(inputs) == 1:
        (given['inputs'],) = inputs.values()
    if _takes(getattr(model, 'encode', None), params, *in_order(inputs)):
        yield program('encode', model.encode, params, *in_order(inputs))
        given['cond'] = jax.eval_shape(model.encode, params, *in_order(inputs))
    for name, function in model._asdict().items():
        needed = _arguments(function)
        if name not in ('encode', 'bind', 'loss') and needed[:1] == ['params'] and set(needed) <= given.keys():
            yield program(name, function, *(given[key] for key in needed))
    if hasattr(model, 'bind') and _arguments(model.bind) == ['params', 'cond']:
        yield from _list_extraction(config, model, params, given, program)


def _arguments(function: Any) -> list[str]:
    """Names of the arguments without a default."""
    if not callable(function):
        return []
    parameters = inspect.signature(function).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL
    ]


def _takes(function: Any, *arguments: Any) -> bool:
    """Whether a function can be called with so many arguments."""
    try:
        return callable(function) and bool(inspect.signature(function).bind(*arguments))
    except TypeError:
        return False


def _list_extraction(config: ConfigDict, model: Any, params: dict, given: dict, program: Callable) -> Iterator[Program]:
    """The field of one shape at as many points as an accelerator takes at a time, and the extraction of a batch."""

    def bind(params, cond):
        return model.bind(params, jax.tree.map(lambda array: array[None], cond))

    def field(params, cond, points):
        return bind(params, cond)(points)

    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), given['cond'])
    points = jax.ShapeDtypeStruct((ACCELERATOR_QUERY_CHUNK, 3), jnp.float32)
    yield program('field of one shape', field, params, one, points)
    if 'resolution' not in config.mesh:
        return
    num_cells = config.mesh.resolution << config.mesh.upsampling_steps
    num_shapes = min(config.eval.batch_size, meshes_at_once(num_cells))
    fields = jax.eval_shape(jax.vmap(bind, in_axes=(None, 0)), params, given['cond'])
    fields = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_shapes, *x.shape[1:]), x.dtype), fields)
    level = jax.ShapeDtypeStruct((), jnp.float32)
    yield program(
        f'MISE of {num_shapes} shapes', multiresolution_grids, fields,
        num_shapes=num_shapes, resolution=config.mesh.resolution, upsampling_steps=config.mesh.upsampling_steps, level=0.0,
    )  # fmt: skip
    lattices = jax.ShapeDtypeStruct((num_shapes * (num_cells + 3) ** 3,), jnp.float32)
    sizes = {'num_shapes': num_shapes, 'capacity': first_capacity(num_cells)}
    yield program('marching cubes', march_each, lattices, level, **sizes)


def measure(lowered: jax.stages.Lowered) -> Figures:
    """Compile a program and read what it costs.

    Raises TooLargeError where it does not fit into the memory, and InputError where the compiler refuses it otherwise.
    """
    began = time.process_time()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        if 'RESOURCE_EXHAUSTED' in reason:
            raise TooLargeError(f'expected a program that fits into the memory of a chip, found: {reason}') from error
        raise InputError(f'expected a program that the compiler takes, found: {reason}') from error
    seconds, memory, hlo = time.process_time() - began, compiled.memory_analysis(), compiled.as_text()
    assert memory is not None  # the compilers of CPUs and TPUs know both
    assert hlo is not None
    both_ways = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    held = both_ways + memory.generated_code_size_in_bytes
    return Figures(seconds, len(hlo), held, memory.temp_size_in_bytes, read_work(hlo))
