"""Isosurface extraction: from a field to a closed mesh, by a grid of values (MISE, dense or guaranteed) and marching cubes.

R finest cells along an axis, T query points, N samples of the surface.
"""

import warnings
from collections.abc import Callable

import numpy as np
import trimesh
from skimage.measure import marching_cubes as lewiner_marching_cubes

from onet_jax.errors import InputError
from onet_jax.files import machine_memory
from onet_jax.geometry.field import check_finite
from onet_jax.geometry.grid import any_of_eight, finest_cells, lattice_to_world
from onet_jax.geometry.guaranteed import guaranteed_grid
from onet_jax.geometry.mise import dense_grid
from onet_jax.geometry.predicted_signs import predicted_grid

BYTES_PER_POINT = 22  # peak memory for a point of the lattice: a dense grid takes 21, MISE and marching cubes 14 to 17
# After scaling to [-1, 1] around the level: the value outside of the box, so that a surface that reaches it is closed there,
# and the least distance of a value from the level.
SCALED_OUTSIDE, MIN_SCALED_VALUE = -1e6, 1e-6


def extract_mesh(
    field: Callable,
    *,
    resolution: int = 32,
    upsampling_steps: int = 2,
    threshold: float = 0.2,
    seeds: np.ndarray | None = None,
    guaranteed: bool = False,
) -> trimesh.Trimesh:
    """The surface on which sigmoid(field) equals `threshold`, in object coordinates: closed and oriented outwards.

    field: [T, 3] object coordinates -> logits [T]. threshold: a probability in (0, 1). MISE evaluates a grid of
    R = resolution * 2^upsampling_steps cells, with the few evaluations of `predicted_signs.py`. It may miss parts that are
    thinner than a coarse cell: `seeds` [N, 3], points near the surface such as an input cloud, make it refine the cells around
    them too. As in the official implementation, upsampling_steps = 0 means a dense grid of `resolution` points, not cells.
    Returns a mesh without vertices where nothing is inside.

    guaranteed: the mesh of the dense grid of R cells, thin parts included, in less time than the dense grid takes (see
    `guaranteed.py`); `seeds` are ignored. The field needs a method `keeps_sign`: `model.bind` of `models/onet.py` gives one.

    Raises InputError for a threshold outside of (0, 1), for a grid that takes more than the memory of this machine, for values
    of the field that are complex or not finite, and with `guaranteed` for a field without `keeps_sign`.
    """
    level = threshold_to_logit(threshold)
    num_cells = finest_cells(resolution, upsampling_steps)
    if num_cells < 2:
        raise InputError(f'resolution: expected at least 2, found {resolution}')
    check_memory(num_cells)
    if upsampling_steps == 0:
        return marching_cubes(dense_grid(field, num_points=resolution), level)
    if guaranteed:
        grid = guaranteed_grid(field, resolution=resolution, upsampling_steps=upsampling_steps, level=level)
    else:
        grid = predicted_grid(field, resolution=resolution, upsampling_steps=upsampling_steps, level=level, seeds=seeds)
    return marching_cubes(grid.values, level)


def check_memory(resolution: int, max_memory_gb: float | None = None) -> None:
    """Raises InputError where extraction with `resolution` cells along an axis takes more than max_memory_gb, by default all
    memory of this machine."""
    needed = BYTES_PER_POINT * (resolution + 1) ** 3 / 1e9
    limit = machine_memory() / 1e9 if max_memory_gb is None else max_memory_gb
    if needed > limit:
        raise InputError(
            f'resolution: expected a grid of at most {limit:.1f} GB, found {needed:.1f} GB for {resolution} cells along an '
            'axis; choose a lower one' + ('' if max_memory_gb is None else ', or raise --max_memory_gb')
        )


def threshold_to_logit(threshold: float) -> float:
    """The logit of a probability, ln(threshold) - ln(1 - threshold). Raises InputError unless 0 < threshold < 1."""
    if not 0 < threshold < 1:
        raise InputError(f'threshold: expected a probability between 0 and 1, found {threshold}')
    return float(np.log(threshold) - np.log1p(-threshold))


def marching_cubes(values: np.ndarray, level: float) -> trimesh.Trimesh:
    """values [n, n, n], high inside, on the inclusive lattice of the padded cube -> the surface value = level.

    Lewiner's variant, by scikit-image, which resolves ambiguous cells by their values. Closed, also where the inside reaches
    the box, and oriented outwards; object coordinates. Only the values at the corners of cells that the surface crosses have
    an influence. Empty when no value exceeds the level. Warns of values that look like probabilities. Raises InputError for
    values that are not finite.
    """
    check_finite(values, 'values')
    inside = values > np.float64(level)  # float64: a Python float would be rounded to the precision of the values
    if inside.all() or not inside.any():
        _check_probabilities(values, level)
    if not inside.any():
        return trimesh.Trimesh()
    # The bounding box of the surface, padded by a layer of points outside, where needed beyond the box.
    part = _bounds(inside)
    inside = np.pad(inside[part], 1)
    crossed = any_of_eight(inside, 1) & any_of_eight(~inside, 1)
    corners = any_of_eight(np.pad(crossed[1:-1, 1:-1, 1:-1], 1), 1)
    # Shifted and scaled to [-1, 1] before scikit-image casts to float32, so that no value changes its side, and by a power of
    # two, so that how a value is rounded does not depend on the largest one. A value on the level counts as outside, by the
    # least amount, or faces would collapse to points of the lattice. Of all other points only the side matters: the surface
    # crosses none of their cells but those in the padding.
    shifted = values[part][corners] - np.float64(level)
    shifted = np.ldexp(shifted, -np.frexp(np.abs(shifted).max(initial=0))[1])
    shifted = np.where(shifted > 0, np.maximum(shifted, MIN_SCALED_VALUE), np.minimum(shifted, -MIN_SCALED_VALUE))
    padded = np.where(inside, np.float32(1), np.float32(SCALED_OUTSIDE))
    padded[1:-1, 1:-1, 1:-1][corners] = shifted
    # A mask of cells, each at its last corner: the others are skipped.
    vertices, faces, _, _ = lewiner_marching_cubes(
        padded, 0.0, gradient_direction='ascent', allow_degenerate=False, mask=np.pad(crossed, ((1, 0),) * 3)
    )
    first = [window.start - 1 for window in part]
    vertices = lattice_to_world(vertices.astype(np.float64) + first, len(values) - 1)
    return trimesh.Trimesh(vertices, faces, process=False)


def _check_probabilities(values: np.ndarray, level: float) -> None:
    """Warns of values, all on one side of the level, that are in [0, 1] and on both sides of its probability."""
    low, high, threshold = values.min(), values.max(), np.exp(-np.logaddexp(0, -level))
    if 0 <= low < threshold < high <= 1:
        warnings.warn(
            f'field: expected logits, found values from {low:.3g} to {high:.3g}, all on one side of {level:.3g}, the logit of '
            f'the threshold {threshold:.3g}; of a field of probabilities p give log(p / (1 - p))',
            stacklevel=4,
        )


def _bounds(marked: np.ndarray) -> tuple[slice, ...]:
    """The bounding box of a mask [n, n, n], grown by one point on each side within the array."""
    bounds = []
    for axis in range(3):
        places = np.flatnonzero(marked.any(axis=tuple({0, 1, 2} - {axis})))
        bounds.append(slice(max(places[0] - 1, 0), places[-1] + 2))
    return tuple(bounds)
