"""Mesh simplification by quadric edge collapse (Garland and Heckbert, SIGGRAPH 1997), by the library fast_simplification."""

import fast_simplification
import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import check_mesh

AGGRESSIVENESS = 5  # of the official generator: how fast edges of higher cost are allowed to collapse


def simplify_mesh(mesh: trimesh.Trimesh, num_faces: int) -> trimesh.Trimesh:
    """A mesh with `num_faces` faces, or as few as are possible without flipped faces; a copy where it has no more than that.

    A mesh of many small components keeps more faces, since no component vanishes. The result does not depend on the frame: the
    mesh is normalised for the simplification. Raises InputError for num_faces below 4, a tetrahedron, and for faces whose
    vertices do not exist or are not finite.
    """
    if num_faces < 4:
        raise InputError(f'num_faces: expected at least 4, a closed mesh, found {num_faces}')
    if len(mesh.faces) <= num_faces:
        return mesh.copy()
    check_mesh(mesh.vertices, mesh.faces)  # the library reads whatever memory a wrong index points to
    low, size = mesh.bounds[0], np.ptp(mesh.bounds, axis=0).max()
    vertices, faces = fast_simplification.simplify(
        ((mesh.vertices - low) / size).astype(np.float32),
        mesh.faces.astype(np.int32),
        target_count=num_faces,
        agg=AGGRESSIVENESS,
    )
    return trimesh.Trimesh(low + size * vertices.astype(np.float64), faces, process=False)
