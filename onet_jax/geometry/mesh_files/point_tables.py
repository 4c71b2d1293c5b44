"""Point clouds in text (XYZ, CSV and their dialects) and in NumPy's `.npy` and `.npz`. P points."""

import io
import re
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from onet_jax.arrays import read_array, read_header
from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons, to_bytes
from onet_jax.geometry.mesh_files.text import NEWLINE, SPACE, TAB, decode, is_number, without_comments

# Bytes of a compressed array: more only where its compressed bytes times the ratio allow.
MAX_UNPACKED, MAX_RATIO = 1 << 28, 16
COMMA, SEMICOLON = b',;'
MAX_HEADER = 100  # lines before the first point


def read_text(path: Path) -> list[Polygons]:
    """The points of a text file, one a line: x, y, z first, or where a header names them so; other columns follow.

    Columns are separated by blanks, tabs, commas or semicolons, numbers may have decimal commas. Comments (# or //), a header
    and a line with the number of points are skipped. Columns 4 to 6 are colours where they are whole numbers up to 255.
    """
    text = decode(path.read_bytes()).replace(b'"', b'')
    if b'.#' in text or b'(ind)' in text:  # NaN and infinity of Microsoft's C library
        text = re.sub(rb'-?(?:1\.#\w+|nan\(ind\))', b'nan', text)
    names, count, start = _find_points(text)
    text = _with_blanks(without_comments(without_comments(text[start:]), b'//'))
    places = [names.index(axis) for axis in 'xyz'] if names else [0, 1, 2]
    table = _parse(text, places) if text.strip() else np.zeros((0, 3))
    if count not in (None, len(table)):
        raise InputError(f'expected the {count} points that its first line announces, found {len(table)}')
    if table.shape[1] == 3:
        return [Polygons(table)]
    rest, colours = table[:, 3:6], None
    if rest.shape[1] == 3 and ((rest >= 0) & (rest <= 255) & (rest == np.round(rest))).all():
        colours = to_bytes(rest, 1)
    return [Polygons(table[:, :3].copy(), vertex_colours=colours)]


def _parse(text: bytes, places: list[int]) -> np.ndarray:
    """A table of numbers, [P, columns]; only the columns of these places where others differ in number or hold words."""
    if places == [0, 1, 2]:
        with suppress(ValueError):
            return np.loadtxt(io.BytesIO(text), comments=None, ndmin=2, encoding='latin1')
    try:
        return np.loadtxt(io.BytesIO(text), comments=None, ndmin=2, encoding='latin1', usecols=places)
    except ValueError as error:
        raise InputError(f'expected numbers in the columns {[place + 1 for place in places]} ({error})') from error


def _find_points(text: bytes) -> tuple[list[str], int | None, int]:
    """The names of the columns if x, y and z are among them, the number of points if a line says it, where points begin."""
    names: list[str] = []
    count, place = None, 0
    for _ in range(MAX_HEADER):
        end = text.find(b'\n', place)
        line = text[place : end if end >= 0 else len(text)].strip()
        words = re.split(rb'[\s,;]+', line.strip(b'#/,; \t'))
        chosen = [words[column] for column in map(names.index, 'xyz') if column < len(words)] if names else words[:3]
        if re.match(rb'#|//', line) or not (any(map(is_number, chosen)) or (names and not chosen)):
            cells = re.split(rb'[,;\t]' if re.search(rb'[,;\t]', line) else rb'\s+', line.strip(b'#/,; \t'))
            found = [cell.strip(b"' ").lower().decode(errors='replace') for cell in cells]
            names = found if {'x', 'y', 'z'} <= set(found) else names
        elif len(words) == 1 and words[0].isdigit() and count is None:
            count = int(words[0])
        elif line:
            if len(names) != len(words):  # a sentence that says x y z
                names = []
            break
        if end < 0:
            break
        place = end + 1
    return names, count, place


def _with_blanks(text: bytes) -> bytes:
    """The text with its columns separated by blanks, its numbers with decimal points, and NaN in empty columns."""
    if b';' not in text and b',' not in text:
        return text
    words = re.split(rb'[\s;]+', text.lstrip().partition(b'\n')[0].strip())
    if (
        b'.' not in text
        and len(words) >= 3
        and all(re.fullmatch(rb'[+-]?\d+(,\d+)?(e[+-]?\d+)?', w, re.I) for w in words)
    ):
        text = text.replace(b',', b'.')
    letters = np.frombuffer(b'\n' + text + b'\n', np.uint8)
    letters = letters[(letters != SPACE) & (letters != TAB)]
    separates, ends = np.isin(letters, [COMMA, SEMICOLON]), letters == NEWLINE
    if ((separates[1:] & (separates | ends)[:-1]) | (ends[1:] & separates[:-1])).any():
        text = re.sub(rb'(?m)(?:(?<=[,;])|^)[ \t]*(?=[,;])|(?<=[,;])[ \t]*$', b'nan', text)
    return text.translate(bytes.maketrans(b',;', b'  '))


def read_npy(path: Path) -> list[Polygons]:
    """The points of an array (see `_points`)."""
    content = path.read_bytes()
    return [Polygons(_points(read_array(content, read_header(content))))]


def read_npz(path: Path) -> list[Polygons]:
    """The points of the array 'points' of an archive, or of its only array."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
        member = members.get('points') or (next(iter(members.values())) if len(members) == 1 else None)
        if member is None:
            raise InputError(f"expected an array named 'points', or one array alone, found {sorted(members)}")
        most = max(MAX_UNPACKED, MAX_RATIO * member.compress_size)
        if member.file_size > most:
            raise InputError(
                f'expected an array of at most {most} bytes, found {member.file_size}; save it uncompressed'
            )
        content = archive.read(member)
    return [Polygons(_points(read_array(content, read_header(content))))]


def _points(array: np.ndarray) -> np.ndarray:
    """Points [P, 3] float64 of an array [..., 3 or more columns], the first three x, y, z, or of records x, y, z."""
    if array.dtype.names and {'x', 'y', 'z'} <= set(array.dtype.names):
        array = np.stack([array[axis] for axis in 'xyz'], axis=-1)
    if array.ndim < 2 or array.shape[-1] < 3 or array.dtype.kind not in 'fiu':
        raise InputError(f'expected points [N, 3], found an array of shape {list(array.shape)} and type {array.dtype}')
    points = array.reshape(-1, array.shape[-1])
    if 0 < len(points) < points.shape[1]:
        raise InputError(f'expected points [N, 3], found an array of shape {list(array.shape)}; transpose it')
    return points[:, :3].astype(np.float64)
