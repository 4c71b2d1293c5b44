"""Features on planes and in a grid (Peng et al., ECCV 2020): points write into cells, networks spread, queries read.

A feature map is named after the axes that it keeps: a plane [B, R, R, C] or the grid [B, R, R, R, C]. The first of these
axes is the LAST of the map, the order of the official weights. Points are written to the cell of R that they lie in but
read as if the R values were spread from edge to edge: half a cell of inconsistency that the official weights depend on.
`centred` networks, which are ours, read a value at the centre of its cell, and their encoder of points is told where in its
cells a point lies, which else is lost: the coordinates of the whole box do not resolve a cell.

B batch, N input points, T query points, C features.
"""

from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from onet_jax.geometry.grid import PADDING
from onet_jax.networks.layers import Conv, Linear, ResnetBlock, lower
from onet_jax.networks.unets import UNet, UNet3D

# The axes of a map, in the order in which the features of several are summed.
MAPS = {'grid': (0, 1, 2), 'xz': (0, 2), 'xy': (0, 1), 'yz': (1, 2)}
NUM_BLOCKS = 5


def normalise(points: jax.Array, name: str) -> jax.Array:
    """points [..., 3] in object coordinates -> their coordinates in a map, [..., 2 or 3] in [0, 1).

    What lies outside of the padded cube is put to its border. The margins are those of the official code: 1e-5 in planes,
    1e-3 in the grid.
    """
    margin = 1e-3 if name == 'grid' else 1e-5
    unit = points[..., MAPS[name]] / (1 + PADDING + margin) + 0.5
    return jnp.where(unit >= 1, 1 - margin, jnp.where(unit < 0, 0, unit))


def find_cells(points: jax.Array, name: str, resolution: int) -> jax.Array:
    """points [..., 3] -> the number of the cell of the map that each lies in: [...] int32, the first axis fastest."""
    cells = (normalise(points, name) * resolution).astype(jnp.int32)
    return (cells * resolution ** jnp.arange(cells.shape[-1], dtype=jnp.int32)).sum(axis=-1)


def within_cells(points: jax.Array, name: str, resolution: int) -> jax.Array:
    """points [..., 3] -> where each is in its cell of the map: [..., 2 or 3] in [-1, 1), 0 at the centre of the cell."""
    return 2 * (normalise(points, name) * resolution % 1) - 1


def from_centres(unit: jax.Array, resolution: int) -> jax.Array:
    """Coordinates in a map -> those at which to read it where its values lie at the centres of cells, both in [0, 1).

    Beyond the outermost centres the value is that of the border.
    """
    return ((unit * resolution - 0.5) / (resolution - 1)).clip(0, 1 - 1e-6)


def sample(features: jax.Array, unit: jax.Array) -> jax.Array:
    """A map [B, *space, C] between its values, at coordinates [B, T, d] in [0, 1) -> [B, T, C], multilinear."""
    num_axes, resolution, size = unit.shape[-1], features.shape[1], features.shape[-1]
    place = unit * (resolution - 1)
    lower = jnp.floor(place).astype(jnp.int32)
    share = place - lower
    flat, total = features.reshape(len(features), -1, size), 0.0
    for corner in product((0, 1), repeat=num_axes):
        weight = jnp.where(jnp.asarray(corner, bool), share, 1 - share).prod(axis=-1)
        cell = ((lower + jnp.asarray(corner)) * resolution ** jnp.arange(num_axes)).sum(axis=-1)
        total += weight[..., None] * jnp.take_along_axis(flat, cell[..., None], axis=1)
    return total


def sample_nearest(features: jax.Array, unit: jax.Array) -> jax.Array:
    """As `sample`, but the nearest value as it is: the features jump from cell to cell."""
    num_axes, resolution = unit.shape[-1], features.shape[1]
    cells = (jnp.round(unit * (resolution - 1)).astype(jnp.int32) * resolution ** jnp.arange(num_axes)).sum(axis=-1)
    return jnp.take_along_axis(features.reshape(len(features), -1, features.shape[-1]), cells[..., None], axis=1)


def reduce_cells(values: jax.Array, cells: jax.Array, operation: str) -> jax.Array:
    """For every point the 'sum' or 'max' of values [N, C] over all points of its cell [N] int: [N, C].

    The same numbers in every run: a CPU adds in the order of the points, and elsewhere, where a scatter would add in any
    order, the points are sorted by cell and added along a tree.
    """
    in_order = partial(_reduce_in_order, operation=operation)
    return jax.lax.platform_dependent(values, cells, cpu=in_order, default=partial(_reduce_sorted, operation=operation))


def _reduce_in_order(values, cells, operation):
    # By the first point of each cell in place of the cells, of which there are many more.
    order = jnp.argsort(cells)
    ranks = jnp.zeros_like(cells).at[order].set(_count_starts(cells[order]), unique_indices=True)
    reduce = {'sum': jax.ops.segment_sum, 'max': jax.ops.segment_max}[operation]
    return reduce(values, ranks, len(cells))[ranks]


def _reduce_sorted(values, cells, operation):
    combine = {'sum': jnp.add, 'max': jnp.maximum}[operation]
    order = jnp.argsort(cells)
    ranks = _count_starts(cells[order])

    def merge(left, right):
        """Of two runs of points: the cell where the right one ends, and what its last cell has so far."""
        same = (left[0] == right[0])[:, None]
        return right[0], jnp.where(same, combine(left[1], right[1]), right[1])

    _, running = jax.lax.associative_scan(merge, (ranks, values[order]))
    last = jnp.searchsorted(ranks, ranks, side='right') - 1
    return jnp.zeros_like(values).at[order].set(running[last], unique_indices=True)


def _count_starts(cells):
    """Sorted cells [N] -> 0 for all points of the first, 1 for those of the second, ..."""
    return jnp.cumsum(jnp.concatenate([jnp.zeros(1, cells.dtype), (cells[1:] != cells[:-1]).astype(cells.dtype)]))


@jax.custom_vjp
def pool_cells(values: jax.Array, cells: jax.Array) -> jax.Array:
    """For every point the largest of values [N, C] in its cell [N] int: [N, C]. Of several that are equal the first one
    has the gradient."""
    return reduce_cells(values, cells, 'max')


def _pool_forwards(values, cells):
    pooled = reduce_cells(values, cells, 'max')
    # The first point that has the maximum is the one with the highest -number.
    numbers = jnp.broadcast_to(-jnp.arange(len(values))[:, None], values.shape)
    first = reduce_cells(jnp.where(values == pooled, numbers, -len(values)), cells, 'max')
    return pooled, (first == numbers, cells)


def _pool_backwards(kept, gradient):
    chosen, cells = kept
    return jnp.where(chosen, reduce_cells(gradient, cells, 'sum'), 0), None


pool_cells.defvjp(_pool_forwards, _pool_backwards)


@jax.custom_vjp
def average_cells(values: jax.Array, cells: jax.Array) -> jax.Array:
    """For every point the mean of values [N, C] in its cell [N] int: [N, C]."""
    return reduce_cells(values, cells, 'sum') / _count(values, cells)


def _count(values, cells):
    return reduce_cells(jnp.ones_like(values[:, :1]), cells, 'sum')


# Symmetric: the gradient is averaged as well.
average_cells.defvjp(
    lambda values, cells: (average_cells(values, cells), cells),
    lambda cells, gradient: (average_cells(gradient, cells), None),
)
POOLINGS = {'max': pool_cells, 'mean': average_cells}
SAMPLINGS = {'linear': sample, 'nearest': sample_nearest}


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def write_means(values: jax.Array, cells: jax.Array, num_cells: int) -> jax.Array:
    """The mean of values [N, C] in every cell: [num_cells, C], 0 where there is no point."""
    means = average_cells(values, cells)
    # All points of a cell write the same, so that their order does not matter.
    return jnp.zeros((num_cells, values.shape[1]), values.dtype).at[cells].set(means)


def _write_forwards(values, cells, num_cells):
    return write_means(values, cells, num_cells), (_count(values, cells), cells)


def _write_backwards(num_cells, kept, gradient):
    counts, cells = kept
    return gradient[cells] / counts, None


write_means.defvjp(_write_forwards, _write_backwards)


def make_map(values: jax.Array, points: jax.Array, name: str, resolution: int) -> jax.Array:
    """Features [B, N, C] of points [B, N, 3] -> the map of their means, [B, *space, C]."""
    num_axes = len(MAPS[name])
    means = jax.vmap(write_means, in_axes=(0, 0, None))(
        values, find_cells(points, name, resolution), resolution**num_axes
    )
    return means.reshape(len(values), *(resolution,) * num_axes, -1)


class Maps(nn.Module):
    """Features of points to maps that U-Nets have spread: one for all planes, one for the grid; none of depth 0."""

    names: Sequence[str]  # of MAPS
    resolution: int = 64  # of planes
    grid_resolution: int = 32
    unet_depth: int = 4
    unet_size: int = 32
    unet3d_levels: int = 3
    unet3d_size: int = 32

    @nn.compact
    def __call__(self, features: jax.Array, points: jax.Array) -> dict[str, jax.Array]:
        """features [B, N, C], points [B, N, 3] in object coordinates -> by name [B, *space, C]."""
        unet = UNet(features.shape[-1], self.unet_depth, self.unet_size, name='unet')
        unet3d = UNet3D(features.shape[-1], self.unet3d_levels, self.unet3d_size, name='unet3d')
        maps = {name: make_map(features, points, name, self.resolution_of(name)) for name in self.names}
        maps = {
            name: (unet3d(net) if self.unet3d_levels else net)
            if name == 'grid'
            else (unet(net) if self.unet_depth else net)
            for name, net in maps.items()
        }
        return {name: net.astype(points.dtype) for name, net in maps.items()}

    def resolution_of(self, name: str) -> int:
        return self.grid_resolution if name == 'grid' else self.resolution


def point_features(
    points: jax.Array,
    cells: Sequence[jax.Array],
    hidden_size: int,
    cond_size: int,
    *,
    pooling: str = 'max',
    dtype: jnp.dtype | None,
    train: bool,
) -> jax.Array:
    """The layers of a PointNet, of the module that calls it: points [B, N, F], their cells [B, N] of each map -> [B, N, C].

    Each block sees, beside the features of a point, the sum over the maps of what is pooled from its cell, by one of
    `POOLINGS`.
    """
    net = Linear(2 * hidden_size, name='fc_pos')(points)
    net = ResnetBlock(hidden_size, name='blocks_0')(lower(net, dtype), train=train)
    for i in range(1, NUM_BLOCKS):
        pooled = sum(jax.vmap(POOLINGS[pooling])(net, of_map) for of_map in cells)
        net = ResnetBlock(hidden_size, name=f'blocks_{i}')(net, pooled, train=train)
    return Linear(cond_size, name='fc_c')(net)


class LocalPointnet(nn.Module):
    """PointNet in which each block sees, beside the features of a point, what is pooled from its cells of all maps.

    Official name `pointnet_local_pool`.
    """

    cond_size: int
    hidden_size: int
    maps: Maps
    dtype: jnp.dtype | None = None  # of features and their products
    pooling: str = 'max'  # of `POOLINGS`
    centred: bool = False

    @nn.compact
    def __call__(self, points: jax.Array, *, train: bool = False, axis_name: str | None = None) -> dict[str, jax.Array]:
        """points [B, N, 3] in object coordinates -> by name [B, *space, C]. No layer depends on the mode."""
        resolutions = {name: self.maps.resolution_of(name) for name in self.maps.names}
        cells = [find_cells(points, name, resolution) for name, resolution in resolutions.items()]
        seen = [within_cells(points, name, resolution) for name, resolution in resolutions.items() if self.centred]
        net = point_features(
            jnp.concatenate([points, *seen], axis=-1),
            cells,
            self.hidden_size,
            self.cond_size,
            pooling=self.pooling,
            dtype=self.dtype,
            train=train,
        )
        return self.maps(net, points)


class LocalVoxelEncoder(nn.Module):
    """One convolution of the voxels, whose centres are then points. Official name `voxel_simple_local`."""

    cond_size: int
    maps: Maps
    dtype: jnp.dtype | None = None  # of features and their products
    kernel_size: int = 3

    @nn.compact
    def __call__(self, voxels: jax.Array, *, train: bool = False, axis_name: str | None = None) -> dict[str, jax.Array]:
        """voxels [B, D, D, D] in {0, 1}, x slowest -> by name [B, *space, C]. No layer depends on the mode."""
        conv = Conv(self.cond_size, self.kernel_size, padding=self.kernel_size // 2, name='conv_in')
        net = nn.relu(conv(lower(voxels[..., None], self.dtype)))
        # From face to face of the unit cube, as the official code places them; it is half a voxel off at the faces.
        axis = jnp.linspace(-0.5, 0.5, voxels.shape[1], dtype=voxels.dtype)
        centres = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing='ij'), axis=-1).reshape(-1, 3)
        net = net.reshape(len(net), -1, self.cond_size)
        return self.maps(net, jnp.broadcast_to(centres, (*net.shape[:2], 3)))


class LocalDecoder(nn.Module):
    """Points and what the maps hold where they are to logits of occupancy. Official name `simple_local`."""

    hidden_size: int = 32
    leaky: bool = False  # slope 0.2 for negative values in the activation before the output
    num_blocks: int = NUM_BLOCKS
    dtype: jnp.dtype | None = None
    interpolation: str = 'linear'  # of `SAMPLINGS`
    centred: bool = False
    latent_size = 0

    @nn.compact
    def __call__(
        self,
        points: jax.Array,
        cond: dict[str, jax.Array],
        latent: None = None,
        *,
        train: bool = False,
        axis_name: str | None = None,
    ) -> jax.Array:
        """points [B, T, 3] in object coordinates, cond: by name [B, *space, C] -> logits [B, T]."""
        coordinates, features = self.read(points, cond)
        net, features = (lower(x, self.dtype) for x in (Linear(self.hidden_size, name='fc_p')(coordinates), features))
        for i in range(self.num_blocks):
            net = net + Linear(self.hidden_size, name=f'fc_c_{i}')(features)
            net = ResnetBlock(self.hidden_size, name=f'blocks_{i}')(net, train=train)
        net = nn.leaky_relu(net, 0.2) if self.leaky else nn.relu(net)
        return Linear(1, name='fc_out')(net.astype(points.dtype))[..., 0]

    @nn.nowrap
    def read(self, points: jax.Array, cond: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Coordinates [B, T, F] that the network is to see of its points, and features [B, T, C] of their places."""
        return points, sum(self.look_up(cond[name], normalise(points, name)) for name in MAPS if name in cond)

    @nn.nowrap
    def look_up(self, features: jax.Array, unit: jax.Array) -> jax.Array:
        """A map [B, *space, C] at coordinates [B, T, d] in [0, 1): [B, T, C]."""
        return SAMPLINGS[self.interpolation](features, from_centres(unit, features.shape[1]) if self.centred else unit)

    @nn.nowrap
    def bind(self, variables: dict, cond: dict, latent: None = None, dtype: Any = jnp.float32) -> 'BoundLocalDecoder':
        """The decoder for one shape, cond: by name [*space, C]; its matrices and features in `dtype`."""
        variables, cond = jax.tree.map(lambda array: array.astype(dtype), (variables, cond))
        return BoundLocalDecoder(self, variables, cond)


class BoundLocalDecoder(flax.struct.PyTreeNode):
    """A field: points [T, 3] -> logits [T]."""

    decoder: LocalDecoder = flax.struct.field(pytree_node=False)
    variables: dict
    cond: dict

    @jax.jit
    def __call__(self, points: jax.Array) -> jax.Array:
        cond = jax.tree.map(lambda array: array[None], self.cond)
        return self.decoder.apply(self.variables, points[None], cond)[0]
