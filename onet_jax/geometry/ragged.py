"""Ragged arrays: ranges of different lengths, one after the other. Imports no JAX."""

import numpy as np


def ragged_range(lengths: np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 1, 0, 1, 2]."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
