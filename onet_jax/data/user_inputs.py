"""The inputs of a network from a user's files: clouds, scans, photos and their cameras, voxels, and meshes to fit a code to.

Functions (source, data, seed) -> ({name: array}, frame of the object), for `field_table.FIELDS`; data is `config.data`.
They raise OSError or InputError, naming the file, where it cannot be read. P points of a cloud.
"""

import warnings

import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.archives import read_arrays
from onet_jax.data.images import load_image
from onet_jax.data.scans import find_cell, load_bulk
from onet_jax.data.schema import NUM_VOXELS
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import DISTANCE_RATIOS, ELEVATIONS, Camera, r2n2_camera
from onet_jax.geometry.companions import CAMERAS_FILE
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.meshes import UPS, Frame, load_mesh, load_oriented_cloud, normalise
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.solid import Solid, make_solid
from onet_jax.geometry.upright import find_up
from onet_jax.geometry.voxels import read_binvox

OBJECT_FRAME = Frame(np.zeros(3), 1.0)
CLOUD_STEP = 2.0**-16  # longest edges: far below the noise of any cloud, and exact in float32
TYPICAL_VIEW = (45.0, np.mean(ELEVATIONS), np.mean(DISTANCE_RATIOS))  # from halfway between front and side
NUM_FITTED_POINTS = 16_384  # labelled points that are drawn from a mesh, to fit a code to


def subsample(cloud: np.ndarray, num_points: int, seed: int) -> np.ndarray:
    """num_points of a cloud [P, 3] at random; with replacement where the cloud has fewer."""
    rng = np.random.default_rng(seed)
    return cloud[rng.choice(len(cloud), num_points, replace=len(cloud) < num_points)]


def find_turn(cloud: np.ndarray, up: str) -> np.ndarray:
    """The rotation matrix [3, 3] from the frame of a cloud [P, 3] to object coordinates.

    up: the axis of the frame that points up, one of `meshes.UPS`, or 'auto', which finds it.
    """
    return UPS[find_up(cloud) if up == 'auto' else up]


def normalised_cloud(cloud: np.ndarray, num_points: int, seed: int, up: str = 'y') -> tuple[np.ndarray, Frame]:
    """A cloud [P, 3] in any frame -> num_points of its points in object coordinates, float32, and the frame.

    up: as of `find_turn`. The points are rounded to `CLOUD_STEP`: a network sees the same bits of an object far from the
    origin, where doubles are coarser.
    """
    frame = normalise(cloud)._replace(turn=find_turn(cloud, up))
    points = frame.to_object(subsample(cloud, num_points, seed))
    return (np.round(points / CLOUD_STEP) * CLOUD_STEP).astype(np.float32), frame


def cloud_input(bulk: np.ndarray, data: ConfigDict, seed: int, where: str = 'cloud') -> tuple[dict, Frame]:
    """The field 'cloud' of the points [P, 3] of an object."""
    points, frame = normalised_cloud(bulk, data.num_input_points, seed, data.get('up', 'y'))
    return {'cloud': points}, frame


def scene_input(bulk: np.ndarray, data: ConfigDict, seed: int, where: str = 'cloud') -> tuple[dict, Frame]:
    """The field 'scene' of a scan [P, 3]: scaled so that a cell of the sliding-window network has the edge `cell_size`."""
    cloud, cell = find_cell(bulk, data, seed, where)
    frame = Frame(np.min(cloud, axis=0), cell / data.cell_size, find_turn(cloud, data.get('up', 'y')))
    return {'scene': frame.to_object(cloud)}, frame


def read_bulk(source: Source, data: ConfigDict) -> np.ndarray:
    """The points [P, 3] of a file that a network sees, as the user asks."""
    return load_bulk(source.path, data.keep_outliers, data.get('remove_outliers', False))


def read_cloud(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    return cloud_input(read_bulk(source, data), data, seed, str(source.path))


def read_scene(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    return scene_input(read_bulk(source, data), data, seed, str(source.path))


def read_image(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    return {'image': load_image(source.path, data.image_size, source.box)}, OBJECT_FRAME


def read_camera(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    """The camera of a view of the official data, 003.jpg beside `cameras.npz`; of any other photo that of a typical view.

    Of the former the frame is that of the user, to which `world_mat` belongs.
    """
    path, view = source.path.with_name(CAMERAS_FILE), source.path.stem
    if path.is_file() and view.isdecimal() and source.box is None:
        names = {f'world_mat_{int(view)}': (3, 4), f'camera_mat_{int(view)}': (3, 3)}
        camera = Camera(*read_arrays(path, {name: ('f', dims) for name, dims in names.items()}).values())
    else:
        warnings.warn(
            f'the camera is not known ({CAMERAS_FILE} beside a view 000.jpg would say it): that of a typical training view is '
            'taken, and the shape is made of longest edge 1 and centre 0',
            stacklevel=2,
        )
        camera = r2n2_camera(*TYPICAL_VIEW)
        camera.world_mat[:, 3] = np.nan
    return {name: array.astype(np.float32) for name, array in camera._asdict().items()}, OBJECT_FRAME


def read_voxels(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    values = read_binvox(source.path).values
    if values.shape != (NUM_VOXELS,) * 3:
        raise InputError(f'{source.path}: expected 32 x 32 x 32 voxels, found {" x ".join(map(str, values.shape))}')
    return {'voxels': values.astype(np.float32)}, OBJECT_FRAME


def read_oriented_cloud(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    """Samples of the surface of a mesh, which may be open (see `geometry/solid.py`), with its outward normals; or points of a
    cloud with those that it has, which are turned outwards where they point inwards."""
    cloud = load_oriented_cloud(source.path)
    if cloud is not None:
        points, normals = cloud
        frame = normalise(points)._replace(turn=find_turn(points, data.get('up', 'y')))
        rng, count = np.random.default_rng(seed), data.num_surface_points
        drawn = rng.choice(len(points), count, replace=len(points) < count)
        points, normals = frame.to_object(points[drawn]), normals[drawn] @ frame.turn.T
        if np.sum(points * normals) < 0:  # three times the volume, were it positive
            print(f'{source.path}: its normals point inwards and are turned around', flush=True)
            normals = -normals
        return {'oriented_cloud': np.concatenate([points, normals], axis=1).astype(np.float32)}, frame
    solid, frame = _read_solid(source, data.get('up', 'y'))
    points, normals = sample_surface(solid.surface, data.num_surface_points, seed)
    return {'oriented_cloud': np.concatenate([points, normals], axis=1).astype(np.float32)}, frame


def read_labels(source: Source, data: ConfigDict, seed: int) -> tuple[dict, Frame]:
    """Uniform points of the sampled cube, labelled by a mesh, which may be open (see `geometry/solid.py`)."""
    solid, frame = _read_solid(source)
    points = np.random.default_rng(seed).uniform(-BOX / 2, BOX / 2, (NUM_FITTED_POINTS, 3)).astype(np.float32)
    occ = solid.contains(points.astype(np.float64))
    return {'labels': np.column_stack([points, occ]).astype(np.float32)}, frame


def _read_solid(source: Source, up: str = 'y') -> tuple[Solid, Frame]:
    try:
        mesh = load_mesh(source.path)
        up = find_up(np.asarray(mesh.vertices)) if up == 'auto' else up
        solid = make_solid(mesh, up)
    except InputError as error:
        raise InputError(str(error) if str(source.path) in str(error) else f'{source.path}: {error}') from error
    return solid, Frame(UPS[up].T @ solid.loc, solid.scale, UPS[up])
