"""Datasets on disk: one `.npz` file for each shape and a `dataset.json` that lists them. Needs numpy and Pillow only.

DATA_DIR/dataset.json                      the index: splits, numbers of points, rejected shapes, how it was made
DATA_DIR/shapes/<category>/<name>.npz      one shape
DATA_DIR/tfds/                             TFRecords derived from them (see `builder.py`)

B batch, N volume points and M surface points of a shape, V views, K training chunks of a shape. Points are in object
coordinates and float16 (spacing below 5e-4 in the cube); occupancies were computed on the rounded points, so that the pair
is exact. Surface points are stored in random order: any contiguous piece of them is a uniform sample. Volume points are so
chunk by chunk: any whole chunk of 2048 is a uniform sample, and lies in it from the surface outwards, so that a training
step reads one record and finds there both points near the surface and points everywhere. `README.md` beside this file has
every array with its unit and frame.
"""

import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from onet_jax.data.archives import parse_array, read_members, reject
from onet_jax.errors import InputError
from onet_jax.files import write_atomically, write_json

VERSION = 4  # raised when the same meshes and settings come out as other files
CHUNK_POINTS = 2048  # points of one training record
NUM_VOXELS = 32  # on each axis
VIEW_SIZE = 137  # px, of square views
SPLITS = ('train', 'val', 'test')

# dtype and shape of each array of a shape file; None is any length.
ARRAYS = {
    'points': (np.float16, (None, 3)),
    'occ': (np.uint8, (None,)),  # np.packbits
    'surface': (np.float16, (None, 3)),
    'normals': (np.float16, (None, 3)),
    'voxels': (np.uint8, (NUM_VOXELS**3 // 8,)),  # np.packbits of [32, 32, 32], x slowest
    'loc': (np.float64, (3,)),
    'scale': (np.float64, ()),
    'ambiguous': (np.float64, ()),
    'recipe': (np.uint8, (32,)),
}
# Of a shape with views only.
VIEW_ARRAYS = {
    'jpegs': (np.uint8, (None,)),  # the files, one after the other
    'jpeg_ends': (np.int64, (None,)),  # where each one ends
    'world_mat': (np.float32, (None, 3, 4)),
    'camera_mat': (np.float32, (None, 3, 3)),
}


class Views(NamedTuple):
    """Pictures of a shape and the cameras that took them (`geometry/cameras.py`)."""

    jpegs: tuple[bytes, ...]  # V files of 137 x 137 px, on white
    world_mat: np.ndarray  # [V, 3, 4] float32, object coordinates to those of the camera
    camera_mat: np.ndarray  # [V, 3, 3] float32, to pixels


class Shape(NamedTuple):
    """One shape in object coordinates; in its own file's frame, turned y up, a point is at loc + scale * point."""

    category: str
    name: str
    points: np.ndarray  # [N, 3] float16, uniform in the padded cube
    occ: np.ndarray  # [N] bool, True inside
    surface: np.ndarray  # [M, 3] float16, uniform on the surface
    normals: np.ndarray  # [M, 3] float16, outward unit normals of `surface`
    voxels: np.ndarray  # [32, 32, 32] bool, occupancy at the voxel centres
    loc: np.ndarray  # [3] float64
    scale: float
    ambiguous: float = 0.0  # share of the volume whose labels are a matter of judgement (`geometry/watertight.py`)
    views: Views | None = None
    recipe: bytes = bytes(32)  # SHA-256 of all that the shape was made from


class Index(NamedTuple):
    """What `dataset.json` says."""

    categories: tuple[str, ...]
    splits: dict[str, tuple[tuple[str, str], ...]]  # 'train', 'val', 'test' -> (category, name) of each shape, in order
    num_points: int  # of every shape
    num_surface_points: int
    num_views: int  # of every shape; 0 for a dataset without pictures
    rejected: dict[str, str]  # 'category/name' -> why the shape is in no split
    source: dict  # how the dataset was made; plain JSON
    content: str  # digest of the recipes of all its shapes


class Chunks(NamedTuple):
    """A shape cut into training records.

    Record k holds points[k], occ[k], surface[k mod K_surface], voxels and jpegs[k mod V].
    """

    points: np.ndarray  # [K, 2048, 3] float16
    occ: np.ndarray  # [K, 256] uint8, np.packbits
    surface: np.ndarray  # [K_surface, 2048, 3] float16
    voxels: np.ndarray  # [4096] uint8, np.packbits
    jpegs: tuple[bytes, ...]  # V files; none for a shape without views


class Feed(NamedTuple):
    """A source of training batches, endless and resumable at any step.

    A raw batch is {'points' f16 [B, 2048 n, 3], 'occ' uint8 [B, 256 n], 'surface' f16 [B, 2048 m, 3], 'voxels' uint8
    [B, 4096], 'index' int32 [B] the shape's position in the split, 'row' int32 [B] = arange(B)}, of n and m chunks, one where
    the feed is not asked for more; with views also 'view' uint8 [B, 137, 137, 3]: stored bytes, to be unpacked by
    `transforms.make_transform`. A feed of some `rows` delivers these rows of the same batch and no others.
    """

    num_shapes: int
    batches: Callable[[int], Iterator[dict]]  # start_step -> raw batches of start_step, start_step + 1, ...


def shape_path(data_dir: str | Path, category: str, name: str) -> Path:
    """Where a shape of a dataset is stored."""
    return Path(data_dir) / 'shapes' / category / f'{name}.npz'


def write_shape(path: str | Path, shape: Shape) -> None:
    """Write a shape as an uncompressed `.npz`; the file appears whole or not at all. Its path says category and name."""
    arrays = {key: getattr(shape, key) for key in ('points', 'surface', 'normals', 'loc')}
    arrays |= {'occ': np.packbits(shape.occ), 'voxels': np.packbits(shape.voxels)}
    arrays |= {'scale': np.float64(shape.scale), 'ambiguous': np.float64(shape.ambiguous)}
    arrays |= {'recipe': np.frombuffer(shape.recipe, np.uint8)}
    if shape.views is not None:
        jpegs, world_mat, camera_mat = shape.views
        arrays |= {
            'jpegs': np.frombuffer(b''.join(jpegs), np.uint8),
            'jpeg_ends': np.cumsum([len(jpeg) for jpeg in jpegs], dtype=np.int64),
            'world_mat': world_mat.astype(np.float32),
            'camera_mat': camera_mat.astype(np.float32),
        }
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    write_atomically(path, stream.getvalue())


def read_shape(path: str | Path, index: Index | None = None) -> Shape:
    """Read and check a shape file; with `index`, also that it has as many points and views as the dataset promises.

    Raises FileNotFoundError without the file, ValueError when it is damaged or an array is missing or unlike `ARRAYS`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a shape file, found none; run the preparation of the dataset again')
    try:
        return _parse_shape(path, index)
    except ValueError as error:
        raise InputError(f'{error}; delete the file and run the preparation of the dataset again') from error


def _parse_shape(path: Path, index: Index | None) -> Shape:
    members = read_members(path)
    expected = ARRAYS | (VIEW_ARRAYS if 'jpegs' in members else {})
    arrays = {key: _parse(path, key, members, *spec) for key, spec in expected.items()}
    num_points, num_surface_points = len(arrays['points']), len(arrays['surface'])
    views = _parse_views(path, arrays) if 'jpegs' in arrays else None
    sizes = {'occ': -(-num_points // 8), 'normals': num_surface_points}
    found = {key: len(arrays[key]) for key in sizes}
    if index is not None:
        sizes |= {'points': index.num_points, 'surface': index.num_surface_points, 'jpeg_ends': index.num_views}
        found |= {'points': num_points, 'surface': num_surface_points, 'jpeg_ends': len(views.jpegs) if views else 0}
    for key, size in sizes.items():
        if found[key] != size:
            reject(path, key, f'length {size}', str(found[key]))
    return Shape(
        path.parent.name,
        path.stem,
        arrays['points'],
        np.unpackbits(arrays['occ'], count=num_points).astype(bool),
        arrays['surface'],
        arrays['normals'],
        np.unpackbits(arrays['voxels']).astype(bool).reshape((NUM_VOXELS,) * 3),
        arrays['loc'],
        float(arrays['scale']),
        float(arrays['ambiguous']),
        views,
        arrays['recipe'].tobytes(),
    )


def _parse(path: Path, key: str, members: dict[str, bytes], dtype: type, dims: tuple) -> np.ndarray:
    array = parse_array(path, key, members, np.dtype(dtype).kind, dims)
    if array.dtype != dtype:
        reject(path, key, str(np.dtype(dtype)), str(array.dtype))
    return array


def _parse_views(path: Path, arrays: dict[str, np.ndarray]) -> Views:
    content, ends = arrays['jpegs'].tobytes(), [0, *arrays['jpeg_ends'].tolist()]
    if sorted(ends) != ends or ends[-1] != len(content):
        reject(path, 'jpeg_ends', f'rising numbers up to {len(content)}', str(ends[1:]))
    for key in ('world_mat', 'camera_mat'):
        if len(arrays[key]) != len(ends) - 1:
            reject(path, key, f'one for each of {len(ends) - 1} views', str(len(arrays[key])))
    jpegs = tuple(content[a:b] for a, b in pairwise(ends))
    return Views(jpegs, arrays['world_mat'], arrays['camera_mat'])


def encode_view(pixels: np.ndarray) -> bytes:
    """A picture [H, W, 3] uint8 as a JPEG file."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, 'jpeg', quality=95, subsampling=0)
    return stream.getvalue()


def decode_view(jpeg: bytes) -> np.ndarray:
    """A stored view as pixels [137, 137, 3] uint8, RGB. Raises ValueError for a damaged one or another size."""
    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            pixels = np.asarray(image.convert('RGB'))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f'view: expected a JPEG file, found {len(jpeg)} bytes that are damaged ({error})') from error
    if pixels.shape != (VIEW_SIZE, VIEW_SIZE, 3):
        raise InputError(f'view: expected {VIEW_SIZE} x {VIEW_SIZE} px, found {pixels.shape[1]} x {pixels.shape[0]}')
    return pixels


def decode_views(path: str | Path, jpegs: tuple[bytes, ...]) -> np.ndarray:
    """The views of the shape file `path` as pixels [V, 137, 137, 3] uint8. Raises ValueError, naming it, as `decode_view`."""
    try:
        return np.stack([decode_view(jpeg) for jpeg in jpegs])
    except ValueError as error:
        raise InputError(f'{path}: {error}; delete the file and run the preparation of the dataset again') from error


def write_index(data_dir: str | Path, index: Index) -> None:
    """Write DATA_DIR/dataset.json; the file appears whole or not at all."""
    write_json(Path(data_dir) / 'dataset.json', {'version': VERSION, **index._asdict()})


def digest(data_dir: str | Path) -> str:
    """Which dataset this is: a digest of its index, hence of its shapes."""
    return hashlib.sha256((Path(data_dir) / 'dataset.json').read_bytes()).hexdigest()


def read_index(data_dir: str | Path) -> Index:
    """Read DATA_DIR/dataset.json. Raises FileNotFoundError without it, ValueError when it cannot be used."""
    data_dir = Path(data_dir)
    path = data_dir / 'dataset.json'
    how = f'make a dataset with `python -m launch.prepare --data_dir={data_dir}`'
    if not data_dir.is_dir():
        raise FileNotFoundError(f'{data_dir}: expected the folder of a dataset, found none; {how}')
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected the index of a dataset, found none; {how}')
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f'{path}: expected JSON, found a damaged file ({error}); {how}') from error
    version = content.get('version') if isinstance(content, dict) else None
    if version != VERSION:
        raise InputError(f'{path}: expected version {VERSION}, found {version!r}; {how} in another folder')
    missing = [key for key in Index._fields if key not in content]
    if missing:
        raise InputError(f'{path}: expected the keys {list(Index._fields)}, found none of {missing}; {how}')
    return Index(
        tuple(content['categories']),
        {split: tuple((category, name) for category, name in shapes) for split, shapes in content['splits'].items()},
        int(content['num_points']),
        int(content['num_surface_points']),
        int(content['num_views']),
        content['rejected'],
        content['source'],
        content['content'],
    )


def split_shapes(data_dir: str | Path, index: Index, split: str) -> tuple[tuple[str, str], ...]:
    """(category, name) of the shapes of a split. Raises ValueError for an unknown or an empty one."""
    if split not in index.splits:
        raise InputError(
            f'{Path(data_dir) / "dataset.json"}: expected a split of {sorted(index.splits)}, found {split!r}'
        )
    if not index.splits[split]:
        raise InputError(
            f'{Path(data_dir) / "dataset.json"}: expected shapes in the split {split!r}, found none; '
            f'prepare a dataset with more shapes or a larger fraction for {split!r}'
        )
    return index.splits[split]


def count_chunks(data_dir: str | Path, index: Index) -> tuple[int, int]:
    """K and K_surface of every shape. Raises ValueError when there are too few points for one chunk."""
    for key in ('num_points', 'num_surface_points'):
        if getattr(index, key) < CHUNK_POINTS:
            raise InputError(
                f'{Path(data_dir) / "dataset.json"}: expected {key} of at least {CHUNK_POINTS} to train on, '
                f'found {getattr(index, key)}; prepare the dataset with more points'
            )
    return index.num_points // CHUNK_POINTS, index.num_surface_points // CHUNK_POINTS


def split_chunks(shape: Shape) -> Chunks:
    """Cut a shape into training records.

    The last N mod 2048 volume points and the last M mod 2048 surface points are in no record.

    Raises ValueError for a shape with fewer than 2048 points of either kind.
    """
    for key in ('points', 'surface'):
        if len(getattr(shape, key)) < CHUNK_POINTS:
            raise InputError(
                f'{shape.category}/{shape.name}: expected at least {CHUNK_POINTS} {key} to train on, '
                f'found {len(getattr(shape, key))}; prepare the dataset with more points'
            )
    num_chunks, num_surface_chunks = len(shape.points) // CHUNK_POINTS, len(shape.surface) // CHUNK_POINTS
    return Chunks(
        shape.points[: num_chunks * CHUNK_POINTS].reshape(num_chunks, CHUNK_POINTS, 3),
        np.packbits(shape.occ[: num_chunks * CHUNK_POINTS].reshape(num_chunks, CHUNK_POINTS), axis=1),
        shape.surface[: num_surface_chunks * CHUNK_POINTS].reshape(num_surface_chunks, CHUNK_POINTS, 3),
        np.packbits(shape.voxels),
        shape.views.jpegs if shape.views else (),
    )


def evaluation_batches(
    data_dir: str | Path,
    split: str,
    batch_size: int,
    *,
    every: int = 1,
    positions: Sequence[int] | None = None,
    view: int = 0,
    left_out: Collection[tuple[str, str]] = (),
) -> Iterator[tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]]:
    """Every whole shape of a split once, in its order, or one of `every` few, or those at `positions`:
    (raw batch, (category, name) of the real rows).

    Those that `left_out` names are not read.

    raw: 'points' f16 [B, N, 3], 'occ' uint8 [B, ceil(N / 8)], 'surface' and 'normals' f16 [B, M, 3], 'voxels' uint8
    [B, 4096], 'row' and 'index' int32 [B] the shape's position in the split (its noise does not depend on B), 'mask' bool
    [B], and where there are views 'view' uint8 [B, 137, 137, 3], by default the first one, as the paper evaluates. The last
    batch is filled by repeating its rows, with a false mask.
    """
    if batch_size < 1:
        raise InputError(f'batch_size: expected at least 1, found {batch_size}')
    index = read_index(data_dir)
    shapes = split_shapes(data_dir, index, split)
    read = range(0, len(shapes), every) if positions is None else positions
    read = np.array([i for i in read if shapes[i] not in left_out], int)

    def batches():
        for start in range(0, len(read), batch_size):
            some = read[start : start + batch_size]
            names = tuple(shapes[i] for i in some)
            rows = [read_shape(shape_path(data_dir, *name), index) for name in names]
            repeated = np.arange(batch_size) % len(rows)
            fields = {
                'points': [shape.points for shape in rows],
                'occ': [np.packbits(shape.occ) for shape in rows],
                'surface': [shape.surface for shape in rows],
                'normals': [shape.normals for shape in rows],
                'voxels': [np.packbits(shape.voxels) for shape in rows],
            }
            if index.num_views:
                fields['view'] = [decode_view(shape.views.jpegs[view]) for shape in rows]
            raw = {key: np.stack([values[i] for i in repeated]) for key, values in fields.items()}
            raw['row'] = raw['index'] = some[repeated].astype(np.int32)
            raw['mask'] = np.arange(batch_size) < len(rows)
            yield raw, names

    return batches()
