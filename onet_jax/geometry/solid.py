"""A solid from a mesh in any frame: an occupancy test, a watertight surface and the frame. Imports no JAX.

The mesh is normalised to object coordinates and closed by `watertight.py`; one whose inside is ambiguous is rejected. T query
points.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import UPS, normalise
from onet_jax.geometry.watertight import close

MAX_AMBIGUOUS = 0.5  # share of the volume, above which a mesh is rejected


class Solid(NamedTuple):
    """A shape to sample from, in object coordinates."""

    surface: trimesh.Trimesh  # watertight, oriented outwards
    contains: Callable[[np.ndarray], np.ndarray]  # points [T, 3] -> [T] bool, the occupancy
    picture: trimesh.Trimesh  # of which views are rendered; it may be open and have colours
    loc: np.ndarray = np.zeros(3)  # in the frame of the mesh a point is at loc + scale * point
    scale: float = 1.0
    ambiguous: float = 0.0  # share of the volume that other reasonable rules would label otherwise
    # (faces [N], barycentric coordinates [N, 3]) of `picture` -> sRGB [N, 3]; None: its own colours (see `colours.py`)
    colours: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


def make_solid(mesh: trimesh.Trimesh, up: str = 'y') -> Solid:
    """The solid of a mesh in its own frame, whose axis `up` ('y' or 'z') points up. Moves the vertices of the mesh, in place.

    Raises InputError for a mesh that cannot be labelled reliably.
    """
    if up not in UPS:
        raise InputError(f'up: expected one of {sorted(UPS)}, found {up!r}')
    mesh.vertices = np.asarray(mesh.vertices, np.float64) @ UPS[up].T
    frame = normalise(np.asarray(mesh.vertices)[np.ravel(mesh.faces)])
    if not (np.isfinite(frame.loc).all() and np.isfinite(frame.scale) and frame.scale > 0):
        raise InputError(f'mesh: expected finite vertices that are not all one, found a box of edge {frame.scale}')
    mesh.vertices = frame.to_object(mesh.vertices)
    labelled = close(mesh)
    if labelled.ambiguous > MAX_AMBIGUOUS:
        raise InputError(
            f'mesh: expected a solid, found a surface for which {labelled.ambiguous:.0%} of the volume is a matter of '
            f'judgement, more than {MAX_AMBIGUOUS:.0%}; close its holes'
        )
    return Solid(labelled.surface, labelled.contains, mesh, frame.loc, frame.scale, labelled.ambiguous)
