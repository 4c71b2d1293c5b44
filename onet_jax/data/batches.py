"""Evaluation batches: whole shapes of a split, or clips of its sequences, in order. Imports no JAX, no TensorFlow.

T labelled points and N surface samples of a shape, L frames of a clip.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onet_jax.data.records import (
    Need,
    as_stored,
    check_need,
    decode_views,
    read_index,
    read_shape,
    shape_path,
    split_shapes,
)
from onet_jax.data.schema import COLUMNS
from onet_jax.errors import InputError


def evaluation_batches(
    data_dir: str | Path,
    split: str,
    batch_size: int,
    columns: Collection[str],
    *,
    every: int = 1,
    positions: Sequence[int] | None = None,
    view: int = 0,
    views: Sequence[int] = (),
    left_out: Collection[tuple[str, str]] = (),
) -> Iterator[tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]]:
    """Batches of whole shapes of a split, each once, in its order: (raw batch, (category, name) of its real rows).

    every: only each `every`-th shape; positions: only these, instead; left_out: not these. view: the one that is read of each
    shape, the first in the paper's evaluation; views: those that are read instead, on an axis of their own. A raw batch has
    `columns` [B, T, *dims], [B, N, *dims], [B, V, *dims] of the views or [B, *dims], bools as packed bits; 'row' and 'index'
    int32 [B], the position in the split (so that the noise of an input does not depend on B); 'mask' bool [B]. The last batch
    is padded by repeating its rows, with mask False.

    Raises InputError for a batch size below 1, an unknown or empty split and a missing column; a batch raises as `read_shape`.
    """
    index = read_index(data_dir)
    shapes = split_shapes(data_dir, index, split)
    check_need(data_dir, index, Need(tuple(columns)))

    def read_row(name):
        path = shape_path(data_dir, *name)
        shape = read_shape(path, index)
        row = {key: getattr(shape, key) for key in columns}
        for key, value in row.items():
            if COLUMNS[key].per == 'view':
                seen = [value[i] for i in views or [view]]
                seen = decode_views(path, key, seen) if COLUMNS[key].is_picture else np.stack(seen)
                row[key] = seen if views else seen[0]
            else:
                row[key] = as_stored(key, value)
        return row

    return make_batches(pick_examples(shapes, every, positions, left_out), batch_size, read_row)


def pick_examples(
    names: Sequence[tuple[str, str]],
    every: int = 1,
    positions: Sequence[int] | None = None,
    left_out: Collection[tuple[str, str]] = (),
) -> dict[int, tuple[str, str]]:
    """Position -> (category, name) of some examples of a split; the arguments are those of `evaluation_batches`."""
    picked = range(0, len(names), every) if positions is None else positions
    return {i: names[i] for i in picked if names[i] not in left_out}


def make_batches(
    examples: Mapping[int, tuple[str, str]],
    batch_size: int,
    read_row: Callable[[tuple[str, str]], dict[str, np.ndarray]],
) -> Iterator[tuple[dict[str, np.ndarray], tuple[tuple[str, str], ...]]]:
    """The batches of `evaluation_batches`. examples: position in the split -> (category, name), of which `read_row` reads the
    columns."""
    if batch_size < 1:
        raise InputError(f'batch_size: expected at least 1, found {batch_size}')
    positions = np.array(list(examples), int)

    def batches():
        for start in range(0, len(positions), batch_size):
            some = positions[start : start + batch_size]
            names = tuple(examples[i] for i in some)
            rows, repeated = [read_row(name) for name in names], np.arange(batch_size) % len(names)
            raw = {key: np.stack([rows[i][key] for i in repeated]) for key in rows[0]}
            raw['row'] = raw['index'] = some[repeated].astype(np.int32)
            raw['mask'] = np.arange(batch_size) < len(rows)
            yield raw, names

    return batches()
