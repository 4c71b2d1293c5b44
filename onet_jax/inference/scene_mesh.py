"""A mesh of a radiance field: a level set of its density, with colours as seen from in front of the surface.

R rays, N samples of a ray or vertices, P points.
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

NUM_VIEWS = 8  # whose rays say where the surface is
MAX_RAYS, NUM_SAMPLES = 4_000, 192  # of them, and of each
OPAQUE = 0.9  # a ray that loses this share of its light has met a surface; one that keeps it has met none
AWAY = 0.05  # of the way from near to far: a surface that is further away from where it is seen is missed
LEVELS = np.geomspace(0.01, 3, 60)  # that are tried, times the median density where rays end
SPECK = 1e-3  # of the area of the surface: smaller components are noise of the density between surfaces
MARGIN = 1.1  # of the box around the points that were seen


class Box(NamedTuple):
    """Where the surface of a scene is: a cube in the frame of its cameras, and the density at which it is taken."""

    centre: np.ndarray  # [3]
    edge: float
    level: float  # per unit of length
    ends: np.ndarray  # [N, 3], where rays end: near the surface


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
    """The level is that of `choose_level` on rays of some training views, and the cube that of the points where they end.

    Raises InputError where no ray meets anything, and for scenes in normalised device coordinates, which have no box.
    """
    if config.data.ndc:
        raise InputError(
            'config.data.ndc: expected a scene in world coordinates for a mesh, found normalised device coordinates; train '
            'with --config.data.ndc=False'
        )
    ends, level = find_surface(model, params, config, scene)
    low, high = np.percentile(ends, [0.5, 99.5], axis=0)
    return Box((low + high) / 2, MARGIN * float((high - low).max()), level, ends)


def extract_scene(
    model: Model, params: dict, box: Box, level: float, resolution: int, upsampling_steps: int
) -> trimesh.Trimesh:
    """The surface in a box at a density, in the frame of the cameras, with vertex colours; empty where there is none."""

    def field(points):  # in object coordinates; logit 0 is the level
        density = model.density(params, box.centre + box.edge * points)
        return jax.numpy.log(jax.numpy.maximum(density, 1e-9) / level)

    seeds = (box.ends - box.centre) / box.edge
    mesh = extract_mesh(
        jax.jit(field), resolution=resolution, upsampling_steps=upsampling_steps, threshold=0.5, seeds=seeds
    )
    if not len(mesh.faces):
        return mesh
    mesh = drop_specks(mesh)
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


def find_surface(model: Model, params: dict, config: ConfigDict, scene: Scene) -> tuple[np.ndarray, float]:
    """Where rays of some training views end, [P, 3] in the frame of the scene, and the density of the surface there.

    A ray ends where half of its light is absorbed. Raises InputError where none does.
    """
    rays = choose_rays(config, scene)
    shares = (np.arange(NUM_SAMPLES, dtype=np.float32) + 0.5) / NUM_SAMPLES
    distances = rays.near[:, None] + (rays.far - rays.near)[:, None] * shares
    points = rays.origins[:, None] + distances[..., None] * rays.directions[:, None]
    density = evaluate(partial(model.density, params), points.reshape(-1, 3)).reshape(distances.shape)
    steps = (rays.far - rays.near) / NUM_SAMPLES * np.linalg.norm(rays.directions, axis=-1)
    left = np.exp(-np.cumsum(density * steps[:, None], axis=1))
    met = left[:, -1] < 1 - OPAQUE
    if not met.any():
        raise InputError(
            f'{scene.data_dir}: expected rays that meet a surface (opacity above {OPAQUE}), found none; train longer'
        )
    return points[met, (left[met] < 0.5).argmax(axis=1)], choose_level(density, left)


def choose_level(density: np.ndarray, left: np.ndarray) -> float:
    """The level whose surface is best where rays see one: of density along rays [R, N], and the light that is left [R, N].

    A ray that meets something should first reach the level where half of its light is absorbed, and one that meets nothing
    never. Chosen is the level of the least mean distance, in which a surface that is missed, or should not be there, counts
    `AWAY`. A share of the density where rays end would not do: how steeply a density rises depends on the scene, on the
    network and on how long it was trained.
    """
    met, free = left[:, -1] < 1 - OPAQUE, left[:, -1] > OPAQUE
    ends, worst = (left < 0.5).argmax(axis=1), AWAY * density.shape[1]
    # The highest density up to each sample.
    highest = np.maximum.accumulate(density, axis=1)

    def error(level):
        reached = highest[:, -1] > level
        far = np.abs((highest[met] > level).argmax(axis=1) - ends[met])
        return np.where(reached[met], np.minimum(far, worst), worst).sum() + worst * reached[free].sum()

    levels = LEVELS * np.median(density[met, ends[met]])
    return float(min(levels, key=error))


def drop_specks(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh without components of less than `SPECK` of its area."""
    component = trimesh.graph.connected_component_labels(mesh.face_adjacency, len(mesh.faces))
    areas = np.bincount(component, mesh.area_faces)
    kept = mesh.copy()
    kept.update_faces((areas >= SPECK * mesh.area)[component])
    kept.remove_unreferenced_vertices()
    return kept


def choose_rays(config: ConfigDict, scene: Scene) -> Rays:
    """Some rays of some training views, of numpy."""
    train = scene.views.splits['train']
    positions = range(len(train))[:: max(len(train) // NUM_VIEWS, 1)][:NUM_VIEWS]
    transform = jax.jit(make_evaluation_transform(config.data, input_names(config.data), ()))
    found = []
    for raw, _ in scene.raw_batches(config, 'train', positions, 1, ()):
        inputs = transform(jax.random.key(0), raw)['inputs']  # which draws nothing
        parts = [np.asarray(inputs[name]) for name in Rays._fields]
        flat = [part.reshape(-1, *part.shape[3:]) for part in parts]
        every = max(len(flat[0]) * len(positions) // MAX_RAYS, 1)
        found.append([part[::every] for part in flat])
    return Rays(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
