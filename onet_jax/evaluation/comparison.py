"""Several methods on one dataset: tables of classes by methods, and the qualitative figure of the paper.

`methods` is {label: results of the same shapes in the same order}.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from onet_jax.data.datasets import Shapes
from onet_jax.data.fields import show
from onet_jax.evaluation.evaluate import Result
from onet_jax.evaluation.published import CLASSES, LATER, Published
from onet_jax.evaluation.report import choose_shown, pair_up
from onet_jax.evaluation.tables import Table, class_means, format_cell, published_cells
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.scores import METRICS, OF_PICTURES
from onet_jax.viz.pictures import Item, contact_sheet

# The metrics of the papers, of `scores.METRICS`; those are compared that predictions of this kind have.
COMPARED = ('iou', 'chamfer_l1', 'normal_consistency', 'correspondence_l2', *OF_PICTURES)
PICTURE_SIZE = 160  # px
# Why a method has no number in a column, by the type of its predictions.
DASHES: dict[Any, str] = {
    trimesh.PointCloud: 'points have neither an inside nor normals',
    OpenSurface: 'patches enclose no volume, so that there is no IoU',
}


def by_class(methods: Mapping[str, Sequence[Result]], published: Published | None) -> list[Table]:
    """For each metric of the paper the classes and their mean by methods: ours, and the published ones beside them.

    A class that was not published has '-' there.
    """
    means = {label: class_means(results) for label, results in methods.items()}
    classes = dict.fromkeys(row for each in means.values() for row in each)
    others = published.methods if published and published.has_classes else ()
    tables = []
    for metric in filter(next(iter(means.values()))['mean'].__contains__, COMPARED):
        rows = [
            [
                CLASSES.get(row, row),
                *(format_cell(each[row][metric]) for each in means.values()),
                *(published_cells(published, metric, CLASSES.get(row, row)) if published and others else ()),
            ]
            for row in classes
        ]
        tables.append(([METRICS[metric].title, *means, *(f'published: {method}' for method in others)], rows))
    return tables


def explain_dashes(methods: Mapping[str, Sequence[Result]]) -> str:
    """A line for each method whose predictions have no inside or no normals."""
    kinds = {label: type(results[0].prediction) for label, results in methods.items()}
    return '\n'.join(f'* {label}: {DASHES[kind]}' for label, kind in kinds.items() if kind in DASHES)


def published_by_others(num_input_points: int) -> tuple[Table, str] | None:
    """The numbers that later papers give for their own methods from clouds of this size, and their source; None for none."""
    if num_input_points not in LATER:
        return None
    rows, source = LATER[num_input_points]
    metrics = list(next(iter(rows.values())))
    header = [f'{num_input_points:,} points', *(METRICS[metric].title for metric in metrics)]
    return (header, [[method, *map(format_cell, values.values())] for method, values in rows.items()]), source


def draw_figure(methods: Mapping[str, Sequence[Result]], dataset: Shapes, num_shown: int, path: Path) -> None:
    """Write a PNG with a row for each of `num_shown` shapes: the input, all methods, and samples of the true surface or its
    pictures.

    dataset: that of the results. Raises InputError as `pair_up`.
    """
    labels, (first, *_) = list(methods), methods.values()
    by_shape = pair_up(methods)
    items = []
    for chosen in choose_shown(first, num_shown):
        category, name = chosen.category, chosen.name
        truth = chosen.truth or dataset.read(category, name).surface.astype(np.float32)
        shapes = (show(chosen.inputs), *(result.prediction for result in by_shape[category, name]), truth)
        items.append(Item(f'{category} {name}', '', shapes))
    contact_sheet(items, ('input', *labels, 'ground truth'), path, size=PICTURE_SIZE)
