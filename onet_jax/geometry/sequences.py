"""Shapes that move: sequences of meshes with common faces, of meshes, and of point clouds with or without correspondence.

L frames at equidistant times 0 to 1, V vertices, F faces, N points. Of a sequence all frames are in one frame of coordinates,
of a prediction in object coordinates of the first frame.
"""

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import trimesh
from scipy.spatial import KDTree


class MeshSequence(NamedTuple):
    """A mesh whose vertices move: vertex v of each frame is the same place of the body."""

    vertices: np.ndarray  # [L, V, 3]
    faces: np.ndarray  # [F, 3] int

    def mesh(self, frame: int) -> trimesh.Trimesh:
        """The mesh of a frame. Its vertices are neither merged nor reordered."""
        return trimesh.Trimesh(self.vertices[frame], self.faces, process=False)


class ChangingMeshes(NamedTuple):
    """A mesh for each frame, without correspondence."""

    meshes: tuple[trimesh.Trimesh, ...]


class CloudSequence(NamedTuple):
    """A point cloud for each frame: point n of each frame is the same place of the body."""

    points: np.ndarray  # [L, N, 3]


SEQUENCES = (MeshSequence, ChangingMeshes, CloudSequence)


@singledispatch
def frames_of(sequence: Any) -> Sequence[trimesh.Trimesh | trimesh.PointCloud]:
    """The mesh or the cloud of each frame."""
    raise TypeError(f'expected a sequence, one of {[kind.__name__ for kind in SEQUENCES]}, found {type(sequence)}')


@frames_of.register
def _(sequence: MeshSequence) -> list[trimesh.Trimesh]:
    return [sequence.mesh(frame) for frame in range(len(sequence.vertices))]


@frames_of.register
def _(sequence: ChangingMeshes) -> list[trimesh.Trimesh]:
    return list(sequence.meshes)


@frames_of.register
def _(sequence: CloudSequence) -> list[trimesh.PointCloud]:
    return [trimesh.PointCloud(points) for points in sequence.points]


@singledispatch
def trajectories_of(sequence: Any) -> np.ndarray:
    """Where each vertex or point of the first frame is in every frame, [L, V, 3].

    Of meshes without correspondence the nearest vertex of the next frame is taken, from frame to frame. From an empty mesh on
    it is NaN.
    """
    raise TypeError(f'expected a sequence, one of {[kind.__name__ for kind in SEQUENCES]}, found {type(sequence)}')


@trajectories_of.register
def _(sequence: MeshSequence) -> np.ndarray:
    return sequence.vertices


@trajectories_of.register
def _(sequence: ChangingMeshes) -> np.ndarray:
    return match_nearest([np.asarray(mesh.vertices) for mesh in sequence.meshes])


@trajectories_of.register
def _(sequence: CloudSequence) -> np.ndarray:
    return sequence.points


def match_nearest(clouds: Sequence[np.ndarray]) -> np.ndarray:
    """Nearest-neighbour matching of L clouds [V_k, 3], the baseline without correspondence: trajectories [L, V_0, 3]."""
    found = [np.asarray(clouds[0], np.float64)]
    for cloud in clouds[1:]:
        lost = not len(cloud) or np.isnan(found[-1]).any()
        found.append(np.full_like(found[0], np.nan) if lost else cloud[KDTree(cloud).query(found[-1])[1]])
    return np.stack(found)


@singledispatch
def move(sequence: Any, function: Callable[[np.ndarray], np.ndarray]) -> Any:
    """The sequence with function: [N, 3] -> [N, 3] of the points of each frame."""
    raise TypeError(f'expected a sequence, one of {[kind.__name__ for kind in SEQUENCES]}, found {type(sequence)}')


@move.register
def _(sequence: MeshSequence, function: Callable[[np.ndarray], np.ndarray]) -> MeshSequence:
    return sequence._replace(vertices=np.stack([function(vertices) for vertices in sequence.vertices]))


@move.register
def _(sequence: ChangingMeshes, function: Callable[[np.ndarray], np.ndarray]) -> ChangingMeshes:
    return ChangingMeshes(
        tuple(trimesh.Trimesh(function(mesh.vertices), mesh.faces, process=False) for mesh in sequence.meshes)
    )


@move.register
def _(sequence: CloudSequence, function: Callable[[np.ndarray], np.ndarray]) -> CloudSequence:
    return CloudSequence(np.stack([function(points) for points in sequence.points]))
