"""Scenes in the viewer: posed views with their cameras, the rays of one of them, and the mesh of a trained radiance field.

V views, S rays.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from ml_collections import ConfigDict
from PIL import ImageColor

from onet_jax.data.images import load_layer
from onet_jax.data.posed_views import PosedViews, read_views
from onet_jax.data.scenes import Scene
from onet_jax.geometry.camera_paths import TO_RIGHT_UP_BACK, meeting_point, to_poses
from onet_jax.geometry.cameras import Camera, rays
from onet_jax.geometry.meshes import Frame
from onet_jax.inference.scene_mesh import extract_scene, find_box
from onet_jax.models.method import Model
from onet_jax.prepare.check_scene import COLOURS
from onet_jax.progress import track
from onet_jax.viz.display import Cameras, Choice, Display, Segments, Shown, Slider
from onet_jax.viz.pictures import RGB, Item

MAX_VIEWS = 100  # that are shown; of more every second one, and so on
THUMBNAIL = 96  # px, the longer edge of a picture in the scene
SMALL, LARGE = 0.035, 0.1  # size of the frustum of a view, and of the one whose rays are drawn
NUM_RAYS = 12  # along the longer edge of a picture
RESOLUTIONS = ('32', '64', '128', '256')  # cells along an axis
CUBE = 0.7  # edge of the cube of a mesh at first, in distances of the cameras
BACKGROUND = (214, 214, 214)  # of rays through transparent pixels


def display_views(folder: str | Path) -> Display:
    """The posed views of a folder. Raises as `read_views`."""
    views = read_views(folder)
    control, show = _prepare(views)
    return Display((control,), lambda view: show(view, None, Path(folder).name), beside=False)


def display_radiance(model: Model, params: dict, config: ConfigDict, scene: Scene) -> Display:
    """The views of a scene with the mesh of a radiance field in a cube around what the cameras look at.

    The level of its density is in units of `find_box`, the edge of the cube in those of the mean distance of the cameras: what
    is beyond them no view shows from the front. Raises InputError as `find_box`.
    """
    control, show = _prepare(scene.views)
    whole, centre = find_box(model, params, config, scene), meeting_point(scene.views.camera)
    reach = float(np.linalg.norm(to_poses(scene.views.camera)[:, :, 3] - centre, axis=1).mean())

    @lru_cache(maxsize=8)
    def extract(level: float, edge: float, resolution: str) -> trimesh.Trimesh:
        small = whole._replace(centre=centre, edge=edge * reach)
        box = small if small.edge < whole.edge else whole
        return extract_scene(model, params, box, level * whole.level, int(resolution) // 4, 2)

    def make(view: int, level: float, edge: float, resolution: str) -> Shown:
        return show(view, extract(level, edge, resolution), scene.data_dir.name)

    controls = (control, Slider('density', 0.1, 10.0, 0.1, 1.0), Slider('cube', 0.1, 4.0, 0.05, CUBE))
    return Display((*controls, Choice('resolution', RESOLUTIONS, '64')), make, beside=False)


def _prepare(views: PosedViews) -> tuple[Slider, Callable]:
    """A control for the view, and a function (view, mesh in the frame of the scene or None, name) -> what is shown."""
    chosen = sorted(view for some in views.splits.values() for view in some)
    chosen = sorted(set(chosen))[:: -(-len(chosen) // MAX_VIEWS)]
    camera = Camera(*(part[chosen] for part in views.camera))
    poses, frame = to_poses(camera), find_frame(camera)
    width, height = (max(round(edge * THUMBNAIL / max(views.size)), 1) for edge in views.size)
    layers = [load_layer(views.pictures[i], (width, height)) for i in track(chosen, 'loading the pictures', 'views')]
    splits = {view: split for split, some in reversed(views.splits.items()) for view in some}
    eyes, turns = frame.to_object(poses[:, :, 3]), frame.turn @ poses[:, :, :3] @ TO_RIGHT_UP_BACK
    angles = 2 * np.arctan(views.size[1] / 2 / camera.camera_mat[:, 1, 1])
    pictures = [layer[..., :3] + (255 - layer[..., 3:]) for layer in layers]
    colours = np.array([ImageColor.getrgb(COLOURS.get(splits[view], 'black')) for view in chosen], np.uint8)

    def draw(some: slice, size: float) -> Cameras:
        return Cameras(eyes[some], turns[some], angles[some], pictures[some], colours[some], size)

    cameras = draw(slice(None), SMALL)
    legend: dict[str, RGB] = {}
    for split in dict.fromkeys(splits.values()):
        red, green, blue = ImageColor.getrgb(COLOURS.get(split, 'black'))[:3]
        legend[f'camera of the split {split!r}'] = red / 255, green / 255, blue / 255

    def show(view: float, mesh: trimesh.Trimesh | None, name: str) -> Shown:
        i = round(view)
        near, far = views.bounds[chosen[i]]
        one = Camera(*(part[i] for part in camera))
        shapes: dict[str, Any] = {'cameras': cameras, 'view': draw(slice(i, i + 1), LARGE)}
        shapes['rays'] = _cast(one, layers[i], views.size, (near, far), frame)
        if mesh is not None:
            moved = mesh.copy()
            moved.vertices = frame.to_object(mesh.vertices)
            shapes = {'mesh': moved, **shapes}
        picture = views.pictures[chosen[i]].name
        caption = f'{len(chosen)} of {len(views.pictures)} views; rays of {picture}, from {near:.3g} to {far:.3g}'
        return Shown(tuple(shapes), [Item(name, caption, tuple(shapes.values()))], legend)

    return Slider('view', 0, max(len(chosen) - 1, 1), 1, 0), show


def find_frame(camera: Camera) -> Frame:
    """The frame in which cameras [V] and what they look at are in the unit cube; the mean of their directions up is y.

    Its turn is any rotation.
    """
    poses = to_poses(camera)
    up = poses[:, :, 1].mean(axis=0)
    up = up / max(np.linalg.norm(up), 1e-12)
    across = np.cross(up, np.eye(3)[np.argmin(np.abs(up))])
    across = across / max(np.linalg.norm(across), 1e-12)
    turn = np.stack([across, up, np.cross(across, up)])
    points = np.concatenate([poses[:, :, 3], meeting_point(camera)[None]]) @ turn.T
    low, high = points.min(axis=0), points.max(axis=0)
    return Frame((low + high) / 2 @ turn, float(max((high - low).max(), 1e-9)), turn)


def _cast(
    camera: Camera, layer: np.ndarray, size: tuple[int, int], bounds: tuple[float, float], frame: Frame
) -> Segments:
    """Rays [S] of a camera from near to far, in the colours of its picture [H, W, 4], through pixels on a grid."""
    height, width = layer.shape[:2]
    step = max(height, width) / NUM_RAYS
    x, y = (np.arange(step / 2, edge, step) for edge in (width, height))
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    origins, directions = rays(camera, places * np.array(size) / (width, height))
    ends = np.stack([origins + bound * directions for bound in bounds], axis=1)
    column, row = places.astype(int).T
    colours, alpha = layer[row, column, :3], layer[row, column, 3:] / 255
    colours = np.round(colours + (1 - alpha) * BACKGROUND).astype(np.uint8)
    return Segments(frame.to_object(ends.reshape(-1, 3)).reshape(ends.shape), colours)
