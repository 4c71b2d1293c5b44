"""The files of a sequence that was made: NAME.glb, animated, NAME.gif, and NAME/000.<format>, ..., one for each frame."""

from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from onet_jax.geometry.meshes import load_geometry, load_mesh
from onet_jax.geometry.sequence_files import fit, frame_files, save_animation, save_frames
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence, frames_of, move
from onet_jax.viz.pictures import animation

GIF_SIZE = 256  # px


def clip_files(target: Path, num_frames: int, file_format: str) -> list[Path]:
    """The files of a sequence whose animation is target = NAME.glb."""
    return [target, target.with_suffix('.gif'), *frame_files(target.with_suffix(''), num_frames, file_format)]


def save_clip(sequence: Any, target: Path, file_format: str) -> None:
    """Write the files of a sequence. A frame that is empty has no file: that of an earlier run is removed."""
    num_frames = len(frames_of(sequence))
    kept = save_frames(sequence, target.with_suffix(''), file_format)
    for path in {*frame_files(target.with_suffix(''), num_frames, file_format)} - {*kept}:
        path.unlink(missing_ok=True)
    animation(frames_of(move(sequence, fit(sequence).to_object)), target.with_suffix('.gif'), size=GIF_SIZE)
    save_animation(sequence, target)  # last: with it the sequence is done


def load_clip(target: Path, num_frames: int, file_format: str) -> Any:
    """The sequence of the files that `save_clip` wrote."""
    files = frame_files(target.with_suffix(''), num_frames, file_format)
    first = load_geometry(next(filter(Path.is_file, files)))
    if isinstance(first, trimesh.PointCloud):
        return CloudSequence(np.stack([np.asarray(load_geometry(file).vertices) for file in files]))
    meshes = tuple(load_mesh(file) if file.is_file() else trimesh.Trimesh() for file in files)
    same = all(np.array_equal(mesh.faces, meshes[0].faces) for mesh in meshes)
    if same:
        return MeshSequence(np.stack([mesh.vertices for mesh in meshes]), np.asarray(meshes[0].faces))
    return ChangingMeshes(meshes)
