"""Files of a sequence: an animated .glb, and a mesh or a cloud for each frame; the cube around it. Imports no JAX."""

from pathlib import Path
from typing import Any

import numpy as np

from onet_jax.errors import InputError
from onet_jax.files import write_atomically
from onet_jax.geometry.mesh_files.animated_glb import SECONDS, encode_animation
from onet_jax.geometry.meshes import Frame, normalise, save_mesh
from onet_jax.geometry.sequences import SEQUENCES, frames_of


def frame_files(folder: str | Path, num_frames: int, file_format: str) -> list[Path]:
    """FOLDER/000.<format>, ..."""
    return [Path(folder) / f'{k:03d}.{file_format}' for k in range(num_frames)]


def save_animation(sequence: Any, path: str | Path, seconds: float = SECONDS) -> None:
    """Write a sequence as one animated .glb, atomically. Raises InputError that names the file, as of `encode_animation`."""
    try:
        content = encode_animation(sequence, seconds)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    write_atomically(path, content)


def save_frames(sequence: Any, folder: str | Path, file_format: str) -> list[Path]:
    """Write each frame as `frame_files` names it; meshes of a `MeshSequence` have the same faces. Returns the files.

    An empty frame has no file. Raises InputError as `save_mesh` does.
    """
    frames = frames_of(sequence)
    written = []
    for frame, path in zip(frames, frame_files(folder, len(frames), file_format), strict=True):
        if len(frame.vertices):
            save_mesh(frame, path)
            written.append(path)
    return written


def fit(*shapes: Any) -> Frame:
    """The frame in which all of some shapes, sequences or points [N, 3], are within the unit cube at all times."""
    frames = (frame.vertices for shape in shapes if isinstance(shape, SEQUENCES) for frame in frames_of(shape))
    return normalise(np.concatenate([*frames, *(shape for shape in shapes if isinstance(shape, np.ndarray))]))
