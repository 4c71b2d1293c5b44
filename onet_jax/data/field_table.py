"""The table of fields: the named inputs and targets of networks. `fields.py` makes batches of them.

A field names the stored columns that it needs, draws its part of a batch on the device from a key, reads itself from a user's
file, and says how it is displayed.

B batch, T labelled points, N surface samples, P points of an input cloud, S pixels along each side of an image, V views, H, W
pixels of a picture. Labelled points are the stored float16 values, never jittered: their labels are exact for these values.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data import clip_draws, clip_inputs, draws, scene_draws, user_inputs, view_draws
from onet_jax.data.schema import DEPTH_STEPS
from onet_jax.data.sources import Source, find_files, find_photos
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.clouds import measure_sampling
from onet_jax.geometry.grid import voxel_centres
from onet_jax.geometry.meshes import CLOUD_FORMATS, MESH_INPUTS
from onet_jax.geometry.sequences import CloudSequence
from onet_jax.geometry.volume_rendering import Rays


class Field(NamedTuple):
    """One entry of `FIELDS`. `data` is the group `config.data`."""

    columns: tuple[str, ...]
    draw: Callable  # (key, row, data) -> {name: array} in training; the row has whole chunks of stored samples
    draw_all: Callable | None = None  # the same in evaluation, where the row has all of a shape; None: as in training
    settings: tuple[str, ...] = ()  # keys of `config.data` that it reads
    # How many distinct labelled points and surface samples a training row needs, of a sequence in a frame.
    num_points: Callable[[ConfigDict], int] = lambda data: 0
    num_samples: Callable[[ConfigDict], int] = lambda data: 0
    # Of how many other views than the first it is in training; in evaluation of all others. 0: of the first alone.
    num_views: int = 0
    # Of an input that is read from files: find(file or folder) -> sources; read(source, data, seed) -> ({name: array}, frame).
    find: Callable[[str | Path], list[Source]] | None = None
    read: Callable | None = None
    # array -> points [N, 3], pixels [H, W, 3] uint8 or a sequence of clouds; None: it is not displayed
    show: Callable | None = None
    measure: Callable | None = None  # array -> [K], statistics by which unusual inputs are recognised
    is_object: bool = False  # it is of one whole object, so that the codes of two inputs can be compared
    unseen: str = ''  # the field that replaces it for shapes outside the training split
    arrays: tuple[str, ...] = ()  # names of its arrays; (): it has one, of the name of the field


def _occupied_centres(voxels: np.ndarray) -> np.ndarray:
    return voxel_centres(len(voxels))[voxels > 0.5]


def _single(name: str, draw: Callable) -> Callable:
    """The draw function of a field of one array, which has the name of the field."""
    return lambda key, row, data: {name: draw(key, row, data)}


def _count_places(num_frames: Callable[[ConfigDict], int]) -> Callable[[ConfigDict], int]:
    """How many surface samples so many frames need: without `corresponding`, others for each."""
    return lambda data: data.num_input_points * (1 if data.corresponding else num_frames(data))


FRAMES = ('loc_seq', 'scale_seq')  # columns that say where the frames of a sequence lie
find_clouds = partial(find_files, formats=CLOUD_FORMATS)
find_meshes = partial(find_files, formats=MESH_INPUTS)
find_surfaces = partial(find_files, formats=tuple(dict.fromkeys((*MESH_INPUTS, *CLOUD_FORMATS))))
FIELDS = {
    # 'points' f32 [B, T, 3], 'occ' f32 [B, T] in {0, 1}; in evaluation all of them, and 'subset' int32 (see `draws.all_points`)
    'volume_points': Field(
        ('points', 'occ'),
        draws.draw_points,
        draws.all_points,
        ('num_points_per_step', 'num_near_points'),
        num_points=lambda data: data.num_points_per_step,
    ),
    # 'surface' and outward unit 'normals', f32 [B, N, 3] each; in evaluation all of them
    'surface_samples': Field(
        ('surface', 'normals'),
        draws.draw_samples,
        draws.all_samples,
        ('num_target_points',),
        num_samples=lambda data: data.num_target_points,
    ),
    # f32 [B, P, 3] in object coordinates
    'cloud': Field(
        ('surface',),
        _single('cloud', draws.draw_cloud),
        _single('cloud', draws.draw_clean_cloud),
        settings=('num_input_points', 'noise_std', 'partial', 'keep_outliers'),
        num_samples=lambda data: data.num_input_points,
        find=find_clouds,
        read=user_inputs.read_cloud,
        show=np.asarray,
        measure=measure_sampling,
        is_object=True,
    ),
    # f32 [B, P, 3] in the unit in which a cell of the sliding-window network has the edge `cell_size`; of a scan all its points
    'scene': Field(
        ('surface',),
        _single('scene', draws.draw_scene),
        _single('scene', draws.draw_clean_scene),
        settings=('num_input_points', 'noise_std', 'cell_size', 'scan_cell', 'keep_outliers'),
        num_samples=lambda data: data.num_input_points,
        find=find_clouds,
        read=user_inputs.read_scene,
        show=np.asarray,
    ),
    # f32 [B, S, S, 3], RGB in [0, 1]
    'image': Field(
        ('image',),
        _single('image', draws.draw_image),
        _single('image', lambda key, row, data: draws.resize_view(row['image'], data.image_size)),
        ('image_size', 'augment'),
        find=find_photos,
        read=user_inputs.read_image,
        show=lambda image: (np.asarray(image) * 255).round().astype(np.uint8),
        is_object=True,
    ),
    # f32 [B, P, 6], points of the surface in object coordinates and their outward unit normals
    'oriented_cloud': Field(
        ('surface', 'normals'),
        _single('oriented_cloud', view_draws.draw_oriented_cloud),
        settings=('num_surface_points',),
        num_samples=lambda data: data.num_surface_points,
        find=find_surfaces,
        read=user_inputs.read_oriented_cloud,
        show=lambda cloud: np.asarray(cloud)[:, :3],
        is_object=True,
    ),
    # 'view_depth' f32 [B, V, S, S] along the camera's axis, 0 is background, 'view_world_mat' f32 [B, V, 3, 4] and
    # 'view_camera_mat' f32 [B, V, 3, 3] of S px. Of other views than 'image', in evaluation of all others (see `Shapes`)
    'depth_views': Field(
        ('depth', *Camera._fields),
        view_draws.depth_views,
        settings=('view_size', 'num_views'),
        num_views=1,
        arrays=('view_depth', 'view_world_mat', 'view_camera_mat'),
    ),
    # 'rgb' f32 [B, V, S, S, 3] in [0, 1] on white, of the views of `depth_views`
    'views': Field(('image',), view_draws.views, settings=('view_size', 'num_views'), num_views=1, arrays=('rgb',)),
    # f32 [B, 137, 137] in [0, 1], of the same view as 'image': 1 where the object fills the pixel
    'alpha': Field(('alpha',), _single('alpha', lambda key, row, data: draws.as_float(row['alpha']) / 255)),
    # f32 [B, 137, 137] along the camera's axis, of the same view; 0 is background
    'depth': Field(('depth',), _single('depth', lambda key, row, data: draws.as_float(row['depth']) / DEPTH_STEPS)),
    # 'world_mat' f32 [B, 3, 4], 'camera_mat' f32 [B, 3, 3], of the same view (see `geometry/cameras.py`); of a photo whose
    # camera nobody knows, the translation in `world_mat` is NaN
    'camera': Field(
        Camera._fields,
        lambda key, row, data: {name: row[name] for name in Camera._fields},
        find=find_photos,
        read=user_inputs.read_camera,
        is_object=True,
        arrays=Camera._fields,
    ),
    # f32 [B, 32, 32, 32] in {0, 1}, x slowest
    'voxels': Field(
        ('voxels',),
        _single('voxels', lambda key, row, data: draws.unpack_voxels(row)),
        find=partial(find_files, formats=('binvox',)),
        read=user_inputs.read_voxels,
        show=_occupied_centres,
        is_object=True,
    ),
    # int32 [B], the position of the shape in the training split: its code is learned (auto-decoding)
    'index': Field(
        (),
        _single('index', lambda key, row, data: row['index']),
        find=find_meshes,
        read=user_inputs.read_labels,
        unseen='labels',
    ),
    # f32 [B, T / 2, 4], points and their occupancies: a code is fitted to them (auto-decoding)
    'labels': Field(
        ('points', 'occ'), _single('labels', draws.draw_labels), show=lambda labels: labels[labels[:, 3] > 0.5, :3]
    ),
    # Fields of clips of L frames, in object coordinates of the first frame (see `clip_draws.py`).
    # f32 [B, L, P, 3]
    'clip': Field(
        ('pcl_seq', *FRAMES),
        _single('clip', clip_draws.draw_clip),
        settings=('num_frames', 'num_input_points', 'noise_std', 'corresponding', 'keep_outliers'),
        num_samples=_count_places(lambda data: data.num_frames),
        find=clip_inputs.find_clips,
        read=clip_inputs.read_clip,
        show=CloudSequence,
        is_object=True,
    ),
    # f32 [B, 2, P, 3], of the first and the last frame
    'end_clouds': Field(
        ('pcl_seq', *FRAMES),
        _single('end_clouds', clip_draws.draw_end_clouds),
        settings=('num_frames', 'num_input_points', 'corresponding', 'keep_outliers'),
        num_samples=_count_places(lambda data: 2),
        find=clip_inputs.find_clips,
        read=clip_inputs.read_end_clouds,
        show=CloudSequence,
        is_object=True,
    ),
    # f32 [B, L, S, S, 3], RGB in [0, 1], the same view of each frame
    'image_clip': Field(
        ('image_seq',),
        _single('image_clip', clip_draws.draw_image_clip),
        settings=('num_frames', 'image_size'),
        find=clip_inputs.find_videos,
        read=clip_inputs.read_image_clip,
        show=lambda images: (np.asarray(images[0]) * 255).round().astype(np.uint8),
        is_object=True,
    ),
    # 'points' f32 [B, T, 3], 'occ' f32 [B, T] in {0, 1}, of the first frame; in evaluation all of them
    'start_points': Field(
        ('points_seq', 'occ_seq', *FRAMES),
        clip_draws.draw_start_points,
        clip_draws.all_start_points,
        ('num_frames', 'num_points_per_step'),
        num_points=lambda data: data.num_points_per_step,
    ),
    # 'later_points' f32 [B, T, 3], 'later_occ' f32 [B, T] in {0, 1}, of one random frame, and its 'time' f32 [B] in [0, 1]
    'later_points': Field(
        ('points_seq', 'occ_seq', *FRAMES),
        clip_draws.draw_later_points,
        settings=('num_frames', 'num_points_per_step'),
        num_points=lambda data: data.num_points_per_step,
    ),
    # 'points' f32 [B, L, T, 3], 'occ' f32 [B, L, T] in {0, 1}, all that a row has
    'volume_clip': Field(
        ('points_seq', 'occ_seq', *FRAMES),
        clip_draws.all_volume_clip,
        settings=('num_frames', 'num_points_per_step'),
        num_points=lambda data: data.num_points_per_step,
    ),
    # f32 [B, L, M, 3], M places of the surface in all frames; in evaluation all of them
    'trajectories': Field(
        ('pcl_seq', *FRAMES),
        _single('trajectories', clip_draws.draw_trajectories),
        _single('trajectories', clip_draws.all_trajectories),
        ('num_frames', 'num_trajectories'),
        num_samples=lambda data: data.num_trajectories,
    ),
    # Fields of scenes: of a ray, and in evaluation of all pixels of a view, with the axes H and W.
    # 'origins', 'directions', 'view_directions' f32 [B, 3], 'near', 'far' f32 [B], in the frame of the scene
    'rays': Field(
        ('pixel', 'extrinsic', 'intrinsic', 'bounds', 'extent'),
        scene_draws.draw_rays,
        settings=('near', 'far', 'ndc', 'pixel_centre'),
        arrays=Rays._fields,
    ),
    # 'rgb' f32 [B, 3] in [0, 1], of the same pixels; in evaluation 'picture' [B, 1, H, W, 3], of one view
    'colours': Field(('rgba',), scene_draws.draw_colours, scene_draws.draw_picture, settings=('background',)),
    # f32 [B, 0]
    'none': Field((), _single('none', lambda key, row, data: jnp.zeros(0))),
}
