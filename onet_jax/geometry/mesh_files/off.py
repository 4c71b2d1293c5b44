"""OFF: the object file format of Geomview, with its prefixes for colours, normals, texture and homogeneous coordinates."""

import re
from pathlib import Path

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons, to_bytes, to_indices
from onet_jax.geometry.mesh_files.text import Rows, decode, parse_rows, without_comments
from onet_jax.geometry.ragged import ragged_range

HEADER = re.compile(
    rb'(?:(?P<texture>ST)?(?P<colour>C)?(?P<normal>N)?(?P<homogeneous>4)?(?P<more>n)?OFF)?'
    rb'\s*(?:(?P<binary>BINARY)\s*)?(?P<vertices>\d+)[ \t]+(?P<faces>\d+)[^\n]*\n'
)


def read_off(path: Path) -> list[Polygons]:
    """The polygons of a file: the first numbers of each line, other than blank ones, are those that the header announces."""
    text = without_comments(decode(path.read_bytes())).lstrip() + b'\n'
    keyword = re.match(rb'(\w*off)', text, re.IGNORECASE)
    if keyword and keyword[1][-4:] != b'nOFF':
        text = keyword[1].upper() + text[keyword.end(1) :]
    header = HEADER.match(text)
    if header is None or header['binary'] or header['more']:
        raise InputError(
            f'expected OFF and the numbers of vertices and faces, in text and of three dimensions, found {text[:40]!r}'
        )
    num_vertices, num_faces = int(header['vertices']), int(header['faces'])
    end = _end_of_lines(text, header.end(), num_vertices)
    vertices = _rows(text[header.end() : end], num_vertices)
    faces = _rows(text[end:], num_faces, np.int64)
    if len(faces.sizes) < num_faces:
        raise InputError(f'expected the {num_faces} faces of the header, found {len(faces.sizes)} lines')

    num = 4 if header['homogeneous'] else 3
    positions = vertices.columns(num, 'vertex')
    if header['homogeneous']:
        with np.errstate(divide='ignore', invalid='ignore'):
            positions = positions[:, :3] / positions[:, 3:]
    before, after = num + 3 * bool(header['normal']), 2 * bool(header['texture'])
    colours = _colours(vertices, np.full(num_vertices, before), after) if header['colour'] else None

    starts = np.cumsum(faces.sizes) - faces.sizes
    sizes = to_indices(faces.values[starts])
    if not ((sizes >= 0) & (sizes < faces.sizes)).all():
        face = int(np.argmax((sizes < 0) | (sizes >= faces.sizes)))
        raise InputError(f'expected {sizes[face]} vertices of face {face + 1}, found {faces.sizes[face] - 1} numbers')
    corners = to_indices(faces.values[np.repeat(starts + 1, sizes) + ragged_range(sizes)])
    return [Polygons(positions, corners, sizes, colours, _colours(faces, sizes + 1, 0))]


def _end_of_lines(text: bytes, start: int, num: int) -> int:
    """Where the first `num` lines after a place, other than blank ones, end."""
    letters = np.frombuffer(text, np.uint8, offset=start)
    ends = np.flatnonzero(letters == ord('\n'))
    visible = np.diff(np.cumsum(letters > ord(' '))[ends], prepend=0) > 0
    filled = ends[visible]
    if len(filled) < num:
        raise InputError(f'expected the {num} vertices of the header, found {len(filled)} lines')
    return start + int(filled[num - 1]) + 1 if num else start


def _rows(text: bytes, num: int, dtype: type = np.float64) -> Rows:
    """The rows of the first `num` lines, other than blank ones."""
    rows = parse_rows(text, dtype)
    sizes = rows.sizes[rows.sizes > 0][:num]
    return rows._replace(values=rows.values[: sizes.sum()], sizes=sizes)


def _colours(rows: Rows, before: np.ndarray, after: int) -> np.ndarray | None:
    """The three or four numbers of each row after its first ones and before its last, as bytes; None where there are none."""
    num = rows.sizes - before - after
    if not len(num) or num[0] not in (3, 4) or (num != num[0]).any():
        return None
    places = (np.cumsum(rows.sizes) - rows.sizes + before)[:, None] + np.arange(num[0])
    return to_bytes(rows.values[places])
