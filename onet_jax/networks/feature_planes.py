"""Feature planes and feature volumes of Convolutional Occupancy Networks (Peng et al., ECCV 2020).

Features of points are scattered to planes or to a volume (the mean in each cell), U-Nets process them, and the decoder samples
them at its query points (bilinear or trilinear sampling).

A feature map is named after the axes that it keeps: a plane [B, R, R, C], or the volume, officially 'grid', [B, R, R, R, C].
The first of these axes is the LAST spatial axis of the array, the order of the official weights. Points are scattered to the
cells that they lie in, but with `align_corners` sampled as if the R values reached from edge to edge of the box. The official
weights depend on this inconsistency of up to half a cell. Without it a value lies at the centre of its cell. With
`cell_coordinates` the encoder also sees where in its cell a point lies, which object coordinates hardly resolve.

B batch, P input points, T query points, C features, R cells along an axis of a map, *space its spatial axes.
"""

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.geometry.field import check_points
from onet_jax.geometry.grid import PADDING
from onet_jax.networks.layers import Conv, Linear, ResnetBlock, cast
from onet_jax.networks.scatter import POOLINGS, scatter_mean
from onet_jax.networks.unets import UNet, UNet3D

# The axes of each map, in the order in which the decoder sums the features of several.
FEATURE_MAPS = {'grid': (0, 1, 2), 'xz': (0, 2), 'xy': (0, 1), 'yz': (1, 2)}
NUM_LOCAL_BLOCKS = 5  # of the local PointNet and of its decoder


def normalise_coordinates(points: jax.Array, name: str) -> jax.Array:
    """points [..., 3] in object coordinates -> their coordinates in a map, [..., 2 or 3] in [0, 1).

    Points outside of the padded cube are clamped to its border. The margins are those of the official code: 1e-5 in planes,
    1e-3 in the volume.
    """
    margin = 1e-3 if name == 'grid' else 1e-5
    unit = points[..., FEATURE_MAPS[name]] / (1 + PADDING + margin) + 0.5
    return jnp.where(unit >= 1, 1 - margin, jnp.where(unit < 0, 0, unit))


def find_cells(points: jax.Array, name: str, resolution: int) -> jax.Array:
    """points [..., 3] -> the index of the cell of the map that each lies in: [...] int32, the first axis fastest."""
    cells = (normalise_coordinates(points, name) * resolution).astype(jnp.int32)
    return (cells * resolution ** np.arange(cells.shape[-1], dtype=np.int32)).sum(axis=-1)


def find_cell_coordinates(points: jax.Array, name: str, resolution: int) -> jax.Array:
    """points [..., 3] -> where each is in its cell of the map: [..., 2 or 3] in [-1, 1), 0 at the centre of the cell."""
    return 2 * (normalise_coordinates(points, name) * resolution % 1) - 1


def sample_features(
    features: jax.Array, unit: jax.Array, *, interpolation: str = 'linear', align_corners: bool = True
) -> jax.Array:
    """A map [B, *space, C] at coordinates [B, T, d], [0, 1) from edge to edge -> [B, T, C]: torch's `grid_sample`.

    interpolation: of `INTERPOLATIONS`. align_corners: the outermost values lie on the edges, or else half a cell inside.
    Beyond them the map has the value at its border.
    """
    last = features.shape[1] - 1
    place = unit * last if align_corners else unit * (last + 1) - 0.5
    # Below the last index, so that every place has an upper neighbour.
    return INTERPOLATIONS[interpolation](features, place.clip(0, (1 - 1e-6) * last))


def _interpolate(features: jax.Array, place: jax.Array) -> jax.Array:
    """Bilinear or trilinear interpolation of [B, *space, C] at indices with fractions [B, T, d] -> [B, T, C]."""
    below = jnp.floor(place).astype(jnp.int32)
    fraction = place - below

    def weighted(corner):
        weight = jnp.where(jnp.asarray(corner, bool), fraction, 1 - fraction).prod(axis=-1)
        return weight[..., None] * _gather_values(features, below + jnp.asarray(corner))

    return reduce(jnp.add, map(weighted, product((0, 1), repeat=place.shape[-1])))


def _take_nearest(features: jax.Array, place: jax.Array) -> jax.Array:
    """Nearest-neighbour sampling; arguments as of `_interpolate`."""
    return _gather_values(features, jnp.round(place).astype(jnp.int32))


def _gather_values(features: jax.Array, indices: jax.Array) -> jax.Array:
    """Values of [B, *space, C] at [B, T, d] int, the first of them along the last axis of space -> [B, T, C]."""
    flat = (indices * features.shape[1] ** np.arange(indices.shape[-1], dtype=np.int32)).sum(axis=-1)
    return jnp.take_along_axis(features.reshape(len(features), -1, features.shape[-1]), flat[..., None], axis=1)


INTERPOLATIONS = {'linear': _interpolate, 'nearest': _take_nearest}


def scatter_to_map(values: jax.Array, points: jax.Array, name: str, resolution: int) -> jax.Array:
    """Scatter: features [B, P, C] of points [B, P, 3] -> a feature map [B, *space, C], the mean in each cell."""
    num_axes = len(FEATURE_MAPS[name])
    cells = find_cells(points, name, resolution)
    means = jax.vmap(lambda values, cells: scatter_mean(values, cells, resolution**num_axes))(values, cells)
    return means.reshape(len(values), *(resolution,) * num_axes, -1)


class FeatureMaps(nn.Module):
    """Scatter to feature maps, then U-Nets: one for all planes, one for the volume. Depth or levels 0: no U-Net."""

    names: Sequence[str]  # of `FEATURE_MAPS`
    resolution: int = 64  # of planes
    grid_resolution: int = 32
    unet_depth: int = 4
    unet_size: int = 32
    unet3d_levels: int = 3
    unet3d_size: int = 32

    @nn.compact
    def __call__(self, features: jax.Array, points: jax.Array) -> dict[str, jax.Array]:
        """features [B, P, C], points [B, P, 3] in object coordinates -> by name [B, *space, C]."""
        maps = {name: scatter_to_map(features, points, name, self.resolution_of(name)) for name in self.names}
        planes = [name for name in self.names if name != 'grid']
        if planes and self.unet_depth:
            # As rows of one batch, so that one U-Net is compiled; those of a shape are adjacent, since B may be sharded.
            rows = jnp.stack([maps[name] for name in planes], axis=1)
            unet = UNet(features.shape[-1], self.unet_depth, self.unet_size, name='unet')
            processed = unet(rows.reshape(-1, *rows.shape[2:])).reshape(rows.shape)
            maps |= {name: processed[:, i] for i, name in enumerate(planes)}
        if 'grid' in maps and self.unet3d_levels:
            unet3d = UNet3D(features.shape[-1], self.unet3d_levels, self.unet3d_size, name='unet3d')
            maps['grid'] = unet3d(maps['grid'])
        return {name: net.astype(points.dtype) for name, net in maps.items()}

    def resolution_of(self, name: str) -> int:
        return self.grid_resolution if name == 'grid' else self.resolution


def local_pointnet(
    points: jax.Array,
    cells: Sequence[jax.Array],
    hidden_size: int,
    cond_size: int,
    *,
    pooling: str = 'max',
    dtype: jnp.dtype | None,
) -> jax.Array:
    """PointNet with local pooling, its layers in the calling module: points [B, P, F], cells [B, P] of each map -> [B, P, C].

    Each block sees, beside the features of a point, those pooled over its cell (by one of `POOLINGS`), summed over the maps.
    """
    net = Linear(2 * hidden_size, name='fc_pos')(points)
    net = ResnetBlock(hidden_size, name='blocks_0')(cast(net, dtype))
    for i in range(1, NUM_LOCAL_BLOCKS):
        pooled = reduce(jnp.add, (jax.vmap(POOLINGS[pooling])(net, of_map) for of_map in cells))
        net = ResnetBlock(hidden_size, name=f'blocks_{i}')(net, pooled)
    return Linear(cond_size, name='fc_c')(net)


class LocalPointnet(nn.Module):
    """PointNet with local pooling, and feature maps of its output.

    Official name `pointnet_local_pool`.
    """

    cond_size: int
    hidden_size: int
    maps: FeatureMaps
    dtype: jnp.dtype | None = None  # of features and their products
    pooling: str = 'max'  # of `POOLINGS`
    cell_coordinates: bool = False  # also see where in its cell of each map a point lies

    @nn.compact
    def __call__(self, points: jax.Array, *, train: bool = False, axis_name: str | None = None) -> dict[str, jax.Array]:
        """points [B, P, 3] in object coordinates -> by name [B, *space, C]. No layer depends on the mode."""
        resolutions = {name: self.maps.resolution_of(name) for name in self.maps.names}
        cells, seen = [find_cells(points, *of_map) for of_map in resolutions.items()], [points]
        if self.cell_coordinates:
            seen += [find_cell_coordinates(points, *of_map) for of_map in resolutions.items()]
        sizes = self.hidden_size, self.cond_size
        net = local_pointnet(jnp.concatenate(seen, axis=-1), cells, *sizes, pooling=self.pooling, dtype=self.dtype)
        return self.maps(net, points)


class LocalVoxelEncoder(nn.Module):
    """One 3D convolution; its features are scattered from the voxel centres. Official name `voxel_simple_local`."""

    cond_size: int
    maps: FeatureMaps
    dtype: jnp.dtype | None = None  # of features and their products
    kernel_size: int = 3

    @nn.compact
    def __call__(self, voxels: jax.Array, *, train: bool = False, axis_name: str | None = None) -> dict[str, jax.Array]:
        """voxels [B, D, D, D] in {0, 1}, x slowest -> by name [B, *space, C]. No layer depends on the mode."""
        conv = Conv(self.cond_size, self.kernel_size, padding=self.kernel_size // 2, name='conv_in')
        net = nn.relu(conv(cast(voxels[..., None], self.dtype)))
        # From face to face of the unit cube, as the official code places them; it is half a voxel off at the faces.
        axis = jnp.linspace(-0.5, 0.5, voxels.shape[1], dtype=voxels.dtype)
        centres = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing='ij'), axis=-1).reshape(-1, 3)
        net = net.reshape(len(net), -1, self.cond_size)
        return self.maps(net, jnp.broadcast_to(centres, (*net.shape[:2], 3)))


class LocalDecoder(nn.Module):
    """Decoder of query points, and of the feature maps sampled there, to logits. Official name `simple_local`."""

    hidden_size: int = 32
    leaky: bool = False  # slope 0.2 for negative values in the activation before the output
    num_blocks: int = NUM_LOCAL_BLOCKS
    dtype: jnp.dtype | None = None  # of features and their products
    interpolation: str = 'linear'  # of `INTERPOLATIONS`
    align_corners: bool = True  # as the official weights depend on; see `sample_features`
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
        coordinates, features = self.sample(points, cond)
        net, features = (cast(x, self.dtype) for x in (Linear(self.hidden_size, name='fc_p')(coordinates), features))
        for i in range(self.num_blocks):
            net = net + Linear(self.hidden_size, name=f'fc_c_{i}')(features)
            net = ResnetBlock(self.hidden_size, name=f'blocks_{i}')(net)
        net = nn.leaky_relu(net, 0.2) if self.leaky else nn.relu(net)
        return Linear(1, name='fc_out')(net.astype(points.dtype))[..., 0]

    @nn.nowrap
    def sample(self, points: jax.Array, cond: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """What the network sees of points [B, T, 3]: coordinates [B, T, F], and features [B, T, C] summed over the maps."""
        maps = [name for name in FEATURE_MAPS if name in cond]
        sampled = (self.sample_map(cond[name], normalise_coordinates(points, name)) for name in maps)
        return points, reduce(jnp.add, sampled)

    @nn.nowrap
    def sample_map(self, features: jax.Array, unit: jax.Array) -> jax.Array:
        """A map [B, *space, C] at coordinates [B, T, d] in [0, 1): [B, T, C]."""
        return sample_features(features, unit, interpolation=self.interpolation, align_corners=self.align_corners)

    @nn.nowrap
    def bind_shape(
        self, variables: dict, cond: dict, latent: None = None, dtype: Any = jnp.float32
    ) -> 'BoundLocalDecoder':
        """The field of one shape, cond: by name [*space, C]; its matrices and features in `dtype`."""
        variables, cond = jax.tree.map(lambda array: array.astype(dtype), (variables, cond))
        return BoundLocalDecoder(self, variables, cond)


class BoundLocalDecoder(flax.struct.PyTreeNode, eq=False):
    """The field of one shape: points [T, 3] in object coordinates -> logits [T], jitted."""

    decoder: LocalDecoder = flax.struct.field(pytree_node=False)
    variables: dict
    cond: dict

    @jax.jit
    def __call__(self, points: jax.Array) -> jax.Array:
        check_points(points)
        cond = jax.tree.map(lambda array: array[None], self.cond)
        return self.decoder.apply(self.variables, points[None], cond)[0]
