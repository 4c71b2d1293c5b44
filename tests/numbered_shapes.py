"""A dataset in which everything carries its number, so that what is drawn of it can be recognised; written in a moment."""

from functools import cache
from pathlib import Path

import numpy as np

from onet_jax.data import records
from onet_jax.data.records import Index, Need, Shape
from onet_jax.data.schema import COLUMNS, DEPTH_STEPS, SHAPES, VIEW_SIZE

NUM_POINTS, NUM_SAMPLES, NUM_VIEWS = 20_480, 16_384, 12  # ten chunks of points, eight of samples
SPLITS = {
    'train': (('chair', '0'), ('chair', '1'), ('mug', '0'), ('mug', '1'), ('mug', '2')),
    'val': (('chair', '2'), ('mug', '3'), ('mug', '4')),
    'test': (('chair', '3'),),
}
NAMES = sum(SPLITS.values(), ())


def write_numbered_shapes(data_dir: Path, **changes) -> Path:
    """A folder with the shapes and the index; changes: of the index."""
    for number, (category, name) in enumerate(NAMES):
        records.write_shape(records.shape_path(data_dir, category, name), make_shape(number))
    columns = tuple(name for name in SHAPES.columns if name != 'colours')
    numbers = (NUM_POINTS, NUM_SAMPLES, NUM_VIEWS)
    index = Index(('chair', 'mug'), SPLITS, columns, *numbers, {}, {'kind': 'numbered'}, 'numbered')
    records.write_index(data_dir, index._replace(**changes))
    return data_dir


@cache
def make_shape(number: int) -> Shape:
    """Number `number` of `NAMES`: random labels and voxels, and views that differ in everything."""
    rng = np.random.default_rng(number)
    surface = encode(number, np.arange(NUM_SAMPLES))
    views = [make_view(number, view) for view in range(NUM_VIEWS)]
    matrices = np.tile(np.eye(3, 4, dtype=np.float32), (NUM_VIEWS, 1, 1))
    matrices[:, 0, 3], matrices[:, 1, 3] = np.arange(NUM_VIEWS), number
    return Shape(
        *NAMES[number],
        points=encode(number, np.arange(NUM_POINTS)),
        occ=rng.random(NUM_POINTS) < 0.5,
        surface=surface,
        normals=-surface,
        voxels=rng.random((32, 32, 32)) < 0.5,
        loc=np.arange(3.0),
        scale=np.float64(2),
        **{name: tuple(records.encode_picture(view[name]) for view in views) for name in ('image', 'alpha', 'depth')},
        world_mat=matrices,
        camera_mat=matrices[:, :, :3],
    )


def make_view(number: int, view: int) -> dict[str, np.ndarray]:
    """Pictures: a gradient in a colour of the view, and planes of the same number."""
    ramp = np.arange(VIEW_SIZE)[:, None] + np.zeros(VIEW_SIZE)
    return {
        'image': np.stack([ramp, np.full_like(ramp, 20 * view), np.full_like(ramp, 25 * number)], -1).astype(np.uint8),
        'alpha': np.full((VIEW_SIZE, VIEW_SIZE), 20 * view, np.uint8),
        'depth': np.full((VIEW_SIZE, VIEW_SIZE), view * DEPTH_STEPS // 4, np.uint16),
    }


def encode(number: int, i: np.ndarray) -> np.ndarray:
    """Point or sample i of a shape: [..., 3] float16, all different, also of other shapes."""
    return np.stack([i % 64, i // 64 % 64, i // 4096 + 6 * number], axis=-1).astype(np.float16) / 64


def decode(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the shapes and of the points, [...] each; exact for float16 and float32."""
    x, y, z = np.moveaxis(np.round(64 * np.asarray(points, np.float64)).astype(int), -1, 0)
    return z // 6, x + 64 * y + 4096 * (z % 6)


def make_rows(need: Need, num_rows: int, whole: bool = False) -> dict[str, np.ndarray]:
    """Rows as a feed delivers them, or as an evaluation does: of shape 0, 1, ..., each with the view of its number."""
    stored = {name: [] for name in need.columns}
    for number in range(num_rows):
        shape = make_shape(number)
        for name in need.columns:
            column, value = COLUMNS[name], getattr(shape, name)
            if column.per == 'view':
                value = records.decode_picture(name, value[number]) if column.is_picture else value[number]
            elif column.per == 'shape' or whole:
                value = records.as_stored(name, value)
            else:
                value = np.concatenate(records.cut_chunks(shape, name)[: need.chunks[column.per]])
            stored[name].append(value)
    numbers = np.arange(num_rows, dtype=np.int32)
    return {name: np.stack(values) for name, values in stored.items()} | {'row': numbers, 'index': 5 + numbers}
