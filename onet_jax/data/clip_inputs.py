"""Clips from a user's files: numbered clouds, meshes or pictures, or an animation, resampled in time.

Points are in object coordinates of frame 0. Functions `find` and (source, data, seed) -> ({name: array}, frame of the object),
for `field_table.FIELDS`, as in `user_inputs.py`. L frames of the network, K frames of the user, P points of a cloud.
"""

import os
import re
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from ml_collections import ConfigDict
from scipy.spatial import KDTree

from onet_jax.data.images import IMAGE_FORMATS, load_image
from onet_jax.data.scans import load_bulk
from onet_jax.data.sources import Source
from onet_jax.data.user_inputs import CLOUD_STEP, OBJECT_FRAME, find_turn, subsample
from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.animations import ANIMATED_FORMATS, HDF5_FORMATS, read_sequence
from onet_jax.geometry.meshes import CLOUD_FORMATS, Frame, load_frame, normalise
from onet_jax.geometry.sampling import place_on_faces, sample_faces, sample_surface
from onet_jax.geometry.sequences import MeshSequence

ANIMATED = (*ANIMATED_FORMATS, *HDF5_FORMATS)
FRAME_FORMATS = tuple(kind for kind in CLOUD_FORMATS if kind not in ANIMATED)
SMALL, LARGE = 0.05, 0.2  # steps of a point between two frames, in longest edges: nearest neighbours, and strangers


class Moving(NamedTuple):
    """The frames of a user's sequence."""

    clouds: Sequence[np.ndarray]  # K of them, [P, 3] float64 in the user's frame
    first: np.ndarray  # [P, 3], the points of frame 0 whose bounding box counts
    corresponding: bool  # point p of each is the same place of the body


def find_clips(
    path: str | Path, formats: tuple[str, ...] = FRAME_FORMATS, animated: tuple[str, ...] = ANIMATED
) -> list[Source]:
    """A file with an animation, a folder of numbered clouds or meshes, or else what a folder has of both; sorted.

    FILE#NAME is the animation NAME. formats: of frames; animated: of files that are sequences. Raises FileNotFoundError where
    none is, InputError for another file.
    """
    path = Path(path)
    wanted = f'the frames of a sequence, such as 000.{formats[0]}, 001.{formats[0]}, ... ({"|".join(formats)})'
    wanted += f', a file with an animation ({"|".join(animated)})' if animated else ''
    if _is_called(path, animated):
        return [Source(re.sub(r'\.\w+(#|$)', r'\1', path.name).replace('#', '-'), path)]
    if os.path.isfile(path):
        raise InputError(f'{path}: expected a folder with {wanted}, found another file')
    if _frames_in(path, formats):
        return [Source(path.resolve().name, path)]
    found = [each for each in sorted(path.glob('*')) if _is_called(each, animated) or _frames_in(each, formats)]
    if not found:
        raise FileNotFoundError(f'{path}: expected {wanted}, or a folder of such, found none')
    return [Source(each.name if each.is_dir() else each.stem, each) for each in found]


find_videos = partial(find_clips, formats=IMAGE_FORMATS, animated=())


def _is_called(path: Path, formats: tuple[str, ...]) -> bool:
    return file_of(path).suffix.lower()[1:] in formats and not path.name.startswith('.') and not path.is_dir()


def file_of(path: Path) -> Path:
    """The file of FILE or FILE#NAME."""
    return path if os.path.lexists(path) else Path(str(path).partition('#')[0])


def _frames_in(folder: Path, formats: tuple[str, ...]) -> list[Path]:
    return sorted(path for path in folder.glob('*') if _is_called(path, formats)) if folder.is_dir() else []


def list_frames(folder: Path, formats: tuple[str, ...] = FRAME_FORMATS) -> list[Path]:
    """The files of the frames in the order of their numbers, the last ones in their names; warns of files without a number.

    Raises InputError for fewer than two frames, and for a number that is missing or there twice.
    """
    files = _frames_in(folder, formats)
    numbered: dict[int, Path] = {}
    for file in files:
        digits = re.findall(r'\d+', file.stem)
        if not digits:
            warnings.warn(f'{file.name} has no number, as frames have: it is left out', stacklevel=2)
        elif int(digits[-1]) in numbered:
            raise InputError(
                f'{file}: expected one frame of number {int(digits[-1])}, found {numbered[int(digits[-1])].name} too'
            )
        else:
            numbered[int(digits[-1])] = file
    if len(numbered) < 2:
        only = ''.join(file.name for file in numbered.values()) or 'none with a number in its name'
        raise InputError(f'{folder}: expected at least 2 frames of a sequence, found {only}')
    numbers = sorted(numbered)
    steps = np.diff(numbers)
    if (steps != steps.min()).any():
        gap = int(np.argmax(steps != steps.min()))
        before, after = (numbered[numbers[gap + i]].name for i in (0, 1))
        raise InputError(
            f'{folder}: expected frames at equal distances in time, found {after} after {before}, where number '
            f'{numbers[gap] + steps.min()} is missing; add it, or number the frames again without it'
        )
    return [numbered[number] for number in numbers]


def load_moving(source: Source, data: ConfigDict, seed: int) -> Moving:
    """The frames of a folder, or those of an animation at `num_frames` times.

    A network of corresponding points needs clouds in one order, or meshes with common faces, of which places are drawn. Raises
    OSError or InputError, naming the file, for frames that cannot be read or do not correspond.
    """
    if not source.path.is_dir():
        return _sample(read_sequence(source.path, num_frames=data.num_frames), data, seed)
    files = list_frames(source.path)
    if not data.corresponding:
        bulks = [load_bulk(file, data.keep_outliers) for file in files]
        return Moving(bulks, bulks[0], False)
    first = load_frame(files[0])
    if isinstance(first, trimesh.Trimesh):
        return _sample(read_sequence(source.path), data, seed)
    clouds = [np.asarray(frame.vertices, np.float64) for frame in (first, *map(load_frame, files[1:]))]
    for file, cloud in zip(files, clouds, strict=True):
        if len(cloud) != len(first.vertices):
            raise InputError(
                f'{file}: expected {len(first.vertices)} points, as {files[0].name} has, for point i of each frame is the same '
                f'place of the body, as in the training of this network; found {len(cloud)}'
            )
    _warn_of_strangers(clouds)
    return Moving(clouds, clouds[0], True)


def _sample(sequence: MeshSequence, data: ConfigDict, seed: int) -> Moving:
    """`num_input_points` places of a mesh that moves, the same in all frames where the network needs it."""
    vertices, faces = sequence
    if not data.corresponding:
        frames = [sample_surface(sequence.mesh(k), data.num_input_points, seed + k)[0] for k in range(len(vertices))]
        return Moving(frames, vertices[0], False)
    _, _, chosen, uv = sample_faces(sequence.mesh(0), data.num_input_points, seed)
    return Moving([place_on_faces(frame[faces[chosen]], uv) for frame in vertices], vertices[0], True)


def _warn_of_strangers(clouds: Sequence[np.ndarray]) -> None:
    """Warn where point i of a frame does not look like the same place of the body as point i of the one before."""
    edge = np.ptp(clouds[0], axis=0).max()
    for k, (before, after) in enumerate(pairwise(clouds)):
        step = np.linalg.norm(after - before, axis=1).mean() / edge
        nearest = KDTree(before).query(after)[0].mean() / edge
        if step > LARGE and nearest < SMALL:
            warnings.warn(
                f'point i of each frame is taken for the same place of the body, as in training, but from frame {k} to {k + 1} '
                f'it moves by {step:.2f} longest edges in the mean, its nearest neighbour by {nearest:.2f}: are the points in '
                'another order? A network of shape matching takes those of the first and the last frame in any order',
                stacklevel=2,
            )
            return


def read_clip(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    """The field 'clip': `num_frames` clouds of `num_input_points` points [L, P, 3], float32."""
    moving = load_moving(source, data, seed)
    return _as_input('clip', moving, resample(moving, data.num_frames, source.path), data, seed)


def read_end_clouds(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    """The field 'end_clouds', of the first and the last frame [2, P, 3], float32."""
    moving = load_moving(source, data, seed)
    if len(moving.clouds) > 2:
        warnings.warn(f'of {len(moving.clouds)} frames the network sees the first and the last', stacklevel=2)
    return _as_input('end_clouds', moving, [moving.clouds[0], moving.clouds[-1]], data, seed)


def read_image_clip(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    """The field 'image_clip': `num_frames` square pictures [L, S, S, 3] of a folder of numbered ones, float32."""
    files = list_frames(source.path, IMAGE_FORMATS)
    chosen = choose_frames(len(files), data.num_frames, source.path)
    return {'image_clip': np.stack([load_image(files[k], data.image_size) for k in chosen])}, OBJECT_FRAME


def choose_frames(num_given: int, num_frames: int, where: object) -> np.ndarray:
    """The frames nearest to `num_frames` equidistant times; a warning says where these are not all.

    Raises InputError for fewer frames than that.
    """
    if num_given < num_frames:
        raise InputError(
            f'{where}: expected at least {num_frames} frames, as the network sees, found {num_given}; frames without '
            'correspondence cannot be interpolated in time'
        )
    if num_given > num_frames:
        warnings.warn(f'of {num_given} frames those nearest to {num_frames} equidistant times are taken', stacklevel=3)
    return np.round(np.linspace(0, num_given - 1, num_frames)).astype(int)


def resample(moving: Moving, num_frames: int, where: object) -> list[np.ndarray]:
    """The clouds at `num_frames` equidistant times; a warning says where these are not all frames.

    With correspondence positions between two frames are interpolated linearly, else see `choose_frames`.
    """
    num_given = len(moving.clouds)
    if not moving.corresponding:
        return [moving.clouds[k] for k in choose_frames(num_given, num_frames, where)]
    if num_given == num_frames:
        return list(moving.clouds)
    warnings.warn(f'{num_given} frames are resampled linearly to {num_frames} equidistant times', stacklevel=2)
    places = np.linspace(0, num_given - 1, num_frames)
    before = np.minimum(places.astype(int), num_given - 2)
    pairs = ((moving.clouds[k], moving.clouds[k + 1], place - k) for k, place in zip(before, places, strict=True))
    return [(1 - share) * a + share * b for a, b, share in pairs]


def _as_input(
    name: str, moving: Moving, clouds: Sequence[np.ndarray], data: ConfigDict, seed: int
) -> tuple[dict, Frame]:
    """Clouds in object coordinates of the first frame, rounded as `user_inputs.normalised_cloud` does."""
    frame = normalise(moving.first)._replace(turn=find_turn(moving.first, data.get('up', 'y')))
    seeds = [seed] * len(clouds) if moving.corresponding else [seed + k for k in range(len(clouds))]
    chosen = [
        frame.to_object(subsample(cloud, data.num_input_points, s)) for cloud, s in zip(clouds, seeds, strict=True)
    ]
    return {name: (np.round(np.stack(chosen) / CLOUD_STEP) * CLOUD_STEP).astype(np.float32)}, frame
