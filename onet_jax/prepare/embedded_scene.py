"""The embedded scene: coloured procedural solids on a plate, and pictures of them from all sides in the layout of Blender.

The scene lies in a ball of radius 1.2 around the origin, y is up; the cameras are at a distance of 4, as in the synthetic
scenes of NeRF. V views. Imports no JAX.
"""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from onet_jax.files import write_json
from onet_jax.geometry.camera_paths import look, to_cameras
from onet_jax.geometry.cameras import IMAGE_SIZE
from onet_jax.geometry.render import View, render_views
from onet_jax.prepare import procedural
from onet_jax.prepare.coloured_solids import paint_solid
from onet_jax.progress import track

# Family and number of a solid, length of its longest edge, its place on the plate and its turn about the axis up in degrees.
SOLIDS = (
    ('chair', 3, 0.95, (-0.45, -0.35), 30),
    ('lamp', 5, 0.9, (0.5, -0.5), 0),
    ('mug', 8, 0.42, (0.42, 0.42), 200),
    ('car', 2, 0.7, (-0.35, 0.5), -60),
)
PLATE_RADIUS, PLATE_TOP, PLATE_COLOUR = 1.1, -0.5, (0.93, 0.9, 0.82)
ANGLE_OF_VIEW, DISTANCE = 0.6911112, 4.0  # radians, as the synthetic scenes of NeRF
ELEVATIONS = (5.0, 75.0)  # degrees
NUM_HELD_OUT = 8  # views for validation, and as many for testing
SPLITS = ('train', 'val', 'test')


def make_scene(seed: int) -> tuple[trimesh.Trimesh, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
    """The mesh of the scene, and (faces [N], barycentric coordinates [N, 3]) -> colours [N, 3]; the seed chooses both."""
    meshes, colours = [], []
    for family, number, size, (x, z), degrees in SOLIDS:
        solid = paint_solid(procedural.make_shape(seed, family, number), seed, family, number)
        mesh, own_colours = solid.surface()
        turn = trimesh.transformations.rotation_matrix(np.radians(degrees), (0, 1, 0))
        mesh.apply_transform(turn)
        mesh.apply_scale(size)
        mesh.apply_translation((x, PLATE_TOP - mesh.bounds[0, 1], z))
        meshes.append(mesh)
        colours.append(own_colours)
    plate = trimesh.creation.cylinder(PLATE_RADIUS, 0.06, sections=96)
    plate.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0)))
    plate.apply_translation((0, PLATE_TOP - plate.bounds[1, 1], 0))
    meshes.append(plate)
    colours.append(lambda faces, weights: np.broadcast_to(np.array(PLATE_COLOUR, np.float32), (len(faces), 3)))
    firsts = np.cumsum([0, *(len(mesh.faces) for mesh in meshes)])

    def colours_at(faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
        found, owners = np.empty((len(faces), 3), np.float32), np.searchsorted(firsts, faces, side='right') - 1
        for owner in np.unique(owners):
            mine = owners == owner
            found[mine] = colours[owner](faces[mine] - firsts[owner], weights[mine])
        return found

    whole = trimesh.util.concatenate(meshes)
    assert isinstance(whole, trimesh.Trimesh)
    return whole, colours_at


def scene_poses(seed: int, num_views: int) -> np.ndarray:
    """Random cameras around the scene that look at its centre: camera to world, axes right, up, back, [V, 3, 4]."""
    rng = np.random.default_rng(seed)
    azimuth = np.radians(rng.uniform(0, 360, num_views))
    # Uniform on the sphere.
    low, high = np.sin(np.radians(ELEVATIONS))
    height = rng.uniform(low, high, num_views)
    flat = np.sqrt(1 - height**2)
    eyes = DISTANCE * np.stack([flat * np.cos(azimuth), height, flat * np.sin(azimuth)], axis=-1)
    return np.stack([look(eye, np.array([0.0, 1.0, 0.0]), eye) for eye in eyes])


def render_scene(data_dir: Path, *, num_views: int, size: int, seed: int) -> None:
    """Write pictures of size x size px with alpha, and transforms_{train,val,test}.json. It appears when all is done."""
    mesh, colours_at = make_scene(seed)
    poses, part = scene_poses(seed, num_views), data_dir.with_name(f'{data_dir.name}.{os.getpid()}.part')
    focal = IMAGE_SIZE / 2 / np.tan(ANGLE_OF_VIEW / 2)
    intrinsic = np.array([[focal, 0, IMAGE_SIZE / 2], [0, focal, IMAGE_SIZE / 2], [0, 0, 1]])
    cameras = to_cameras(poses, intrinsic)
    frames: dict[str, list[dict]] = {split: [] for split in SPLITS}
    shutil.rmtree(part, ignore_errors=True)
    for i in track(range(num_views), 'rendering the embedded scene', 'views'):
        split = SPLITS[0 if i >= 2 * NUM_HELD_OUT else 1 + i // NUM_HELD_OUT]
        name = f'{split}/{i:03d}'
        view = render_views(mesh, cameras._replace(
            world_mat=cameras.world_mat[i : i + 1], camera_mat=cameras.camera_mat[i : i + 1]
        ), size=size, colour=colours_at)  # fmt: skip
        (part / split).mkdir(parents=True, exist_ok=True)
        (part / f'{name}.png').write_bytes(encode_rgba(view))
        frames[split].append(
            {'file_path': name, 'transform_matrix': np.vstack([poses[i], [0, 0, 0, 1]]).tolist()}
        )  # fmt: skip
    for split, some in frames.items():
        write_json(part / f'transforms_{split}.json', {'camera_angle_x': ANGLE_OF_VIEW, 'frames': some})
    part.rename(data_dir)


def encode_rgba(view: View) -> bytes:
    """The one picture of a view, which is on white, as PNG with alpha."""
    alpha = view.alpha[0, ..., None].astype(np.float32) / 255
    colours = (view.rgb[0] - 255 * (1 - alpha)) / np.maximum(alpha, 1 / 255)
    rgba = np.concatenate([np.round(colours.clip(0, 255)), 255 * alpha], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(rgba).save(stream, 'png')
    return stream.getvalue()
