"""Batches of fields: the inputs (`config.data.inputs`) and targets (`config.data.targets`) that a config names.

A batch is {'inputs': {name: [B, ...]}, 'targets': {name: [B, ...]}, 'row': [B], 'mask': [B]}; `field_table.py` has the fields.
Every row draws from its own key, so a part of a batch has the same rows as the whole. B batch, V views.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data import clip_inputs, draws
from onet_jax.data.field_table import FIELDS, find_clouds
from onet_jax.data.records import Need
from onet_jax.data.schema import CHUNK_POINTS, COLUMNS
from onet_jax.data.sources import Source, check_file
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import Frame

POSE_STREAM = 19  # of random numbers; inputs have those that are numbered from 0
POSED = ('points', 'occ', 'surface', 'normals')  # columns that `draws.pose` turns, or that turn with others


def find_fields(data: ConfigDict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the inputs and of the targets of a config.

    Raises InputError for an unknown one, for a missing key and for wrong numbers.
    """
    for key in ('inputs', 'targets'):
        check_names(f'config.data.{key}', data[key])
    for name in (*data.inputs, *data.targets):
        missing = [key for key in FIELDS[name].settings if key not in data]
        if missing:
            raise InputError(
                f'config.data: expected the keys {missing}, which the field {name!r} reads, found {sorted(data)}'
            )
    sizes = ('num_points_per_step', 'num_input_points', 'num_target_points', 'num_trajectories')
    for key in (*sizes, 'num_surface_points', 'view_size'):
        if data.get(key, 1) < 1:
            raise InputError(f'config.data.{key}: expected at least 1, found {data[key]}')
    if data.get('num_frames', 2) < 2:
        raise InputError(f'config.data.num_frames: expected at least 2, a clip that moves, found {data.num_frames}')
    if not 0 <= data.get('num_near_points', 0) <= data.get('num_points_per_step', 0):
        raise InputError(
            'config.data.num_near_points: expected 0 to config.data.num_points_per_step = '
            f'{data.num_points_per_step}, found {data.num_near_points}'
        )
    fixed = sorted(set(columns_of((*data.inputs, *data.targets))) - set(POSED))
    if data.get('random_scans') and fixed:
        raise InputError(
            f'config.data.random_scans: expected fields of points alone, which can be posed, found some that read {fixed}'
        )
    return tuple(data.inputs), tuple(data.targets)


def check_names(key: str, names: Sequence[str]) -> None:
    """Raises InputError where a value of a config does not name fields."""
    if not names or not set(names) <= FIELDS.keys():
        raise InputError(f'{key}: expected some of {sorted(FIELDS)}, found {tuple(names)}')


def find_need(data: ConfigDict) -> Need:
    """The columns, and how many distinct points and samples, that a training row reads."""
    inputs, targets = find_fields(data)
    fields = [FIELDS[name] for name in (*inputs, *targets)]
    columns = tuple(name for name in COLUMNS if any(name in field.columns for field in fields))
    num_points, num_samples = (max(getattr(field, size)(data) for field in fields) for size in Need._fields[1:3])
    moves = any(COLUMNS[name].moves for name in columns)
    num_views = count_views((*inputs, *targets))
    seen = sees_first_view((*inputs, *targets)) if num_views else 0
    return Need(columns, num_points, num_samples, data.num_frames if moves else 0, num_views, int(seen))


def count_views(names: Sequence[str]) -> int:
    """How many distinct views, on an axis of their own, a training row of the fields needs. 0: one, without that axis."""
    num_views = max(FIELDS[name].num_views for name in names)
    return num_views and num_views + sees_first_view(names)


def sees_first_view(names: Sequence[str]) -> bool:
    """Whether one of the fields is of the first view of a row alone."""
    return any(
        COLUMNS[column].per == 'view' and not FIELDS[name].num_views
        for name in names
        for column in FIELDS[name].columns
    )


def make_transform(data: ConfigDict) -> Callable[[jax.Array, dict], dict]:
    """transform(key, raw training batch) -> batch, jittable. Raises InputError as `find_fields` does."""
    inputs, targets = find_fields(data)
    return _transform(data, inputs, targets, training=True)


def make_evaluation_transform(
    data: ConfigDict, inputs: Sequence[str], targets: Sequence[str], as_trained: bool = False
) -> Callable[[jax.Array, dict], dict]:
    """transform(key, raw evaluation batch) -> batch, jittable: whole shapes, without augmentation unless it is `as_trained`."""
    return _transform(data, inputs, targets, training=as_trained)


def _transform(data: ConfigDict, inputs: Sequence[str], targets: Sequence[str], training: bool) -> Callable:
    names = (*inputs, *targets)
    has_axis, first_other = count_views(names) > 0, int(sees_first_view(names))

    def see(field, row):
        """The row with the views of a field."""
        if not has_axis:
            return row
        part: Any = slice(first_other, None) if field.num_views else 0
        return {
            name: value[part] if name in COLUMNS and COLUMNS[name].per == 'view' else value
            for name, value in row.items()
        }

    def draw(names, key, row):
        drawn: dict[str, jax.Array] = {}
        for i, name in enumerate(names):
            field = FIELDS[name]
            function = field.draw if training or field.draw_all is None else field.draw_all
            drawn |= function(jax.random.fold_in(key, i), see(field, row), data)
        return drawn

    def transform_row(key, row):
        inputs_key, targets_key = jax.random.split(jax.random.fold_in(key, row['row']))
        if training and data.get('random_scans'):
            row = draws.pose(jax.random.fold_in(inputs_key, POSE_STREAM), row)
        return {'inputs': draw(inputs, inputs_key, row), 'targets': draw(targets, targets_key, row), 'row': row['row']}

    def transform(key, raw):
        raw = {name: jnp.asarray(value) for name, value in raw.items()}
        batch = jax.vmap(partial(transform_row, key))({name: raw[name] for name in raw if name != 'mask'})
        return batch | ({'mask': raw['mask']} if 'mask' in raw else {})

    return transform


def evaluation_key(seed: int) -> jax.Array:
    """The key of all evaluations of a run, into which each row folds its position. Weights and training use other keys."""
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def unseen_inputs(inputs: Sequence[str], split: str) -> tuple[str, ...]:
    """The input fields for shapes of a split: outside the training split `Field.unseen` replaces the index of a shape."""
    return tuple((split != 'train' and FIELDS[name].unseen) or name for name in inputs)


def columns_of(names: Collection[str]) -> tuple[str, ...]:
    """The columns that the fields `names` read, in the order of the schema."""
    return tuple(name for name in COLUMNS if any(name in FIELDS[field].columns for field in names))


def example_batch(data: ConfigDict) -> dict:
    """Shapes and dtypes of a training batch of one row: enough for `Method.init` under `jax.eval_shape`."""
    return jax.eval_shape(make_transform(data), jax.random.key(0), describe_rows(find_need(data), 1))


def describe_rows(need: Need, num_rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of B = num_rows rows of a raw batch (`records.Feed`), with whole chunks of points and samples."""
    described = {name: _stored_shape(name, need, num_rows) for name in need.columns}
    return described | {name: jax.ShapeDtypeStruct((num_rows,), np.int32) for name in ('index', 'row')}


def _stored_shape(name: str, need: Need, num_rows: int) -> jax.ShapeDtypeStruct:
    column = COLUMNS[name]
    dims = (*filter(None, [CHUNK_POINTS * need.chunks.get(column.per, 0)]), *column.dims)
    lead = (num_rows, need.num_frames) if column.moves else (num_rows,)
    if column.per == 'view' and need.num_views:
        lead = (num_rows, need.num_views)
    if column.dtype is bool:
        return jax.ShapeDtypeStruct((*lead, int(np.prod(dims)) // 8), np.uint8)
    dtype = np.float32 if column.dtype is np.float64 else column.dtype  # on the device
    return jax.ShapeDtypeStruct((*lead, *dims), dtype)


def read_inputs(data: ConfigDict, source: Source, seed: int) -> tuple[dict, Frame]:
    """The inputs of a network from a user's file: {name: array} without a batch axis, and the frame of the first field.

    Each input field reads the same file. Warns of what had to be assumed. Raises OSError or InputError, naming the file, where
    it cannot be read.
    """
    if not sees_clips(data):
        check_file(source.path)
    read = [read_field(source, data, seed) for _, read_field in _readable(data)]
    return {name: array for arrays, _ in read for name, array in arrays.items()}, read[0][1]


def in_order(inputs: Mapping[str, Any]) -> list[Any]:
    """The arrays of inputs by the order of their fields in `FIELDS`, in which networks take them: jit sorts names."""
    names = (array for name, field in FIELDS.items() for array in field.arrays or (name,))
    return [inputs[name] for name in names if name in inputs]


def find_sources(data: ConfigDict, path: str | Path) -> list[Source]:
    """The files in `path` from which the inputs of a network can be read. Raises FileNotFoundError where there is none."""
    find, _ = _readable(data)[0]
    return find(path)


def _readable(data: ConfigDict) -> list[tuple[Callable, Callable]]:
    """`find` and `read` of each input field."""
    names, _ = find_fields(data)
    functions = [(field.find, field.read) for field in map(FIELDS.__getitem__, names) if field.find and field.read]
    if len(functions) < len(names):
        known = sorted(name for name, field in FIELDS.items() if field.read)
        raise InputError(
            f'config.data.inputs: expected a model with inputs of {known}, which files can be read as, found {names}; a model '
            'without input is sampled by `onet sample`'
        )
    return functions


def check_inputs(config: ConfigDict, *reads: str) -> None:
    """Raises InputError unless `reads`, the fields that the network takes, are the inputs of the config."""
    names = input_names(config.data)
    if names != reads:
        reader = f'the encoder {config.model.encoder!r}' if 'encoder' in config.model else config.model.name
        raise InputError(f'config.data.inputs: expected {reads}, what {reader} reads, found {names}')


def input_names(data: ConfigDict) -> tuple[str, ...]:
    """The input fields, in the order in which the network takes them."""
    return tuple(data.inputs)


def has_input(data: ConfigDict) -> bool:
    """Whether a network is conditioned on an input."""
    return 'none' not in data.inputs


def shows_objects(data: ConfigDict) -> bool:
    """Whether each input is of one whole object, so that the codes of two of them can be compared."""
    return all(FIELDS[name].is_object for name in data.inputs)


def has_cloud(data: ConfigDict) -> bool:
    """Whether an input is read from a point cloud."""
    return any(FIELDS[name].find is find_clouds for name in data.inputs)


def sees_clips(data: ConfigDict) -> bool:
    """Whether an input is a sequence, which is read from a folder of its frames."""
    return any(FIELDS[name].find in (clip_inputs.find_clips, clip_inputs.find_videos) for name in data.inputs)


def sees_rays(data: ConfigDict) -> bool:
    """Whether an example is a ray of a scene, and in evaluation a view."""
    return 'rays' in data.inputs


def sees_views(data: ConfigDict) -> bool:
    """Whether an input is one of the views of a shape."""
    return any(COLUMNS[column].per == 'view' for name in data.inputs for column in FIELDS[name].columns)


def show(inputs: dict[str, np.ndarray]) -> Any:
    """The inputs of one shape for display: points [N, 3], pixels [H, W, 3] uint8 or a sequence; None for nothing to see."""
    shown = (look(array) for name, array in inputs.items() if name in FIELDS and (look := FIELDS[name].show))
    return next(shown, None)


def held_out(targets: dict, inputs: dict) -> dict:
    """The targets without the labelled points to which a code was fitted: these are not scored."""
    if 'labels' not in inputs:
        return targets
    first = inputs['labels'].shape[1]
    return {**targets, 'points': targets['points'][:, first:], 'occ': targets['occ'][:, first:]}
