"""Scenes of DeepVoxels (Sitzmann et al., CVPR 2019): posed pictures in SPLIT/SCENE/{intrinsics.txt, pose/*.txt, rgb/*.png}.

intrinsics.txt has lines of numbers: focal length and principal point in px; the centre of the grid of voxels; the near plane;
the scale; height and width in px, to which the first line belongs; and 1 where poses map from the world to the camera. A pose
is a 4 x 4 matrix, row by row, by default from the camera to the world, of camera axes right, down, forward (OpenCV's). V views.
Imports no JAX.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onet_jax.errors import InputError

SPLITS = {'train': 'train', 'val': 'validation', 'test': 'test'}  # their folders
FILE = 'intrinsics.txt'
LINES = (
    'focal length and principal point, centre of the grid, near plane, scale, height and width, and 1 where poses map from the '
    'world to the camera'
)


class Intrinsics(NamedTuple):
    """What intrinsics.txt says of all pictures."""

    focal: float  # px
    centre_x: float  # px, of the principal point
    centre_y: float
    width: int  # px, of the pictures that these numbers belong to
    height: int
    to_camera: bool  # poses map from the world to the camera


def find_scenes(folder: Path) -> list[Path]:
    """The folders of views in `folder`: itself, or the training views of each scene where it has splits; [] for none."""
    folder = Path(os.path.abspath(folder))
    if (folder / FILE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f'{SPLITS["train"]}/*/{FILE}'))


def find_splits(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The folder above all views of the one scene of `find_scenes`, and split -> the folder of its views.

    Where the folder of a scene lies in none of a split, the one split is ''. Raises InputError for several scenes.
    """
    scene, *others = find_scenes(folder)
    if others:
        names = [path.name for path in (scene, *others)]
        raise InputError(f'{folder}: expected one scene, found {names}; give the folder of one, such as {scene}')
    root = scene.parent.parent
    splits = {split: root / name / scene.name for split, name in SPLITS.items()}
    if scene not in splits.values():
        return scene, {'': scene}
    return root, {split: path for split, path in splits.items() if path.is_dir()}


def read_intrinsics(path: Path) -> Intrinsics:
    """The content of intrinsics.txt. Raises FileNotFoundError without the file, InputError for a damaged one."""
    lines = _read_numbers(path)
    counts = [len(line) for line in lines]
    if len(lines) < 5 or counts[0] < 3 or counts[4] != 2 or min(lines[4]) < 1:
        raise InputError(f'{path}: expected the lines {LINES}, found lines of {counts} numbers: {lines[:6]}')
    (focal, centre_x, centre_y, *_), (height, width) = lines[0], lines[4]
    return Intrinsics(focal, centre_x, centre_y, int(width), int(height), len(lines) > 5 and lines[5][0] != 0)


def read_world_mats(folder: Path, pictures: tuple[Path, ...], to_camera: bool) -> np.ndarray:
    """The matrices [V, 3, 4], points -> camera frame, of the poses of some pictures in a folder of views.

    to_camera: as of `Intrinsics`. Raises FileNotFoundError for a picture without a pose, InputError for a pose without a
    picture and for a damaged one.
    """
    poses = {path.stem: path for path in (folder / 'pose').glob('*.txt')}
    unseen = sorted(poses.keys() - {picture.stem for picture in pictures})
    if unseen:
        raise InputError(
            f'{poses[unseen[0]]}: expected a picture rgb/{unseen[0]}.png of each pose, found none of {len(unseen)}; add the '
            'pictures or delete the poses'
        )
    found = []
    for picture in pictures:
        matrix = _read_pose(poses.get(picture.stem, folder / f'pose/{picture.stem}.txt'))
        rotation = matrix[:, :3].T
        found.append(matrix if to_camera else np.column_stack([rotation, -rotation @ matrix[:, 3]]))
    return np.stack(found)


def _read_pose(path: Path) -> np.ndarray:
    numbers = np.array([number for line in _read_numbers(path) for number in line])
    if numbers.size != 16 or not np.allclose(numbers[12:], [0, 0, 0, 1], atol=1e-5):
        raise InputError(
            f'{path}: expected 4 x 4 numbers, row by row, the last row 0 0 0 1, found {numbers.size} that end with '
            f'{numbers[-4:].tolist()}'
        )
    return numbers.reshape(4, 4)[:3]


def _read_numbers(path: Path) -> list[list[float]]:
    """The numbers of each line that is not blank."""
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a part of a DeepVoxels scene, found none')
    try:
        lines = [[float(word) for word in line.split()] for line in path.read_text('utf-8').splitlines()]
    except ValueError as error:
        raise InputError(f'{path}: expected lines of numbers, found something else ({error})') from error
    if not np.isfinite([number for line in lines for number in line]).all():
        raise InputError(f'{path}: expected finite numbers, found NaN or infinity')
    return [line for line in lines if line]
