"""Convolutional Occupancy Networks (Peng et al., ECCV 2020): local features, on planes or in a volume, condition every point.

Features of the input are scattered to feature planes or a feature volume, a U-Net spreads them, and the decoder reads them at a
query by bilinear or trilinear sampling: detail survives, and a network serves shapes larger than it has seen. The last part of
the file is the sliding-window network (section 3.4), for scenes of any size. B batch, T query points, P points of a cloud.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.sliding_window import SAMPLES_PER_CELL, Layout, claim, extract_sliding_window, find_origin
from onet_jax.models import occupancy
from onet_jax.models.method import Method, check_names, digest, keywords_of
from onet_jax.models.occupancy import Encoder, OccupancyModule, OccupancyNetwork
from onet_jax.networks.feature_planes import (
    FEATURE_MAPS,
    INTERPOLATIONS,
    POOLINGS,
    FeatureMaps,
    LocalDecoder,
    LocalPointnet,
    LocalVoxelEncoder,
)
from onet_jax.networks.pointnet_plus_plus import PointDecoder, PointnetPlus
from onet_jax.networks.sliding_window import CropDecoder, CropPointnet, cube_cells, window_cells

WINDOWED = 'pointnet_crop_local_pool'
# By their official names, from the keywords of `make_model`.
ENCODERS = {
    'pointnet_local_pool': Encoder(
        'cloud',
        lambda k: LocalPointnet(
            k.cond_size, k.encoder_hidden_size, _feature_maps(k), k.dtype, k.pooling, k.cell_coordinates
        ),
    ),
    'voxel_simple_local': Encoder('voxels', lambda k: LocalVoxelEncoder(k.cond_size, _feature_maps(k), k.dtype)),
    'pointnet_plus_plus': Encoder(
        'cloud', lambda k: PointnetPlus(k.cond_size, k.encoder_hidden_size, tuple(k.num_centres), k.dtype)
    ),
    WINDOWED: Encoder(
        'scene',
        lambda k: CropPointnet(
            k.cond_size,
            k.encoder_hidden_size,
            k.unit_size,
            cube_cells(k.unit_size, k.unet3d_levels),
            k.unet3d_levels,
            k.unet3d_size,
            k.sin_cos,
            k.dtype,
        ),
    ),
}
DECODERS = {
    'simple_local': lambda k: LocalDecoder(
        k.decoder_hidden_size, dtype=k.dtype, interpolation=k.interpolation, align_corners=k.align_corners
    ),
    'simple_local_point': lambda k: PointDecoder(k.decoder_hidden_size, dtype=k.dtype),
    'simple_local_crop': lambda k: CropDecoder(
        k.decoder_hidden_size,
        unit=k.unit_size,
        sin_cos=k.sin_cos,
        dtype=k.dtype,
        interpolation=k.interpolation,
        align_corners=k.align_corners,
    ),
}
# The decoder that reads what an encoder writes, where it is not `simple_local`.
DECODER_OF = {'pointnet_plus_plus': 'simple_local_point', WINDOWED: 'simple_local_crop'}


def _feature_maps(k: SimpleNamespace) -> FeatureMaps:
    unknown = [name for name in k.maps if name not in FEATURE_MAPS]
    if unknown or not k.maps:
        raise InputError(f'config.model.maps: expected some of {tuple(FEATURE_MAPS)}, found {tuple(k.maps)}')
    coarsening = 1 << max(k.unet_depth - 1, 0)
    if k.plane_resolution % coarsening:
        raise InputError(
            f'config.model.plane_resolution: expected a multiple of {coarsening}, which '
            f'config.model.unet_depth = {k.unet_depth} asks for, found {k.plane_resolution}'
        )
    sizes = k.plane_resolution, k.grid_resolution, k.unet_depth, k.unet_size, k.unet3d_levels, k.unet3d_size
    return FeatureMaps(tuple(k.maps), *sizes)


def make_modules(
    *,
    encoder: str = 'pointnet_local_pool',
    decoder: str = 'simple_local',
    cond_size: int = 32,
    encoder_hidden_size: int = 32,
    decoder_hidden_size: int = 32,
    maps: tuple[str, ...] = ('xz', 'xy', 'yz'),
    plane_resolution: int = 64,
    grid_resolution: int = 32,
    unet_depth: int = 4,
    unet_size: int = 32,
    unet3d_levels: int = 3,
    unet3d_size: int = 32,
    pooling: str = 'max',
    interpolation: str = 'linear',
    align_corners: bool = True,
    cell_coordinates: bool = False,
    num_centres: tuple[int, int] = (512, 128),
    unit_size: float = 0.005,
    query_cells: int = 25,
    num_queries: int = 1024,
    sin_cos: bool = False,
    train_dtype: jnp.dtype | None = None,
) -> tuple[OccupancyModule, OccupancyModule]:
    """The network, and the one of the training step: in `train_dtype`, of the sliding-window network in a single window."""
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, pooling=POOLINGS, interpolation=INTERPOLATIONS)
    if decoder != DECODER_OF.get(encoder, 'simple_local'):
        raise InputError(
            f'config.model.decoder: expected {DECODER_OF.get(encoder, "simple_local")!r}, which reads what the encoder '
            f'{encoder!r} writes, found {decoder!r}'
        )
    network, trained = (
        OccupancyModule(decoder=DECODERS[decoder](k), encoder=ENCODERS[encoder].build(k))
        for k in (SimpleNamespace(**keywords, dtype=dtype) for dtype in (None, train_dtype))
    )
    if encoder == WINDOWED:
        num_cells = window_cells(query_cells, unet3d_levels)
        trained = trained.clone(encoder=trained.encoder.clone(num_cells=num_cells))
    return network, trained


def make_model(**keywords) -> OccupancyNetwork:
    """The functions of a network, without weights.

    encoder, decoder: official names, of `ENCODERS` and `DECODERS`. maps: names of feature maps, of 'xz', 'xy', 'yz' (planes)
    and 'grid' (the volume), with `cond_size` channels; planes have `plane_resolution`^2 cells and a U-Net of `unet_depth`
    levels, the first of `unet_size` channels, the volume has `grid_resolution`^3 and one of `unet3d_levels` and `unet3d_size`.
    pooling ('max' or 'mean') is of the points of a cell in the encoder, interpolation ('linear' or 'nearest') of the maps in
    the decoder, with or without align_corners (True in the official networks); with cell_coordinates the encoder is told where
    in its cells a point lies (False in the official networks). The encoder 'pointnet_plus_plus' has no maps but `num_centres`,
    of groups of points, on two levels. The sliding-window network has a volume of cells of the edge `unit_size`, is trained
    with `num_queries` of the points in `query_cells`^3 of them, and with `sin_cos` has a positional encoding. train_dtype as of
    `onet.make_model`; others are widths. Raises InputError for values that do not go together.
    """
    network, trained = make_modules(**keywords)
    model = occupancy.occupancy_network(network, trained=trained)
    if keywords.get('encoder') != WINDOWED:
        return model
    keywords = {**make_modules.__kwdefaults__, **keywords}
    edge = keywords['unit_size'] * keywords['query_cells']
    return model._replace(loss=partial(window_loss, model.loss, edge, keywords['num_queries']))


def build(config: ConfigDict) -> Method:
    """The method of a config. The sliding-window network predicts a cloud of any size window by window."""
    keywords = keywords_of(config)
    method = occupancy.method(config, make_model(**keywords), ENCODERS[config.model.encoder].reads)
    if config.model.encoder != WINDOWED:
        return method
    _, window = make_modules(**{**keywords, 'train_dtype': None})
    level, num_points = threshold_to_logit(config.eval.threshold), config.data.num_input_points
    return method._replace(predict=partial(predict_scenes, window, config.model.query_cells, num_points, level))


# --- The sliding-window network: it is trained in random windows, and predicts a scene from overlapping ones.


def window_loss(
    loss: Callable,
    edge: float,
    num_queries: int,
    params: dict,
    points: jax.Array,
    occ: jax.Array,
    clouds: jax.Array,
    key: jax.Array,
    rows: jax.Array | None = None,
    axis_name: str | None = None,
):
    """`loss` in one random window of each shape; arguments as of `negative_elbo`, clouds [B, P, 3]."""
    rows = jnp.arange(len(points)) if rows is None else rows
    keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
    windows = jax.vmap(partial(draw_window, edge, num_queries))(keys, points, occ, clouds)
    return loss(params, *windows, key, rows, axis_name)


def draw_window(
    edge: float, num_queries: int, key: jax.Array, points: jax.Array, occ: jax.Array, cloud: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Points [T, 3], occ [T] and cloud [P, 3] in a cube whose centre, uniform in the cloud's bounding box, becomes the origin.

    `num_queries` are drawn, with replacement, of the points in the cube; where there is none, the nearest one to it is. The
    whole cloud stays: it is for the network to drop what is outside of its window.
    """
    centre_key, points_key = jax.random.split(key)
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    centre = low + (high - low) * jax.random.uniform(centre_key, (3,))
    beyond = jnp.maximum(jnp.abs(points - centre).max(axis=-1) - edge / 2, 0)
    count = jnp.maximum((beyond == 0).sum(), 1)
    drawn = jnp.argsort(beyond)[jax.random.randint(points_key, (num_queries,), 0, count)]
    return points[drawn] - centre, occ[drawn], cloud - centre


def predict_scenes(
    module: OccupancyModule,
    query_cells: int,
    max_points: int,
    level: float,
    params: dict,
    inputs: dict,
    key: jax.Array,
    workspace: Path | None = None,
) -> list[trimesh.Trimesh]:
    """The meshes of clouds [B, P, 3] of any size, in whose unit a cell has the edge that the network was trained with."""
    halvings = 1 << (module.encoder.unet3d_levels - 1)
    layout = Layout(module.encoder.num_cells, query_cells // halvings * halvings)
    meshes = []
    for cloud in np.asarray(inputs['scene'], np.float64):
        with tempfile.TemporaryDirectory() as temporary:
            folder = workspace or Path(temporary)
            claim(folder, {'cloud': digest(cloud), 'points': max_points, 'weights': digest(params), 'layout': layout})
            unit = module.encoder.unit
            low = find_origin(cloud, layout, unit)
            cells = ((cloud - low) / unit).astype(np.float32)
            infer = partial(_infer_window, module, layout, params)
            mesh = extract_sliding_window(cells, infer, layout, folder, level, max_points)
            mesh.vertices = low + unit * mesh.vertices
        meshes.append(mesh)
    return meshes


@partial(jax.jit, static_argnums=(0, 1))
def _infer_window(module, layout, params, points):
    """Points [P, 3] in cells from the centre of a window -> logits [n, n, n] of its box and the bands around it."""
    unit = module.encoder.unit
    cond = module.apply(params, unit * points[None], method='encode')
    axis = unit * (jnp.arange(layout.num_values) / SAMPLES_PER_CELL - (layout.step / 2 + layout.band))
    lattice = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing='ij'), axis=-1).reshape(1, -1, 3)
    logits = occupancy.in_chunks(lambda chunk: module.apply(params, chunk, cond, method='decode'), lattice)
    return logits.reshape((layout.num_values,) * 3)
