"""Shapes that move: sequences of meshes with common faces, of meshes, and of point clouds with or without correspondence.

L frames at equidistant times 0 to 1, V vertices, F faces, N points. Of a sequence all frames are in one frame of coordinates,
of a prediction in object coordinates of the first frame.
"""

from typing import NamedTuple

import numpy as np
import trimesh


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
