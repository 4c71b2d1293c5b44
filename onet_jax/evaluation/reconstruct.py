"""From the user's point clouds to meshes in the user's frame."""

from pathlib import Path

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.geometry.meshes import CLOUD_FORMATS, MESH_FORMATS, load_cloud, normalise, save_mesh
from onet_jax.models.method import Method


def find_inputs(path: str | Path) -> list[Path]:
    """The file itself, or all point clouds and meshes of a folder, sorted. Raises FileNotFoundError where none is."""
    path = Path(path)
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob('*') if p.suffix.lower()[1:] in CLOUD_FORMATS) if path.is_dir() else []
    if not found:
        raise FileNotFoundError(f'{path}: expected a file or a folder with {"|".join(CLOUD_FORMATS)} files, found none')
    return found


def draw_points(cloud: np.ndarray, num_points: int, seed: int) -> np.ndarray:
    """num_points of a cloud [N, 3] at random; a cloud with fewer points repeats some of them."""
    rng = np.random.default_rng(seed)
    return cloud[rng.choice(len(cloud), num_points, replace=len(cloud) < num_points)]


def reconstruct_cloud(method: Method, params: dict, config: ConfigDict, cloud: np.ndarray) -> trimesh.Trimesh:
    """cloud [N, 3] in any frame -> the mesh in the same frame (no vertices where the level set is empty).

    The cloud is normalised to longest edge 1 and centre 0, and `config.data.num_input_points` of its points are drawn
    with `config.seed`, as in training.
    """
    frame = normalise(cloud)
    points = frame.to_object(draw_points(cloud, config.data.num_input_points, config.seed))
    (mesh,) = method.reconstruct(params, points[None].astype(np.float32), jax.random.key(config.seed))
    mesh.vertices = frame.to_user(mesh.vertices)
    return mesh


def reconstruct_files(
    method: Method, params: dict, config: ConfigDict, inputs: str | Path, output: str | Path, file_format: str
) -> list[Path]:
    """Reconstruct a file or every file of a folder into OUTPUT/<stem>.<format>; returns the files written.

    Raises ValueError for an unreadable cloud or one whose level set is empty; files written before stay.
    """
    if config.data.input != 'points':
        raise ValueError(f'config.data.input: expected a model of point clouds, found {config.data.input!r}')
    if file_format not in MESH_FORMATS:
        raise ValueError(f'--format: expected one of {MESH_FORMATS}, found {file_format!r}')
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for path in find_inputs(inputs):
        mesh = reconstruct_cloud(method, params, config, load_cloud(path))
        if not len(mesh.faces):
            raise ValueError(
                f'{path}: the network finds nothing inside at threshold {config.eval.threshold}; '
                'check that y points up in the cloud and that it resembles the training shapes'
            )
        written.append(output / f'{path.stem}.{file_format}')
        save_mesh(mesh, written[-1])
        print(f'{path} -> {written[-1]}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces', flush=True)
    return written
