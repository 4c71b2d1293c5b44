"""STL, binary and ASCII: triangles that share no vertices. Which of the two a file is, its size says, not its first word."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons
from onet_jax.geometry.mesh_files.text import Lines, decode, parse_rows
from onet_jax.json_files import NUMBER, TEXT, read_json

HEADER = 84  # bytes, the last four of them the number of triangles
TRIANGLE = np.dtype([('normal', '<f4', 3), ('corners', '<f4', (3, 3)), ('attribute', '<u2')])
OFFSET = {'offset': [NUMBER], 'sha256': TEXT}  # schema of the file beside
UNKNOWN = (0, (1 << 32) - 1)  # counts of programs that write the header before they know


def read_stl(path: Path) -> list[Polygons]:
    """The triangles of a file, moved by the offset that `save_mesh` leaves beside one far from the origin."""
    content = path.read_bytes()
    part = _read(content)
    return [part._replace(vertices=part.vertices + read_offset(path, content))]


def _read(content: bytes) -> Polygons:
    num_found, rest = divmod(max(len(content) - HEADER, 0), TRIANGLE.itemsize)
    num = int.from_bytes(content[HEADER - 4 : HEADER], 'little')
    if num != num_found or rest or len(content) < HEADER:
        is_text = re.match(rb'\s*solid\b', content) and b'\0' not in content
        if is_text or re.search(rb'(?i)\bouter\s+loop\s+vertex\s', content):
            return _read_text(decode(content).lower())
        if num in UNKNOWN and num_found and not rest:
            num = num_found
    if len(content) < HEADER:
        raise InputError(f'expected at least {HEADER} bytes, found {len(content)}; export it again')
    if num > num_found:
        raise InputError(f'expected the {num} triangles of the header, found bytes for {num_found}; export it again')
    corners = np.frombuffer(content, TRIANGLE, num, HEADER)['corners'].reshape(-1, 3)
    return _to_polygons(corners.astype(np.float64))


def _read_text(text: bytes) -> Polygons:
    numbers = _after_vertex(text)
    in_lines = text.count(b'vertex') == numbers.count(b'\n') and b'endloop' not in numbers
    rows = parse_rows(numbers) if in_lines else None
    if rows is None or (rows.sizes < 3).any():  # line breaks are white space like any other, after the name
        text = re.sub(rb'\b(end)?solid\b[^\n]*?(?=\bfacet\b|\n|$)', b'', text)
        text = re.sub(rb'\s+', b' ', text)
        rows = parse_rows(_after_vertex(re.sub(rb'\b(vertex|endloop)\b', rb'\n\1', text)))
    vertices = rows.columns(3, 'vertex')
    num = len(vertices)
    if num % 3:
        raise InputError(f'expected three vertices of each facet, found {num} vertices in all; export it again')
    return _to_polygons(vertices)


def _after_vertex(text: bytes) -> bytes:
    """The lines that begin with vertex, without that word."""
    lines = Lines(text)
    numbers = lines.after(b'vertex', lines.begin_with(b'vertex'))
    # Decimal commas: nothing else of the format is a comma.
    return numbers if b'.' in numbers else numbers.replace(b',', b'.')


def _to_polygons(vertices: np.ndarray) -> Polygons:
    return Polygons(vertices, np.arange(len(vertices)), np.full(len(vertices) // 3, 3))


def offset_file(path: Path) -> Path:
    """The file beside an STL that holds its offset."""
    return path.with_name(f'{path.name}.offset.json')


def describe_offset(content: bytes, offset: np.ndarray) -> dict:
    """What the file beside an STL of this content holds."""
    return {'offset': offset.tolist(), 'sha256': hashlib.sha256(content).hexdigest()}


def read_offset(path: Path, content: bytes) -> np.ndarray:
    """The offset [3] of an STL of this content; zeros where none is beside it, or that of another content."""
    beside = offset_file(path)
    if not os.path.isfile(beside):  # False also for a name that is too long
        return np.zeros(3)
    stored = read_json(beside, OFFSET)
    offset = np.array(stored['offset'], np.float64)
    return offset if stored == describe_offset(content, offset) else np.zeros(3)
