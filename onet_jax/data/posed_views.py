"""Posed pictures of a scene, as others store them: Blender (NeRF synthetic), LLFF, COLMAP models, and DeepVoxels.

    Blender     transforms_train.json, transforms_val.json, transforms_test.json; or one transforms.json, every 8th picture is
                held out
    LLFF        poses_bounds.npy, images/
    COLMAP      sparse/0/{cameras,images,points3D}.{bin,txt}, images/
    DeepVoxels  {train,validation,test}/SCENE/{intrinsics.txt, pose/*.txt, rgb/*.png}: of one scene this folder, or SPLIT/SCENE

V views. Cameras are those of `geometry/cameras.py`: x right, y down, z forward, pixels of the pictures, whose centres lie at
half numbers. Near and far are distances along the axis of a camera. Imports no JAX.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onet_jax.arrays import read_array, read_header
from onet_jax.data import colmap, deepvoxels
from onet_jax.data.images import picture_size
from onet_jax.errors import InputError
from onet_jax.geometry.camera_paths import recentre, to_cameras, to_poses
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.mesh_files.textures import file_beside
from onet_jax.json_files import TEXT, number, read_json

HOLD_OUT = 8  # every 8th view is for evaluation, where the files do not say
BLENDER_BOUNDS = (2.0, 6.0)
ORTHOGONAL = 1e-3  # largest error of a rotation
MATRIX = [[number()]]
TRANSFORMS = {
    **dict.fromkeys(('camera_angle_x?', 'fl_x?', 'fl_y?', 'cx?', 'cy?'), number()),
    'frames': [{'file_path': TEXT, 'transform_matrix': MATRIX}],
}


class PosedViews(NamedTuple):
    """The views of a scene."""

    root: Path  # the folder that holds them all
    pictures: tuple[Path, ...]  # V
    camera: Camera  # world_mat [V, 3, 4] float64, a rotation, and camera_mat [V, 3, 3]
    bounds: np.ndarray  # [V, 2] float64: near and far
    size: tuple[int, int]  # width and height of all pictures in px
    splits: dict[str, tuple[int, ...]]  # 'train', 'val', 'test' -> views


def is_scene(folder: str | Path) -> bool:
    """Whether a folder has posed pictures."""
    return find_layout(Path(folder)) is not None


def find_layout(folder: Path) -> str | None:
    """How the posed pictures in a folder are stored, a key of `READERS`; None for none."""
    if any((folder / f'transforms{suffix}.json').is_file() for suffix in ('_train', '')):
        return 'blender'
    if (folder / 'poses_bounds.npy').is_file():
        return 'llff'
    if colmap.find_model(folder) is not None:
        return 'colmap'
    return 'deepvoxels' if deepvoxels.find_scenes(folder) else None


def read_views(folder: str | Path) -> PosedViews:
    """The posed pictures of a folder. Raises FileNotFoundError for missing files, InputError for cameras that cannot be."""
    folder = Path(folder)
    layout = find_layout(folder)
    if layout is None:
        raise FileNotFoundError(
            f'{folder}: expected posed pictures, transforms_train.json, poses_bounds.npy, sparse/ or '
            'train/SCENE/intrinsics.txt, found none'
        )
    views = READERS[layout](folder)
    check_views(folder, views)
    return views


def read_blender(folder: Path) -> PosedViews:
    """Camera-to-world matrices with camera axes right, up, back, and one angle of view for each file."""
    names = {split: folder / f'transforms_{split}.json' for split in ('train', 'val', 'test')}
    several = {split: path for split, path in names.items() if path.is_file()} or {'': folder / 'transforms.json'}
    pictures: list[Path] = []
    poses, intrinsics, splits, size = [], [], {}, None
    for split, path in several.items():
        content = read_json(path, TRANSFORMS, 'export the cameras again')
        first = len(pictures)
        for i, frame in enumerate(content['frames']):
            name = frame['file_path'] if Path(frame['file_path']).suffix else f'{frame["file_path"]}.png'
            picture = file_beside(path, name)
            if picture is None:
                raise FileNotFoundError(f'{path}: expected the picture {name} of frame {i} in {folder}, found none')
            pictures.append(picture)
            poses.append(_matrix(frame['transform_matrix'], f'{path}: frame {i}'))
        if first < len(pictures):
            size = size or picture_size(pictures[0])
            intrinsics += [_intrinsics(content, size, path)] * (len(pictures) - first)
        splits[split] = tuple(range(first, len(pictures)))
    count = len(pictures)
    if '' in splits:
        splits = hold_out(count)
    bounds = np.tile(BLENDER_BOUNDS, (count, 1))
    return PosedViews(
        folder,
        tuple(pictures),
        to_cameras(np.reshape(poses, (-1, 3, 4)), np.reshape(intrinsics, (-1, 3, 3))),
        bounds,
        size or (0, 0),
        _with_all(splits),
    )


def _intrinsics(content: dict, size: tuple[int, int], path: Path) -> np.ndarray:
    width, height = size
    if 'fl_x' in content:
        focal_x, focal_y = content['fl_x'], content.get('fl_y', content['fl_x'])
    elif 'camera_angle_x' in content and 0 < content['camera_angle_x'] < math.pi:
        focal_x = focal_y = width / 2 / math.tan(content['camera_angle_x'] / 2)
    else:
        raise InputError(
            f'{path}: expected camera_angle_x between 0 and pi radians, or the focal length fl_x in px, found '
            f'{content.get("camera_angle_x", "neither")}'
        )
    return intrinsic_matrix(focal_x, focal_y, content.get('cx', width / 2), content.get('cy', height / 2))


def intrinsic_matrix(focal_x: float, focal_y: float, centre_x: float, centre_y: float) -> np.ndarray:
    """[3, 3], in px."""
    return np.array([[focal_x, 0, centre_x], [0, focal_y, centre_y], [0, 0, 1.0]])


def _matrix(rows: list, where: str) -> np.ndarray:
    matrix = np.array(rows, np.float64) if len({len(row) for row in rows}) == 1 else np.zeros((0, 0))
    if matrix.shape not in ((3, 4), (4, 4)):
        raise InputError(f'{where}: transform_matrix: expected 4 x 4 numbers, found the shape {list(matrix.shape)}')
    return matrix[:3]


def hold_out(num_views: int, every: int = HOLD_OUT) -> dict[str, tuple[int, ...]]:
    """Every 8th view for evaluation, which validates too; the others for training."""
    held = tuple(range(0, num_views, every)) if num_views > 1 else ()
    return {'train': tuple(i for i in range(num_views) if i not in held), 'val': held, 'test': held}


def _with_all(splits: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Validation takes the views of the test split where it has none, and the other way round."""
    val, test = splits.get('val', ()), splits.get('test', ())
    return {'train': splits.get('train', ()), 'val': val or test, 'test': test or val}


def read_llff(folder: Path) -> PosedViews:
    """Rows of 17 numbers: [down, right, back, position, (height, width, focal length)] of 3 rows, then near and far.

    The scene is scaled so that the nearest point is 4 / 3 before a camera, and moved so that the mean camera is at the origin
    and looks along -z, as the official loader does (`bd_factor` 0.75, `recenter`).
    """
    path = folder / 'poses_bounds.npy'
    content = path.read_bytes()
    try:
        rows = read_array(content, read_header(content))
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in 'fiu' or not np.isfinite(rows).all():
        raise InputError(f'{path}: expected finite numbers of the shape [V, 17], found {rows.dtype} {list(rows.shape)}')
    pictures = find_pictures(folder / 'images')
    if len(pictures) != len(rows):
        raise InputError(
            f'{path}: expected as many rows as pictures in {folder / "images"}, {len(pictures)}, found {len(rows)}'
        )
    poses = rows[:, :15].astype(np.float64).reshape(-1, 3, 5)
    bounds = rows[:, 15:].astype(np.float64)
    if not (bounds > 0).all():
        raise InputError(f'{path}: expected near and far above 0 of each picture, found {bounds.min():.3g}')
    width, height = size = picture_size(pictures[0])
    # The file has the focal length of pictures of its own height.
    focal = poses[:, 2, 4] * height / np.where(poses[:, 0, 4] > 0, poses[:, 0, 4], np.nan)
    pose = np.concatenate([poses[:, :, 1:2], -poses[:, :, :1], poses[:, :, 2:4]], axis=-1)
    check_rotations(pictures, pose[:, :, :3])
    scale = 1 / (0.75 * bounds.min())
    pose[:, :, 3] *= scale
    intrinsics = [intrinsic_matrix(f, f, width / 2, height / 2) for f in focal]
    camera = to_cameras(recentre(pose), np.stack(intrinsics))
    return PosedViews(folder, pictures, camera, bounds * scale, size, hold_out(len(rows)))


def read_colmap(folder: Path) -> PosedViews:
    """A sparse model, text or binary. Near and far are percentiles of the depths of the points that a view sees."""
    model = colmap.read_model(colmap.find_model(folder))
    pictures = tuple(folder / 'images' / view.name for view in model)
    for picture in pictures:
        if not picture.is_file():
            raise FileNotFoundError(f'{folder}: expected the picture {picture} of the COLMAP model, found none')
    size = picture_size(pictures[0])
    scales = [(size[0] / view.width, size[1] / view.height) for view in model]
    intrinsics = [
        intrinsic_matrix(view.focal_x * x, view.focal_y * y, view.centre_x * x, view.centre_y * y)
        for view, (x, y) in zip(model, scales, strict=True)
    ]
    camera = Camera(np.stack([view.world_mat for view in model]), np.stack(intrinsics))
    bounds = np.stack([view.bounds for view in model])
    return PosedViews(folder, pictures, camera, bounds, size, hold_out(len(model)))


def read_deepvoxels(folder: Path) -> PosedViews:
    """One pose for each picture, and the intrinsics of the training views for all.

    Near and far are the mean distance of the cameras from the origin, less 1 and plus 1, as in the official code of NeRF.
    """
    root, parts = deepvoxels.find_splits(folder)
    known = deepvoxels.read_intrinsics(next(iter(parts.values())) / deepvoxels.FILE)
    pictures: list[Path] = []
    world_mats, splits = [], {}
    for split, part in parts.items():
        some = find_pictures(part / 'rgb')
        world_mats.append(deepvoxels.read_world_mats(part, some, known.to_camera))
        splits[split] = tuple(range(len(pictures), len(pictures) + len(some)))
        pictures += some
    count, size = len(pictures), picture_size(pictures[0])
    x, y = size[0] / known.width, size[1] / known.height
    matrix = intrinsic_matrix(known.focal * x, known.focal * y, known.centre_x * x, known.centre_y * y)
    camera = Camera(np.concatenate(world_mats), np.tile(matrix, (count, 1, 1)))
    radius = np.linalg.norm(to_poses(camera)[:, :, 3], axis=-1).mean()
    bounds = np.tile([max(radius - 1, 0), radius + 1], (count, 1))
    # Without views for evaluation some of the others are held out.
    splits = _with_all(splits) if len(splits) > 1 else hold_out(count)
    return PosedViews(root, tuple(pictures), camera, bounds, size, splits)


def find_pictures(folder: Path) -> tuple[Path, ...]:
    """The pictures of a folder by name. Raises FileNotFoundError without any."""
    found = (
        sorted(p for p in folder.glob('*') if p.suffix.lower() in ('.png', '.jpg', '.jpeg')) if folder.is_dir() else []
    )
    if not found:
        raise FileNotFoundError(f'{folder}: expected pictures (png|jpg), found none')
    return tuple(found)


def check_views(folder: Path, views: PosedViews) -> None:
    """Raises InputError for cameras that no pinhole camera is, and without views to train on and to hold out."""
    for split in ('train', 'test'):
        if not views.splits[split]:
            found = {name: len(some) for name, some in views.splits.items()}
            raise InputError(
                f'{folder}: expected views to train on and views to hold out, found {found}; take more pictures'
            )
    check_rotations(views.pictures, views.camera.world_mat[:, :, :3])
    camera_mat = views.camera.camera_mat
    for i, picture in enumerate(views.pictures):
        if not (camera_mat[i, 0, 0] > 0 and camera_mat[i, 1, 1] > 0 and np.isfinite(camera_mat[i]).all()):
            raise InputError(f'{picture}: expected a positive focal length, found {camera_mat[i, 0, 0]} px')
        near, far = views.bounds[i]
        if not 0 <= near < far < np.inf:
            raise InputError(f'{picture}: expected 0 <= near < far, found {near} and {far}')
        if not np.isfinite(views.camera.world_mat[i]).all():
            raise InputError(f'{picture}: expected finite numbers of its pose, found others')
        if picture_size(picture) != views.size:
            found, expected = picture_size(picture), views.size
            raise InputError(
                f'{picture}: expected {expected[0]} x {expected[1]} px, as the first picture, found {found[0]} x {found[1]}; '
                'resize it, with its camera'
            )


def check_rotations(pictures: Sequence[Path], rotations: np.ndarray) -> None:
    """Raises InputError, naming the picture, unless the matrices [V, 3, 3] are rotations."""
    for picture, rotation in zip(pictures, rotations, strict=True):
        error = np.abs(rotation @ rotation.T - np.eye(3)).max()
        if not error < ORTHOGONAL:
            raise InputError(
                f'{picture}: expected a rotation, found axes that are {error:.2g} off right angles and length 1'
            )
        if np.linalg.det(rotation) < 0:
            raise InputError(
                f'{picture}: expected a right-handed rotation, found a mirrored one; flip one axis of the poses'
            )


READERS: dict[str, Callable[[Path], PosedViews]] = {
    'blender': read_blender,
    'llff': read_llff,
    'colmap': read_colmap,
    'deepvoxels': read_deepvoxels,
}
