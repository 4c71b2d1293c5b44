"""A mesh of a radiance field: a level set of its density, with colours as seen from in front of the surface.

R rays, N vertices.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict
from trimesh.visual import ColorVisuals

from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import input_names, make_evaluation_transform, sees_rays
from onet_jax.data.scenes import Scene
from onet_jax.errors import InputError
from onet_jax.geometry.extract import extract_mesh
from onet_jax.geometry.field import evaluate
from onet_jax.geometry.meshes import save_mesh
from onet_jax.geometry.volume_rendering import Rays
from onet_jax.models.method import Model
from onet_jax.progress import working

NUM_VIEWS = 8  # whose depths say where the surface is
MAX_RAYS = 20_000  # of them
OPAQUE = 0.9  # a ray of at least this opacity has met a surface
SHARE = 0.5  # of the density where rays end: the level of the surface
MARGIN = 1.05  # of the cube around the points that were seen


class Box(NamedTuple):
    """Where the surface of a scene is: a cube in the frame of its cameras, and the density at which it is taken."""

    centre: np.ndarray  # [3]
    edge: float
    level: float  # per unit of length


def scene_mesh(
    model: Model, params: dict, config: ConfigDict, scene: Scene, resolution: int, upsampling_steps: int
) -> tuple[trimesh.Trimesh, float]:
    """The surface of a scene in the frame of its cameras, with vertex colours, and the density at which it was taken.

    Raises InputError as `find_box`, and where there is none.
    """
    box = find_box(model, params, config, scene)
    with working('extracting the mesh'):
        mesh = extract_scene(model, params, box, box.level, resolution, upsampling_steps)
    if not len(mesh.faces):
        raise InputError(f'expected a surface at the density {box.level:.3g}, found none; train longer')
    return mesh, box.level


def find_box(model: Model, params: dict, config: ConfigDict, scene: Scene) -> Box:
    """The level is half of the median density where rays of the training views end, and the cube that of these ends.

    Raises InputError where no ray meets anything, and for scenes in normalised device coordinates, which have no box.
    """
    if config.data.ndc:
        raise InputError(
            'config.data.ndc: expected a scene in world coordinates for a mesh, found normalised device coordinates; train '
            'with --config.data.ndc=False'
        )
    with working('looking for the surface'):
        ends = find_ends(model, params, config, scene)
        level = SHARE * float(np.median(evaluate(partial(model.density, params), ends)))
    low, high = np.percentile(ends, [0.5, 99.5], axis=0)
    return Box((low + high) / 2, MARGIN * float((high - low).max()), level)


def extract_scene(
    model: Model, params: dict, box: Box, level: float, resolution: int, upsampling_steps: int
) -> trimesh.Trimesh:
    """The surface in a box at a density, in the frame of the cameras, with vertex colours; empty where there is none."""

    def field(points):  # in object coordinates; logit 0 is the level
        density = model.density(params, box.centre + box.edge * points)
        return jax.numpy.log(jax.numpy.maximum(density, 1e-9) / level)

    mesh = extract_mesh(jax.jit(field), resolution=resolution, upsampling_steps=upsampling_steps, threshold=0.5)
    if not len(mesh.faces):
        return mesh
    vertices = box.centre + box.edge * np.asarray(mesh.vertices)
    coloured = trimesh.Trimesh(vertices, mesh.faces, process=False)
    inwards = -np.asarray(coloured.vertex_normals)
    packed = np.concatenate([vertices, np.where(np.abs(inwards).sum(axis=1, keepdims=True) > 0, inwards, 1)], axis=1)
    rgb = evaluate(lambda rows: model.radiance(params, rows[:, :3], rows[:, 3:])[0], packed.astype(np.float32))
    rgba = np.concatenate([np.round(255 * rgb), np.full((len(rgb), 1), 255)], axis=1).astype(np.uint8)
    coloured.visual = ColorVisuals(coloured, vertex_colors=rgba)
    return coloured


def reconstruct_scene(run: Any, output: str | Path, file_format: str, resolution: str | None = None) -> Path:
    """Write OUTPUT/scene.FORMAT, the mesh of a trained `run.Run`; resolution: cells of the grid along an axis.

    Raises InputError for a network of something else, and as `scene_mesh`.
    """
    if not sees_rays(run.config.data):
        raise InputError('--input: expected a file or a folder to reconstruct, found none; only a scene needs none')
    cells = int(resolution or run.config.mesh.resolution << run.config.mesh.upsampling_steps)
    scene = open_dataset(run.data_dir)
    mesh, level = scene_mesh(run.method.model, run.params, run.config, scene, cells // 4, 2)
    path = Path(output) / f'scene.{file_format}'
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mesh(mesh, path)
    print(f'surface at the density {level:.3g} per unit of length: {len(mesh.vertices)} vertices', flush=True)
    return path


def find_ends(model: Model, params: dict, config: ConfigDict, scene: Scene) -> np.ndarray:
    """Where rays of some training views end, [N, 3] float32 in the frame of the scene. Raises InputError where none does."""
    chosen = scene.views.splits['train'][:: max(len(scene.views.splits['train']) // NUM_VIEWS, 1)][:NUM_VIEWS]
    transform = make_evaluation_transform(config.data, input_names(config.data), ())
    positions = [scene.views.splits['train'].index(view) for view in chosen]
    found = []
    for raw, _ in scene.raw_batches(config, 'train', positions, 1, ()):
        batch = transform(jax.random.key(0), raw)
        rays = Rays(
            *(np.asarray(batch['inputs'][name]).reshape(-1, *batch['inputs'][name].shape[3:]) for name in Rays._fields)
        )
        some = slice(None, None, max(len(rays.near) * len(chosen) // MAX_RAYS, 1))
        rays = Rays(*(part[some] for part in rays))
        seen = model.render(params, rays)
        met = seen.opacity > OPAQUE
        depth = seen.depth[met] / seen.opacity[met]
        found.append(rays.origins[met] + depth[:, None] * rays.directions[met])
    ends = np.concatenate(found)
    if not len(ends):
        raise InputError(
            f'{scene.data_dir}: expected rays that meet a surface (opacity above {OPAQUE}), found none; train longer'
        )
    return ends
