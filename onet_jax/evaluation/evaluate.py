"""The paper's protocol: meshes of a split against its labelled points and surface samples.

T labelled points and N surface samples of a shape, P points of a cloud. Object coordinates; distances are in units of the
longest edge.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import __version__, metrics
from onet_jax.data.fields import evaluation_key, make_evaluation_transform
from onet_jax.data.records import digest, evaluation_batches, read_index, split_shapes
from onet_jax.errors import InputError
from onet_jax.geometry.inside import contains
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.voxels import voxels_to_mesh
from onet_jax.models.auto_decoding import fitting
from onet_jax.models.method import Method


class Result(NamedTuple):
    """One evaluated shape."""

    category: str
    name: str
    scores: dict[str, float]  # see `evaluate_mesh`; NaN where there is no such score
    floor: dict[str, float]  # the same for the ground truth against itself
    seconds: float  # from the input to the mesh
    inputs: np.ndarray  # what the encoder saw
    mesh: trimesh.Trimesh | trimesh.PointCloud

    @property
    def num_faces(self) -> int | None:
        """0 is a failure; None for a point cloud."""
        return len(self.mesh.faces) if isinstance(self.mesh, trimesh.Trimesh) else None


def evaluate(method: Method, params: dict, config: ConfigDict, data_dir: str | Path, split: str) -> Iterator[Result]:
    """Reconstruct and score every shape of a split, in its order. An empty mesh counts, with the worst values.

    An embedding knows its training shapes only: to those of another split codes are fitted, on the first half of their
    labelled points, and scored on the second. Raises ValueError for a split that is unknown or empty.
    """
    fits = config.data.input == 'index' and split != 'train'
    if fits:
        method = fitting(method, config)
    transform = jax.jit(make_evaluation_transform(config.data))
    key = evaluation_key(config.seed)
    for raw, shapes in evaluation_batches(data_dir, split, config.eval.batch_size):
        batch = transform(key, raw)
        inputs, first = np.asarray(batch['inputs']), 0
        if fits:
            labelled = np.concatenate([batch['points'], batch['occ'][..., None]], axis=-1)
            first = labelled.shape[1] // 2
            inputs = labelled[:, :first]
        for i, (category, name) in enumerate(shapes):
            start = time.perf_counter()
            (mesh,) = method.reconstruct(params, inputs[i : i + 1], jax.random.fold_in(key, raw['row'][i]))
            seconds = time.perf_counter() - start
            points, surface, normals = (raw[k][i].astype(np.float32) for k in ('points', 'surface', 'normals'))
            occ = np.unpackbits(raw['occ'][i])[: len(points)].astype(bool)
            points, occ = points[first:], occ[first:]
            if isinstance(mesh, trimesh.PointCloud):
                scores = evaluate_cloud(np.asarray(mesh.vertices), surface, normals)
            else:
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


def evaluate_cloud(cloud: np.ndarray, surface: np.ndarray, normals: np.ndarray) -> dict[str, float]:
    """The scores of `evaluate_mesh` for the points [P, 3] as they are: without inside and normals, these are NaN."""
    unknown = np.full_like(cloud, np.nan)
    return {'iou': float('nan'), **metrics.surface_metrics(cloud, unknown, surface, normals)}


# `config.data.input` -> an input as a shape: the cloud itself, the blocky surface of the voxels.
INPUT_SHAPES = {'points': trimesh.PointCloud, 'voxels': voxels_to_mesh}


def return_inputs(config: ConfigDict) -> Callable:
    """A `Method.reconstruct` that gives its inputs back: what the network has to improve on, the paper's row "Input".

    Raises ValueError for inputs that are no shapes.
    """
    if config.data.input not in INPUT_SHAPES:
        raise InputError(
            f'--inputs: expected a model whose inputs are shapes (config.data.input one of {sorted(INPUT_SHAPES)}), '
            f'found {config.data.input!r}; evaluate its reconstructions, without --inputs'
        )
    return lambda params, inputs, key: [INPUT_SHAPES[config.data.input](values) for values in inputs]


def describe_protocol(config: ConfigDict, data_dir: str | Path, split: str) -> dict[str, str | int]:
    """On what `evaluate` measures, with which network and code, and when: plain values, to stand beside the scores.

    Raises FileNotFoundError or ValueError for a dataset that cannot be read and a split that is unknown or empty.
    """
    index, model = read_index(data_dir), config.model
    known = {
        'dataset_digest': digest(data_dir),
        'split': split,
        'num_shapes': len(split_shapes(data_dir, index, split)),
        'view': '000' if config.data.input == 'image' else None,
        'num_volume_points': index.num_points,
        'num_surface_points': index.num_surface_points,
        'seed': config.seed,
        'model': f'{model.name}, input {config.data.input}, encoder {model.encoder}, decoder {model.decoder}',
        'version': f'onet_jax {__version__}',
        'commit': find_commit(Path(__file__).resolve().parents[2]),
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
    }
    return {key: value for key, value in known.items() if value is not None}


def find_commit(checkout: Path) -> str | None:
    """The git commit of a checkout, with '+changes' where tracked files differ; None where there is no checkout or no git."""
    # A package that is installed somewhere inside another project has nothing to do with the commit of that.
    if not (checkout / '.git').exists() or shutil.which('git') is None:
        return None
    describe = ('git', 'describe', '--always', '--exclude=*', '--abbrev=40', '--dirty=+changes')
    return subprocess.run(describe, cwd=checkout, capture_output=True, text=True).stdout.strip() or None
