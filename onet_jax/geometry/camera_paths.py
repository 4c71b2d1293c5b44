"""Camera paths around a scene: an orbit, and the spiral of forward-facing scenes (LLFF, Mildenhall et al., 2019).

V views, L frames. Cameras are those of `cameras.py`; a path keeps the intrinsics of the first view. Imports no JAX.
"""

import numpy as np

from onet_jax.geometry.cameras import Camera

SPIRAL_TURNS, SPIRAL_PULSE = 2, 0.5  # turns, and how often the camera moves back and forth in a turn
TO_RIGHT_UP_BACK = np.diag([1.0, -1.0, -1.0])  # of axes right, down, forward, and the other way round


def to_cameras(poses: np.ndarray, intrinsics: np.ndarray) -> Camera:
    """Camera-to-world matrices [V, 3, 4] with camera axes right, up, back, as others store them -> cameras."""
    pose = np.reshape(poses, (-1, 3, 4)).astype(np.float64)
    rotation = TO_RIGHT_UP_BACK @ np.swapaxes(pose[:, :, :3], 1, 2)
    world_mat = np.concatenate([rotation, -rotation @ pose[:, :, 3:]], axis=-1)
    return Camera(world_mat, np.broadcast_to(intrinsics, (len(pose), 3, 3)).astype(np.float64))


def to_poses(camera: Camera) -> np.ndarray:
    """The inverse of `to_cameras`: [V, 3, 4]."""
    rotation, translation = camera.world_mat[..., :3], camera.world_mat[..., 3:]
    to_world = np.swapaxes(rotation, -1, -2)
    return np.concatenate([to_world @ TO_RIGHT_UP_BACK, -to_world @ translation], axis=-1)


def look(back: np.ndarray, up: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """The pose [3, 4] of a camera at `eye` that looks along -back; up: [3], any that is not parallel to it."""
    z = back / np.linalg.norm(back)
    x = np.cross(up, z)
    x = x / np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z, eye], axis=1)


def mean_pose(poses: np.ndarray) -> np.ndarray:
    """The mean [3, 4] of poses [V, 3, 4]: of their positions, and of their axes back and up."""
    return look(poses[:, :, 2].sum(axis=0), poses[:, :, 1].sum(axis=0), poses[:, :, 3].mean(axis=0))


def recentre(poses: np.ndarray) -> np.ndarray:
    """Poses [V, 3, 4] in the frame of their mean."""
    last = [[0, 0, 0, 1.0]]
    to_world = np.concatenate([mean_pose(poses), last])
    return np.linalg.inv(to_world)[:3] @ np.concatenate([poses, np.tile([last], (len(poses), 1, 1))], axis=1)


def meeting_point(camera: Camera) -> np.ndarray:
    """The point [3] that is nearest to the axes of all cameras [V]: what they look at."""
    poses = to_poses(camera)
    across = np.eye(3) - poses[:, :, 2, None] * poses[:, None, :, 2]  # projections on the planes of the images
    return np.linalg.lstsq(across.sum(axis=0), (across @ poses[:, :, 3:]).sum(axis=0)[:, 0], rcond=None)[0]


def orbit(camera: Camera, num_frames: int) -> Camera:
    """A circle [L] around what the cameras [V] look at, at their mean distance and their mean height above it."""
    poses, centre = to_poses(camera), meeting_point(camera)
    up = poses[:, :, 1].sum(axis=0)
    up = up / np.linalg.norm(up)
    eyes = poses[:, :, 3] - centre
    height, distance = (eyes @ up).mean(), np.linalg.norm(eyes, axis=-1).mean()
    radius = np.sqrt(max(distance**2 - height**2, 1e-12))
    ahead = eyes[0] - (eyes[0] @ up) * up
    ahead = ahead / np.linalg.norm(ahead)
    beside = np.cross(up, ahead)
    angles = 2 * np.pi * np.arange(num_frames) / num_frames
    places = height * up + radius * (np.cos(angles)[:, None] * ahead + np.sin(angles)[:, None] * beside)
    return to_cameras(np.stack([look(eye, up, centre + eye) for eye in places]), camera.camera_mat[:1])


def spiral(camera: Camera, bounds: np.ndarray, num_frames: int) -> Camera:
    """The path of the LLFF scenes [L] for recentred cameras [V] with near and far [V, 2], as far as 90 % of their positions.

    All frames look at a distance between near and far that weighs them by disparity.
    """
    poses = to_poses(camera)
    close, far = 0.9 * bounds.min(), 5 * bounds.max()
    focus = 1 / (0.25 / close + 0.75 / far)
    middle = mean_pose(poses)
    up, radii = poses[:, :, 1].sum(axis=0), np.percentile(np.abs(poses[:, :, 3]), 90, axis=0)
    frames = []
    for angle in np.linspace(0, 2 * np.pi * SPIRAL_TURNS, num_frames + 1)[:-1]:
        offset = np.array([np.cos(angle), -np.sin(angle), -np.sin(angle * SPIRAL_PULSE)]) * radii
        eye = middle[:, :3] @ offset + middle[:, 3]
        target = middle[:, :3] @ [0, 0, -focus] + middle[:, 3]
        frames.append(look(eye - target, up, eye))
    return to_cameras(np.stack(frames), camera.camera_mat[:1])
