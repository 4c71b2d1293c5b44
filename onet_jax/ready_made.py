"""Surface reconstruction from a point cloud without training: the pretrained weights of the package, and which of them suits.

`objects` is a feature volume of one whole object: it completes what a sparse or noisy cloud lacks, and has 48 cells along an
edge. `scenes` is a sliding window: it resolves whatever the points do, of scenes of any size, and completes less.
P points of a cloud.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import trimesh
from numpy.typing import ArrayLike

from onet_jax import run
from onet_jax.data.fields import find_clouds, input_names
from onet_jax.data.scans import load_bulk
from onet_jax.data.user_inputs import cloud_input, scene_input
from onet_jax.errors import InputError
from onet_jax.geometry.clouds import drop_repeated, find_strays, longest_edge
from onet_jax.geometry.meshes import UPS
from onet_jax.geometry.sliding_window import NEIGHBOURS, matching_cell
from onet_jax.inference.manifest import Manifest
from onet_jax.scores import as_geometry
from onet_jax.training import portable

INPUTS = {'cloud': cloud_input, 'scene': scene_input}
OBJECT_CELLS = 48  # along an edge of the feature volume
# A cloud of more cells than this at the density of the training of `scenes` (10,000 points of a room, cells of 0.025) shows
# more than `objects` can.
MOST_CELLS, SCENE_POINTS, SCENE_CELL = 100, 10_000, 0.025


class Choice(NamedTuple):
    """Weights for a cloud."""

    name: str
    reason: str  # in words


def choose_weights(cloud: np.ndarray) -> Choice:
    """The weights that suit a cloud [P, 3], without stray points, in any frame."""
    cloud = drop_repeated(cloud)
    if len(cloud) <= NEIGHBOURS:
        return Choice('objects', f'{len(cloud)} points')
    num_cells = longest_edge(cloud) / max(matching_cell(cloud, SCENE_CELL, SCENE_POINTS, 0), 1e-12)
    told = f'{len(cloud)} points, which resolve about {num_cells:.0f} cells along the longest edge'
    if num_cells > MOST_CELLS:
        return Choice('scenes', f'{told}: more than the {OBJECT_CELLS} of objects')
    return Choice('objects', told)


def load_for(
    inputs: str | Path, output: str | Path, keep_outliers: bool = False, remove_outliers: bool = False
) -> run.Run:
    """The network of the weights that suit a file, or the first cloud of a folder; prints which, and why.

    Meshes of an earlier reconstruction, which OUTPUT has, are no clouds. Raises OSError and InputError where no file is a
    point cloud.
    """
    sources = Manifest(Path(output)).leave_out_written(find_clouds(inputs))
    for source in sources:
        try:
            choice = choose_weights(load_bulk(source.path, keep_outliers, remove_outliers))
        except (InputError, OSError):  # the reconstruction says what is wrong with it
            if source is sources[-1]:
                raise
        else:
            break
    print(
        f'{source.path}: {choice.reason}; taking the weights {choice.name!r}'
        + (f' for all {len(sources)} inputs' if len(sources) > 1 else '')
        + ' (--workdir takes others)',
        flush=True,
    )
    return run.load_run(portable.PACKAGED / choice.name)


def reconstruct(cloud: ArrayLike, weights: str = '', *, up: str | None = None, seed: int = 0) -> trimesh.Trimesh:
    """The surface that a point cloud [P, 3] was sampled from, as a mesh in the frame and unit of the cloud.

    weights: a name of `portable.names_of_weights()`, a workdir or 'hf://USER/REPO' of a network of clouds; by default what
    `choose_weights` says. up: the axis that points up, as of `run.for_clouds`. Stray points are left out.

    Raises InputError for an array of another shape, values that are not finite, a network of other inputs, and where the
    network finds no surface.
    """
    points = np.asarray(cloud, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all() or not np.ptp(points, axis=0).any():
        raise InputError(
            f'cloud: expected finite points [P, 3], at least 2 different ones, found an array {list(points.shape)}'
        )
    if up not in (None, 'auto', *UPS):
        raise InputError(f'up: expected one of {sorted(UPS)} or auto, found {up!r}')
    points = points[~find_strays(points)]
    trained = run.load_run(weights or portable.PACKAGED / choose_weights(points).name)
    names = input_names(trained.config.data)
    if len(names) != 1 or names[0] not in INPUTS:
        raise InputError(f'weights: expected a network of one of {sorted(INPUTS)}, found one of {", ".join(names)}')
    data = run.for_clouds(trained, up=up).config.data
    inputs, frame = INPUTS[names[0]](points, data, seed)
    batch = {name: array[None] for name, array in inputs.items()}
    (prediction,) = trained.method.predict(trained.params, batch, jax.random.key(seed))
    mesh = as_geometry(prediction)
    if not isinstance(mesh, trimesh.Trimesh):
        raise InputError('weights: expected a network that makes meshes, found one of point clouds')
    if not len(mesh.vertices):
        raise InputError('cloud: expected points of a surface that the network knows, found none inside')
    mesh.vertices = frame.to_user(mesh.vertices)
    return mesh
