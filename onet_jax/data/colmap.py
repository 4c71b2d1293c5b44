"""Sparse models of COLMAP (Schoenberger and Frahm, CVPR 2016), text or binary: cameras and the points that they see.

A model is a folder with cameras, images and points3D, each .bin or .txt. Imports no JAX.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from onet_jax.errors import InputError

# Number -> name, parameters, those of them that bend rays.
MODELS = {
    0: ('SIMPLE_PINHOLE', 3, ()), 1: ('PINHOLE', 4, ()), 2: ('SIMPLE_RADIAL', 4, (3,)), 3: ('RADIAL', 5, (3, 4)),
    4: ('OPENCV', 8, (4, 5, 6, 7)),
}  # fmt: skip
ONE_FOCAL = ('SIMPLE_PINHOLE', 'SIMPLE_RADIAL', 'RADIAL')
STRAIGHT = 1e-3  # distortion below which a lens is taken for a pinhole
PERCENTILES = (0.1, 99.9)  # of the depths of the points that a view sees
MARGINS = (0.9, 1.1)


class View(NamedTuple):
    """A picture of a model."""

    name: str  # of the file, in images/
    width: int  # px, of the pictures that the model was made of
    height: int
    focal_x: float
    focal_y: float
    centre_x: float
    centre_y: float
    world_mat: np.ndarray  # [3, 4]
    bounds: np.ndarray  # [2], near and far


def find_model(folder: Path) -> Path | None:
    """The folder of the model of a scene, None for none."""
    for place in ('sparse/0', 'sparse', 'colmap/sparse/0'):
        if any((folder / place / f'cameras{suffix}').is_file() for suffix in ('.bin', '.txt')):
            return folder / place
    return None


def read_model(folder: Path | None) -> list[View]:
    """The views of a model by the names of their pictures.

    Raises FileNotFoundError for a missing file, InputError for a damaged one and for lenses that bend rays.
    """
    if folder is None:
        raise FileNotFoundError('expected a COLMAP model in sparse/0, found none')
    kind = '.bin' if (folder / 'cameras.bin').is_file() else '.txt'
    readers = BINARY if kind == '.bin' else TEXT
    parsed = []
    for name, read in readers.items():
        path = folder / f'{name}{kind}'
        if not path.is_file():
            raise FileNotFoundError(f'{path}: expected a part of a COLMAP model, found none')
        try:
            parsed.append(dict(read(path)))
        except (struct.error, ValueError, KeyError, IndexError, OverflowError) as error:
            raise InputError(f'{path}: expected a part of a COLMAP model, found a damaged file ({error})') from error
    cameras, images, points = parsed
    ids = np.array(sorted(points), np.int64)
    places = np.array([points[i] for i in ids]).reshape(-1, 3)
    if not images:
        raise InputError(f'{folder / f"images{kind}"}: expected pictures of the COLMAP model, found none')
    images = sorted(images.values(), key=lambda image: image[2])  # by name
    return [_view(folder, cameras, image, ids, places) for image in images]


def _view(folder: Path, cameras: dict, image: tuple, ids: np.ndarray, places: np.ndarray) -> View:
    """image: pose, number of the camera, name, numbers of the points that it sees; of all points the numbers and places."""
    pose, camera_id, name, seen = image
    if camera_id not in cameras:
        raise InputError(f'{folder}: expected the camera {camera_id} of {name}, found none')
    model, width, height, numbers = cameras[camera_id]
    if not (width > 0 and height > 0):
        raise InputError(
            f'{folder}: expected pictures of the camera {camera_id} with pixels, found {width} x {height} px'
        )
    if not (np.isfinite(pose).all() and np.any(pose[:4])):
        raise InputError(f'{folder}: expected a quaternion and a translation of {name}, found {pose.tolist()}')
    bent = [numbers[i] for i in MODELS[model][2] if abs(numbers[i]) > STRAIGHT]
    if bent:
        raise InputError(
            f'{folder}: expected pictures of pinhole cameras, found {MODELS[model][0]} with the distortion {bent} of {name}; '
            'undistort them with `colmap image_undistorter`'
        )
    focal_x, *rest = numbers
    focal_y, centre_x, centre_y = (focal_x, *rest[:2]) if MODELS[model][0] in ONE_FOCAL else rest[:3]
    # COLMAP has the scalar first.
    world_mat = np.column_stack([Rotation.from_quat(np.roll(pose[:4], -1)).as_matrix(), pose[4:]])
    points = places[np.searchsorted(ids, np.intersect1d(seen, ids))]
    depths = points @ world_mat[2, :3] + world_mat[2, 3]
    if not (depths > 0).any():
        raise InputError(f'{folder}: expected points before the camera of {name}, found none')
    bounds = np.percentile(depths[depths > 0], PERCENTILES) * MARGINS
    return View(name, width, height, focal_x, focal_y, centre_x, centre_y, world_mat, bounds)


def _lines(path: Path) -> Iterator[list[str]]:
    """The words of each line that is no comment; the second line of an image may be empty."""
    for line in path.read_text('utf-8').splitlines():
        if not line.startswith('#'):
            yield line.split()


def _read_cameras_text(path: Path) -> Iterator[tuple]:
    numbers = {name: number for number, (name, _, _) in MODELS.items()}
    for words in filter(None, _lines(path)):
        if words[1] not in numbers:
            raise ValueError(f'expected a camera of {sorted(numbers)}, found {words[1]}')
        model = numbers[words[1]]
        if len(words) != 4 + MODELS[model][1]:
            raise ValueError(f'expected {MODELS[model][1]} parameters of {words[1]}, found {len(words) - 4}')
        yield int(words[0]), (model, int(words[2]), int(words[3]), tuple(map(float, words[4:])))


def _read_images_text(path: Path) -> Iterator[tuple]:
    lines = [words for words in _lines(path)]
    for words, seen in zip(lines[::2], lines[1::2], strict=True):
        yield int(words[0]), (
            np.array(words[1:8], np.float64), int(words[8]), ' '.join(words[9:]), np.array(seen[2::3], np.int64)
        )  # fmt: skip


def _read_points_text(path: Path) -> Iterator[tuple]:
    for words in filter(None, _lines(path)):
        yield int(words[0]), np.array(words[1:4], np.float64)


class _Stream(io.BytesIO):
    def take(self, layout: str) -> tuple:
        return struct.unpack(f'<{layout}', self.read(struct.calcsize(f'<{layout}')))


def _read_cameras_binary(path: Path) -> Iterator[tuple]:
    stream = _Stream(path.read_bytes())
    for _ in range(stream.take('Q')[0]):
        number, model, width, height = stream.take('IiQQ')
        if model not in MODELS:
            raise ValueError(f'expected a camera of {[name for name, _, _ in MODELS.values()]}, found number {model}')
        yield number, (model, width, height, stream.take(f'{MODELS[model][1]}d'))


def _read_images_binary(path: Path) -> Iterator[tuple]:
    stream = _Stream(path.read_bytes())
    for _ in range(stream.take('Q')[0]):
        number, *pose, camera = stream.take('I7dI')
        name = bytearray()
        while (letter := stream.read(1)) not in (b'\0', b''):
            name += letter
        (count,) = stream.take('Q')
        seen = np.frombuffer(stream.read(24 * count), np.dtype('<f8, <f8, <i8'))['f2']
        yield number, (np.array(pose), camera, name.decode(), seen)


def _read_points_binary(path: Path) -> Iterator[tuple]:
    stream = _Stream(path.read_bytes())
    for _ in range(stream.take('Q')[0]):
        number, *place = stream.take('Q3d')
        stream.take('3Bd')
        stream.read(8 * stream.take('Q')[0])
        yield number, np.array(place)


TEXT = {'cameras': _read_cameras_text, 'images': _read_images_text, 'points3D': _read_points_text}
BINARY = {'cameras': _read_cameras_binary, 'images': _read_images_binary, 'points3D': _read_points_binary}
