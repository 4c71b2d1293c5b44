"""What a run looks like on the way: the same few shapes of the validation split, by the network of the moment."""

from collections.abc import Callable, Collection
from pathlib import Path

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import metrics
from onet_jax.data.fields import evaluation_key, make_evaluation_transform
from onet_jax.data.records import evaluation_batches, read_index, read_shape, shape_path, split_shapes
from onet_jax.evaluation.report import COLUMN_TITLES, show_input
from onet_jax.geometry.inside import contains
from onet_jax.models.method import Method
from onet_jax.viz.dataset import find_originals
from onet_jax.viz.pictures import Item, contact_sheet, render

NUM_SHOWN = 4  # the first shape of so many categories
SIZE = 160  # px of one picture


def make_preview(
    method: Method, config: ConfigDict, data_dir: str | Path, left_out: Collection[tuple[str, str]] = ()
) -> Callable[[dict, Path], None]:
    """draw(params, path): writes a PNG of the shapes with input, reconstruction and ground truth side by side.

    The meshes are those that `evaluate` scores. Of a model whose input is nothing to see there is no input, and of one
    without input no truth either. The truth is the mesh that a shape was made from, or its surface points where that is
    not at hand. None of the shapes that `left_out` names is shown. Raises ValueError for a split that is unknown or empty.
    """
    split, index = config.eval.split, read_index(data_dir)
    first: dict[str, int] = {}
    for position, name in enumerate(split_shapes(data_dir, index, split)):
        if name not in left_out:
            first.setdefault(name[0], position)
    positions = list(first.values())[:NUM_SHOWN]
    ((raw, names),) = evaluation_batches(data_dir, split, len(positions), positions=positions)
    key = evaluation_key(config.seed)
    batch = jax.jit(make_evaluation_transform(config.data))(key, raw)
    inputs, points, occ = (np.asarray(batch[name]) for name in ('inputs', 'points', 'occ'))
    titles = {'none': COLUMN_TITLES[1:2], 'index': COLUMN_TITLES[1:]}.get(config.data.input, COLUMN_TITLES)

    # What does not change is rendered once.
    original, fixed = find_originals(index, set(names)), []
    for name, seen in zip(names, inputs, strict=True):
        shape = read_shape(shape_path(data_dir, *name), index)
        pair = {COLUMN_TITLES[0]: show_input(seen), COLUMN_TITLES[2]: original(shape) if original else shape.surface}
        fixed.append({title: render(pair[title], size=SIZE) for title in pair if title in titles})

    def draw(params: dict, path: Path) -> None:
        # One device is enough, whatever devices the run trains on.
        params, items = jax.device_get(params), []
        for i, (category, name) in enumerate(names):
            (mesh,) = method.reconstruct(params, inputs[i : i + 1], jax.random.fold_in(key, raw['row'][i]))
            shapes = {**fixed[i], COLUMN_TITLES[1]: mesh}
            caption = '' if config.data.input == 'none' else f'IoU {_mesh_iou(mesh, points[i], occ[i]):.2f}'
            items.append(Item(f'{category} {name}', caption, [shapes[title] for title in titles]))
        contact_sheet(items, titles, path, size=SIZE)

    return draw


def _mesh_iou(mesh: trimesh.Trimesh, points: np.ndarray, occ: np.ndarray) -> float:
    return float(metrics.iou(contains(mesh, points), occ >= 0.5)) if len(mesh.faces) else 0.0
