"""Does a dataset keep its promises? Every shape is read and its parts are held against each other. Imports no JAX."""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree

from onet_jax.data import records
from onet_jax.data.records import Shape
from onet_jax.data.runners import Outcome, Runner, processes
from onet_jax.geometry import grid
from onet_jax.geometry.cameras import Camera, project

ROUNDING = 3e-4  # of float16 in the cube
MAX_INSIDE = 0.95  # share of the volume points: what is fuller is inside out
NEAR = 0.02  # volume points so close to a surface sample lie on the side that its normal tells
MIN_SIDES = 0.85  # share of them that do; the rest is at edges and in parts thinner than NEAR
MIN_VOXELS = 0.85  # share of the volume points whose voxel says the same
WHITE, MIN_SEEN = 250, 0.9  # background of a view; share of the surface samples that must lie on the object


def check_dataset(data_dir: str | Path, run: Runner | None = None) -> tuple[list[str], list[list[str]], dict[str, str]]:
    """Header and rows of a table (categories, and all of them), and {'category/name': what is wrong with it}.

    Raises FileNotFoundError or ValueError for a dataset without a usable index.
    """
    data_dir = Path(data_dir)
    index = records.read_index(data_dir)
    listed = Counter(shape for split in records.SPLITS for shape in index.splits.get(split, ()))
    outcome = (run or processes())(partial(check_shape, data_dir=data_dir, index=index), list(listed), 'checking')
    problems = dict(outcome.rejected)
    for name in ('/'.join(shape) for shape, count in listed.items() if count > 1):
        problems[name] = '; '.join(filter(None, [problems.get(name), 'it is in two splits']))
    return *_table(index, outcome), dict(sorted(problems.items()))


def check_shape(category: str, name: str, *, data_dir: Path, index: records.Index) -> dict[str, float]:
    """Statistics of one shape: shares of points inside and of ambiguous volume. Raises ValueError with all its faults."""
    try:
        shape = records.read_shape(records.shape_path(data_dir, category, name), index)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    faults = [*_check_points(shape), *_check_surface(shape), *_check_voxels(shape), *_check_views(shape)]
    if faults:
        raise ValueError('; '.join(faults))
    return {'inside': float(shape.occ.mean()), 'ambiguous': shape.ambiguous}


def _check_points(shape: Shape):
    furthest = float(np.abs(shape.points).max(initial=0))
    if furthest > grid.BOX / 2 + ROUNDING:
        yield f'points: expected coordinates of at most {grid.BOX / 2}, found {furthest:.4f}'
    inside = shape.occ.mean() if len(shape.occ) else 0.0
    if not 0 < inside <= MAX_INSIDE:
        yield f'occ: expected a share inside of more than 0 and at most {MAX_INSIDE}, found {inside:.4f}'


def _check_surface(shape: Shape):
    surface, normals = shape.surface.astype(np.float64), shape.normals.astype(np.float64)
    furthest = float(np.abs(surface).max(initial=0))
    if furthest > grid.BOX / 2:
        yield f'surface: expected coordinates of at most {grid.BOX / 2}, found {furthest:.4f}'
    lengths = np.linalg.norm(normals, axis=1)
    if not np.allclose(lengths, 1, atol=5e-3):
        yield f'normals: expected unit vectors, found lengths from {lengths.min():.3f} to {lengths.max():.3f}'
    points = shape.points.astype(np.float64)
    distance, nearest = KDTree(surface).query(points, distance_upper_bound=NEAR)
    near = np.isfinite(distance)
    if near.sum() < 10:
        yield f'surface: expected volume points within {NEAR} of it, found {near.sum()} of {len(points)}'
        return
    height = ((points[near] - surface[nearest[near]]) * normals[nearest[near]]).sum(axis=1)
    # Beside a sample, rather than above or below it, the normal decides nothing.
    told = np.abs(height) > 0.5 * distance[near]
    agreeing = ((height < 0) == shape.occ[near])[told].mean() if told.any() else 0.0
    if agreeing < MIN_SIDES:
        yield (
            f'surface: expected {MIN_SIDES:.0%} of the volume points near it on the side that its normals tell, '
            f'found {agreeing:.0%}; surface and labels do not belong together, or the normals point inwards'
        )


def _check_voxels(shape: Shape):
    points = shape.points.astype(np.float64)
    index = np.floor((points + 0.5) * len(shape.voxels)).astype(int)
    within = ((index >= 0) & (index < len(shape.voxels))).all(axis=1)
    agreeing = (shape.voxels[tuple(index[within].T)] == shape.occ[within]).mean() if within.any() else 1.0
    if agreeing < MIN_VOXELS:
        yield f'voxels: expected them to agree with {MIN_VOXELS:.0%} of the volume points, found {agreeing:.0%}'


def _check_views(shape: Shape):
    if shape.views is None:
        return
    for i, (jpeg, world_mat, camera_mat) in enumerate(zip(*shape.views, strict=True)):
        try:
            pixels = records.decode_view(jpeg)
        except ValueError as error:
            yield f'view {i}: {error}'
            continue
        drawn = np.pad((pixels < WHITE).any(axis=2), 1)
        # One pixel around: silhouettes are anti-aliased.
        drawn = np.any([np.roll(drawn, shift, axis=axis) for axis in (0, 1) for shift in (-1, 0, 1)], axis=0)[
            1:-1, 1:-1
        ]
        place, depth = project(Camera(world_mat, camera_mat), shape.surface[:: max(1, len(shape.surface) // 2000)])
        x, y = np.floor(place).astype(int).T
        within = (depth > 0) & (x >= 0) & (y >= 0) & (x < records.VIEW_SIZE) & (y < records.VIEW_SIZE)
        seen = drawn[y[within], x[within]].sum() / len(place)
        if seen < MIN_SEEN:
            yield f'view {i}: expected {MIN_SEEN:.0%} of the surface samples on the object, found {seen:.0%}'


def _table(index: records.Index, outcome: Outcome) -> tuple[list[str], list[list[str]]]:
    header = ['category', *records.SPLITS, 'bad', 'rejected', 'inside min', 'median', 'max', 'ambiguous mean']

    def row(title: str, categories: Sequence[str]) -> list[str]:
        def count(names):
            return str(sum(name.split('/')[0] in categories for name in names))

        found = [value for name, value in outcome.results.items() if name.split('/')[0] in categories]
        inside = np.array([value['inside'] for value in found]) if found else np.full(1, np.nan)
        ambiguous = np.mean([value['ambiguous'] for value in found]) if found else np.nan
        counts = [count(map('/'.join, index.splits.get(split, ()))) for split in records.SPLITS]
        shares = (inside.min(), np.median(inside), inside.max(), ambiguous)
        return [title, *counts, count(outcome.rejected), count(index.rejected), *(f'{share:.4f}' for share in shares)]

    rows = [row(category, [category]) for category in index.categories]
    return header, [*rows, row('all', index.categories)]
