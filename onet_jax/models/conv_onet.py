"""Convolutional Occupancy Networks (Peng et al., ECCV 2020): features of places, on planes or in a grid, steer the points.

What is known of a shape is kept where it is, so that detail survives and a network serves shapes larger than it has seen.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from onet_jax.models.occupancy import Encoder, OccupancyModule
from onet_jax.networks.grids import MAPS, POOLINGS, SAMPLINGS, LocalDecoder, LocalPointnet, LocalVoxelEncoder, Maps
from onet_jax.networks.pointnet_plus import PointDecoder, PointnetPlus


def _build_maps(config: ConfigDict) -> Maps:
    unknown = [name for name in config.maps if name not in MAPS]
    if unknown or not config.maps:
        raise ValueError(f'config.model.maps: expected some of {tuple(MAPS)}, found {tuple(config.maps)}')
    coarsening = 1 << max(config.unet_depth - 1, 0)
    if config.plane_resolution % coarsening:
        raise ValueError(
            f'config.model.plane_resolution: expected a multiple of {coarsening}, which '
            f'config.model.unet_depth = {config.unet_depth} asks for, found {config.plane_resolution}'
        )
    return Maps(
        tuple(config.maps),
        config.plane_resolution,
        config.grid_resolution,
        config.unet_depth,
        config.unet_size,
        config.unet3d_levels,
        config.unet3d_size,
    )


# By their official names.
ENCODERS = {
    'pointnet_local_pool': Encoder(
        'points', lambda c, dtype: LocalPointnet(c.cond_size, c.encoder_hidden_size, _build_maps(c), dtype, c.pooling)
    ),
    'voxel_simple_local': Encoder('voxels', lambda c, dtype: LocalVoxelEncoder(c.cond_size, _build_maps(c), dtype)),
    'pointnet_plus_plus': Encoder(
        'points', lambda c, dtype: PointnetPlus(c.cond_size, c.encoder_hidden_size, tuple(c.num_centres), dtype)
    ),
}
DECODERS = {'simple_local': LocalDecoder, 'simple_local_point': PointDecoder}


def build_module(config: ConfigDict, dtype: jnp.dtype | None = None) -> OccupancyModule:
    """The network of `config.model`.

    `encoder` and `decoder` are official names. `maps` are the names of feature maps, of 'xz', 'xy', 'yz' and 'grid', with
    `cond_size` channels; planes have `plane_resolution`^2 cells and a U-Net of `unet_depth` levels, the first of `unet_size`
    channels, the grid has `grid_resolution`^3 and one of `unet3d_levels` and `unet3d_size`. The encoder 'pointnet_plus_plus'
    has no maps but `num_centres`, of groups of points, on two levels. `pooling` ('max' or 'mean') is of the points of a cell
    in the encoder of points, `interpolation` ('linear' or 'nearest') of the maps in the decoder. Others are widths.
    dtype: of features and their products, as in `onet.build_module`. Raises ValueError for a
    resolution that a U-Net cannot halve as often, and for a decoder that cannot read what the encoder writes.
    """
    if config.encoder not in ENCODERS:
        raise ValueError(f'config.model.encoder: expected one of {sorted(ENCODERS)}, found {config.encoder!r}')
    decoder = 'simple_local_point' if config.encoder == 'pointnet_plus_plus' else 'simple_local'
    if config.decoder != decoder:
        raise ValueError(
            f'config.model.decoder: expected {decoder!r}, which reads what the encoder {config.encoder!r} writes, '
            f'found {config.decoder!r}'
        )
    ways = {'pooling': POOLINGS, 'interpolation': SAMPLINGS}
    wrong = [name for name in ways if name in config and config[name] not in ways[name]]
    if wrong:
        name = wrong[0]
        raise ValueError(f'config.model.{name}: expected one of {tuple(ways[name])}, found {config[name]!r}')
    settings = {name: config[name] for name in ('interpolation',) if name in config}
    return OccupancyModule(
        decoder=DECODERS[decoder](config.decoder_hidden_size, dtype=dtype, **settings),
        encoder=ENCODERS[config.encoder].build(config, dtype),
    )
