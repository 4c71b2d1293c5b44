"""Input pipeline in device memory: the columns that a step reads are loaded once, for the whole split; a batch is one gather.

Needs no TensorFlow. B batch, S shapes, V views, K chunks of a column.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import jax
import numpy as np

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.records import (
    CHUNK_POINTS,
    COLUMNS,
    Feed,
    Index,
    Need,
    as_stored,
    check_need,
    cut_chunks,
    decode_views,
    read_index,
    read_shape,
    shape_path,
    split_shapes,
)
from onet_jax.errors import InputError
from onet_jax.files import machine_memory
from onet_jax.progress import track

# Streams of random numbers of one seed. Never 0: numpy pads seeds with zeros, and [seed, n] would equal [seed, n, 0].
SHAPE_STREAM, CHUNK_STREAM = 1, 2


class DoesNotFitError(InputError):
    """A split is larger than the free memory of the device."""


def resident_feed(
    data_dir: str | Path,
    need: Need,
    *,
    batch_size: int,
    seed: int,
    rows: range | None = None,
    bad_examples: BadExamples | None = None,
) -> Feed:
    """Batches in which each epoch has every training shape once, in a new random order, with random chunks of its points.

    A batch may span epochs. rows: which rows of each batch to deliver, by default all. Shapes that cannot be read are left out
    as far as `bad_examples` allows, by default none. Raises InputError beyond that and for a dataset that does not have what
    `need` asks for, DoesNotFitError when the split does not fit into the memory of the device.
    """
    index = read_index(data_dir)
    names = split_shapes(data_dir, index, 'train')
    check_need(data_dir, index, need)
    needed, free = len(names) * _bytes_of_shape(index, need), _free_bytes()
    if needed > free:
        raise DoesNotFitError(
            f'{data_dir}: expected a split that fits into the memory of the device ({free / 1e9:.2f} GB free), '
            f'found {needed / 1e9:.2f} GB; use --config.data.feed=tfds or a dataset with fewer points or shapes'
        )
    stored = _load(data_dir, index, names, need, bad_examples or BadExamples())
    num_shapes = len(stored['index'])
    # One random number of a row selects its chunk of points, its chunk of samples and its view.
    num_chunks = max([1, *(stored[name].shape[1] for name in need.columns if COLUMNS[name].per != 'shape')])
    kept = np.asarray(range(batch_size) if rows is None else rows, np.int32)

    @lru_cache(maxsize=2)  # a batch no larger than the dataset spans two epochs at most
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch, SHAPE_STREAM]).permutation(num_shapes)

    def choose(step: int) -> tuple[np.ndarray, np.ndarray]:
        """The loaded shape and the random number of each row of batch `step` that is delivered: int32 [B], [B]."""
        epochs, places = np.divmod(step * batch_size + np.arange(batch_size), num_shapes)
        shapes = np.concatenate([order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])
        chunks = np.random.default_rng([seed, step, CHUNK_STREAM]).integers(num_chunks, size=batch_size)
        return shapes[kept].astype(np.int32), chunks[kept].astype(np.int32)

    def batches(start_step: int) -> Iterator[dict]:
        step = start_step
        while True:
            yield _gather(need, stored, *choose(step), kept)
            step += 1

    return batches


@partial(jax.jit, static_argnums=0)
def _gather(need: Need, stored: dict, shapes: jax.Array, chunks: jax.Array, rows: jax.Array) -> dict:
    batch = {'index': stored['index'][shapes], 'row': rows}
    for name in need.columns:
        values, per = stored[name], COLUMNS[name].per
        if per == 'shape':
            batch[name] = values[shapes]
        elif per == 'view':
            batch[name] = values[shapes, chunks % values.shape[1]]
        else:
            # As many chunks as the need asks for, from the selected one on.
            numbers = (chunks[:, None] + np.arange(need.chunks[per])) % values.shape[1]
            batch[name] = jax.lax.collapse(values[shapes[:, None], numbers], 1, 3)
    return batch


def _load(
    data_dir: str | Path, index: Index, names: tuple[tuple[str, str], ...], need: Need, bad_examples: BadExamples
) -> dict[str, jax.Array]:
    """Load the columns of all readable shapes to the device: [S, K, 2048, *dims] of points and samples, [S, V, *dims] of views,
    [S, *dims] of shapes, and 'index' int32 [S], the position in the split."""
    host: dict[str, np.ndarray] = {}
    num_good = 0
    for i, name in enumerate(track(names, 'loading the training split', 'shapes')):
        arrays = bad_examples.attempt('/'.join(name), partial(_read, shape_path(data_dir, *name), index, need))
        if arrays is None:
            continue
        for key, value in {**arrays, 'index': np.int32(i)}.items():
            host.setdefault(key, np.empty((len(names), *value.shape), value.dtype))[num_good] = value
        num_good += 1
    if not num_good:
        raise InputError(f'{data_dir}: expected shapes to train on, found none that can be read')
    # A copy: a CPU device may otherwise alias the array of the host.
    return {key: jax.device_put(host.pop(key)[:num_good], may_alias=False) for key in list(host)}


def _read(path: Path, index: Index, need: Need) -> dict[str, np.ndarray]:
    shape, arrays = read_shape(path, index), {}
    for name in need.columns:
        column, value = COLUMNS[name], getattr(shape, name)
        if column.per in ('point', 'sample'):
            arrays[name] = cut_chunks(shape, name)
        else:
            arrays[name] = decode_views(path, name, value) if column.is_picture else as_stored(name, value)
    return arrays


def _bytes_of_shape(index: Index, need: Need) -> int:
    total = 0
    for name in need.columns:
        column, count = COLUMNS[name], index.counts[COLUMNS[name].per]
        if column.per in ('point', 'sample'):
            count = count // CHUNK_POINTS * CHUNK_POINTS
        bits = 1 if column.dtype is bool else 8 * np.dtype(column.dtype).itemsize
        total += count * int(np.prod(column.dims)) * bits // 8
    return total


def _free_bytes() -> int:
    """Free bytes of the first device; all memory of the machine where the device reports none, as a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and 'bytes_limit' in stats:
        return stats['bytes_limit'] - stats['bytes_in_use']
    return machine_memory()
