"""Evaluating a field at any number of points. A field is any callable [T, 3] -> [T], of JAX or of numpy."""

from collections.abc import Callable

import numpy as np

CHUNK = 4096


def evaluate(field: Callable, points: np.ndarray, *, chunk_size: int = CHUNK) -> np.ndarray:
    """points [T, 3] -> values [T] in the dtype that the field returns (float64 where T is 0).

    The field only ever sees [chunk_size, 3], the last chunk being filled up: one compilation serves any T, and the
    activations of a chunk fit the cache. All chunks are dispatched before the first result is waited for.
    """
    if not len(points):
        return np.zeros(0)
    filled = np.resize(points, (-(-len(points) // chunk_size) * chunk_size, 3))
    pieces = [field(chunk) for chunk in np.split(filled, len(filled) // chunk_size)]
    return np.concatenate([np.asarray(piece) for piece in pieces])[: len(points)]
