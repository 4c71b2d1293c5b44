"""The schema of a dataset of shapes, and its files: one `.npz` for each shape, and an index. Imports no JAX, no TensorFlow.

DATA_DIR/dataset.json                      the index: splits, columns, counts, rejected shapes, how it was made
DATA_DIR/shapes/<category>/<name>.npz      one shape
DATA_DIR/tfds/                             TFRecords made from the shapes (see `tfds_builder.py`)

`COLUMNS` is the schema: the one table of what is stored of a shape. The writer, the reader, the TFRecords, both feeds, their
memory estimates and evaluation loop over it. `README.md` beside this file has every column with its unit and frame.

T labelled points and N surface samples of a shape, V views. Points are float16 in object coordinates (spacing below 5e-4 in the
cube). Occupancies were computed at the rounded points, so that the labels are exact. The order of the points matters:

    surface samples     random: any contiguous slice is a uniform sample of the surface
    labelled points     in chunks of 2,048, each a random sample of the cube as the dataset draws it, sorted by the distance to
                        the surface, nearest first: one chunk has points near the surface and points everywhere
"""

import hashlib
import io
from collections import namedtuple
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from onet_jax.data.archives import parse_array, read_members, reject
from onet_jax.errors import InputError
from onet_jax.files import write_atomically, write_json
from onet_jax.json_files import COUNT, FILE_NAME, PATH, TEXT, Value, one_of, read_json, whole

VERSION = 5  # of the format; raised when the same meshes and settings give other files
CHUNK_POINTS = 2048  # labelled points or surface samples in a chunk
NUM_VOXELS = 32  # on each axis
VIEW_SIZE = 137  # px, of square views
DEPTH_STEPS = 1 << 14  # quantisation of depth: steps per unit; 0 is background
SPLITS = ('train', 'val', 'test')


class Column(NamedTuple):
    """One stored array of a shape: [*dims], or one such array for each point, sample or view."""

    per: str  # 'shape', 'point' (labelled), 'sample' (of the surface) or 'view'
    dtype: type  # bool is stored as packed bits
    dims: tuple[int, ...] = ()
    required: bool = True
    is_picture: bool = False  # images, stored as files: JPEG for RGB, PNG for one channel


COLUMNS = {
    'points': Column('point', np.float16, (3,)),
    'occ': Column('point', bool),
    'surface': Column('sample', np.float16, (3,)),
    'normals': Column('sample', np.float16, (3,)),
    'voxels': Column('shape', bool, (NUM_VOXELS,) * 3),
    'loc': Column('shape', np.float64, (3,)),
    'scale': Column('shape', np.float64),
    'ambiguous': Column('shape', np.float64),
    'recipe': Column('shape', np.uint8, (32,)),
    'colours': Column('sample', np.uint8, (3,), required=False),
    'image': Column('view', np.uint8, (VIEW_SIZE, VIEW_SIZE, 3), required=False, is_picture=True),
    'alpha': Column('view', np.uint8, (VIEW_SIZE, VIEW_SIZE), required=False, is_picture=True),
    'depth': Column('view', np.uint16, (VIEW_SIZE, VIEW_SIZE), required=False, is_picture=True),
    'world_mat': Column('view', np.float32, (3, 4), required=False),
    'camera_mat': Column('view', np.float32, (3, 3), required=False),
}
COUNTED = {'point': 'points', 'sample': 'surface', 'view': 'image'}  # columns of length T, N and V

_Columns: Any
_Columns = namedtuple(  # type: ignore[misc, no-redef]  # its fields are those of the schema
    '_Columns',
    ('category', 'name', *COLUMNS),
    defaults=(np.float64(0), np.zeros(32, np.uint8), *(None for column in COLUMNS.values() if not column.required)),
)


class Shape(_Columns):
    """One shape: category, name and its columns in object coordinates, None for those that it lacks.

    In the frame of its own file, rotated to y up, a point is at loc + scale * point. A column of images is a tuple of V files.
    """

    __slots__ = ()


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

    @property
    def counts(self) -> dict[str, int]:
        """Rows of a column, by what it is `per`."""
        return {'shape': 1, 'point': self.num_points, 'sample': self.num_surface_points, 'view': self.num_views}


# The schema of `dataset.json`: names of categories and shapes become those of files; of a source, what is read by its kind.
KEY = Value(
    '[category, name], both names of files',
    lambda shape: isinstance(shape, list) and len(shape) == 2 and all(map(FILE_NAME.fits, shape)),
)
SOURCES = {'procedural': {'seed': whole(0, 2**63 - 1)}, 'meshes': {'root': PATH, 'up': one_of('y', 'z')}}
INDEX = {
    'layout?': TEXT,
    'version': Value(str(VERSION), lambda value: value == VERSION),
    'categories': [FILE_NAME],
    'splits': {**{f'{split}?': [KEY] for split in SPLITS}, '': Value(f'no split but {SPLITS}', lambda value: False)},
    'columns': [one_of(*COLUMNS)],
    **dict.fromkeys(('num_points', 'num_surface_points', 'num_views'), COUNT),
    'rejected': {'': TEXT},
    'source': lambda source: {
        **{'kind?': TEXT, 'sampling?': TEXT, 'names?': {'': TEXT}},
        **SOURCES.get(str(source.get('kind')) if isinstance(source, dict) else '', {}),
    },
    'content': TEXT,
}


class Need(NamedTuple):
    """What a row of a training batch reads of a shape."""

    columns: tuple[str, ...]
    num_points: int = 0  # distinct labelled points
    num_samples: int = 0  # distinct surface samples

    @property
    def chunks(self) -> dict[str, int]:
        """How many chunks hold the points, and the samples."""
        return {'point': -(-self.num_points // CHUNK_POINTS), 'sample': -(-self.num_samples // CHUNK_POINTS)}


# An endless stream of training batches: start_step -> raw batches of start_step, start_step + 1, ...
#
# A raw batch has the columns of a `Need` as stored: [B, 2048 n, *dims] for n chunks of points or samples, [B, *dims] for
# columns of a shape or of one of its views. Images are decoded, bool columns are packed bits. Also 'index' int32 [B], the
# position of the shape in the split, and 'row' int32 [B] = arange(B). `fields.py` makes inputs and targets of it. A feed of
# some `rows` delivers only these rows of the same batch.
Feed = Callable[[int], Iterator[dict]]


def shape_path(data_dir: str | Path, category: str, name: str) -> Path:
    """Where a shape of a dataset is stored."""
    return Path(data_dir) / 'shapes' / category / f'{name}.npz'


def present(shape: Shape) -> tuple[str, ...]:
    """The columns that a shape has, in the order of the schema."""
    return tuple(name for name in COLUMNS if getattr(shape, name) is not None)


def write_shape(path: str | Path, shape: Shape) -> None:
    """Write a shape as an uncompressed `.npz`, atomically. Category and name are those of the path (see `shape_path`)."""
    arrays: dict[str, Any] = {}
    for name in present(shape):
        column, value = COLUMNS[name], getattr(shape, name)
        if column.is_picture:
            arrays[name] = np.frombuffer(b''.join(value), np.uint8)
            arrays[f'{name}_ends'] = np.cumsum([len(file) for file in value], dtype=np.int64)
        else:
            arrays[name] = np.packbits(value) if column.dtype is bool else np.asarray(value, column.dtype)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    write_atomically(path, stream.getvalue())


def read_shape(path: str | Path, index: Index | None = None) -> Shape:
    """Read and validate a shape file against `COLUMNS`; with `index`, also against the columns and counts of the dataset.

    Raises FileNotFoundError without the file, InputError when it is damaged or an array is missing or of wrong shape or dtype.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a shape file, found none; run the preparation of the dataset again')
    try:
        return _parse_shape(path, index)
    except InputError as error:
        raise InputError(f'{error}; delete the file and run the preparation of the dataset again') from error


def _parse_shape(path: Path, index: Index | None) -> Shape:
    members = read_members(path)
    expected = [name for name, column in COLUMNS.items() if column.required or name in members]
    if index is not None:
        expected = index.columns
    stored: dict[str, Any] = {name: _parse_column(path, name, members) for name in expected}
    counts = {'shape': 1} | {per: len(stored[name]) for per, name in COUNTED.items() if name in stored}
    if index is not None:
        counts = index.counts
    for name, value in stored.items():
        column = COLUMNS[name]
        dims = column.dims if column.per == 'shape' else (counts[column.per], *column.dims)
        if column.dtype is bool:
            num_bits = int(np.prod(dims))
            if len(value) != -(-num_bits // 8):
                reject(path, name, f'length {-(-num_bits // 8)}', str(len(value)))
            stored[name] = np.unpackbits(value, count=num_bits).astype(bool).reshape(dims)
        elif column.per != 'shape' and len(value) != dims[0]:
            reject(path, name, f'length {dims[0]}', str(len(value)))
    return Shape(path.parent.name, path.stem, **stored)


def _parse_column(path: Path, name: str, members: dict[str, bytes]) -> np.ndarray | tuple[bytes, ...]:
    """A column as stored: bools as packed bits, images as a tuple of files."""
    column = COLUMNS[name]
    flat = column.dtype is bool or column.is_picture
    dtype = np.dtype(np.uint8 if flat else column.dtype)
    dims = (None,) if flat else (*(() if column.per == 'shape' else (None,)), *column.dims)
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
        raise InputError(f'{name}: expected {VIEW_SIZE} x {VIEW_SIZE} px, found {width} x {height}')
    return pixels.astype(column.dtype)


def decode_views(path: str | Path, name: str, files: Sequence[bytes]) -> np.ndarray:
    """Decode images of the shape file `path` to pixels [V, *dims]. Raises InputError that names it for a damaged one."""
    try:
        return np.stack([decode_picture(name, content) for content in files])
    except InputError as error:
        raise InputError(f'{path}: {error}; delete the file and run the preparation of the dataset again') from error


def write_index(data_dir: str | Path, index: Index) -> None:
    """Write DATA_DIR/dataset.json atomically."""
    write_json(Path(data_dir) / 'dataset.json', {'layout': 'shapes', 'version': VERSION, **index._asdict()})


def digest(data_dir: str | Path) -> str:
    """SHA-256 of the index of a dataset, and so of its shapes, in hexadecimal digits."""
    return hashlib.sha256((Path(data_dir) / 'dataset.json').read_bytes()).hexdigest()


def read_index(data_dir: str | Path) -> Index:
    """Read DATA_DIR/dataset.json. Raises FileNotFoundError without it, InputError for a damaged one or another version."""
    content = read_index_file(data_dir, INDEX)
    missing = [name for name, column in COLUMNS.items() if column.required and name not in content['columns']]
    if missing:
        found = f'{missing} too, found {content["columns"]}'
        raise InputError(f'{Path(data_dir) / "dataset.json"}: columns: expected {found}; {_how_to_make(data_dir)}')
    return Index(
        tuple(content['categories']),
        {split: tuple((category, name) for category, name in shapes) for split, shapes in content['splits'].items()},
        tuple(content['columns']),
        *(content[key] for key in Index._fields[3:]),
    )


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


def cut_chunks(shape: Shape, name: str) -> np.ndarray:
    """A column of points or samples in K chunks: [K, 2048, *dims], of bools packed bits [K, 256]. Drops the incomplete one."""
    column, value = COLUMNS[name], getattr(shape, name)
    num_chunks = len(value) // CHUNK_POINTS
    chunks = value[: num_chunks * CHUNK_POINTS].reshape(num_chunks, CHUNK_POINTS, *column.dims)
    return np.packbits(chunks, axis=1) if column.dtype is bool else chunks


def as_stored(name: str, value: np.ndarray) -> np.ndarray:
    """Pack the bits of a bool column; the array of any other column is returned unchanged."""
    return np.packbits(value) if COLUMNS[name].dtype is bool else value


def evaluation_batches(
    data_dir: str | Path,
    split: str,
    batch_size: int,
    columns: Collection[str],
    *,
    every: int = 1,
    positions: Sequence[int] | None = None,
    view: int = 0,
    left_out: Collection[tuple[str, str]] = (),
) -> Iterator[tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]]:
    """Batches of whole shapes of a split, each once, in its order: (raw batch, (category, name) of its real rows).

    every: only each `every`-th shape; positions: only these, instead; left_out: not these. view: the one that is read of each
    shape, the first in the paper's evaluation. A raw batch has `columns` [B, T, *dims], [B, N, *dims] or [B, *dims], bools as
    packed bits; 'row' and 'index' int32 [B], the position in the split (so that the noise of an input does not depend on B);
    'mask' bool [B]. The last batch is padded by repeating its rows, with mask False.

    Raises InputError for a batch size below 1, an unknown or empty split and a missing column; a batch raises as `read_shape`.
    """
    if batch_size < 1:
        raise InputError(f'batch_size: expected at least 1, found {batch_size}')
    index = read_index(data_dir)
    shapes = split_shapes(data_dir, index, split)
    check_need(data_dir, index, Need(tuple(columns)))
    read = range(0, len(shapes), every) if positions is None else positions
    read = np.array([i for i in read if shapes[i] not in left_out], int)

    def read_row(name):
        path = shape_path(data_dir, *name)
        shape = read_shape(path, index)
        row = {key: getattr(shape, key) for key in columns}
        for key, value in row.items():
            if COLUMNS[key].per == 'view':
                value = value[view]
            row[key] = decode_views(path, key, [value])[0] if COLUMNS[key].is_picture else as_stored(key, value)
        return row

    def batches():
        for start in range(0, len(read), batch_size):
            some = read[start : start + batch_size]
            names = tuple(shapes[i] for i in some)
            rows, repeated = [read_row(name) for name in names], np.arange(batch_size) % len(names)
            raw = {key: np.stack([rows[i][key] for i in repeated]) for key in columns}
            raw['row'] = raw['index'] = some[repeated].astype(np.int32)
            raw['mask'] = np.arange(batch_size) < len(rows)
            yield raw, names

    return batches()
