"""Sequences for the page: their frames with few faces and points, as JSON. L frames, V vertices, N points."""

from collections.abc import Callable
from functools import singledispatch
from typing import Any

import numpy as np
from scipy.spatial import KDTree

from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence
from onet_jax.geometry.simplify import simplify_mesh
from onet_jax.viz.pictures import thin


@singledispatch
def reduce_sequence(sequence: Any, num_faces: int, num_points: int) -> Any:
    """The sequence with at most so many faces or points in each frame."""
    raise TypeError(f'expected a sequence, found {type(sequence)}')


@reduce_sequence.register
def _(sequence: MeshSequence, num_faces: int, num_points: int) -> MeshSequence:
    """The first frame is simplified; its vertices move as the nearest ones before."""
    if len(sequence.faces) <= num_faces:
        return sequence
    first = simplify_mesh(sequence.mesh(0), num_faces)
    _, nearest = KDTree(sequence.vertices[0]).query(first.vertices)
    moves = sequence.vertices[:, nearest] - sequence.vertices[0, nearest]
    return MeshSequence(first.vertices + moves, np.asarray(first.faces))


@reduce_sequence.register
def _(sequence: ChangingMeshes, num_faces: int, num_points: int) -> ChangingMeshes:
    return ChangingMeshes(tuple(simplify_mesh(mesh, num_faces) for mesh in sequence.meshes))


@reduce_sequence.register
def _(sequence: CloudSequence, num_faces: int, num_points: int) -> CloudSequence:
    return CloudSequence(np.stack([thin(points, num_points) for points in sequence.points]))


@singledispatch
def embed_frames(sequence: Any, embed: Callable[[Any], dict]) -> dict:
    """A sequence as JSON: 'frames', and beside it what they have in common; embed: a mesh or points [N, 3] -> JSON."""
    raise TypeError(f'expected a sequence, found {type(sequence)}')


@embed_frames.register
def _(sequence: MeshSequence, embed: Callable[[Any], dict]) -> dict:
    frames = [embed(sequence.mesh(k)) for k in range(len(sequence.vertices))]
    return frames[0] | {'frames': [{'positions': frame['positions']} for frame in frames]}


@embed_frames.register
def _(sequence: ChangingMeshes, embed: Callable[[Any], dict]) -> dict:
    frames = [embed(mesh) for mesh in sequence.meshes]
    return {'frames': frames, 'count': max(frame['count'] for frame in frames)}


@embed_frames.register
def _(sequence: CloudSequence, embed: Callable[[Any], dict]) -> dict:
    frames = [embed(points) for points in sequence.points]  # they may not correspond: nothing to blend
    return {'frames': frames, 'count': frames[0]['count']}
