"""One self-contained HTML page of an evaluation: figures, table, curves, and the shapes turning in 3D.

It opens from a file, offline, and asks for nothing else. Without WebGL the still pictures remain.
"""

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

import fast_simplification
import numpy as np
import trimesh

from onet_jax.files import write_atomically
from onet_jax.geometry.grid import BOX
from onet_jax.viz.pictures import Item, Shape, ball_radius, check_columns, encode_png, render, thin
from onet_jax.viz.plots import plot

REACH = BOX / 2 + 0.05  # positions are stored as uint16 over [-REACH, REACH]^3
MAX_FACES = 20_000  # of a mesh on the page; the exported meshes keep all of theirs


def write_page(
    path: str | Path,
    *,
    title: str,
    lead: str,
    summary: dict[str, str],
    table: tuple[Sequence[str], Sequence[Sequence[str]]],
    curves: Sequence[tuple[str, Sequence[tuple[float, float]], bool]],
    items: Sequence[Item],
    column_titles: Sequence[str],
) -> None:
    """Write the page.

    summary: label -> value, the headline. table: header and rows. curves: (title, [(step, value)], logarithmic) for each plot.
    items: the shapes, each with one entry for every column title.
    """
    check_columns(items, column_titles)
    header, rows = table
    shapes = [shape for item in items for shape in item.shapes]
    content = Template(Path(__file__).with_name('page.html').read_text(encoding='utf-8')).substitute(
        title=escape(title),
        lead=escape(lead),
        figures=''.join(f'<li><b>{escape(v)}</b><span>{escape(k)}</span></li>' for k, v in summary.items()),
        table=_table(header, rows),
        plots=''.join(
            plot(title, {style: points}, log_y=logarithmic)
            for (title, points, logarithmic), style in zip(curves, 'ab' * len(curves), strict=False)
        ),
        items=''.join(_article(item, column_titles, i * len(column_titles)) for i, item in enumerate(items)),
        shapes=json.dumps([embed(shape) for shape in shapes]),
        reach=REACH,
    )
    write_atomically(Path(path), content.encode())


def embed(shape: Shape) -> dict:
    """A mesh or points [N, 3] in object coordinates as JSON: base64 of uint16 positions and uint32 faces."""
    if not isinstance(shape, trimesh.Trimesh):
        points = thin(shape)
        return {'positions': _positions(points), 'count': len(points), 'radius': 1.5 * ball_radius(len(points))}
    vertices, faces = np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32)
    if len(faces) > MAX_FACES:
        vertices, faces = fast_simplification.simplify(vertices, faces, target_count=MAX_FACES, agg=2)
    return {
        'positions': _positions(vertices),
        'faces': base64.b64encode(np.asarray(faces, '<u4').tobytes()).decode(),
        'count': 3 * len(faces),
        'radius': 0,
    }


def _positions(points: np.ndarray) -> str:
    levels = np.round((np.asarray(points).clip(-REACH, REACH) / REACH + 1) / 2 * 65535)
    return base64.b64encode(levels.astype('<u2').tobytes()).decode()


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = ''.join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = ''.join('<tr>' + ''.join(f'<td>{escape(cell)}</td>' for cell in row) + '</tr>' for row in rows)
    return f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _article(item: Item, column_titles: Sequence[str], first: int) -> str:
    tiles = ''.join(
        f'<figure><div class="tile" data-shape="{first + i}"><img alt="{escape(f"{item.name}: {title}")}" '
        f'src="data:image/png;base64,{base64.b64encode(encode_png(render(shape))).decode()}"></div>'
        f'<figcaption>{escape(title)}</figcaption></figure>'
        for i, (title, shape) in enumerate(zip(column_titles, item.shapes, strict=True))
    )
    return f'<article><h3>{escape(item.name)}<span>{escape(item.caption)}</span></h3><div class="tiles">{tiles}</div></article>'
