"""Representation power (paper, section 4.1): the IoU that voxels of a resolution can reach, for the same shapes and points.

A voxel grid says of a point what it holds of the voxel around it, the occupancy of the solid at the voxel's centre. Only the
voxels that hold a labelled point are asked for, so that no grid is made at any resolution.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from onet_jax import metrics
from onet_jax.data.datasets import Shapes
from onet_jax.data.records import Index
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_mesh
from onet_jax.prepare import procedural
from onet_jax.prepare.own_meshes import find_meshes, make_solid

RESOLUTIONS = (16, 32, 64, 128, 256)


def voxel_ious(
    dataset: Shapes, split: str, resolutions: Sequence[int] = RESOLUTIONS
) -> Iterator[tuple[str, dict[int, float]]]:
    """(category, {resolution: IoU}) of each shape of a split, on its labelled points in the unit cube.

    Raises InputError for a dataset whose solids are not known: of an imported collection there are labelled points only.
    """
    contains = solids(dataset.index)
    for category, name in dataset.names(split):
        shape = dataset.read(category, name)
        points = shape.points.astype(np.float64)
        inside = contains(category, name)
        yield category, {n: float(metrics.iou(inside(voxel_centre(points, n)), shape.occ)) for n in resolutions}


def voxel_centre(points: np.ndarray, resolution: int) -> np.ndarray:
    """Centres of the voxels of the unit cube, continued beyond it, that hold points [T, 3]."""
    return (np.floor((points + 0.5) * resolution) + 0.5) / resolution - 0.5


def solids(index: Index) -> Callable[[str, str], Callable[[np.ndarray], np.ndarray]]:
    """(category, name) -> the inside test of a shape, points [T, 3] -> [T] bool, from what the dataset was made of."""
    source = index.source
    if source['kind'] == 'procedural':
        return lambda category, name: procedural.make_shape(source['seed'], category, int(name)).contains
    if source['kind'] == 'meshes':
        files = find_meshes(Path(source['root']))
        return lambda category, name: make_solid(load_mesh(files[category, name]), source['up']).contains
    raise InputError(f'dataset: expected one of procedural solids or of meshes, found one of {source["kind"]!r}')
