"""The sampled (padded) cube and its lattices: the one file that knows the padding and all half-cell offsets.

Three lattices are in use; to confuse them shifts a surface by half a cell:
    corners of R cells      R + 1 points along an axis, first and last on the faces of the padded cube (MISE, marching cubes)
    inclusive, n points     the same with n = R + 1: align_corners=True
    centres of n voxels     (i + 1/2) / n - 1/2 in the unpadded unit cube (voxel inputs): align_corners=False
"""

from itertools import product

import numpy as np

from onet_jax.conventions import Array
from onet_jax.errors import InputError

CORNERS = np.array(list(product((0, 1), repeat=3)))  # [8, 3], of a cell: corner 4 i + 2 j + k lies at (i, j, k)
PADDING = 0.1  # of the unit cube, in all along an axis
BOX = 1.0 + PADDING  # edge of the sampled cube [-BOX/2, BOX/2]^3


def lattice_to_world(index: np.ndarray, resolution: int) -> np.ndarray:
    """Lattice coordinates 0..R of the corners of R cells -> object coordinates, any shape, float64."""
    return BOX * (np.asarray(index, np.float64) / resolution - 0.5)


def world_to_lattice(points: Array, resolution: int) -> Array:
    """Object coordinates -> lattice coordinates, 0..R in the box, any shape; arrays of JAX too."""
    return (points / BOX + 0.5) * resolution


def voxel_centres(num_voxels: int = 32) -> np.ndarray:
    """Centres of the n^3 voxels of the unit cube [-0.5, 0.5]^3: [n, n, n, 3] float64, x slowest."""
    axis = (np.arange(num_voxels) + 0.5) / num_voxels - 0.5
    return np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1)


def finest_cells(resolution: int, upsampling_steps: int) -> int:
    """R = resolution * 2^upsampling_steps, the number of finest cells along an axis of an octree. Raises InputError for
    resolution < 1 or upsampling_steps < 0."""
    whole = all(
        isinstance(number, int | np.integer) and type(number) is not bool for number in (resolution, upsampling_steps)
    )
    if not whole or resolution < 1 or upsampling_steps < 0:
        raise InputError(
            f'expected resolution >= 1 and upsampling_steps >= 0, found {resolution} and {upsampling_steps}; both are whole'
        )
    return resolution << upsampling_steps


def any_of_eight(marks: Array, stride: int) -> Array:
    """2 x 2 x 2 max pooling of a mask [..., n, n, n] bool, for arrays of numpy and of JAX.

    stride 1: points -> the n - 1 cells between them, or cells -> the points between them. stride 2: cells -> the n / 2 cells
    of the coarser level.
    """
    marks = marks[..., :-1:stride, :, :] | marks[..., 1::stride, :, :]
    marks = marks[..., :-1:stride, :] | marks[..., 1::stride, :]
    return marks[..., :-1:stride] | marks[..., 1::stride]
