"""Convolutional Occupancy Networks (Peng et al., ECCV 2020): features of places, on planes or in a grid, steer the points.

What is known of a shape is kept where it is, so that detail survives and a network serves shapes larger than it has seen.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.models.occupancy import Encoder, OccupancyModule
from onet_jax.networks.feature_planes import (
    MAPS,
    POOLINGS,
    SAMPLINGS,
    LocalDecoder,
    LocalPointnet,
    LocalVoxelEncoder,
    Maps,
)
from onet_jax.networks.pointnet_plus_plus import PointDecoder, PointnetPlus
from onet_jax.networks.sliding_window import CropDecoder, CropPointnet


def _build_maps(config: ConfigDict) -> Maps:
    unknown = [name for name in config.maps if name not in MAPS]
    if unknown or not config.maps:
        raise InputError(f'config.model.maps: expected some of {tuple(MAPS)}, found {tuple(config.maps)}')
    coarsening = 1 << max(config.unet_depth - 1, 0)
    if config.plane_resolution % coarsening:
        raise InputError(
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
        'points',
        lambda c, dtype: LocalPointnet(c.cond_size, c.encoder_hidden_size, _build_maps(c), dtype, c.pooling, c.centred),
    ),
    'voxel_simple_local': Encoder('voxels', lambda c, dtype: LocalVoxelEncoder(c.cond_size, _build_maps(c), dtype)),
    'pointnet_plus_plus': Encoder(
        'points', lambda c, dtype: PointnetPlus(c.cond_size, c.encoder_hidden_size, tuple(c.num_centres), dtype)
    ),
    'pointnet_crop_local_pool': Encoder(
        'points',
        lambda c, dtype: CropPointnet(
            c.cond_size,
            c.encoder_hidden_size,
            c.unit_size,
            c.query_cells,
            c.unet3d_levels,
            c.unet3d_size,
            c.sin_cos,
            dtype,
        ),
    ),
}
DECODERS = {
    'simple_local': lambda c, dtype: LocalDecoder(
        c.decoder_hidden_size, dtype=dtype, interpolation=c.interpolation, centred=c.centred
    ),
    'simple_local_point': lambda c, dtype: PointDecoder(c.decoder_hidden_size, dtype=dtype),
    'simple_local_crop': lambda c, dtype: CropDecoder(
        c.decoder_hidden_size, unit=c.unit_size, sin_cos=c.sin_cos, dtype=dtype, centred=c.centred
    ),
}
# What reads what they write, where it is not `simple_local`.
READERS = {'pointnet_plus_plus': 'simple_local_point', 'pointnet_crop_local_pool': 'simple_local_crop'}


def build_module(config: ConfigDict, dtype: jnp.dtype | None = None) -> OccupancyModule:
    """The network of `config.model`.

    `encoder` and `decoder` are official names. `maps` are the names of feature maps, of 'xz', 'xy', 'yz' and 'grid', with
    `cond_size` channels; planes have `plane_resolution`^2 cells and a U-Net of `unet_depth` levels, the first of `unet_size`
    channels, the grid has `grid_resolution`^3 and one of `unet3d_levels` and `unet3d_size`. `pooling` ('max' or 'mean') is of
    the points of a cell in the encoder of points, `interpolation` ('linear' or 'nearest') of the maps in the decoder;
    `centred` maps are read where they were written (see `grids.py`; False in the official networks). The encoder
    'pointnet_plus_plus' has no maps but `num_centres`, of groups of points, on two levels. The encoder of crops has one grid,
    of cells of `unit_size` in object coordinates, with `query_cells`^3 of them to ask about (see `crops.py`), and with
    `sin_cos` coordinates become sines and cosines. Others are widths.
    dtype: of features and their products, as in `onet.build_module`. Raises ValueError for a
    resolution that a U-Net cannot halve as often, and for a decoder that cannot read what the encoder writes.
    """
    for key, known in (('encoder', ENCODERS), ('pooling', POOLINGS), ('interpolation', SAMPLINGS)):
        if key in config and config[key] not in known:
            raise InputError(f'config.model.{key}: expected one of {sorted(known)}, found {config[key]!r}')
    decoder = READERS.get(config.encoder, 'simple_local')
    if config.decoder != decoder:
        raise InputError(
            f'config.model.decoder: expected {decoder!r}, which reads what the encoder {config.encoder!r} writes, '
            f'found {config.decoder!r}'
        )
    return OccupancyModule(
        decoder=DECODERS[decoder](config, dtype), encoder=ENCODERS[config.encoder].build(config, dtype)
    )


def is_crop(config: ConfigDict) -> bool:
    """Whether the network of `config.model` sees windows of a scene."""
    return config.encoder == 'pointnet_crop_local_pool'
