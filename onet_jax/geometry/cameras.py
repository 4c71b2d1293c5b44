"""The cameras of the R2N2 renderings (Choy et al.), with which the images of ShapeNet were made.

N points, [...] any leading axes, one camera for each. Image axes: x right, y down, z forward. Pixels are continuous:
the pixel in column i and row j covers [i, i + 1) x [j, j + 1), so that (68.5, 68.5) is the centre of 137 x 137 px.

Three frames, all with y up:
    shapenet  ShapeNetCore v1: the diagonal of the bounding box is 1 and its centre 0. The views were drawn in this frame.
    user      a mesh as its file has it, and what a stored `world_mat` maps from; a file of ShapeNet is in both.
    object    longest edge 1, centre 0: user = loc + scale * object.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

IMAGE_SIZE = 137  # px
FOCAL = 35 * IMAGE_SIZE / 32  # px: a lens of 35 mm before a sensor of 32 mm
MAX_DISTANCE = 1.75  # of the eye from the origin at a distance ratio of 1
NUM_VIEWS = 24
# Bounds of the uniform distributions that the renderings were drawn from.
AZIMUTHS, ELEVATIONS, DISTANCE_RATIOS = (0.0, 360.0), (25.0, 30.0), (0.65, 0.95)  # degrees, degrees, 1


class Camera(NamedTuple):
    """A point is seen at the perspective division of camera_mat @ world_mat @ (point, 1): see `project`."""

    world_mat: np.ndarray  # [..., 3, 4] float64, points -> camera frame; a rotation, or a rotation times a scale
    camera_mat: np.ndarray  # [..., 3, 3] float64, camera frame -> px of an image of 137 px


def r2n2_camera(azimuth: ArrayLike, elevation: ArrayLike, distance_ratio: ArrayLike) -> Camera:
    """The camera of columns 0, 1 and 3 of `rendering_metadata.txt`, in the shapenet frame; it looks at the origin.

    azimuth, elevation: degrees, broadcast with distance_ratio to [...]. Azimuth 0 puts the eye over +x, 90 over +z.
    """
    azimuth, elevation, ratio = np.broadcast_arrays(
        *(np.asarray(value, np.float64) for value in (azimuth, elevation, distance_ratio))
    )
    # The closed form of the product of Blender's rotations in the official code.
    a, e = np.radians(azimuth), np.radians(elevation)
    sin_a, cos_a, sin_e, cos_e, zero = np.sin(a), np.cos(a), np.sin(e), np.cos(e), np.zeros(a.shape)
    right = np.stack([sin_a, zero, -cos_a, zero], axis=-1)
    down = np.stack([cos_a * sin_e, -cos_e, sin_a * sin_e, zero], axis=-1)
    forward = np.stack([-cos_a * cos_e, -sin_e, -sin_a * cos_e, MAX_DISTANCE * ratio], axis=-1)
    camera_mat = np.array([[FOCAL, 0, IMAGE_SIZE / 2], [0, FOCAL, IMAGE_SIZE / 2], [0, 0, 1]])
    return Camera(np.stack([right, down, forward], axis=-2), np.tile(camera_mat, (*a.shape, 1, 1)))


def sample_cameras(seed: int | np.random.Generator, num_views: int = NUM_VIEWS) -> Camera:
    """Cameras [num_views] as the renderings were made from, in the shapenet frame."""
    rng = np.random.default_rng(seed)
    azimuth, elevation, ratio = (rng.uniform(*bounds, num_views) for bounds in (AZIMUTHS, ELEVATIONS, DISTANCE_RATIOS))
    return r2n2_camera(azimuth, elevation, ratio)


def aim(camera: Camera, loc: ArrayLike, diagonal: ArrayLike) -> Camera:
    """A camera of the shapenet frame -> the one that sees an object of the user's frame in the same way.

    loc [3] and diagonal are the centre and the diagonal of the object's bounding box. The rotation stays a rotation and
    depth is in the user's unit.
    """
    rotation, translation = camera.world_mat[..., :3], camera.world_mat[..., 3]
    moved = np.asarray(diagonal, np.float64) * translation - rotation @ np.asarray(loc, np.float64)
    return camera._replace(world_mat=np.concatenate([rotation, moved[..., None]], axis=-1))


def object_camera(camera: Camera, loc: ArrayLike, scale: ArrayLike) -> Camera:
    """A camera of the user's frame -> the same view of object coordinates: world_mat is [scale * R | t + R @ loc].

    loc [..., 3], scale [...]. Depth stays in the user's unit.
    """
    rotation, translation = camera.world_mat[..., :3], camera.world_mat[..., 3:]
    scale = np.asarray(scale, np.float64)[..., None, None]
    moved = translation + rotation @ np.asarray(loc, np.float64)[..., None]
    return camera._replace(world_mat=np.concatenate([rotation * scale, moved], axis=-1))


def to_normalised(camera: Camera, image_size: int = IMAGE_SIZE) -> Camera:
    """A camera of pixels -> one of device coordinates: the image is [-1, 1]^2, -1 its left and top edge."""
    to_device = np.array([[2 / image_size, 0, -1], [0, 2 / image_size, -1], [0, 0, 1]])
    return camera._replace(camera_mat=to_device @ camera.camera_mat)


def project(camera: Camera, points: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Points [..., N, 3] -> pixels [..., N, 2] (x, y), depth [..., N] along the axis of the camera; float64.

    A point that is not in front of the camera (depth <= 0) is nowhere in the picture: its pixel means nothing.
    """
    points = np.asarray(points, np.float64)
    seen = points @ np.swapaxes(camera.world_mat[..., :3], -1, -2) + camera.world_mat[..., None, :, 3]
    image = seen @ np.swapaxes(camera.camera_mat, -1, -2)
    with np.errstate(divide='ignore', invalid='ignore'):
        return image[..., :2] / image[..., 2:], seen[..., 2]
