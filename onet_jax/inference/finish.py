"""Finishing of a reconstructed mesh, as a user asks: smoothing, simplification, and the colours of the cloud."""

from typing import NamedTuple

import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.fields import has_cloud, input_names, sees_clips
from onet_jax.errors import InputError
from onet_jax.geometry.colours import carry_colours
from onet_jax.geometry.simplify import simplify_mesh
from onet_jax.geometry.smoothing import smooth_mesh

COLOURED_FORMATS = ('ply', 'obj', 'glb')  # that hold colours of vertices


class Finish(NamedTuple):
    """What is done to a mesh, in this order; by default nothing."""

    smooth: int = 0  # steps of `smooth_mesh`
    num_faces: int | None = None  # at most, of `simplify_mesh`
    colours: bool = False  # the vertices get those of the nearest input points


UNCHANGED = Finish()


def check_finish(finish: Finish, file_format: str, data: ConfigDict) -> None:
    """Raises InputError for what cannot be done to the meshes of a network, or be written in a format."""
    if finish != UNCHANGED and sees_clips(data):
        raise InputError(
            '--smooth, --simplify and --colors: expected a network of single shapes, found one of sequences'
        )
    if finish.smooth < 0:
        raise InputError(f'--smooth: expected a number of steps, 0 or more, found {finish.smooth}')
    if finish.num_faces is not None and finish.num_faces < 4:
        raise InputError(f'--simplify: expected a number of faces, 4 or more, found {finish.num_faces}')
    if finish.colours and file_format not in COLOURED_FORMATS:
        raise InputError(
            f'--colors: expected a format that holds colours ({"|".join(COLOURED_FORMATS)}), found {file_format}'
        )
    if finish.colours and not has_cloud(data):
        raise InputError(f'--colors: expected a network of point clouds, found one of {", ".join(input_names(data))}')


def finish_geometry(
    geometry: trimesh.Trimesh | trimesh.PointCloud,
    finish: Finish,
    cloud: np.ndarray | None = None,
    colours: np.ndarray | None = None,
) -> trimesh.Trimesh | trimesh.PointCloud:
    """A finished copy of what was reconstructed from a cloud [P, 3] of colours [P, 3] uint8, all in one frame.

    Raises InputError for colours that the cloud does not have, and for a geometry without faces that faces are asked of.
    """
    if finish == UNCHANGED:
        return geometry
    if not isinstance(geometry, trimesh.Trimesh):
        raise InputError('--smooth, --simplify and --colors: expected a network that makes meshes, found a point cloud')
    if finish.smooth:
        geometry = smooth_mesh(geometry, finish.smooth)
    if finish.num_faces is not None:
        geometry = simplify_mesh(geometry, finish.num_faces)
    if finish.colours:
        if cloud is None or colours is None:
            raise InputError(
                '--colors: expected a point cloud with colours, found none in its file; leave out --colors'
            )
        geometry = carry_colours(geometry, cloud, colours)
    return geometry
