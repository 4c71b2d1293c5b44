"""Pinhole cameras: projection, unprojection and rays through pixels, for arrays of numpy and of JAX; the cameras of R2N2.

N points or pixels, [...] any leading axes, one camera for each. A camera is two matrices on homogeneous coordinates: the
extrinsic [R | t] and the intrinsic. Camera axes: x right, y down, z forward. Pixels are continuous: the pixel in column i and
row j covers [i, i + 1) x [j, j + 1), so that (68.5, 68.5) is the centre of 137 x 137 px. Imports no JAX.

The R2N2 renderings, the images of ShapeNet in the official data, have the cameras of Choy et al. (ECCV 2016).

Three frames, all with y up:
    shapenet  ShapeNetCore v1: the diagonal of the bounding box is 1 and its centre 0. The views were rendered in this frame.
    user      of a mesh file, and what the `world_mat` of the official files maps from; files of ShapeNet are in both.
    object    longest edge 1, centre 0: user = loc + scale * object.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

IMAGE_SIZE = 137  # px
FOCAL = 35 * IMAGE_SIZE / 32  # px: a lens of 35 mm before a sensor of 32 mm
MAX_DISTANCE = 1.75  # of the eye from the origin at a distance ratio of 1
NUM_VIEWS = 24
# Bounds of the uniform distributions of the renderings.
AZIMUTHS, ELEVATIONS, DISTANCE_RATIOS = (0.0, 360.0), (25.0, 30.0), (0.65, 0.95)  # degrees, degrees, 1


class Camera(NamedTuple):
    """The pixel of a point is the perspective division of camera_mat @ world_mat @ (point, 1): see `project`.

    Of arrays of numpy or of JAX, which the types leave out.
    """

    world_mat: np.ndarray  # [..., 3, 4] extrinsic, points -> camera frame; a rotation, or a rotation times a scale
    camera_mat: np.ndarray  # [..., 3, 3] intrinsic, camera frame -> px, here of an image of 137 px


def r2n2_camera(azimuth: ArrayLike, elevation: ArrayLike, distance_ratio: ArrayLike) -> Camera:
    """The camera of columns 0, 1 and 3 of `rendering_metadata.txt`, in the shapenet frame; it looks at the origin.

    azimuth, elevation: degrees, broadcast with distance_ratio to [...]. The eye is over +x at azimuth 0, over +z at 90.
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
    """Random cameras [num_views] with the distribution of the renderings, in the shapenet frame."""
    rng = np.random.default_rng(seed)
    azimuth, elevation, ratio = (rng.uniform(*bounds, num_views) for bounds in (AZIMUTHS, ELEVATIONS, DISTANCE_RATIOS))
    return r2n2_camera(azimuth, elevation, ratio)


def fixed_cameras(num_views: int) -> Camera:
    """Cameras [num_views] evenly around, the first over +z, in the middle of the other bounds; in the shapenet frame."""
    azimuth = 90 + 360 / max(num_views, 1) * np.arange(num_views)
    return r2n2_camera(azimuth, np.mean(ELEVATIONS), np.mean(DISTANCE_RATIOS))


def aim(camera: Camera, loc: ArrayLike, diagonal: ArrayLike) -> Camera:
    """A camera of the shapenet frame -> the one that gives the same view of an object in the user's frame.

    loc [3] and diagonal are the centre and the diagonal of the object's bounding box. The rotation is not scaled: depth is in
    the user's unit.
    """
    rotation, translation = camera.world_mat[..., :3], camera.world_mat[..., 3]
    moved = np.asarray(diagonal, np.float64) * translation - rotation @ np.asarray(loc, np.float64)
    return camera._replace(world_mat=np.concatenate([rotation, moved[..., None]], axis=-1))


def object_camera(camera: Camera, loc: ArrayLike, scale: ArrayLike) -> Camera:
    """A camera of the user's frame -> the same view, for points in object coordinates: world_mat is [scale * R | t + R @ loc].

    loc [..., 3], scale [...]. Depth stays in the user's unit.
    """
    rotation, translation = camera.world_mat[..., :3], camera.world_mat[..., 3:]
    scale = np.asarray(scale, np.float64)[..., None, None]
    moved = translation + rotation @ np.asarray(loc, np.float64)[..., None]
    return camera._replace(world_mat=np.concatenate([rotation * scale, moved], axis=-1))


def to_normalised(camera: Camera, image_size: int = IMAGE_SIZE) -> Camera:
    """A camera of pixels -> one of normalised device coordinates: the image is [-1, 1]^2, -1 its left and top edge."""
    to_device = np.array([[2 / image_size, 0, -1], [0, 2 / image_size, -1], [0, 0, 1]])
    return camera._replace(camera_mat=to_device @ camera.camera_mat)


def project(camera: Camera, points: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Points [..., N, 3] -> pixels [..., N, 2] (x, y), depth [..., N] along the axis of the camera.

    `project`, `rays` and `unproject` compute in float64 with numpy. If any argument is an array of JAX they compute with JAX,
    in the precision it is set to, and can be differentiated and jitted. The pixel of a point that is not in front of the
    camera (depth <= 0) has no meaning.
    """
    _, world_mat, camera_mat, points = _arrays(*camera, points)
    seen = _multiply(world_mat[..., :3], points) + world_mat[..., None, :, 3]
    image = _multiply(camera_mat, seen)
    with np.errstate(divide='ignore', invalid='ignore'):
        return image[..., :2] / image[..., 2:], seen[..., 2]


def rays(camera: Camera, pixels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [..., N, 2] (x, y) -> origins and directions of the rays through them, [..., N, 3] each.

    A direction has depth 1, not length 1: `project` maps origin + depth * direction to the pixel and this depth.
    """
    xp, world_mat, camera_mat, pixels = _arrays(*camera, pixels)
    seen = _multiply(xp.linalg.inv(camera_mat), xp.concatenate([pixels, xp.ones_like(pixels[..., :1])], axis=-1))
    to_world = xp.linalg.inv(world_mat[..., :3])
    directions = _multiply(to_world, seen / seen[..., 2:])
    origins = _multiply(to_world, -world_mat[..., None, :, 3])
    return xp.broadcast_to(origins, directions.shape), directions


def unproject(camera: Camera, pixels: ArrayLike, depth: ArrayLike) -> np.ndarray:
    """Pixels [..., N, 2] (x, y) and their depth [..., N] along the axis of the camera -> points [..., N, 3]."""
    origins, directions = rays(camera, pixels)
    _, depth = _arrays(depth)
    return origins + depth[..., None] * directions


def _arrays(*values: ArrayLike) -> tuple:
    """The namespace of the arrays, JAX's if any of them is of JAX, else numpy, and the arrays as floats of this namespace."""
    found = [value.__array_namespace__() for value in values if hasattr(value, '__array_namespace__')]
    xp = next((namespace for namespace in found if namespace is not np), np)
    return xp, *(xp.asarray(value, float) for value in values)


def _multiply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[..., 3, 3] @ each of [..., N, 3]; written out: matrix products of accelerators are not precise enough for pixels."""
    return sum(matrix[..., None, :, k] * vectors[..., k : k + 1] for k in range(3))
