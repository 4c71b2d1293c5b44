"""Convolutional Occupancy Networks (Peng et al., ECCV 2020): f(point, local features) -> occupancy.

Features of the input points are scattered to feature planes or to a feature volume, which U-Nets process; the decoder samples
them at its query points (bilinear or trilinear sampling). Detail survives, and the convolutions also serve scenes larger than
those of training. The last part of the file is the sliding-window network (section 3.4), for scenes of any size.

B batch, T query points, P points of a cloud.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.geometry.coarse_to_fine import dilate, evaluate_near_surface
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.quality import drop_unsupported
from onet_jax.geometry.sliding_window import SAMPLES_PER_CELL, Layout, claim, extract_sliding_window, find_origin
from onet_jax.json_files import check_json, number, whole
from onet_jax.models import occupancy
from onet_jax.models.method import Aux, Encoder, Method, check_names, digest_arrays, keywords_of
from onet_jax.models.occupancy import OccupancyModule, OccupancyNetwork
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
# Official name -> the field that the encoder reads, and its module from the keywords `k` of `make_model` (as in `onet.py`).
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
# Encoder -> the decoder of its features, where that is not `simple_local`.
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
    """The network, and the one of the loss: in `train_dtype`, and of one window, if it is the sliding-window network."""
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, pooling=POOLINGS, interpolation=INTERPOLATIONS)
    # Each level halves the resolution; 0 is no U-Net.
    levels = {'unet_depth': whole(0, 16), 'unet3d_levels': whole(int(encoder == WINDOWED), 16)}
    check_json(keywords, {**levels, 'unit_size': number(1e-9)}, 'config.model')
    if decoder != DECODER_OF.get(encoder, 'simple_local'):
        raise InputError(
            f'config.model.decoder: expected {DECODER_OF.get(encoder, "simple_local")!r}, which reads what the encoder '
            f'{encoder!r} writes, found {decoder!r}'
        )
    network, trained = (
        OccupancyModule(decoder=DECODERS[decoder](k), encoder=ENCODERS[encoder].build(k), reads=ENCODERS[encoder].reads)
        for k in (SimpleNamespace(**keywords, dtype=dtype) for dtype in (None, train_dtype))
    )
    if encoder == WINDOWED:
        num_cells = window_cells(query_cells, unet3d_levels)
        trained = trained.clone(encoder=trained.encoder.clone(num_cells=num_cells))
    return network, trained


def make_model(**keywords: Any) -> OccupancyNetwork:
    """The functions of a network, without weights.

    encoder, decoder             official names, of `ENCODERS` and `DECODERS`
    cond_size                    channels of the feature maps
    encoder_hidden_size          width of the encoder
    decoder_hidden_size          width of the decoder
    maps                         feature planes 'xz', 'xy', 'yz', and the feature volume 'grid'
    plane_resolution             cells along an edge of the planes
    unet_depth, unet_size        levels of the U-Net of planes, and channels of its first level
    grid_resolution              cells along an edge of the volume
    unet3d_levels, unet3d_size   levels of the U-Net of the volume, and channels of its first level
    pooling                      'max' or 'mean' over the points of a cell, in the encoder
    interpolation                'linear' or 'nearest' sampling of the maps, in the decoder
    align_corners                of this sampling (True in the official networks)
    cell_coordinates             the encoder also sees where in its cells a point lies (False in the official networks)
    num_centres                  of the encoder 'pointnet_plus_plus': groups of points on each of its two levels
    train_dtype                  as of `onet.make_model`

    Of the sliding-window network:

    unit_size                    edge of a cell of its volume
    query_cells                  cells along an edge of the query volume of a window
    num_queries                  query points in a window of a training step
    sin_cos                      positional encoding of the coordinates

    Raises InputError for values that do not go together.
    """
    network, trained = make_modules(**keywords)
    model = occupancy.occupancy_network(network, trained=trained)
    if keywords.get('encoder') != WINDOWED:
        return model
    keywords = {**(make_modules.__kwdefaults__ or {}), **keywords}
    edge = keywords['unit_size'] * keywords['query_cells']
    return model._replace(loss=partial(window_loss, model.loss, edge, keywords['num_queries']))


def build(config: ConfigDict) -> Method:
    """The method of a config. The sliding-window network predicts the meshes of clouds of any size, window by window."""
    keywords = {**(make_modules.__kwdefaults__ or {}), **keywords_of(config, make_modules)}
    method = occupancy.method(config, make_model(**keywords), ENCODERS[config.model.encoder].reads)
    if config.model.encoder != WINDOWED:
        posed = config.data.get('random_scans') and ENCODERS[config.model.encoder].reads == 'cloud'
        return method._replace(predict=partial(predict_supported, method.predict)) if posed else method
    _, window = make_modules(**{**keywords, 'train_dtype': None})
    level, num_points = threshold_to_logit(config.eval.threshold), config.data.num_input_points
    return method._replace(predict=partial(predict_scenes, window, keywords['query_cells'], num_points, level))


def predict_supported(predict: Callable, params: dict, inputs: dict, *where: Any) -> list[trimesh.Trimesh]:
    """The meshes of `predict` without the shells that no point of their clouds inputs['cloud'] [B, P, 3] supports.

    A network of objects in any pose has no category that would tell of separate parts where a cloud has no points.
    """
    return [
        drop_unsupported(mesh, cloud)
        for mesh, cloud in zip(predict(params, inputs, *where), np.asarray(inputs['cloud'], np.float64), strict=True)
    ]


# --- The sliding-window network: trained on random windows, it predicts a scene from overlapping windows.


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
) -> tuple[jax.Array, Aux]:
    """`loss` in one random window of each shape, with arguments as of `negative_elbo`, clouds [B, P, 3].

    edge, num_queries: of the query volume, as of `draw_window`.
    """
    rows = jnp.arange(len(points)) if rows is None else rows
    keys = jax.vmap(partial(jax.random.fold_in, key))(rows)
    windows = jax.vmap(partial(draw_window, edge, num_queries))(keys, points, occ, clouds)
    return loss(params, *windows, key, rows, axis_name)


def draw_window(
    edge: float, num_queries: int, key: jax.Array, points: jax.Array, occ: jax.Array, cloud: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A random query volume, a cube of the given edge whose centre is uniform in the bounding box of the cloud.

    points [T, 3], occ [T], cloud [P, 3] -> num_queries of the points in the cube, their occupancies and the cloud, relative to
    the centre. Points are drawn with replacement; in an empty cube they all are the point nearest to it. The cloud is not
    cropped: the network drops points outside of its window.
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
    """Sliding-window inference: the meshes of clouds inputs['scene'] [B, P, 3] of any size, level set `level` (a logit).

    The unit is that in which a cell has the edge of training, `module.encoder.unit`. query_cells: along an edge of the query
    volume, rounded down to what the U-Net can halve. max_points: of one window. workspace: see `Method.predict`.
    """
    halvings = 1 << (module.encoder.unet3d_levels - 1)
    layout = Layout(module.encoder.num_cells, query_cells // halvings * halvings)
    meshes = []
    for cloud in np.asarray(inputs['scene'], np.float64):
        with tempfile.TemporaryDirectory() as temporary:
            folder = workspace or Path(temporary)
            made_from = {'cloud': digest_arrays(cloud), 'weights': digest_arrays(params)}
            claim(folder, {**made_from, 'points': max_points, 'layout': layout})
            unit = module.encoder.unit
            low = find_origin(cloud, layout, unit)
            cells = (cloud - low) / unit
            infer = partial(_infer_window, module, layout, params)
            mesh = extract_sliding_window(cells, infer, layout, folder, level, max_points)
            mesh = drop_unsupported(mesh, cells, cavities_only=True)
            mesh.vertices = low + unit * mesh.vertices
        meshes.append(mesh)
    return meshes


@partial(jax.jit, static_argnums=(0, 1))
def _infer_window(module, layout, params, points):
    """points [P, 3] in cells from the centre of a window -> logits [n, n, n], n = layout.num_values, of its box and bands.

    Cells next to points are evaluated in full: there thin sheets are.
    """
    unit, reach = module.encoder.unit, layout.step / 2 + layout.band
    cond = module.apply(params, unit * points[None], method='encode')
    num_cells = layout.step + 2 * layout.band
    cells = jnp.floor(points + reach).astype(jnp.int32)
    cells = jnp.where((cells >= 0).all(axis=-1, keepdims=True), cells, num_cells)  # negative numbers count from the end
    near = dilate(jnp.zeros((num_cells,) * 3, bool).at[tuple(cells.T)].set(True, mode='drop'))
    axis = unit * (jnp.arange(layout.num_values) / SAMPLES_PER_CELL - reach)
    return evaluate_near_surface(
        lambda points: module.apply(params, points[None], cond, method='decode')[0], axis, near
    )
