"""Mesh simplification by quadric edge collapse (Garland and Heckbert, SIGGRAPH 1997), by the library fast_simplification."""

import fast_simplification
import numpy as np
import trimesh

from onet_jax.errors import InputError

AGGRESSIVENESS = 5  # of the official generator: how fast edges of higher cost are allowed to collapse


def simplify_mesh(mesh: trimesh.Trimesh, num_faces: int) -> trimesh.Trimesh:
    """A mesh with at most `num_faces` faces, or as few as go without faces that flip; a copy where there are no more.

    More than asked for are left of a mesh of many small parts, for none is collapsed away. In whatever frame the mesh is; edges
    are collapsed in the unit cube, so that it does not matter which. Raises InputError below 4, a tetrahedron.
    """
    if num_faces < 4:
        raise InputError(f'num_faces: expected at least 4, a closed mesh, found {num_faces}')
    if len(mesh.faces) <= num_faces:
        return mesh.copy()
    low, size = mesh.bounds[0], np.ptp(mesh.bounds, axis=0).max()
    vertices, faces = fast_simplification.simplify(
        ((mesh.vertices - low) / size).astype(np.float32),
        mesh.faces.astype(np.int32),
        target_count=num_faces,
        agg=AGGRESSIVENESS,
    )
    return trimesh.Trimesh(low + size * vertices.astype(np.float64), faces, process=False)
