"""Input pipeline in device memory: the columns that a step reads are loaded once, for the whole split; a batch is one gather.

Needs no TensorFlow. B batch, S shapes or sequences, V views, K chunks of a column, L frames of a clip.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.clips import clip_starts, first_frame, move_to_origin
from onet_jax.data.records import (
    Feed,
    Index,
    Need,
    as_stored,
    check_need,
    cut_chunks,
    decode_views,
    read_example,
    read_index,
    split_shapes,
)
from onet_jax.data.schema import CHUNK_POINTS, COLUMNS, LAYOUTS, SEQUENCES, SHAPES, Layout
from onet_jax.errors import InputError
from onet_jax.files import machine_memory
from onet_jax.progress import track

# Streams of random numbers of one seed. Never 0: numpy pads seeds with zeros, and [seed, n] would equal [seed, n, 0].
SHAPE_STREAM, CHUNK_STREAM, VIEW_STREAM = 1, 2, 3


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
    layout: Layout = SHAPES,
) -> Feed:
    """Batches in which each epoch has every training shape once, in a new random order, with random chunks of its points.

    Of sequences an epoch has every clip of L consecutive frames once. A batch may span epochs. rows: which rows of each batch
    to deliver, by default all. Examples that cannot be read are left out as far as `bad_examples` allows, by default none.
    Raises InputError beyond that and for a dataset that does not have what `need` asks for, DoesNotFitError when the split does
    not fit into the memory of the device.
    """
    index = read_index(data_dir, layout)
    names = split_shapes(data_dir, index, 'train')
    check_need(data_dir, index, need)
    needed, free = _count_bytes(index, need, names), _free_bytes()
    if needed > free:
        raise DoesNotFitError(
            f'{data_dir}: expected a split that fits into the memory of the device ({free / 1e9:.2f} GB free), '
            f'found {needed / 1e9:.2f} GB; use '
            + ('--config.data.feed=tfds or ' if layout is SHAPES and not need.num_views else '')
            + f'a dataset with fewer points or {layout.name}'
        )
    stored, clips = _load(data_dir, index, names, need, bad_examples or BadExamples())
    num_shapes = len(clips)
    # One random number of a row selects its chunk of points, its chunk of samples and its view. Several views are drawn apart.
    num_chunks = max([1, *(stored[name].shape[1] for name in need.columns if COLUMNS[name].per != 'shape')])
    kept = np.asarray(range(batch_size) if rows is None else rows, np.int32)

    @lru_cache(maxsize=2)  # a batch no larger than the dataset spans two epochs at most
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch, SHAPE_STREAM]).permutation(num_shapes)

    def choose(step: int) -> tuple[np.ndarray, ...]:
        """The loaded shape or clip, the random number and the views of each row of batch `step` that is delivered: int32
        [B, 2], [B], [B, num_views]."""
        epochs, places = np.divmod(step * batch_size + np.arange(batch_size), num_shapes)
        shapes = np.concatenate([order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)])
        chunks = np.random.default_rng([seed, step, CHUNK_STREAM]).integers(num_chunks, size=batch_size)
        views = _choose_views(np.random.default_rng([seed, step, VIEW_STREAM]), batch_size, index, need)
        return clips[shapes[kept]], chunks[kept].astype(np.int32), views[kept]

    def batches(start_step: int) -> Iterator[dict]:
        step = start_step
        while True:
            yield _gather(need, stored, *choose(step), kept)
            step += 1

    return batches


def _choose_views(rng: np.random.Generator, batch_size: int, index: Index, need: Need) -> np.ndarray:
    """Distinct views of each row, int32 [B, num_views]; the first are pictures without camera where the dataset has such."""
    bare = index.num_input_views
    chosen = bare + rng.random((batch_size, index.num_views - bare)).argsort()
    if bare:
        seen = rng.random((batch_size, bare)).argsort()[:, : need.num_input_views]
        chosen = np.concatenate([seen, chosen], axis=1)
    return chosen[:, : need.num_views].astype(np.int32)


@partial(jax.jit, static_argnums=0)
def _gather(need: Need, stored: dict, clips: jax.Array, chunks: jax.Array, views: jax.Array, rows: jax.Array) -> dict:
    shapes, frames = clips[:, 0], clips[:, 1:] + np.arange(need.num_frames)
    batch = {'index': stored['index'][shapes], 'row': rows}
    for name in need.columns:
        values, column = stored[name], COLUMNS[name]
        at = frames if column.moves else shapes  # [B, L] or [B]
        number = chunks.reshape(-1, *[1] * (at.ndim - 1))
        if column.per == 'shape':
            batch[name] = values[at]
        elif column.per == 'view':
            batch[name] = values[at[:, None], views] if need.num_views else values[at, number % values.shape[1]]
        else:
            # As many chunks as the need asks for, from the selected one on.
            numbers = (number[..., None] + np.arange(need.chunks[column.per])) % values.shape[1]
            batch[name] = jax.lax.collapse(values[at[..., None], numbers], at.ndim, at.ndim + 2)
    return batch


def _load(
    data_dir: str | Path, index: Index, names: tuple[tuple[str, str], ...], need: Need, bad_examples: BadExamples
) -> tuple[dict[str, jax.Array], np.ndarray]:
    """Load the columns of all readable examples to the device: [S, K, 2048, *dims] of points and samples, [S, V, *dims] of
    views, [S, *dims] of shapes, the frames of all sequences for S where they move; and 'index' int32 [S], the position in the
    split. Also the clips, int32 [C, 2]: the number of a loaded example, and of the first frame of the clip among all frames."""
    layout = LAYOUTS[index.layout]
    host: dict[str, Any] = {}
    num_good, num_frames, clips = 0, 0, []
    lengths = [index.num_frames.get('/'.join(name), 0) for name in names]
    for i, name in enumerate(track(names, 'loading the training split', layout.name)):
        read = partial(_read, layout, layout.path(data_dir, *name), index, need)
        arrays = bad_examples.attempt('/'.join(name), read)
        if arrays is None:
            continue
        for key, value in {**arrays, 'index': np.int32(i)}.items():
            if key in COLUMNS and COLUMNS[key].moves:
                place = slice(num_frames, num_frames + lengths[i])
                host.setdefault(key, np.empty((sum(lengths), *value.shape[1:]), value.dtype))[place] = value
            else:
                host.setdefault(key, np.empty((len(names), *value.shape), value.dtype))[num_good] = value
        starts = clip_starts(lengths[i], need.num_frames, first_frame(index)) if layout is not SHAPES else [0]
        clips += [(num_good, num_frames + start) for start in starts]
        num_good, num_frames = num_good + 1, num_frames + lengths[i]
    if not num_good:
        raise InputError(f'{data_dir}: expected {layout.name} to train on, found none that can be read')
    if not clips:
        skipped = first_frame(index)
        raise InputError(
            f'{data_dir}: expected sequences of at least config.data.num_frames = {need.num_frames} frames to train on'
            + (f' after the first {skipped}, which are left out' if skipped else '')
            + f', found {max(0, max(lengths) - skipped)} at most; train on shorter clips or prepare longer sequences'
        )
    filled = {key: num_frames if key in COLUMNS and COLUMNS[key].moves else num_good for key in host}
    # A copy: a CPU device may otherwise alias the array of the host.
    stored = {key: jax.device_put(host.pop(key)[: filled[key]], may_alias=False) for key in list(host)}
    return stored, np.array(clips, np.int32)


def _read(layout: Layout, path: Path, index: Index, need: Need) -> dict[str, np.ndarray]:
    example, arrays = read_example(layout, path, index), {}
    if layout is SEQUENCES:
        example = move_to_origin(example)
    for name in need.columns:
        column, value = COLUMNS[name], getattr(example, name)
        if column.per in ('point', 'sample'):
            arrays[name] = cut_chunks(example, name)
        else:
            arrays[name] = decode_views(path, name, value) if column.is_picture else as_stored(name, value)
            if column.is_picture and column.moves:
                arrays[name] = arrays[name].reshape(-1, index.num_views, *column.dims)
    return arrays


def _count_bytes(index: Index, need: Need, names: tuple[tuple[str, str], ...]) -> int:
    """Bytes of what `_load` loads."""
    num_frames, total = sum(index.num_frames.get('/'.join(name), 0) for name in names), 0
    for name in need.columns:
        column, count = COLUMNS[name], index.counts[COLUMNS[name].per]
        if column.per in ('point', 'sample'):
            count = count // CHUNK_POINTS * CHUNK_POINTS
        bits = 1 if column.dtype is bool else 8 * np.dtype(column.dtype).itemsize
        total += (num_frames if column.moves else len(names)) * (count * int(np.prod(column.dims)) * bits // 8)
    return total


def _free_bytes() -> int:
    """Free bytes of the first device; all memory of the machine where the device reports none, as a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and 'bytes_limit' in stats:
        return stats['bytes_limit'] - stats['bytes_in_use']
    return machine_memory()
