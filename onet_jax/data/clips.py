"""Clips: runs of consecutive frames of a sequence, the examples of a dataset of sequences. Imports no JAX, no TensorFlow.

L frames of a clip, F of a sequence.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from onet_jax.data.batches import make_batches, pick_examples
from onet_jax.data.records import (
    Index,
    Need,
    as_stored,
    check_need,
    decode_views,
    read_index,
    read_sequence,
    sequence_path,
    split_shapes,
)
from onet_jax.data.schema import COLUMNS, SEQUENCES, ShapeSequence
from onet_jax.errors import InputError


def first_frame(index: Index) -> int:
    """The first frame of each sequence that clips may have: 15 of D-FAUST, which begins with the same pose."""
    return index.source.get('first_frame', 0)


def clip_starts(num_frames: int, length: int, first: int = 0, stride: int = 1) -> range:
    """The first frames of the clips of `length` frames of a sequence: each `stride`-th from `first` on. Empty where it is too
    short."""
    return range(first, num_frames - length + 1, stride)


def list_clips(index: Index, names: Sequence[tuple[str, str]], length: int) -> tuple[tuple[str, str], ...]:
    """(category, 'name/start') of the evaluation clips of sequences, in order: each `stride`-th of the source of the dataset,
    by default those that do not overlap. Raises InputError where all sequences are too short."""
    stride = index.source.get('stride', length)
    clips = tuple(
        (category, f'{name}/{start}')
        for category, name in names
        for start in clip_starts(index.num_frames[f'{category}/{name}'], length, first_frame(index), stride)
    )
    if not clips:
        longest = max(index.num_frames['/'.join(name)] for name in names)
        raise InputError(
            f'config.data.num_frames: expected at most {longest - first_frame(index)}, the frames of the longest sequence'
            + (f' after the first {first_frame(index)}' if first_frame(index) else '')
            + f', found {length}; prepare longer sequences or take shorter clips'
        )
    return clips


def clip_batches(
    data_dir: str | Path,
    split: str,
    batch_size: int,
    columns: Collection[str],
    length: int,
    *,
    every: int = 1,
    positions: Sequence[int] | None = None,
    view: int = 0,
    left_out: Collection[tuple[str, str]] = (),
) -> Iterator[tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]]:
    """Batches of the evaluation clips of a split, as `batches.evaluation_batches` of shapes: columns [B, L, ...].

    `every` and `positions` count clips, 'index' and 'row' too; `left_out` names sequences.
    """
    index = read_index(data_dir, SEQUENCES)
    names = split_shapes(data_dir, index, split)
    check_need(data_dir, index, Need(tuple(columns)))
    clips = list_clips(index, names, length)
    left_out = {clip for clip in clips if sequence_of(clip) in left_out}

    @lru_cache(maxsize=1)  # the clips of a sequence follow each other
    def read(category: str, name: str) -> ShapeSequence:
        return move_to_origin(read_sequence(sequence_path(data_dir, category, name), index))

    def read_row(clip: tuple[str, str]) -> dict[str, np.ndarray]:
        name, row, start = sequence_of(clip), {}, int(clip[1].rpartition('/')[2])
        for key in columns:
            value = getattr(read(*name), key)
            if COLUMNS[key].is_picture:
                views = value[view :: index.num_views][start : start + length]
                row[key] = decode_views(sequence_path(data_dir, *name), key, views)
            else:
                row[key] = as_stored(key, value[start : start + length])
        return row

    return make_batches(pick_examples(clips, every, positions, left_out), batch_size, read_row)


def move_to_origin(sequence: ShapeSequence) -> ShapeSequence:
    """The sequence with its first frame at the origin, so that float32 holds how far the other frames are from it."""
    return sequence._replace(loc_seq=sequence.loc_seq - sequence.loc_seq[0])


def sequence_of(clip: tuple[str, str]) -> tuple[str, str]:
    """(category, name) of the sequence of a clip (category, 'name/start')."""
    return clip[0], clip[1].rpartition('/')[0]
