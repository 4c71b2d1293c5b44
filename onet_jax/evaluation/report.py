"""What an evaluation looks like: the meshes as files, a contact sheet, and one page on which they turn."""

from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from onet_jax.errors import InputError
from onet_jax.evaluation.evaluate import Result
from onet_jax.evaluation.tables import COLUMNS, class_means, make_table
from onet_jax.geometry.grid import voxel_centres
from onet_jax.geometry.meshes import save_mesh
from onet_jax.viz.page import write_page
from onet_jax.viz.pictures import Item, Shape, contact_sheet

COLUMN_TITLES = ('input', 'reconstruction', 'ground truth')


def choose_shown(results: Sequence[Result], num_shown: int) -> list[Result]:
    """`num_shown` of the results: the first of every category, then the second, ..., sorted by category again."""
    by_category: dict[str, list[Result]] = {}
    for result in results:
        by_category.setdefault(result.category, []).append(result)
    in_turn = [r for r in chain.from_iterable(zip_longest(*by_category.values())) if r is not None]
    return sorted(in_turn[:num_shown], key=lambda r: (r.category, r.name))


def show_input(inputs: np.ndarray) -> Shape:
    """What an encoder saw of one shape, as something to show.

    An image [S, S, 3] in [0, 1] as pixels, voxels [32, 32, 32] as the centres of the full ones, points [P, 3] as they are,
    labelled points [P, 4] as those inside; the number of a shape as no points.
    """
    if inputs.ndim == 3 and inputs.shape[-1] == 3:
        return (inputs * 255).round().astype(np.uint8)
    if inputs.ndim == 3:
        return voxel_centres(len(inputs))[inputs > 0.5]
    if inputs.ndim == 2:
        return inputs[inputs[:, 3] > 0.5, :3] if inputs.shape[1] == 4 else inputs
    return np.zeros((0, 3))


def write_report(
    output: str | Path,
    results: dict[str, Sequence[Result]],
    true_shape: Callable[[Result], Shape],
    *,
    title: str,
    lead: str,
    num_shown: int,
    curves: Sequence[tuple[str, Sequence[tuple[float, float]], bool]],
) -> None:
    """OUTPUT/meshes/CATEGORY_NAME.ply, OUTPUT/contact_sheet.png and OUTPUT/index.html.

    results: title of a column -> the results of one model, all of the same shapes in the same order; else ValueError. The
    table is of all results of the first model and `num_shown` of its meshes become files; the others are shown beside it.
    true_shape: the mesh or the points [N, 3] to show beside a reconstruction. curves: as in `write_page`. An empty mesh is
    shown, but has no file.
    """
    output, (first, *others) = Path(output), results
    (output / 'meshes').mkdir(parents=True, exist_ok=True)
    column_titles = (COLUMN_TITLES[0], *results, COLUMN_TITLES[-1])
    names = {title: [(r.category, r.name) for r in rows] for title, rows in results.items()}
    if any(names[other] != names[first] for other in others):
        raise InputError(f'results: expected the same shapes in the same order of {list(results)}, found others')
    by_shape = dict(zip(names[first], zip(*results.values(), strict=True), strict=True))
    items = []
    for result in choose_shown(results[first], num_shown):
        if len(result.mesh.faces):
            save_mesh(result.mesh, output / 'meshes' / f'{result.category}_{result.name}.ply')
        row = by_shape[result.category, result.name]
        shapes = (show_input(result.inputs), *(one.mesh for one in row), true_shape(result))
        ious = ' and '.join(f'{one.scores["iou"]:.2f}' for one in row)
        items.append(Item(f'{result.category} {result.name}', f'IoU {ious}', shapes))
    contact_sheet(items, column_titles, output / 'contact_sheet.png')

    means = {title: class_means(rows)['mean'] for title, rows in results.items()}
    of = {title: f', {title}' if others else '' for title in results}
    headline = {
        COLUMNS[k][0] + of[first]: means[first][k] for k in ('iou', 'chamfer_l1', 'normal_consistency', 'f_score')
    }
    headline |= {COLUMNS['iou'][0] + of[other]: means[other]['iou'] for other in others}
    header, rows = make_table(results[first])
    write_page(
        output / 'index.html',
        title=title,
        lead=lead,
        summary={key: f'{value:.3f}' for key, value in headline.items()}
        | {'held-out shapes': str(len(results[first]))},
        table=([header[0] + of[first], *header[1:]], rows),
        curves=curves,
        items=items,
        column_titles=column_titles,
    )
