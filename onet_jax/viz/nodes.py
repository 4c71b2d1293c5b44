"""Shapes as nodes of a scene of viser: meshes, clouds, pictures, cameras, line segments, and the frames of sequences.

A shape is a node, which can be moved and hidden, with children; a sequence has a child for each frame, of which one is visible.
N points or vertices, V views, S segments, L frames.
"""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation
from trimesh.visual import ColorVisuals

from onet_jax.geometry.colours import has_colours
from onet_jax.geometry.mesh_files.glb import encode_glb
from onet_jax.geometry.sequences import SEQUENCES, frames_of
from onet_jax.scores import as_geometry
from onet_jax.viz.display import Cameras, Segments
from onet_jax.viz.page import reduce_shape
from onet_jax.viz.pictures import BACK, DOTS, FRONT, Painted, PaintedCloud, ball_radius, is_picture, painted

MAX_FACES, MAX_POINTS = 300_000, 300_000  # of a shape, or of all frames of a sequence; of more it has fewer on the page
LEAST_FACES, LEAST_POINTS = 2000, 1000  # of a frame
FEW_FACES = 600  # of a mesh that is shaded flat: smooth shading is for fine ones
POINT_SIZE = 1.6  # of a point, in radii of the balls of pictures
EDGE, RAY = 0.0015, 0.002  # thickness of the edges of a camera, and of a segment
TURNED = (0.0, 1.0, 0.0, 0.0)  # half a turn around x: rows of a picture run downwards


def add_shape(scene: Any, name: str, shape: Any) -> list[Any]:
    """Add a shape below the node `name`; returns the nodes of the frames of a sequence, [] of what does not move.

    scene: `viser.SceneApi`. None adds nothing.
    """
    if not isinstance(shape, SEQUENCES):
        _add(shape if shape is None else _reduce(shape), scene, f'{name}/shape')
        return []
    num_frames = len(frames_of(shape))
    few = max(MAX_FACES // num_frames, LEAST_FACES), max(MAX_POINTS // num_frames, LEAST_POINTS)
    nodes = []
    for k, frame in enumerate(frames_of(reduce_shape(shape, *few))):
        nodes.append(scene.add_frame(f'{name}/{k:04d}', show_axes=False, visible=k == 0))
        _add(frame, scene, f'{name}/{k:04d}/shape')
    return nodes


def _reduce(shape: Any) -> Any:
    """A shape with as many faces or points as a page can turn; one with a texture stays as it is."""
    shape = as_geometry(shape)
    if isinstance(shape, trimesh.PointCloud):
        points, colours = np.asarray(shape.vertices), np.asarray(shape.colors)
        shape = PaintedCloud(points, colours[:, :3]) if len(colours) else points
    if isinstance(shape, trimesh.Trimesh) and has_colours(shape):
        if not isinstance(shape.visual, ColorVisuals) or shape.visual.kind != 'vertex':
            return shape
        return reduce_shape(painted(shape), MAX_FACES, MAX_POINTS)
    reducible = isinstance(shape, trimesh.Trimesh | Painted | PaintedCloud | np.ndarray)
    return reduce_shape(shape, MAX_FACES, MAX_POINTS) if reducible else shape


@singledispatch
def _add(shape: Any, scene: Any, name: str) -> None:
    raise TypeError(f'expected a shape that the viewer shows, found {type(shape)}')


@_add.register
def _(shape: None, scene: Any, name: str) -> None:
    pass


@_add.register
def _(mesh: trimesh.Trimesh, scene: Any, name: str) -> None:
    if not len(mesh.faces):
        scene.add_label(name, 'empty', anchor='center-center')
    elif has_colours(mesh):
        scene.add_glb(name, encode_glb(mesh, np.zeros(3)))
    else:
        vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        flat = len(faces) <= FEW_FACES
        scene.add_mesh_simple(name, vertices, faces, color=as_bytes(FRONT), flat_shading=flat)
        if not (mesh.is_watertight and mesh.volume > 0):  # holes, and what is inside out, show the backs of faces
            back = {'side': 'back', 'color': as_bytes(BACK), 'flat_shading': flat, 'cast_shadow': False}
            scene.add_mesh_simple(f'{name}_back', vertices, faces, **back)


@_add.register
def _(shape: Painted, scene: Any, name: str) -> None:
    mesh = trimesh.Trimesh(shape.mesh.vertices, shape.mesh.faces, process=False)
    alpha = np.full((len(mesh.vertices), 1), 255, np.uint8)
    mesh.visual = ColorVisuals(mesh, vertex_colors=np.hstack([shape.colours, alpha]))
    _add(mesh, scene, name)


@_add.register
def _(cloud: trimesh.PointCloud, scene: Any, name: str) -> None:
    _add(np.asarray(cloud.vertices), scene, name)


@_add.register
def _(array: np.ndarray, scene: Any, name: str) -> None:
    if is_picture(array):
        height, width = array.shape[:2]
        edge = max(height, width)
        scene.add_image(name, array, width / edge, height / edge, wxyz=TURNED, cast_shadow=False, receive_shadow=False)
    else:
        _add(PaintedCloud(array, np.array(as_bytes(DOTS), np.uint8)), scene, name)


@_add.register
def _(cloud: PaintedCloud, scene: Any, name: str) -> None:
    size = POINT_SIZE * ball_radius(len(cloud.points))
    scene.add_point_cloud(
        name,
        np.asarray(cloud.points, np.float32),
        np.asarray(cloud.colours, np.uint8),
        point_size=size,
        point_shape='circle',
        precision='float32',
    )


@_add.register
def _(cameras: Cameras, scene: Any, name: str) -> None:
    for i, (eye, rotation, picture) in enumerate(zip(cameras.eyes, cameras.rotations, cameras.pictures, strict=True)):
        height, width = picture.shape[:2]
        scene.add_camera_frustum(
            f'{name}/{i}',
            float(cameras.angles[i]),
            width / height,
            scale=cameras.size,
            thickness=EDGE,
            color=tuple(map(int, cameras.colours[i])),
            image=picture,
            wxyz=_quaternion(rotation),
            position=eye,
            cast_shadow=False,
            receive_shadow=False,
        )


@_add.register
def _(segments: Segments, scene: Any, name: str) -> None:
    colours = np.repeat(np.asarray(segments.colours, np.uint8)[:, None], 2, axis=1)
    scene.add_line_segments(name, np.asarray(segments.ends, np.float32), colours, thickness=RAY)


def is_flat(shape: Any) -> bool:
    """Whether a shape is a picture."""
    if shape is None or isinstance(shape, SEQUENCES):
        return False
    shape = as_geometry(shape)
    return isinstance(shape, np.ndarray) and is_picture(shape)


def as_bytes(colour: Sequence[float]) -> tuple[int, int, int]:
    """sRGB in [0, 1] -> 0 to 255."""
    red, green, blue = (round(255 * value) for value in colour)
    return red, green, blue


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """A rotation matrix [3, 3] as a unit quaternion [4], its real part first."""
    return Rotation.from_matrix(rotation).as_quat(scalar_first=True)
