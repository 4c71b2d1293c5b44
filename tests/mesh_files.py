"""Meshes, and files of them, for the tests of preparation."""

import hashlib

import numpy as np
import trimesh
from trimesh.transformations import random_rotation_matrix

from onet_jax.prepare.constructive_solids import Box, ConstructiveSolid, draw_colours


def solid_of(parts, cuts=()) -> ConstructiveSolid:
    """With some colours."""
    return ConstructiveSolid(parts, cuts, draw_colours((0,), len(parts) + len(cuts)))


def digest(solids) -> str:
    """Of vertices, up to their last bits, and faces."""
    content = hashlib.sha256()
    for mesh in (solid.mesh() for solid in solids):
        content.update(np.round(1e5 * mesh.vertices).astype('<i8').tobytes() + mesh.faces.astype('<i8').tobytes())
    return content.hexdigest()[:16]


def box_with_hole(width=0.3) -> trimesh.Trimesh:
    return solid_of([Box((0, 0, 0), (1, 0.6, 0.4))], [Box((0.2, 0, 0), (width, 0.3, 1))]).mesh()


def plate(i) -> trimesh.Trimesh:
    """A box whose proportions are those of no other i."""
    return trimesh.creation.box((1, 0.3 + 0.01 * i, 0.2 + 0.03 * (i % 7)))


def copy_of(mesh, seed, subdivide=True) -> trimesh.Trimesh:
    """Moved, turned, scaled and cut into other triangles."""
    rng = np.random.default_rng(seed)
    result = mesh.subdivide() if subdivide else mesh.copy()
    result.apply_transform(random_rotation_matrix(rng.random(3)))
    result.apply_scale(rng.uniform(0.1, 10))
    result.apply_translation(rng.normal(size=3) * 5)
    return result


def save(mesh, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    mesh.export(path)
