"""Report of an evaluation: files, a contact sheet, and an HTML page with the shapes in 3D, of which sequences move.

Rendered views are shown as pictures, beside the true ones.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onet_jax.data.fields import show
from onet_jax.errors import InputError
from onet_jax.evaluation.evaluate import Result
from onet_jax.evaluation.tables import class_means, make_table
from onet_jax.files import write_atomically
from onet_jax.geometry.meshes import save_mesh
from onet_jax.geometry.sequence_files import fit, save_animation
from onet_jax.geometry.sequences import SEQUENCES, move
from onet_jax.geometry.views import Pictures
from onet_jax.progress import working
from onet_jax.scores import METRICS, OF_PICTURES, as_geometry, headline
from onet_jax.viz.page import write_page
from onet_jax.viz.pictures import Item, contact_sheet

HEADLINE = ('iou', 'chamfer_l1', 'normal_consistency', 'f_score', *OF_PICTURES)  # of `scores.METRICS`
NUM_SHOWN = 12  # shapes of a report of views
COLUMN_TITLES = ('input', 'reconstruction', 'ground truth')


def choose_shown(results: Sequence[Result], num_shown: int) -> list[Result]:
    """`num_shown` of the results: the first of every category, then the second, and so on; sorted by category and name."""
    by_category: dict[str, list[Result]] = {}
    for result in results:
        by_category.setdefault(result.category, []).append(result)
    in_turn = [r for r in chain.from_iterable(zip_longest(*by_category.values())) if r is not None]
    return sorted(in_turn[:num_shown], key=lambda r: (r.category, r.name))


def pair_up(results: Mapping[str, Sequence[Result]]) -> dict[tuple[str, str], tuple[Result, ...]]:
    """(category, name) -> the results of all models for this shape.

    results: title -> the results of a model. Raises InputError unless all have the same shapes in the same order.
    """
    first, *others = ([(r.category, r.name) for r in rows] for rows in results.values())
    if any(names != first for names in others):
        raise InputError(f'results: expected the same shapes in the same order of {list(results)}, found others')
    return dict(zip(first, zip(*results.values(), strict=True), strict=True))


def write_report(
    output: str | Path,
    results: dict[str, Sequence[Result]],
    true_shape: Callable[[Result], Any],
    *,
    title: str,
    lead: str,
    num_shown: int,
    curves: Sequence[tuple[str, Sequence[tuple[float, float]], bool]],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write OUTPUT/meshes/CATEGORY_NAME.ply (of sequences .glb), OUTPUT/contact_sheet.png and OUTPUT/index.html.

    Of pictures OUTPUT/views/CATEGORY_NAME.png has all views, the predicted ones above the true ones.

    results: title of a column -> the results of one model. The table is of all results of the first model, and `num_shown` of
    its meshes become files; those of the other models are shown beside them. true_shape: the mesh, the points [N, 3], the
    sequence or the pictures of the ground truth. curves, notes: as of `write_page`. An empty mesh is shown, but has no file.
    Raises InputError unless all models have results of the same shapes in the same order.
    """
    output, (first, *others) = Path(output), results
    # The index of a shape, the input of an embedding, cannot be displayed.
    see = show(results[first][0].inputs) is not None
    column_titles = (*(COLUMN_TITLES[:1] if see else ()), *results, COLUMN_TITLES[-1])
    by_shape = pair_up(results)
    items = []
    for result in choose_shown(results[first], num_shown):
        file = _save(result, output) if result.num_faces != 0 else None
        row = by_shape[result.category, result.name]
        seen = [show(result.inputs)] if see else []
        shapes = (*seen, *(one.prediction for one in row), true_shape(result))
        caption = headline(*(one.scores for one in row))
        links = [file if prediction is row[0].prediction else None for prediction in shapes]
        moving = [shape for shape in shapes if isinstance(shape, SEQUENCES)]
        if moving:
            cube = fit(*moving)
            shapes = tuple(move(it, cube.to_object) if isinstance(it, SEQUENCES) else it for it in shapes)
        items.append(Item(f'{result.category} {result.name}', caption, shapes, links=links))
    contact_sheet(items, column_titles, output / 'contact_sheet.png')

    means = {title: class_means(rows)['mean'] for title, rows in results.items()}
    of = {title: f', {title}' if others else '' for title in results}
    figures = {METRICS[k].title + of[first]: means[first][k] for k in HEADLINE if k in means[first]}
    figures |= {METRICS[HEADLINE[0]].title + of[other]: means[other][HEADLINE[0]] for other in others}
    summary = {title: f'{value:.3f}' for title, value in figures.items() if not math.isnan(value)}
    header, rows = make_table(results[first])
    with working(f'writing {output / "index.html"}'):
        write_page(
            output / 'index.html',
            title=title,
            lead=lead,
            summary=summary | {'held-out shapes': str(len(results[first]))},
            table=([header[0] + of[first], *header[1:]], rows),
            curves=curves,
            notes=notes,
            items=items,
            column_titles=column_titles,
        )


def write_views(output: Path, results: Sequence[Result], protocol: Mapping[str, Any]) -> None:
    """Write the report of a network that renders views, of another one nothing. protocol: as of `describe_protocol`."""
    if results[0].truth is None:
        return
    write_report(
        output,
        {'prediction': results},
        lambda result: result.truth,
        title=f'Views of the {protocol["split"]} split',
        lead=f'Rendered by {protocol["model"]}: some views of a shape, and the true ones. The file of a shape has all of them.',
        num_shown=NUM_SHOWN,
        curves=(),
    )


def _save(result: Result, output: Path) -> str:
    """Write the file of a prediction; returns its name in OUTPUT."""
    name = f'{result.category}_{result.name.replace("/", "_")}'
    if isinstance(result.prediction, Pictures):
        sheet = np.concatenate([np.concatenate(one.rgb, axis=1) for one in (result.prediction, result.truth)])
        stream = io.BytesIO()
        Image.fromarray(sheet).save(stream, 'png')
        (output / 'views').mkdir(parents=True, exist_ok=True)
        write_atomically(output / f'views/{name}.png', stream.getvalue())
        return f'views/{name}.png'
    name = f'meshes/{name}'
    (output / 'meshes').mkdir(parents=True, exist_ok=True)
    if isinstance(result.prediction, SEQUENCES):
        save_animation(result.prediction, output / f'{name}.glb')
        return f'{name}.glb'
    save_mesh(as_geometry(result.prediction), output / f'{name}.ply')
    return f'{name}.ply'
