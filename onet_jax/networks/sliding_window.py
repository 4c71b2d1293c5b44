"""Windows of scenes of any size (Peng et al., ECCV 2020, section 3.4): a grid of cells of a fixed size, wherever it lies.

A window has `num_cells`^3 cells of edge `unit`, and a point is to the network what it is within its cell, so that one window
is as good as another. Queries lie in the middle, the query volume; around it is what the U-Net needs to see for them. `low` is
the lowest corner of a window, by default of one around the origin, whose cells then begin at multiples of the unit.

B batch, N input points, T query points, C features, R cells along an axis.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.geometry.grid import BOX
from onet_jax.networks.feature_planes import LocalDecoder, point_features, write_means
from onet_jax.networks.unets import UNet3D

NUM_FREQUENCIES = 10  # of the encoding by sines and cosines


def receptive_field(levels: int) -> int:
    """Cells along an axis that a value of a U-Net of so many levels depends on, by the rule of the official code."""
    return 1 << (levels + 2)


def window_cells(query_cells: int, levels: int) -> int:
    """Cells along an axis of a window for a query volume of query_cells^3: they can be halved levels - 1 times."""
    halvings = 1 << (levels - 1)
    return -(-(query_cells + receptive_field(levels) - 1) // halvings) * halvings


def cube_cells(unit: float, levels: int) -> int:
    """Cells along an axis of a window whose query volume is the padded cube of one object."""
    return window_cells(int(np.ceil(BOX / unit - 1e-6)), levels)


def local_coordinates(points: jax.Array, unit: float, sin_cos: bool) -> jax.Array:
    """points [..., 3] -> where each is in its cell of the lattice of `unit`: [..., 3] in [0, 1), or 60 sines and cosines."""
    # The remainder of a tiny negative number rounds to the unit itself.
    local = jnp.remainder(points, unit) / unit
    if not sin_cos:
        return local
    angles = [(1 << k) * jnp.pi * (2 * local - 1) for k in range(NUM_FREQUENCIES)]
    return jnp.concatenate([f(angle) for angle in angles for f in (jnp.sin, jnp.cos)], axis=-1)


def window_corner(num_cells: int, unit: float, dtype: jnp.dtype) -> jax.Array:
    """The lowest corner of the window around the origin, [1, 1, 3]."""
    return jnp.full((1, 1, 3), -num_cells * unit / 2, dtype)


def find_window_cells(points: jax.Array, low: jax.Array, unit: float, num_cells: int) -> jax.Array:
    """points [B, N, 3], low broadcasting against them -> the number of the cell of each, [B, N] int32, the first axis fastest.

    Points outside of the window have the number R^3.
    """
    place = (points - low) / unit
    inside = ((place >= 0) & (place < num_cells)).all(axis=-1)
    cells = jnp.where(inside[..., None], place, 0).astype(jnp.int32)
    numbers = (cells * num_cells ** jnp.arange(3, dtype=jnp.int32)).sum(axis=-1)
    return jnp.where(inside, numbers, num_cells**3)


class CropPointnet(nn.Module):
    """`LocalPointnet` in a window. Official name `pointnet_crop_local_pool`.

    Points outside of the window are dropped: they share one more cell, which the map does not have.
    """

    cond_size: int
    hidden_size: int
    unit: float  # edge of a cell
    query_cells: int  # along an axis, of the volume that training asks about
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
        """points [B, N, 3], low [B, 1, 3] or None -> 'grid' [B, R, R, R, C], 'low' [B, 1, 3].

        In training the window is that of the query volume, else that of the whole padded cube.
        """
        levels = self.unet3d_levels
        num_cells = window_cells(self.query_cells, levels) if train else cube_cells(self.unit, levels)
        if low is None:
            low = jnp.broadcast_to(window_corner(num_cells, self.unit, points.dtype), (len(points), 1, 3))
        cells = find_window_cells(points, low, self.unit, num_cells)
        local = local_coordinates(points, self.unit, self.sin_cos)
        net = point_features(local, [cells], self.hidden_size, self.cond_size, dtype=self.dtype, train=train)
        means = jax.vmap(write_means, in_axes=(0, 0, None))(net, cells, num_cells**3 + 1)[:, :-1]
        volume = means.reshape(len(points), *(num_cells,) * 3, -1)
        volume = UNet3D(self.cond_size, levels, self.unet3d_size, name='unet3d')(volume)
        return {'grid': volume.astype(points.dtype), 'low': low}


class CropDecoder(LocalDecoder):
    """`LocalDecoder` of a window. Official name `simple_local_crop`.

    Two `centred` windows read the same where they hold the same; else they differ by up to half a cell in where they do.
    """

    unit: float = 0.005
    sin_cos: bool = False

    def read(self, points: jax.Array, cond: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        grid = cond['grid']
        place = (points - cond['low']) / (self.unit * grid.shape[1])
        # Beyond the window the value at its border.
        features = self.look_up(grid, place.clip(0, 1 - 1e-6))
        return local_coordinates(points, self.unit, self.sin_cos), features
