"""The paper's protocol: meshes of a split against its labelled points and surface samples."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import metrics
from onet_jax.data.records import evaluation_batches
from onet_jax.data.transforms import evaluation_key, make_evaluation_transform
from onet_jax.geometry.inside import contains
from onet_jax.geometry.sampling import sample_surface
from onet_jax.models.method import Method


class Result(NamedTuple):
    """One evaluated shape."""

    category: str
    name: str
    scores: dict[str, float]  # see `evaluate_mesh`; distances in units of the longest edge
    floor: dict[str, float]  # the same for the ground truth against itself
    seconds: float  # from the input to the mesh
    inputs: np.ndarray  # what the encoder saw
    mesh: trimesh.Trimesh  # object coordinates


def evaluate(method: Method, params: dict, config: ConfigDict, data_dir: str | Path, split: str) -> Iterator[Result]:
    """Reconstruct and score every shape of a split, in its order. An empty mesh counts, with the worst values."""
    transform = jax.jit(make_evaluation_transform(config.data))
    key = evaluation_key(config.seed)
    for raw, shapes in evaluation_batches(data_dir, split, config.eval.batch_size):
        inputs = np.asarray(transform(key, raw)['inputs'])
        for i, (category, name) in enumerate(shapes):
            start = time.perf_counter()
            (mesh,) = method.reconstruct(params, inputs[i : i + 1], jax.random.fold_in(key, raw['row'][i]))
            seconds = time.perf_counter() - start
            points, surface, normals = (raw[k][i].astype(np.float32) for k in ('points', 'surface', 'normals'))
            occ = np.unpackbits(raw['occ'][i])[: len(points)].astype(bool)
            scores = evaluate_mesh(mesh, points, occ, surface, normals, seed=config.seed)
            floor = {'iou': float(metrics.iou(occ, occ)), **metrics.sampling_floor(surface, normals)}
            yield Result(category, name, scores, floor, seconds, inputs[i], mesh)


def evaluate_mesh(
    mesh: trimesh.Trimesh, points: np.ndarray, occ: np.ndarray, surface: np.ndarray, normals: np.ndarray, *, seed: int
) -> dict[str, float]:
    """IoU of the mesh on labelled points [T, 3], [T], and surface metrics against samples [N, 3] with normals.

    As many points are drawn from the mesh as the ground truth has. An empty mesh has `metrics.EMPTY`.
    """
    if not len(mesh.faces):
        return dict(metrics.EMPTY)
    predicted, predicted_normals = sample_surface(mesh, len(surface), seed)
    return {
        'iou': float(metrics.iou(contains(mesh, points), occ)),
        **metrics.surface_metrics(predicted, predicted_normals, surface, normals),
    }
