"""Largest absolute and relative errors.

A deviation is the largest absolute difference of an array and, relative to the largest value of the expected array, the
largest over all arrays of a kind. Weights whose gradient is exactly zero (biases before a batch normalisation) have rounding
noise for a gradient, and in float32 Adam makes steps of up to its rate of such noise: they count in the absolute difference
only.
"""

from typing import NamedTuple

import numpy as np

ZERO_GRADIENT = 1e-9  # of a weight, in float64: what is below is rounding noise


class Deviation(NamedTuple):
    """Largest differences of one kind of quantity."""

    absolute: float = 0.0
    relative: float = 0.0

    def merge(self, found, expected, *, absolute_only: bool = False) -> 'Deviation':
        """With one more array. Raises ValueError for arrays of different shapes."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        if found.shape != expected.shape:
            raise ValueError(f'expected shape {expected.shape}, found {found.shape}')
        if not expected.size:
            return self
        difference = float(np.abs(found - expected).max())
        relative = 0.0 if absolute_only or difference == 0 else difference / float(np.abs(expected).max())
        return Deviation(max(self.absolute, difference), max(self.relative, relative))


Deviations = dict[str, Deviation]  # kind of quantity -> how far


def compare(*pairs) -> Deviation:
    """Of pairs (found, expected)."""
    deviation = Deviation()
    for found, expected in pairs:
        deviation = deviation.merge(found, expected)
    return deviation


def compare_by_name(found: dict, expected: dict, absolute_only: set[str] = frozenset()) -> Deviation:
    """Of weights under their official names. Counters of batches are no weights. Raises KeyError for a missing one."""
    deviation = Deviation()
    for name, array in expected.items():
        if not name.endswith('num_batches_tracked'):
            deviation = deviation.merge(found[name], array, absolute_only=name in absolute_only)
    return deviation
