"""Scores of a prediction of any type against the ground truth, and the table of all metrics.

Predictions are closed meshes (`trimesh.Trimesh`), open surfaces (`OpenSurface`), point clouds (`trimesh.PointCloud`), voxels
(`Voxels`) and sequences of shapes (`geometry/sequences.py`), in object coordinates; distances are in units of the longest edge.
Of colours they are `Pictures` of views (`geometry/views.py`). A score that does not exist, as the IoU of a point cloud, is NaN.
L frames, T query points, N surface samples, V views, S pixels along each side.
"""

from collections.abc import Iterable, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import trimesh

from onet_jax import metrics
from onet_jax.errors import InputError
from onet_jax.geometry.inside import contains, winding_numbers
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence, frames_of, trajectories_of
from onet_jax.geometry.views import Pictures, tile
from onet_jax.geometry.voxels import Voxels, voxels_contain, voxels_to_mesh


class Metric(NamedTuple):
    """How a metric is printed and compared."""

    title: str  # with its unit
    factor: float = 1.0  # printed / measured value: the paper prints distances in tenths of the longest edge
    higher_is_better: bool = False
    worst: float = np.nan  # of an empty prediction, as in the official evaluation; NaN: not a score of predictions
    in_tables: bool = True


LONGEST = 3**0.5  # the diagonal of the unit cube
METRICS = {
    'iou': Metric('IoU', higher_is_better=True, worst=0.0),
    'chamfer_l1': Metric('Chamfer-L1 (x10)', 10, worst=LONGEST),
    'accuracy': Metric('Accuracy (x10)', 10, worst=LONGEST),
    'completeness': Metric('Completeness (x10)', 10, worst=LONGEST),
    'normal_consistency': Metric('Normal consistency', higher_is_better=True, worst=-1.0),
    'f_score': Metric('F-score at 1 %', higher_is_better=True, worst=0.0),
    # Of sequences only, whose other metrics are means over the frames.
    'correspondence_l2': Metric('Correspondence L2 (x10)', 10, worst=LONGEST),
    # Of pictures only, means over the views.
    'psnr': Metric('PSNR (dB)', higher_is_better=True, worst=0.0),
    'ssim_gaussian': Metric('SSIM', higher_is_better=True, worst=-1.0),  # of scenes; see `metrics.picture_metrics`
    'ssim': Metric('SSIM (data range 2)', higher_is_better=True, worst=-1.0),  # of views of shapes
    'l1': Metric('L1', worst=1.0),
    'lpips': Metric('LPIPS', in_tables=False),  # published alone
    'normals_accuracy': Metric('Normals, accuracy', higher_is_better=True, worst=-1.0, in_tables=False),
    'normals_completeness': Metric('Normals, completeness', higher_is_better=True, worst=-1.0, in_tables=False),
    'accuracy2': Metric('Accuracy, squared', worst=3.0, in_tables=False),
    'completeness2': Metric('Completeness, squared', worst=3.0, in_tables=False),
    'chamfer_l2': Metric('Chamfer-L2', worst=3.0, in_tables=False),
    # Of validation only, which measures the network and not its predictions.
    'iou_voxels': Metric('IoU with 32^3 voxels', higher_is_better=True, in_tables=False),
    'chamfer': Metric('Chamfer, squared, both ways', in_tables=False),
    'loss': Metric('Loss', in_tables=False),
}
COLUMNS = tuple(name for name, metric in METRICS.items() if metric.in_tables)
OF_SEQUENCES, OF_PICTURES = ('correspondence_l2',), ('psnr', 'ssim_gaussian', 'ssim', 'l1')
EMPTY = {
    name: m.worst for name, m in METRICS.items() if not np.isnan(m.worst) and name not in (*OF_SEQUENCES, *OF_PICTURES)
}
NUM_CHECKED = 16_384  # points whose winding number is looked at: they find overlaps of 1 / 10,000 of the cube
NORMALS = ('normal_consistency', 'normals_accuracy', 'normals_completeness')
NOT_OF_CLOUDS = ('iou', *NORMALS)


class Target(NamedTuple):
    """The ground truth of a shape, float32."""

    points: np.ndarray  # [T, 3]
    occ: np.ndarray  # [T] bool
    surface: np.ndarray  # [N, 3]
    normals: np.ndarray  # [N, 3]


class SequenceTarget(NamedTuple):
    """The ground truth of a shape that moves, float32, in object coordinates of its first frame."""

    points: np.ndarray  # [L, T, 3]
    occ: np.ndarray  # [L, T] bool
    surface: np.ndarray  # [L, N, 3], sample n of each frame is the same place of the body
    project_last: bool = False  # see `metrics.correspondence_l2`

    def frame(self, k: int) -> Target:
        """The ground truth of a frame, of which no normals are known."""
        return Target(self.points[k], self.occ[k], self.surface[k], np.full_like(self.surface[k], np.nan))


class PicturesTarget(NamedTuple):
    """The true pictures of the views of a shape, or the one of a view of a scene."""

    rgb: np.ndarray  # [V, H, W, 3] float32 in [0, 1], on the background
    of_scene: bool = False  # scenes are scored by another SSIM


def target_of(targets: dict[str, np.ndarray], project_last: bool = False) -> Target | SequenceTarget | PicturesTarget:
    """From the fields of a batch of one.

    'volume_points' and 'surface_samples', 'volume_clip' and 'trajectories', 'views', or 'colours'.
    """
    if 'picture' in targets:
        return PicturesTarget(np.asarray(targets['picture'])[0], of_scene=True)
    if 'rgb' in targets:
        return PicturesTarget(np.asarray(targets['rgb'])[0])
    if 'trajectories' in targets:
        (points,), (occ,), (surface,) = (np.asarray(targets[k]) for k in ('points', 'occ', 'trajectories'))
        return SequenceTarget(points, occ >= 0.5, surface, project_last)
    (points,), (occ,), (surface,), (normals,) = (
        np.asarray(targets[k]) for k in ('points', 'occ', 'surface', 'normals')
    )
    return Target(points, occ >= 0.5, surface, normals)


def truth_of(target: Target | SequenceTarget | PicturesTarget) -> np.ndarray | CloudSequence | Pictures:
    """The ground truth as it is shown: points of the surface [N, 3], a cloud that moves, or the pictures."""
    if isinstance(target, PicturesTarget):
        return Pictures(target.rgb)
    return CloudSequence(target.surface) if isinstance(target, SequenceTarget) else target.surface


def floor(target: Target | SequenceTarget) -> dict[str, float]:
    """What a perfect prediction scores: the ground truth against itself with as many samples."""
    if isinstance(target, SequenceTarget):
        frames = [floor(target.frame(k)) for k in range(len(target.surface))]
        return mean_over_time(_by_time(frames, metrics.correspondence_floor(target.surface)))
    return {'iou': float(metrics.iou(target.occ, target.occ)), **metrics.sampling_floor(target.surface, target.normals)}


@singledispatch
def score(prediction: Any, target: Any, seed: int = 0) -> dict[str, float]:
    """The metrics of one prediction, by their names in `METRICS`; target: a `Target`, `SequenceTarget` or `PicturesTarget`.

    A surface is sampled with as many points as the target has; the seed draws them. An empty prediction gets the worst
    values: the official evaluation leaves out the distances of such failures.
    """
    raise TypeError(f'expected a prediction of one of the types {list(score.registry)[1:]}, found {type(prediction)}')


@score.register
def _(mesh: trimesh.Trimesh, target: Target, seed: int = 0) -> dict[str, float]:
    if not len(mesh.faces):
        return dict(EMPTY)
    return _surface_scores(mesh, float(metrics.iou(contains(mesh, target.points), target.occ)), target, seed)


@score.register
def _(mesh: OpenSurface, target: Target, seed: int = 0) -> dict[str, float]:
    return _surface_scores(mesh, np.nan, target, seed) if len(mesh.faces) else EMPTY | {'iou': np.nan}


@score.register
def _(voxels: Voxels, target: Target, seed: int = 0) -> dict[str, float]:
    if not voxels.values.any():
        return dict(EMPTY)
    inside = voxels_contain(voxels.values, target.points)
    return _surface_scores(voxels_to_mesh(voxels.values), float(metrics.iou(inside, target.occ)), target, seed)


@score.register
def _(cloud: trimesh.PointCloud, target: Target, seed: int = 0) -> dict[str, float]:
    points = np.asarray(cloud.vertices)
    if not len(points):
        return EMPTY | dict.fromkeys(NOT_OF_CLOUDS, np.nan)
    unknown = np.full_like(points, np.nan)
    return {'iou': np.nan, **metrics.surface_metrics(points, unknown, target.surface, target.normals)}


@score.register
def _(
    sequence: MeshSequence | ChangingMeshes | CloudSequence, target: SequenceTarget, seed: int = 0
) -> dict[str, float]:
    return mean_over_time(score_by_time(sequence, target, seed))


@score.register
def _(pictures: Pictures, target: PicturesTarget, seed: int = 0) -> dict[str, float]:
    if pictures.rgb.shape != target.rgb.shape:
        raise InputError(
            f'prediction: expected pictures {list(target.rgb.shape)}, as the target has, found {list(pictures.rgb.shape)}'
        )
    of_views = metrics.picture_metrics(pictures.rgb, target.rgb, gaussian=target.of_scene)
    return {name: float(values.mean()) for name, values in of_views.items()}


def score_by_time(sequence: Any, target: SequenceTarget, seed: int = 0) -> dict[str, list[float]]:
    """The metrics of each frame of a predicted sequence, and the correspondence of its vertices or points.

    Meshes without correspondence are matched by `trajectories_of`; where a mesh is missing, the correspondence of its frame
    and of all later ones has the worst value. Raises InputError for another number of frames than the target has.
    """
    frames = frames_of(sequence)
    if len(frames) != len(target.surface):
        raise InputError(f'prediction: expected {len(target.surface)} frames, as the target has, found {len(frames)}')
    worst = METRICS['correspondence_l2'].worst
    moved, distances = trajectories_of(sequence), [worst] * len(frames)
    if moved.shape[1]:
        known = np.isfinite(moved).all(axis=(1, 2)).cumprod().sum()
        last = target.project_last and known == len(frames)
        distances[:known] = metrics.correspondence_l2(moved[:known], target.surface[:known], last)
    return _by_time([score(frame, target.frame(k), seed) for k, frame in enumerate(frames)], distances)


def _by_time(frames: Sequence[dict[str, float]], distances: Iterable[float]) -> dict[str, list[float]]:
    by_time = {name: [each[name] for each in frames] for name in frames[0] if name not in NORMALS}
    return by_time | {'correspondence_l2': [float(distance) for distance in distances]}


def mean_over_time(by_time: dict[str, list[float]]) -> dict[str, float]:
    """The mean of each metric over the frames in which it is defined."""
    known = {name: [value for value in values if not np.isnan(value)] for name, values in by_time.items()}
    return {name: float(np.mean(values)) if values else np.nan for name, values in known.items()}


def is_solid(prediction: Any, target: Target | SequenceTarget | PicturesTarget) -> bool | None:
    """Whether a mesh bounds a solid: it is closed, faces outwards, and does not intersect itself as far as the points tell.

    None for an empty mesh and for predictions that need not bound one: open surfaces, voxels, point clouds and pictures. Every
    mesh of a sequence has to.
    """
    if isinstance(target, SequenceTarget):
        of_frames = [is_solid(frame, target.frame(k)) for k, frame in enumerate(frames_of(prediction))]
        known = [solid for solid in of_frames if solid is not None]
        return all(known) if known else None
    is_closed = isinstance(prediction, trimesh.Trimesh) and not isinstance(prediction, OpenSurface)
    if isinstance(target, PicturesTarget) or not is_closed or not len(prediction.faces):
        return None
    points = target.points[:NUM_CHECKED]
    return bool(prediction.is_watertight and np.isin(winding_numbers(prediction, points), (0, 1)).all())


@singledispatch
def as_geometry(prediction: Any) -> Any:
    """What is written and drawn of a prediction: the blocky surface of voxels; meshes and clouds as they are.

    Of a sequence it is the first frame, of pictures of views a picture [H, W, 3] uint8 of some of them.
    """
    return prediction


@as_geometry.register
def _(sequence: MeshSequence | ChangingMeshes | CloudSequence) -> trimesh.Trimesh | trimesh.PointCloud:
    return frames_of(sequence)[0]


@as_geometry.register
def _(voxels: Voxels) -> trimesh.Trimesh:
    return voxels_to_mesh(voxels.values)


@as_geometry.register
def _(pictures: Pictures) -> np.ndarray:
    return tile(pictures)


def _surface_scores(mesh: trimesh.Trimesh, iou: float, target: Target, seed: int) -> dict[str, float]:
    predicted, normals = sample_surface(mesh, len(target.surface), seed)
    return {'iou': iou, **metrics.surface_metrics(predicted, normals, target.surface, target.normals)}


def headline(*scores: dict[str, float]) -> str:
    """The first metric that all the scores have, such as 'IoU 0.93', or 'IoU 0.93 and 0.91' of several predictions."""
    name = next(name for name in METRICS if all(np.isfinite(each.get(name, np.nan)) for each in scores))
    metric = METRICS[name]
    return f'{metric.title} {" and ".join(f"{metric.factor * each[name]:.2f}" for each in scores)}'
