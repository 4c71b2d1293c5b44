"""Evaluation by the paper's protocol: predictions for a split, scored against labelled points and surface samples.

Rendered views are scored against the true pictures.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import __version__
from onet_jax.data.datasets import Shapes, digest, examples_of
from onet_jax.data.fields import evaluation_key, held_out, input_names, sees_views
from onet_jax.data.scenes import Scene, shrink
from onet_jax.errors import InputError, PredictionError
from onet_jax.evaluation.colour_baselines import predict_from_input
from onet_jax.evaluation.scene_baselines import make_baselines
from onet_jax.geometry.sequences import SEQUENCES, CloudSequence, MeshSequence, frames_of
from onet_jax.geometry.views import Pictures
from onet_jax.geometry.voxels import voxels_to_mesh
from onet_jax.models.method import Method
from onet_jax.parallel import overlap, spread
from onet_jax.progress import working
from onet_jax.scores import (
    PicturesTarget,
    SequenceTarget,
    as_geometry,
    floor,
    is_solid,
    mean_over_time,
    score,
    score_by_time,
    target_of,
)

FLOOR = 'floor (ground truth against itself)'


class Result(NamedTuple):
    """One evaluated shape."""

    category: str
    name: str
    scores: dict[str, float]  # see `scores.METRICS`; NaN where the metric is not defined
    # By their names what others score: the ground truth against itself, of pictures the baselines.
    references: dict[str, dict[str, float]]
    seconds: float  # from the input to the prediction
    inputs: dict[str, np.ndarray]  # of the network, by field, without batch axis
    prediction: Any  # see `scores.py`; pictures as uint8
    is_solid: bool | None = None  # of a mesh that should be one (see `scores.is_solid`)
    by_time: dict[str, list[float]] | None = (
        None  # of a sequence: the scores of each frame, of which `scores` are the means
    )
    truth: Any = None  # of pictures the true ones, as uint8

    @property
    def num_faces(self) -> int | None:
        """Faces of the prediction, of a sequence the fewest of a frame: 0 for a failure, None for a point cloud."""
        is_sequence = isinstance(self.prediction, SEQUENCES)
        frames = frames_of(self.prediction) if is_sequence else [as_geometry(self.prediction)]
        return min((len(frame.faces) for frame in frames if isinstance(frame, trimesh.Trimesh)), default=None)


def evaluate(
    method: Method,
    params: dict,
    config: ConfigDict,
    dataset: Shapes,
    split: str,
    fixed_views: bool = False,
    num_workers: int | None = None,
) -> Iterator[Result]:
    """Predict and score every shape of a split, in its order. An empty prediction counts, with the worst values, and so does a
    missing one (`PredictionError`), whose reason is printed.

    A network that learns a code for each training shape (auto-decoding) fits codes to the shapes of another split, on the first
    half of their labelled points; the second half is scored. Shapes are predicted one by one, as they are for a user, one at a
    time on each device, while others are scored by `num_workers` threads, by default one for each core; the results do not
    depend on how many of both there are. fixed_views: of a network that renders views, those that are the same of all shapes,
    instead of random ones. Raises InputError for a split that is unknown or empty, and for fixed views of a network or a
    dataset that has none.
    """
    if fixed_views and 'views' not in config.data.targets:
        raise InputError(
            f'--fixed_views: expected a network that renders views, found {config.model.name}; leave it out'
        )
    options: dict[str, Any] = {
        'targets': dataset.scored_fields(config.data),
        **({'fixed_views': True} if fixed_views else {}),
    }
    from_training = make_baselines(dataset, config.data, split) if isinstance(dataset, Scene) else None
    key, project_last = evaluation_key(config.seed), config.eval.get('project_last', False)

    def predict(params, example):
        name, row, inputs, targets = example
        target = target_of(held_out(targets, inputs), project_last)
        start = time.perf_counter()
        try:
            (prediction,) = method.predict(params, inputs, jax.random.fold_in(key, row))
        except PredictionError as error:
            if not isinstance(target, SequenceTarget):
                raise
            print(f'{"/".join(name)}: FAILED: {error}', flush=True)
            nowhere = np.zeros((len(target.surface), 0, 3), np.float32)
            prediction = MeshSequence(nowhere, np.zeros((0, 3), int)) if config.mesh else CloudSequence(nowhere)
        return name, inputs, target, prediction, time.perf_counter() - start

    def judge(predicted):
        (category, name), inputs, target, prediction, seconds = predicted
        moves = isinstance(prediction, SEQUENCES)
        by_time = score_by_time(prediction, target, config.seed) if moves else None
        scores = score(prediction, target, config.seed) if by_time is None else mean_over_time(by_time)
        seen = {name: array[0] for name, array in inputs.items()}
        solid, references, truth = is_solid(prediction, target), {}, None
        if not isinstance(target, PicturesTarget):
            references[FLOOR] = floor(target)
        else:
            prediction, truth = prediction.as_bytes(), Pictures(target.rgb).as_bytes()
            baselines: dict[str, Pictures] = {}
            if from_training is not None:
                baselines = from_training((category, name))
            elif 'image' in inputs and not dataset.index.num_input_views:  # of a picture whose camera is known
                baselines = predict_from_input(dataset.read(category, name), f'{category}/{name}', seen)
            references |= {label: score(baseline, target) for label, baseline in baselines.items()}
        return Result(category, name, scores, references, seconds, seen, prediction, solid, by_time, truth)

    def examples():
        for batch, names in dataset.evaluation_batches(config, split, **options):
            for i, name in enumerate(names):
                yield name, int(batch['row'][i]), *examples_of(batch, i).values()

    # In threads: SciPy's trees and most of NumPy run beside each other, and a process takes as long to start as ten shapes.
    num_workers, num_examples = num_workers or os.cpu_count() or 1, len(dataset.examples(config, split))
    with (
        working(f'evaluating on the {split} split', num_examples, 'shapes') as evaluating,
        ThreadPoolExecutor(num_workers) as threads,
    ):
        for result in overlap(threads, num_workers, judge, spread(predict, params, examples())):
            evaluating.advance()
            yield result


# Inputs as predictions: the cloud itself, the blocky surface of the voxels.
INPUT_PREDICTIONS: dict[str, Callable] = {
    'cloud': trimesh.PointCloud,
    'voxels': lambda values: voxels_to_mesh(values > 0.5),
}


def return_inputs(config: ConfigDict) -> Callable:
    """A `Method.predict` that returns its inputs: the baseline of the paper's row "Input".

    Raises InputError for inputs that are not shapes.
    """
    names = input_names(config.data)
    name = next((name for name in names if name in INPUT_PREDICTIONS), None)
    if name is None:
        raise InputError(
            f'--inputs: expected a model whose inputs are shapes, of {sorted(INPUT_PREDICTIONS)}, found {names}; evaluate its '
            'reconstructions, without --inputs'
        )
    return lambda params, inputs, key, workspace=None: [INPUT_PREDICTIONS[name](array) for array in inputs[name]]


def describe_protocol(config: ConfigDict, dataset: Shapes, split: str) -> dict[str, str | int]:
    """Dataset, network, version of the code and date of an evaluation: plain values, to be stored with the scores.

    Raises InputError for a split that is unknown or empty.
    """
    parts = [f'{key} {config.model[key]}' for key in ('encoder', 'decoder') if key in config.model]
    if isinstance(dataset, Scene):
        of_examples = {'picture_size': ' x '.join(map(str, shrink(dataset.views.size, config.data.downscale)))}
    else:
        of_examples = {
            'num_frames': config.data.num_frames if dataset.index.num_frames else None,
            'view': '000' if sees_views(config.data) else None,
            'num_views': config.data.get('num_views'),
            'view_size': config.data.get('view_size'),
            'num_volume_points': dataset.index.num_points,
            'num_surface_points': dataset.index.num_surface_points,
        }
    known = {
        'dataset_digest': digest(dataset.data_dir),
        'split': split,
        'num_shapes': len(dataset.examples(config, split)),
        **of_examples,
        'seed': config.seed,
        'model': ', '.join([config.model.name, f'inputs {" and ".join(input_names(config.data))}', *parts]),
        'version': f'onet_jax {__version__}',
        'commit': find_commit(Path(__file__).resolve().parents[2]),
        'date': datetime.now(UTC).isoformat(timespec='seconds'),
    }
    return {key: value for key, value in known.items() if value is not None}


def find_commit(checkout: Path) -> str | None:
    """The git commit of a checkout, with '+changes' where tracked files differ; None where there is no checkout or no git."""
    # `checkout` itself: a repository further up, in which the package is installed, has other commits.
    if not (checkout / '.git').exists() or shutil.which('git') is None:
        return None
    describe = ('git', 'describe', '--always', '--exclude=*', '--abbrev=40', '--dirty=+changes')
    return subprocess.run(describe, cwd=checkout, capture_output=True, text=True).stdout.strip() or None
