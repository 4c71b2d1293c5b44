"""One self-contained HTML page: interactive shapes in 3D (WebGL), headline numbers, tables, failures and training curves.

It opens from a file, offline, and has at most about `MAX_BYTES`: the more shapes, the fewer faces each of them has. Sequences
play together, and a slider has the time. Without WebGL rendered images of the shapes remain, of sequences the first frame.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

import numpy as np
import trimesh
from scipy.spatial import KDTree

from onet_jax.data.records import encode_picture
from onet_jax.files import write_atomically
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.sequences import SEQUENCES, ChangingMeshes, CloudSequence, MeshSequence
from onet_jax.geometry.simplify import simplify_mesh
from onet_jax.viz.moving import embed_frames, reduce_sequence
from onet_jax.viz.pictures import (
    BACK,
    DOTS,
    FRONT,
    RGB,
    Item,
    Painted,
    PaintedCloud,
    Shape,
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
MAX_BYTES = 5_000_000  # of a page
# Of a shape on the page, at least and at most; mesh files keep all faces.
FACES, POINTS = (500, 60_000), (500, 10_000)
# In base64; of a face with half a vertex and its colour, and what an open mesh has more.
BYTES_OF_FACE, BYTES_OF_POINT, BYTES_OF_COLOUR = 15, 8, 4
POINT_SIZE = 0.8  # of a point, in balls of the images


def write_page(
    path: str | Path,
    *,
    title: str,
    lead: str,
    summary: dict[str, str],
    items: Sequence[Item],
    column_titles: Sequence[str],
    notes: Mapping[str, str] | None = None,
    legend: Mapping[str, RGB] | None = None,
    failures: Mapping[str, str] | None = None,
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None,
    curves: Sequence[tuple[str, Sequence[tuple[float, float]], bool]] = (),
) -> None:
    """Write the page.

    summary: label -> value, the headline numbers. items: each with one shape for every column title. notes: name of a method
    -> what it is, in a line. legend: meaning -> sRGB in [0, 1]. failures: name -> reason. table: header and rows.
    curves: (title, [(step, value)], whether y is logarithmic) of each plot. Raises InputError as `check_columns` does.
    """
    check_columns(items, column_titles)
    drawn = [[reduce_shape(_as_shown(shape), FACES[1], POINTS[1]) for shape in item.shapes] for item in items]
    solids = [shape for shapes in drawn for shape in shapes if not is_picture(shape)]
    numbers = iter(range(len(solids)))
    template = Template(Path(__file__).with_name('page.html').read_text(encoding='utf-8'))
    parts = {
        'title': escape(title),
        'lead': escape(lead),
        'figures': ''.join(f'<li><b>{escape(v)}</b><span>{escape(k)}</span></li>' for k, v in summary.items()),
        'notes': _notes(notes or {}),
        'legend': _legend(legend or {}),
        'items': ''.join(
            _article(item, shapes, column_titles, numbers) for item, shapes in zip(items, drawn, strict=True)
        ),
        'evaluation': _table(*table) if table else '',
        'failures': _failures(failures or {}),
        'training': _plots(curves) if curves else '',
    }
    num_faces, num_points = _share(solids, MAX_BYTES - sum(map(len, (template.template, *parts.values()))))
    shapes = json.dumps([embed(shape, num_faces, num_points) for shape in solids])
    colours = {name: json.dumps(colour) for name, colour in (('front', FRONT), ('back', BACK), ('dots', DOTS))}
    content = template.substitute(parts, shapes=shapes, reach=REACH, **colours)
    write_atomically(Path(path), content.encode(errors='backslashreplace'))  # names of files need not be UTF-8


def embed(shape: Any, num_faces: int = FACES[1], num_points: int = POINTS[1]) -> dict:
    """A prediction, a painted mesh or cloud, or points [N, 3], in object coordinates, for JSON.

    Base64 of positions as uint16, of faces as uint16 or uint32, and of colours as uint8; of at most so many faces and points. A
    sequence has 'frames', of which each has what differs.
    """
    shape = reduce_shape(_as_shown(shape), num_faces, num_points)
    if isinstance(shape, SEQUENCES):
        return embed_frames(shape, partial(embed, num_faces=num_faces, num_points=num_points))
    if isinstance(shape, np.ndarray):
        radius = POINT_SIZE * ball_radius(len(shape))
        return {'positions': _positions(shape), 'count': len(shape), 'radius': radius}
    if isinstance(shape, PaintedCloud):
        return {**embed(shape.points, num_faces, num_points), 'colours': _encode(shape.colours.astype(np.uint8))}
    mesh: trimesh.Trimesh = shape.mesh if isinstance(shape, Painted) else shape
    narrow = len(mesh.vertices) <= 1 << 16
    found = {
        'positions': _positions(mesh.vertices),
        'faces': _encode(np.asarray(mesh.faces, '<u2' if narrow else '<u4')),
        'narrow': narrow,
        'count': 3 * len(mesh.faces),
    }
    if isinstance(shape, Painted):
        found['colours'] = _encode(shape.colours)
    return found


def _as_shown(shape: Any) -> Any:
    return shape if isinstance(shape, SEQUENCES) else drawable(shape)


def reduce_shape(shape: Any, num_faces: int, num_points: int) -> Any:
    """A shape of at most so many faces or points; vertices of a painted mesh have the colours of the nearest ones before."""
    if isinstance(shape, SEQUENCES):
        return reduce_sequence(shape, num_faces, num_points)
    if isinstance(shape, np.ndarray):
        return shape if is_picture(shape) else thin(shape, num_points)
    if isinstance(shape, PaintedCloud):
        return PaintedCloud(*(thin(values, num_points) for values in shape))
    if isinstance(shape, trimesh.Trimesh):
        return simplify_mesh(shape, num_faces)
    if len(shape.mesh.faces) <= num_faces:
        return shape
    mesh = simplify_mesh(shape.mesh, num_faces)
    _, nearest = KDTree(shape.mesh.vertices).query(mesh.vertices)
    return Painted(mesh, shape.colours[nearest])


def _share(solids: Sequence[Any], left: int) -> tuple[int, int]:
    """How many faces each mesh and how many points each cloud has on a page on which so many bytes are left."""
    clouds = [shape for shape in solids if isinstance(shape, np.ndarray | PaintedCloud | CloudSequence)]
    of_points, of_faces = sum(map(_size, clouds)), sum(_size(shape) for shape in solids) - sum(map(_size, clouds))
    # A quarter for the clouds, whatever there is for meshes.
    of_clouds = left / 4 if of_faces else left
    num_points = int(np.clip(of_clouds / max(of_points, 1), *POINTS))
    left -= sum(_size(cloud) * min(_count(cloud), num_points) for cloud in clouds)
    return int(np.clip(left / max(of_faces, 1), *FACES)), num_points


def _size(shape: Any) -> int:
    """Bytes of each point of a cloud, or of each face of a mesh, in all frames."""
    if isinstance(shape, MeshSequence):
        return BYTES_OF_FACE + BYTES_OF_POINT // 2 * (len(shape.vertices) - 1)
    if isinstance(shape, ChangingMeshes):
        return BYTES_OF_FACE * len(shape.meshes)
    if isinstance(shape, CloudSequence):
        return BYTES_OF_POINT * len(shape.points)
    if isinstance(shape, PaintedCloud):
        return BYTES_OF_POINT + BYTES_OF_COLOUR
    return BYTES_OF_POINT if isinstance(shape, np.ndarray) else BYTES_OF_FACE


def _count(cloud: np.ndarray | PaintedCloud | CloudSequence) -> int:
    if isinstance(cloud, CloudSequence):
        return cloud.points.shape[1]
    return len(cloud if isinstance(cloud, np.ndarray) else cloud.points)


def _positions(points: np.ndarray) -> str:
    levels = np.round((np.asarray(points).clip(-REACH, REACH) / REACH + 1) / 2 * 65535)
    return _encode(levels.astype('<u2'))


def _encode(array: np.ndarray) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _notes(notes: Mapping[str, str]) -> str:
    lines = ''.join(f'<dt>{escape(name)}</dt><dd>{escape(text)}</dd>' for name, text in notes.items())
    return f'<dl class="notes">{lines}</dl>' if notes else ''


def _legend(legend: Mapping[str, RGB]) -> str:
    def css(colour: RGB) -> str:
        return ','.join(f'{255 * value:.0f}' for value in colour)

    marks = ''.join(
        f'<span><i style="background:rgb({css(c)})"></i>{escape(text)}</span>' for text, c in legend.items()
    )
    return f'<p class="legend">{marks}</p>' if legend else ''


def _failures(failures: Mapping[str, str]) -> str:
    lines = ''.join(f'<dt>{escape(name)}</dt><dd>{escape(reason)}</dd>' for name, reason in failures.items())
    return f'<h2>Failed</h2>\n<dl class="failures">{lines}</dl>' if failures else ''


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table; on a narrow window each row becomes a block of lines, in which a cell repeats the title of its column."""
    head = ''.join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = ''.join(
        '<tr>'
        + ''.join(
            f'<td data-title="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(header, row, strict=True)
        )
        + '</tr>'
        for row in rows
    )
    table = f'<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<h2>Evaluation on held-out shapes</h2>\n{table}'


def _plots(curves: Sequence[tuple[str, Sequence[tuple[float, float]], bool]]) -> str:
    plots = ''.join(
        plot(title, {style: points}, log_y=logarithmic)
        for (title, points, logarithmic), style in zip(curves, 'ab' * len(curves), strict=False)
    )
    return f'<h2>Training</h2>\n<div class="plots">{plots}</div>'


def _article(item: Item, shapes: Sequence[Shape], column_titles: Sequence[str], numbers: Iterator[int]) -> str:
    """The tiles of an item. numbers: indices of the interactive shapes."""
    tiles = ''
    links = item.links or [None] * len(shapes)
    for title, shape, link in zip(column_titles, shapes, links, strict=True):
        still = is_picture(shape)
        kind, content = ('jpeg', encode_picture(render(shape))) if still else ('png', encode_png(render(shape)))
        attribute = '' if still else f' data-shape="{next(numbers)}"'
        file = f' <a href="{escape(quote(link))}">{escape(Path(link).suffix[1:])}</a>' if link else ''
        tiles += (
            f'<figure><div class="tile"{attribute}><img alt="{escape(f"{item.name}: {title}")}" '
            f'src="data:image/{kind};base64,{base64.b64encode(content).decode()}"></div>'
            f'<figcaption>{escape(title)}{file}</figcaption></figure>'
        )
    return f'<article><h3>{escape(item.name)}<span>{escape(item.caption)}</span></h3><div class="tiles">{tiles}</div></article>'
