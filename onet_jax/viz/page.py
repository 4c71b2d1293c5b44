"""One self-contained HTML page: headline numbers, a table, training curves, and interactive shapes in 3D (WebGL).

It opens from a file, offline. Without WebGL rendered images of the shapes remain.
"""

import base64
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import trimesh

from onet_jax.data.records import encode_picture
from onet_jax.files import write_atomically
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.simplify import simplify_mesh
from onet_jax.viz.pictures import (
    Item,
    ball_radius,
    check_columns,
    drawable,
    encode_png,
    is_picture,
    render,
    thin,
)
from onet_jax.viz.plots import plot

REACH = BOX / 2 + 0.05  # positions are stored as uint16 over [-REACH, REACH]^3
MAX_FACES = 20_000  # of a mesh on the page; mesh files keep all faces


def write_page(
    path: str | Path,
    *,
    title: str,
    lead: str,
    summary: dict[str, str],
    items: Sequence[Item],
    column_titles: Sequence[str],
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None,
    curves: Sequence[tuple[str, Sequence[tuple[float, float]], bool]] = (),
) -> None:
    """Write the page.

    summary: label -> value, the headline numbers. items: each with one shape for every column title. table: header and rows.
    curves: (title, [(step, value)], whether y is logarithmic) of each plot. Raises InputError as `check_columns` does.
    """
    check_columns(items, column_titles)
    solids = [shape for item in items for shape in item.shapes if not is_picture(shape)]
    numbers = iter(range(len(solids)))
    content = Template(Path(__file__).with_name('page.html').read_text(encoding='utf-8')).substitute(
        title=escape(title),
        lead=escape(lead),
        figures=''.join(f'<li><b>{escape(v)}</b><span>{escape(k)}</span></li>' for k, v in summary.items()),
        evaluation=_table(*table) if table else '',
        training=_plots(curves) if curves else '',
        items=''.join(_article(item, column_titles, numbers) for item in items),
        shapes=json.dumps([embed(shape) for shape in solids]),
        reach=REACH,
    )
    write_atomically(Path(path), content.encode(errors='backslashreplace'))  # names of files need not be UTF-8


def embed(shape: Any) -> dict:
    """A prediction or points [N, 3] in object coordinates, for JSON: base64 of uint16 positions and of uint32 faces."""
    shape = drawable(shape)
    if not isinstance(shape, trimesh.Trimesh):
        points = thin(shape)
        return {'positions': _positions(points), 'count': len(points), 'radius': 1.5 * ball_radius(len(points))}
    mesh = simplify_mesh(shape, MAX_FACES)
    return {
        'positions': _positions(mesh.vertices),
        'faces': base64.b64encode(np.asarray(mesh.faces, '<u4').tobytes()).decode(),
        'count': 3 * len(mesh.faces),
        'radius': 0,
    }


def _positions(points: np.ndarray) -> str:
    levels = np.round((np.asarray(points).clip(-REACH, REACH) / REACH + 1) / 2 * 65535)
    return base64.b64encode(levels.astype('<u2').tobytes()).decode()


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = ''.join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = ''.join('<tr>' + ''.join(f'<td>{escape(cell)}</td>' for cell in row) + '</tr>' for row in rows)
    table = f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<h2>Evaluation on held-out shapes</h2>\n<div class="scroll">{table}</div>'


def _plots(curves: Sequence[tuple[str, Sequence[tuple[float, float]], bool]]) -> str:
    plots = ''.join(
        plot(title, {style: points}, log_y=logarithmic)
        for (title, points, logarithmic), style in zip(curves, 'ab' * len(curves), strict=False)
    )
    return f'<h2>Training</h2>\n<div class="plots">{plots}</div>'


def _article(item: Item, column_titles: Sequence[str], numbers: Iterator[int]) -> str:
    """The tiles of an item. numbers: indices of the interactive shapes."""
    tiles = ''
    for title, shape in zip(column_titles, item.shapes, strict=True):
        still = is_picture(shape)
        kind, content = ('jpeg', encode_picture(render(shape))) if still else ('png', encode_png(render(shape)))
        attribute = '' if still else f' data-shape="{next(numbers)}"'
        tiles += (
            f'<figure><div class="tile"{attribute}><img alt="{escape(f"{item.name}: {title}")}" '
            f'src="data:image/{kind};base64,{base64.b64encode(content).decode()}"></div>'
            f'<figcaption>{escape(title)}</figcaption></figure>'
        )
    return f'<article><h3>{escape(item.name)}<span>{escape(item.caption)}</span></h3><div class="tiles">{tiles}</div></article>'
