"""Sliding-window networks for scenes of any size (Peng et al., ECCV 2020, section 3.4): a feature volume that lies anywhere.

A window has `num_cells`^3 cells of edge `unit`. The network sees of a point only where in its cell it lies, so that it is
translation-equivariant by whole cells. Queries lie in the middle of a window, the query volume; the margin around it covers
the receptive field of the U-Net. `low` is the lowest corner of a window, by default of the one around the origin.

B batch, P input points, T query points, C features, R = num_cells.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.geometry.grid import BOX
from onet_jax.networks.feature_planes import LocalDecoder, local_pointnet
from onet_jax.networks.scatter import scatter_mean
from onet_jax.networks.unets import UNet3D

NUM_FREQUENCIES = 10  # of the positional encoding by sines and cosines


def receptive_field(levels: int) -> int:
    """Cells along an axis in the receptive field of a U-Net of so many levels, by the rule of the official code."""
    return 1 << (levels + 2)


def window_cells(query_cells: int, levels: int) -> int:
    """Cells along an axis of a window for a query volume of query_cells^3, rounded up to what the U-Net can halve."""
    halvings = 1 << (levels - 1)
    return -(-(query_cells + receptive_field(levels) - 1) // halvings) * halvings


def cube_cells(unit: float, levels: int) -> int:
    """Cells along an axis of a window whose query volume is the padded cube of one object."""
    return window_cells(int(np.ceil(BOX / unit - 1e-6)), levels)


def local_coordinates(points: jax.Array, unit: float, sin_cos: bool) -> jax.Array:
    """points [..., 3] -> where each is in its cell, [..., 3] in [0, 1), or the positional encoding of that, [..., 60]."""
    # The remainder of a tiny negative number rounds to the unit itself.
    local = jnp.remainder(points, unit) / unit
    if not sin_cos:
        return local
    angles = [(1 << k) * jnp.pi * (2 * local - 1) for k in range(NUM_FREQUENCIES)]
    return jnp.concatenate([f(angle) for angle in angles for f in (jnp.sin, jnp.cos)], axis=-1)


def find_window_cells(points: jax.Array, low: jax.Array, unit: float, num_cells: int) -> jax.Array:
    """points [B, P, 3], low broadcasting against them -> the index of the cell of each, [B, P] int32, the first axis fastest.

    Points outside of the window have the index R^3.
    """
    place = (points - low) / unit
    inside = ((place >= 0) & (place < num_cells)).all(axis=-1)
    cells = jnp.where(inside[..., None], place, 0).astype(jnp.int32)
    indices = (cells * num_cells ** np.arange(3, dtype=np.int32)).sum(axis=-1)
    return jnp.where(inside, indices, num_cells**3)


class CropPointnet(nn.Module):
    """`LocalPointnet` in a window. Official name `pointnet_crop_local_pool`.

    No parameter depends on `num_cells`: `module.clone(num_cells=...)` serves windows of another size with the same weights.
    Points outside of the window are dropped: they are scattered to one more cell, which is cut off.
    """

    cond_size: int
    hidden_size: int
    unit: float  # edge of a cell
    num_cells: int  # along an axis of the window: see `window_cells` and `cube_cells`
    unet3d_levels: int = 4
    unet3d_size: int = 32
    sin_cos: bool = False
    dtype: jnp.dtype | None = None  # of features and their products

    @nn.compact
    def __call__(
        self,
        points: jax.Array,
        low: jax.Array | None = None,
        *,
        train: bool = False,
        axis_name: str | None = None,
    ) -> dict[str, jax.Array]:
        """points [B, P, 3], low [B, 1, 3] or None -> 'grid' [B, R, R, R, C], 'low' [B, 1, 3]. No layer depends on the mode."""
        batch, num_cells = len(points), self.num_cells
        if low is None:
            low = jnp.full((batch, 1, 3), -num_cells * self.unit / 2, points.dtype)
        cells = find_window_cells(points, low, self.unit, num_cells)
        local = local_coordinates(points, self.unit, self.sin_cos)
        net = local_pointnet(local, [cells], self.hidden_size, self.cond_size, dtype=self.dtype)
        means = jax.vmap(lambda net, cells: scatter_mean(net, cells, num_cells**3 + 1))(net, cells)[:, :-1]
        volume = means.reshape(batch, *(num_cells,) * 3, -1)
        volume = UNet3D(self.cond_size, self.unet3d_levels, self.unet3d_size, name='unet3d')(volume)
        return {'grid': volume.astype(points.dtype), 'low': low}


class CropDecoder(LocalDecoder):
    """`LocalDecoder` of a window; beyond it the features are those at its border. Official name `simple_local_crop`.

    Without `align_corners` overlapping windows sample the same features at the same point. With it each is up to half a
    cell off, depending on where the point lies in the window.
    """

    unit: float = 0.005
    sin_cos: bool = False

    def sample(self, points: jax.Array, cond: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """points [B, T, 3], cond as of `CropPointnet` -> their coordinates in their cells [B, T, F], features [B, T, C]."""
        volume = cond['grid']
        unit = (points - cond['low']) / (self.unit * volume.shape[1])
        return local_coordinates(points, self.unit, self.sin_cos), self.sample_map(volume, unit)
