"""Meshes of the user that a network without a decoder moves: interpolation of two meshes, and shape matching.

Such a network knows no shape: of clouds it moves the points that it sees. Where frame 0 is a mesh, its vertices move instead. L
frames, V vertices, F faces.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.clip_inputs import list_frames
from onet_jax.geometry.mesh_files.animations import read_sequence
from onet_jax.geometry.meshes import Frame, load_geometry
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.models.method import Model
from onet_jax.models.velocity_field import move_mesh


def move_given(
    model: Model, params: dict, config: ConfigDict, end_clouds: np.ndarray, path: Path, frame: Frame
) -> MeshSequence | None:
    """The mesh of frame 0 of a user's sequence, moved by a network that sees `end_clouds` [2, P, 3]; None for clouds.

    In correspondence, the vertices of the last frame are known: the mesh ends there. Without, it ends where the network says.
    path, frame: of the sequence, and of its object coordinates, in which the result is.
    """
    first, last = read_ends(path, config)
    if first is None:
        return None
    mesh = trimesh.Trimesh(frame.to_object(first.vertices), first.faces, process=False)
    cond, times = model.encode(params, end_clouds[None]), np.linspace(0, 1, config.data.num_frames, dtype=np.float32)
    if last is None:
        return move_mesh(model, params, times, mesh, cond)
    ends = (np.asarray(vertices, np.float32)[None] for vertices in (mesh.vertices, frame.to_object(last)))
    moved = model.interpolate(params, *ends, len(times), cond)
    return MeshSequence(np.asarray(moved)[0], np.asarray(mesh.faces))


def read_ends(path: Path, config: ConfigDict) -> tuple[Any, np.ndarray | None]:
    """The mesh of frame 0, and of a network of corresponding points where its vertices [V, 3] end; None for clouds."""
    if path.is_dir():
        with warnings.catch_warnings(action='ignore'):  # they have been said
            first = load_geometry(list_frames(path)[0])
        if not isinstance(first, trimesh.Trimesh):
            return None, None
        if not config.data.corresponding:
            return first, None
    sequence = read_sequence(path)
    return sequence.mesh(0), sequence.vertices[-1] if config.data.corresponding else None
