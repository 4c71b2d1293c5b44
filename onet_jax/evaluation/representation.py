"""Representation power (paper, section 4.1): the IoU that voxel grids of several resolutions reach on the labelled points.

A grid predicts at a point the occupancy of the solid at the centre of its voxel. Only voxels that hold a labelled point are
evaluated, so that no grid is in memory at any resolution. T labelled points.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from onet_jax import metrics
from onet_jax.data.datasets import Shapes
from onet_jax.data.records import Index
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_mesh
from onet_jax.geometry.solid import make_solid
from onet_jax.prepare.embedded import embedded_solid
from onet_jax.prepare.own_meshes import find_meshes

RESOLUTIONS = (16, 32, 64, 128, 256)


def voxel_ious(
    dataset: Shapes, split: str, resolutions: Sequence[int] = RESOLUTIONS
) -> Iterator[tuple[str, dict[int, float]]]:
    """(category, {resolution: IoU}) of each shape of a split, on its labelled points.

    Raises InputError for a dataset whose solids are not known: an imported collection has labelled points only.
    """
    contains = solids(dataset.index)
    for category, name in dataset.names(split):
        shape = dataset.read(category, name)
        points = shape.points.astype(np.float64)
        inside = contains(category, name)
        yield category, {n: float(metrics.iou(inside(voxel_centre(points, n)), shape.occ)) for n in resolutions}


def voxel_centre(points: np.ndarray, resolution: int) -> np.ndarray:
    """Centres [T, 3] of the voxels that hold points [T, 3]: voxels of the unit cube, and of its continuation."""
    return (np.floor((points + 0.5) * resolution) + 0.5) / resolution - 0.5


def solids(index: Index) -> Callable[[str, str], Callable[[np.ndarray], np.ndarray]]:
    """(category, name) -> the inside test of a shape, points [T, 3] -> [T] bool, from the source of the dataset."""
    source = index.source
    kind = source.get('kind')
    if kind == 'procedural':
        return lambda category, name: embedded_solid(source['seed'], category, int(name)).contains
    if kind == 'meshes':
        files = find_meshes(Path(source['root']))
        return lambda category, name: make_solid(load_mesh(files[category, name]), source['up']).contains
    raise InputError(f'dataset: expected one of procedural solids or of meshes, found one of {kind!r}')
