"""The files of a dataset: one `.npz` for each example, and an index. Imports no JAX, no TensorFlow.

DATA_DIR/dataset.json                      the index: splits, columns, counts, rejected shapes, how it was made
DATA_DIR/shapes/<category>/<name>.npz      one shape, in the layout 'shapes'
DATA_DIR/sequences/<category>/<name>.npz   one sequence of shapes, in the layout 'sequences'
DATA_DIR/tfds/                             TFRecords made from the shapes (see `tfds_builder.py`)

`schema.py` has the columns. T labelled points and N surface samples of a shape, V views, F frames of a sequence. Points are
float16 in object coordinates (spacing below 5e-4 in the cube). Occupancies were computed at the rounded points, so that the
labels are exact. The order of the points matters:

    surface samples     random: any contiguous slice is a uniform sample of the surface
    labelled points     in chunks of 2,048, each a random sample of the cube as the dataset draws it, sorted by the distance to
                        the surface, nearest first: one chunk has points near the surface and points everywhere;
                        of a sequence random: any contiguous slice is a uniform sample of the cube
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from onet_jax.data.archives import parse_array, read_members, reject
from onet_jax.data.schema import CHUNK_POINTS, COLUMNS, LAYOUTS, SEQUENCES, SHAPES, Layout, Shape, ShapeSequence
from onet_jax.errors import InputError
from onet_jax.files import write_atomically, write_json
from onet_jax.json_files import COUNT, FILE_NAME, PATH, TEXT, Value, one_of, read_json, whole

VERSION = 5  # of the format; raised when the same meshes and settings give other files
SPLITS = ('train', 'val', 'test')
SEQUENCE_SPLITS = (*SPLITS, 'test_new_individual')  # the fourth is of D-FAUST: people who are in no other split
MAX_SEQUENCE_BYTES = 1 << 33  # of all arrays of a sequence


class Index(NamedTuple):
    """The content of `dataset.json`."""

    categories: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, str], ...]]  # 'train', 'val', 'test' -> (category, name) of each shape, in order
    columns: tuple[str, ...]  # of every shape
    num_points: int  # T, of every shape
    num_surface_points: int  # N, of every shape
    num_views: int  # V, of every shape; 0 for a dataset without images
    rejected: dict[str, str]  # 'category/name' -> why the shape is in no split
    source: dict  # how the dataset was made; plain JSON
    content: str  # digest of the recipes (content hashes) of all its shapes
    layout: str = 'shapes'  # of `LAYOUTS`
    num_frames: Mapping[str, int] = {}  # 'category/name' -> F, of each sequence

    @property
    def counts(self) -> dict[str, int]:
        """Rows of a column in an example, or in a frame of it, by what it is `per`."""
        return {'shape': 1, 'point': self.num_points, 'sample': self.num_surface_points, 'view': self.num_views}

    @property
    def num_input_views(self) -> int:
        """How many of the views, the first, are pictures without camera, alpha and depth, which can be inputs alone."""
        return self.source.get('num_input_views', 0)

    @property
    def num_fixed_views(self) -> int:
        """How many of the views, the last, are from cameras that all shapes share."""
        return self.source.get('num_fixed_views', 0)


# The schema of `dataset.json`: names of categories and shapes become those of files; of a source, what is read by its kind.
KEY = Value(
    '[category, name], both names of files',
    lambda shape: isinstance(shape, list) and len(shape) == 2 and all(map(FILE_NAME.fits, shape)),
)
SOURCES = {'procedural': {'seed': whole(0, 2**63 - 1)}, 'meshes': {'root': PATH, 'up': one_of('y', 'z')}}
INDEX = {
    'layout?': one_of(*LAYOUTS),
    'version': Value(str(VERSION), lambda value: value == VERSION),
    'categories': [FILE_NAME],
    'splits': {
        **{f'{split}?': [KEY] for split in SEQUENCE_SPLITS},
        '': Value(f'no split but {SEQUENCE_SPLITS}', lambda value: False),
    },
    'columns': [one_of(*COLUMNS)],
    **dict.fromkeys(('num_points', 'num_surface_points', 'num_views'), COUNT),
    'rejected': {'': TEXT},
    'source': lambda source: {
        **{'kind?': TEXT, 'sampling?': TEXT, 'names?': {'': TEXT}, 'first_frame?': COUNT, 'stride?': whole(1)},
        **{'num_input_views?': COUNT, 'num_fixed_views?': COUNT},
        **SOURCES.get(str(source.get('kind')) if isinstance(source, dict) else '', {}),
    },
    'content': TEXT,
    'num_frames?': {'': whole(1)},
}


class Need(NamedTuple):
    """What a row of a training batch reads of a shape."""

    columns: tuple[str, ...]
    num_points: int = 0  # distinct labelled points
    num_samples: int = 0  # distinct surface samples
    num_frames: int = 0  # L, consecutive frames of a sequence
    num_views: int = 0  # distinct views, on an axis of their own; 0: one view, without that axis
    num_input_views: int = 0  # of these, the first: they need no camera

    @property
    def chunks(self) -> dict[str, int]:
        """How many chunks hold the points, and the samples."""
        return {'point': -(-self.num_points // CHUNK_POINTS), 'sample': -(-self.num_samples // CHUNK_POINTS)}


# An endless stream of training batches: start_step -> raw batches of start_step, start_step + 1, ...
#
# A raw batch has the columns of a `Need` as stored: [B, 2048 n, *dims] for n chunks of points or samples, [B, *dims] for
# columns of a shape or of one of its views, [B, n, *dims] for those of n distinct views; of a sequence [B, L, ...], for each of
# L frames. Images are decoded, bool columns are packed bits. Also 'index' int32 [B], the position of the shape in the split,
# and 'row' int32 [B] = arange(B).
# `fields.py` makes inputs and targets of it. A feed of some `rows` delivers only these rows of the same batch.
Feed = Callable[[int], Iterator[dict]]


shape_path, sequence_path = SHAPES.path, SEQUENCES.path  # (data_dir, category, name) -> where an example is stored


def write_shape(path: str | Path, shape: Shape) -> None:
    """Write a shape as an uncompressed `.npz`, atomically. Category and name are those of the path (see `shape_path`)."""
    write_example(SHAPES, path, shape)


def read_shape(path: str | Path, index: Index | None = None) -> Shape:
    """Read a shape file, as `read_example`."""
    return read_example(SHAPES, path, index)


def read_sequence(path: str | Path, index: Index | None = None) -> ShapeSequence:
    """Read the file of a sequence, as `read_example`."""
    return read_example(SEQUENCES, path, index)


def write_example(layout: Layout, path: str | Path, example: Any) -> None:
    """Write an example as an uncompressed `.npz`, atomically. Category and name are those of the path (see `Layout.path`)."""
    arrays: dict[str, Any] = {}
    for name in layout.present(example):
        column, value = COLUMNS[name], getattr(example, name)
        if column.is_picture:
            arrays[name] = np.frombuffer(b''.join(value), np.uint8)
            arrays[f'{name}_ends'] = np.cumsum([len(file) for file in value], dtype=np.int64)
        else:
            arrays[name] = as_stored(name, np.asarray(value, column.dtype))
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    write_atomically(path, stream.getvalue())


def read_example(layout: Layout, path: str | Path, index: Index | None = None) -> Any:
    """Read and validate the file of an example against `COLUMNS`; with `index`, also against the columns and counts of the
    dataset.

    Raises FileNotFoundError without the file, InputError when it is damaged or an array is missing or of wrong shape or dtype.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: expected a {layout.noun} file, found none; run the preparation of the dataset again'
        )
    try:
        return _parse_example(layout, path, index)
    except InputError as error:
        raise InputError(f'{error}; delete the file and run the preparation of the dataset again') from error


def _parse_example(layout: Layout, path: Path, index: Index | None) -> Any:
    members = read_members(path, MAX_SEQUENCE_BYTES if layout is SEQUENCES else None)
    expected: Sequence[str] = [name for name in layout.columns if COLUMNS[name].required or name in members]
    if index is not None:
        expected = index.columns
    stored: dict[str, Any] = {name: _parse_column(path, name, members) for name in expected}
    counts = count(layout, stored)
    if index is not None:
        counts |= index.counts
        if layout is SEQUENCES:
            counts['frame'] = index.num_frames[f'{path.parent.name}/{path.stem}']
    for name, value in stored.items():
        column = COLUMNS[name]
        lead = (counts['frame'],) if column.moves else ()
        dims = (*(() if column.per == 'shape' else (counts[column.per],)), *column.dims)
        found, wanted = np.shape(value), (*lead, *dims)
        if column.is_picture:
            found, wanted = (len(value),), (int(np.prod((*lead, dims[0]))),)
        elif column.dtype is bool:
            wanted = (*lead, -(-int(np.prod(dims)) // 8))
        for axis, (length, expected_length) in enumerate(zip(found, wanted, strict=True)):
            if length != expected_length:
                along = f' along axis {axis}' if axis else ''
                reject(path, name, f'length {expected_length}{along}', str(length))
        if column.dtype is bool:
            bits = np.unpackbits(value, axis=-1, count=int(np.prod(dims)))
            stored[name] = bits.astype(bool).reshape((*lead, *dims))
    return layout.example(path.parent.name, path.stem, **{**dict.fromkeys(layout.columns), **stored})


def count(layout: Layout, columns: Mapping[str, Any]) -> dict[str, int]:
    """How many points, samples and views the columns of an example have, in a frame, and of a sequence how many frames."""
    counts = {'shape': 1}
    for per, name in layout.counted.items():
        column, value = COLUMNS[name], columns.get(name, ())
        counts[per] = len(value)
        if len(value) and column.moves and per != 'frame':
            counts[per] = len(value) // max(1, counts['frame']) if column.is_picture else np.shape(value)[1]
    return counts


def _parse_column(path: Path, name: str, members: dict[str, bytes]) -> np.ndarray | tuple[bytes, ...]:
    """A column as stored: bools as packed bits, images as a tuple of files."""
    column = COLUMNS[name]
    flat = column.dtype is bool or column.is_picture
    dtype = np.dtype(np.uint8 if flat else column.dtype)
    dims = (None,) if flat else (*(() if column.per == 'shape' else (None,)), *column.dims)
    if column.moves and not column.is_picture:
        dims = (None, *dims)
    array = parse_array(path, name, members, dtype.kind, dims)
    if array.dtype != dtype:
        reject(path, name, str(dtype), str(array.dtype))
    if not column.is_picture:
        return array
    content = array.tobytes()
    ends = [0, *parse_array(path, f'{name}_ends', members, 'i', (None,)).tolist()]
    if sorted(ends) != ends or ends[-1] != len(content):
        reject(path, f'{name}_ends', f'rising numbers up to {len(content)}', str(ends[1:]))
    return tuple(content[a:b] for a, b in pairwise(ends))


def encode_picture(pixels: np.ndarray) -> bytes:
    """Encode pixels as an image file: RGB [H, W, 3] uint8 as JPEG, one channel [H, W] uint8 or uint16 as PNG."""
    stream = io.BytesIO()
    if pixels.ndim == 3:
        Image.fromarray(pixels).save(stream, 'jpeg', quality=95, subsampling=0)
    else:
        Image.fromarray(pixels).save(stream, 'png', optimize=True)
    return stream.getvalue()


def decode_picture(name: str, content: bytes) -> np.ndarray:
    """Decode an image file of the column `name` to pixels [*dims]. Raises InputError for a damaged file or another size."""
    column = COLUMNS[name]
    try:
        with Image.open(io.BytesIO(content), formats=['JPEG', 'PNG']) as image:
            pixels = np.asarray(image.convert('RGB') if len(column.dims) == 3 else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = 'JPEG' if len(column.dims) == 3 else 'PNG'
        raise InputError(
            f'{name}: expected a {kind} file, found {len(content)} bytes that are damaged ({error})'
        ) from error
    if pixels.shape != column.dims:
        height, width = pixels.shape[:2]
        raise InputError(f'{name}: expected {column.dims[1]} x {column.dims[0]} px, found {width} x {height}')
    return pixels.astype(column.dtype)


def decode_views(path: str | Path, name: str, files: Sequence[bytes]) -> np.ndarray:
    """Decode images of the shape file `path` to pixels [V, *dims]. Raises InputError that names it for a damaged one."""
    try:
        return np.stack([decode_picture(name, content) for content in files])
    except InputError as error:
        raise InputError(f'{path}: {error}; delete the file and run the preparation of the dataset again') from error


def write_index(data_dir: str | Path, index: Index) -> None:
    """Write DATA_DIR/dataset.json atomically."""
    content = {'layout': index.layout, 'version': VERSION, **index._asdict()}
    if index.layout == 'shapes':
        del content['num_frames']
    write_json(Path(data_dir) / 'dataset.json', content)


def digest(data_dir: str | Path) -> str:
    """SHA-256 of the index of a dataset, and so of its shapes, in hexadecimal digits."""
    return hashlib.sha256((Path(data_dir) / 'dataset.json').read_bytes()).hexdigest()


def read_index(data_dir: str | Path, layout: Layout | None = SHAPES) -> Index:
    """Read DATA_DIR/dataset.json of a layout, None for any.

    Raises FileNotFoundError without it, InputError for a damaged one, another layout or another version.
    """
    path, content = Path(data_dir) / 'dataset.json', read_index_file(data_dir, INDEX)
    found = LAYOUTS[content.get('layout', 'shapes')]
    if layout not in (None, found):
        raise InputError(f'{path}: expected a dataset of {layout.name}, found one of {found.name}')
    layout = found
    required = [name for name in layout.columns if COLUMNS[name].required]
    missing = [name for name in required if name not in content['columns']]
    if missing:
        raise InputError(
            f'{path}: columns: expected {missing} too, found {content["columns"]}; {_how_to_make(data_dir)}'
        )
    splits = {split: tuple((category, name) for category, name in names) for split, names in content['splits'].items()}
    num_frames = content.get('num_frames', {})
    if layout is SEQUENCES:
        listed = {'/'.join(name) for names in splits.values() for name in names}
        uncounted = sorted(listed - num_frames.keys())
        if uncounted:
            raise InputError(
                f'{path}: num_frames: expected the frames of {uncounted[0]} too, found none; {_how_to_make(data_dir)}'
            )
    known = {key: content[key] for key in Index._fields if key in content} | {'layout': layout.name}
    return Index(
        **{**known, 'categories': tuple(content['categories']), 'splits': splits, 'columns': tuple(content['columns'])}
    )


def read_layout(data_dir: str | Path) -> Layout:
    """The layout of the dataset in a folder. Raises FileNotFoundError without one, InputError for an unknown layout."""
    layout = read_index_file(data_dir).get('layout', 'shapes')
    if layout not in LAYOUTS:
        raise InputError(f'{Path(data_dir) / "dataset.json"}: expected a layout of {sorted(LAYOUTS)}, found {layout!r}')
    return LAYOUTS[layout]


def read_index_file(data_dir: str | Path, schema: Any = None) -> dict:
    """Parse DATA_DIR/dataset.json, by default of any layout. Raises FileNotFoundError without it, InputError for another."""
    data_dir, how = Path(data_dir), _how_to_make(data_dir)
    path = data_dir / 'dataset.json'
    if not data_dir.is_dir():
        raise FileNotFoundError(f'{data_dir}: expected the folder of a dataset, found none; {how}')
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected the index of a dataset, found none; {how}')
    return read_json(path, schema or {'layout?': TEXT}, f'{how} in another folder')


def _how_to_make(data_dir: str | Path) -> str:
    return f'make a dataset with `onet prepare --data_dir={data_dir}`'


def split_shapes(data_dir: str | Path, index: Index, split: str) -> tuple[tuple[str, str], ...]:
    """(category, name) of the shapes of a split. Raises InputError for an unknown or an empty one."""
    if split not in index.splits:
        raise InputError(
            f'{Path(data_dir) / "dataset.json"}: expected a split of {sorted(index.splits)}, found {split!r}'
        )
    if not index.splits[split]:
        known = ', '.join(f'{name!r} has {len(shapes)}' for name, shapes in index.splits.items())
        raise InputError(
            f'{Path(data_dir) / "dataset.json"}: expected shapes in the split {split!r}, found none, {known}; '
            'a dataset of one shape is validated on it by --config.eval.split=train, and evaluated by --split=train'
        )
    return index.splits[split]


def check_need(data_dir: str | Path, index: Index, need: Need) -> None:
    """Raises InputError where a dataset lacks a column or has fewer points than a row of a training batch reads."""
    path = Path(data_dir) / 'dataset.json'
    missing = [name for name in need.columns if name not in index.columns]
    if missing:
        raise InputError(
            f'{path}: expected the columns {missing}, which the fields of the config read, found {list(index.columns)}; '
            'prepare the dataset with them (--num_views=24 for pictures and cameras, --depth for depth)'
        )
    for per, count in need.chunks.items():
        if count * CHUNK_POINTS > index.counts[per]:
            what = {'point': 'labelled points', 'sample': 'surface samples'}[per]
            raise InputError(
                f'{path}: expected at least {count * CHUNK_POINTS} {what} of a shape, found {index.counts[per]}: a training '
                f'step draws {need.num_points if per == "point" else need.num_samples} different ones, in whole chunks of '
                f'{CHUNK_POINTS}; prepare the dataset with more points'
            )
    num_needed, num_found = need.num_views, index.num_views
    if index.num_input_views:
        num_needed, num_found = num_needed - need.num_input_views, num_found - index.num_input_views
    if num_needed > num_found:
        raise InputError(
            f'{path}: expected at least {num_needed} views of a shape, which the fields of the config read, found '
            f'{num_found}; prepare the dataset with more views (--num_views=24)'
        )


def cut_chunks(example: Shape | ShapeSequence, name: str) -> np.ndarray:
    """A column of points or samples in K chunks: [K, 2048, *dims], of bools packed bits [K, 256]; of a sequence [F, K, ...].

    Drops the incomplete chunk.
    """
    column, value = COLUMNS[name], np.asarray(getattr(example, name))
    if not column.moves:
        value = value[None]
    num_chunks = value.shape[1] // CHUNK_POINTS
    chunks = value[:, : num_chunks * CHUNK_POINTS].reshape(len(value), num_chunks, CHUNK_POINTS, *column.dims)
    if column.dtype is bool:
        chunks = np.packbits(chunks, axis=2)
    return chunks if column.moves else chunks[0]


def as_stored(name: str, value: np.ndarray) -> np.ndarray:
    """Pack the bits of a bool column, those of a frame alone; the array of any other column is returned unchanged."""
    column = COLUMNS[name]
    if column.dtype is not bool:
        return value
    return np.packbits(value.reshape(len(value), -1), axis=1) if column.moves else np.packbits(value)
