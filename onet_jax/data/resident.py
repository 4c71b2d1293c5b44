"""Training batches from device memory: a whole split is loaded once and each batch is one gather. Needs no TensorFlow.

S shapes, K chunks of a shape, B batch.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import jax
import numpy as np

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.records import (
    CHUNK_POINTS,
    NUM_VOXELS,
    VIEW_SIZE,
    Feed,
    Index,
    count_chunks,
    decode_views,
    read_index,
    read_shape,
    shape_path,
    split_chunks,
    split_shapes,
)
from onet_jax.errors import InputError
from onet_jax.files import machine_memory

# Streams of random numbers of one seed. Never 0: numpy pads seeds with zeros, and [seed, n] would equal [seed, n, 0].
SHAPE_STREAM, CHUNK_STREAM = 1, 2


class DoesNotFitError(InputError):
    """A split is larger than the free memory of the device."""


def resident_feed(
    data_dir: str | Path,
    *,
    batch_size: int,
    seed: int,
    rows: range | None = None,
    split: str = 'train',
    bad_examples: BadExamples | None = None,
    num_points: int | None = CHUNK_POINTS,
    num_surface_points: int | None = CHUNK_POINTS,
) -> Feed:
    """Batches in which every epoch has each shape once, in an order of its own, with a random chunk of its points.

    A batch may span two epochs. num_points, num_surface_points: of every row, in whole chunks, at least one, as far as a shape
    has them; None is all that it has. rows: those of each batch to deliver, all by default. Shapes that cannot be read are
    left out as far as `bad_examples` allows, by default never. Raises ValueError beyond that, and DoesNotFitError when the
    split does not fit into the memory of the device.
    """
    index = read_index(data_dir)
    names = split_shapes(data_dir, index, split)
    count_chunks(data_dir, index)
    _check_memory(data_dir, index, len(names))
    stored = _load(data_dir, index, names, bad_examples or BadExamples())
    num_shapes, num_chunks = stored['points'].shape[:2]
    sizes = {'points': num_points, 'surface': num_surface_points}
    delivered = tuple(_count_delivered(size, stored[key].shape[1]) for key, size in sizes.items())
    kept = np.asarray(range(batch_size) if rows is None else rows, np.int32)

    @lru_cache(maxsize=2)  # a batch spans two epochs at most, unless it is larger than the dataset
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch, SHAPE_STREAM]).permutation(num_shapes)

    def choose(step: int) -> tuple[np.ndarray, np.ndarray]:
        """Which loaded shape and which of its chunks each row of batch `step` is: int32 [B], [B], of the rows to deliver."""
        epochs, places = np.divmod(step * batch_size + np.arange(batch_size), num_shapes)
        shapes = np.concatenate([order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])
        chunks = np.random.default_rng([seed, step, CHUNK_STREAM]).integers(num_chunks, size=batch_size)
        return shapes[kept].astype(np.int32), chunks[kept].astype(np.int32)

    def batches(start_step: int) -> Iterator[dict]:
        step = start_step
        while True:
            yield _gather(stored, *choose(step), kept, *delivered)
            step += 1

    return Feed(len(names), batches)


def _count_delivered(num_points: int | None, num_chunks: int) -> int:
    """How many of the chunks of a shape hold so many points."""
    return num_chunks if num_points is None else min(max(1, -(-num_points // CHUNK_POINTS)), num_chunks)


@partial(jax.jit, static_argnums=(4, 5))
def _gather(
    stored: dict, shapes: jax.Array, chunks: jax.Array, rows: jax.Array, num_chunks: int, num_surface_chunks: int
) -> dict:
    def gather(key, count):
        """As many chunks of each shape as one, from its chunk on."""
        numbers = (chunks[:, None] + np.arange(count)) % stored[key].shape[1]
        return jax.lax.collapse(stored[key][shapes[:, None], numbers], 1, 3)

    batch = {
        'points': gather('points', num_chunks),
        'occ': gather('occ', num_chunks),
        'surface': gather('surface', num_surface_chunks),
        'voxels': stored['voxels'][shapes],
        'index': stored['index'][shapes],
        'row': rows,
    }
    if 'views' in stored:
        batch['view'] = stored['views'][shapes, chunks % stored['views'].shape[1]]
    return batch


def _load(
    data_dir: str | Path, index: Index, names: tuple[tuple[str, str], ...], bad_examples: BadExamples
) -> dict[str, jax.Array]:
    """`Chunks` of all good shapes on the device, with a leading axis S: points [S, K, 2048, 3] and so on.

    The views are decoded: 'views' uint8 [S, V, 137, 137, 3], absent where there are none. 'index' int32 [S] is the position
    in the split.
    """
    host: dict[str, np.ndarray] = {}
    num_good = 0
    for i, name in enumerate(names):
        arrays = bad_examples.attempt('/'.join(name), partial(_read, shape_path(data_dir, *name), index))
        if arrays is None:
            continue
        for key, value in {**arrays, 'index': np.int32(i)}.items():
            host.setdefault(key, np.empty((len(names), *value.shape), value.dtype))[num_good] = value
        num_good += 1
    if not num_good:
        raise InputError(f'{data_dir}: expected shapes to train on, found none that can be read')
    # Its own copy: a CPU device may otherwise share the host's memory.
    return {key: jax.device_put(host.pop(key)[:num_good], may_alias=False) for key in list(host)}


def _read(path: Path, index: Index) -> dict[str, np.ndarray]:
    arrays = split_chunks(read_shape(path, index))._asdict()
    jpegs = arrays.pop('jpegs')
    if jpegs:
        arrays['views'] = decode_views(path, jpegs)
    return arrays


def _check_memory(data_dir: str | Path, index: Index, num_shapes: int) -> None:
    num_chunks, num_surface_chunks = count_chunks(data_dir, index)
    points = CHUNK_POINTS * (num_chunks + num_surface_chunks) * 3 * np.dtype(np.float16).itemsize
    views = index.num_views * VIEW_SIZE * VIEW_SIZE * 3
    needed = num_shapes * (points + CHUNK_POINTS * num_chunks // 8 + NUM_VOXELS**3 // 8 + views)
    free = _free_bytes()
    if needed > free:
        raise DoesNotFitError(
            f'{data_dir}: expected a split that fits into the memory of the device ({free / 1e9:.2f} GB free), '
            f'found {needed / 1e9:.2f} GB; use --config.data.feed=tfds or a dataset with fewer points or shapes'
        )


def _free_bytes() -> int:
    """Free memory of the first device; that of the machine where the device has none of its own."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and 'bytes_limit' in stats:
        return stats['bytes_limit'] - stats['bytes_in_use']
    return machine_memory()
