"""Meshes, and files of them, for the tests of preparation."""

import numpy as np
import trimesh
from trimesh.transformations import random_rotation_matrix

from onet_jax.prepare.constructive_solids import Box, Solid


def box_with_hole(width=0.3) -> trimesh.Trimesh:
    return Solid([Box((0, 0, 0), (1, 0.6, 0.4))], [Box((0.2, 0, 0), (width, 0.3, 1))]).mesh()


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
