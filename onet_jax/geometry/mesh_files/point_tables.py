"""Point clouds in text (XYZ, CSV and their dialects) and in NumPy's `.npy` and `.npz`. P points."""

import io
import re
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np

from onet_jax.arrays import read_array, read_header
from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons, to_bytes
from onet_jax.geometry.mesh_files.text import SPACE, TAB, decode, is_number, without_comments

# Bytes of a compressed array: more only where its compressed bytes times the ratio allow.
MAX_UNPACKED, MAX_RATIO = 1 << 28, 16
QUOTE, COMMA, SEMICOLON = b'",;'
MAX_HEADER = 100  # lines before the first point
MAX_OFF_UNIT = 0.02  # of the length of a normal


def read_text(path: Path) -> list[Polygons]:
    """The points of a text file, one a line: x, y, z first, or where a header names them so; other columns follow.

    Columns are separated by semicolons, else by tabs, else by commas, else by blanks; commas that separate none are decimal
    commas. Comments (# or //), a header and a line with the number of points are skipped. Columns 4 to 6 are colours where
    they are whole numbers up to 255; these, or else columns 7 to 9, are normals where they are unit vectors.
    """
    text = _without_quotes(decode(path.read_bytes()))
    if b'.#' in text or b'(ind)' in text:  # NaN and infinity of Microsoft's C library
        text = re.sub(rb'-?(?:1\.#\w+|nan\(ind\))', b'nan', text)
    top = [_without_comments(line).strip(b' ') for line in text.split(b'\n', MAX_HEADER + 1)[: MAX_HEADER + 1]]
    votes = [_separator(line) for line in reversed(top) if line.strip()]
    separator = max(votes, key=votes.count, default=b'')
    places, count, start = _find_points(text, separator)
    text = _without_comments(text[start:])
    if separator != b',' and b',' in text:
        text = _with_decimal_points(text)
    table = _parse(text, places, separator.decode()) if text.strip() else np.zeros((0, 3))
    if count not in (None, len(table)):
        raise InputError(f'expected the {count} points that its first line announces, found {len(table)}')
    if table.shape[1] == 3:
        return [Polygons(table)]
    rest, colours = table[:, 3:6], None
    if rest.shape[1] == 3 and ((rest >= 0) & (rest <= 255) & (rest == np.round(rest))).all():
        colours = to_bytes(rest, 1)
    blocks = (table[:, first : first + 3] for first in (3, 6) if colours is None or first > 3)
    normals = next((block.copy() for block in blocks if block.shape[1] == 3 and _are_unit(block)), None)
    return [Polygons(table[:, :3].copy(), vertex_colours=colours, vertex_normals=normals)]


def _are_unit(vectors: np.ndarray) -> bool:
    return len(vectors) > 0 and bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) < MAX_OFF_UNIT).all())


def _without_comments(text: bytes) -> bytes:
    return without_comments(without_comments(text), b'//')


def _without_quotes(text: bytes) -> bytes:
    """The text without quotes: what separates columns inside them becomes a blank, a comma between them a semicolon."""
    if b'"' not in text:
        return text
    letters = np.frombuffer(bytearray(text), np.uint8)
    quotes, commas, others = letters == QUOTE, letters == COMMA, (letters == SEMICOLON) | (letters == TAB)
    inside = np.cumsum(quotes, dtype=np.uint8) % 2 == 1
    if not (others & ~inside).any():
        numbers = re.findall(rb'" *([+-]?\d+,\d+) *"', text)
        if numbers and all(re.fullmatch(rb'[+-]?[1-9]\d{0,2},\d{3}', number) for number in numbers):
            raise InputError(f'expected decimal points, found "{numbers[0].decode()}": a thousand, or a decimal comma?')
        letters[commas & ~inside] = SEMICOLON
    letters[others & inside] = SPACE
    return letters[~quotes].tobytes()


def _separator(line: bytes) -> bytes:
    """What separates the columns of a line; nothing stands for any blanks."""
    if b';' in line.rstrip(b'; \t'):
        return b';'
    if re.fullmatch(rb'[^\t]+(\t[^\t]+){2,}\t?', line):
        return b'\t'
    return b',' if b',' in line and sum(map(_is_number, line.split())) < 3 else b''


def _is_number(cell: bytes) -> bool:
    return is_number(cell.replace(b',', b'.'))


def _find_points(text: bytes, separator: bytes) -> tuple[list[int], int | None, int]:
    """The columns of x, y and z, the number of points if a line says it, and where points begin."""
    places, names, in_comment = [0, 1, 2], 3, True  # how many columns the header names
    count, place = None, 0
    for _ in range(MAX_HEADER):
        end = text.find(b'\n', place)
        line = text[place : end if end >= 0 else len(text)].strip(b' ')
        comment = re.match(rb'\s*(#|//)', line) is not None
        cells = _split(_without_comments(line), separator)
        chosen = [cells[column] for column in places if column < len(cells)]
        if comment or not (any(map(_is_number, chosen)) or (cells and not chosen)):
            title = re.sub(rb'\[[^][]*\]|\([^()]*\)', b'', line)  # units
            if comment:
                title = re.sub(rb'(?i)^[\s#/]*(.*[:=]|(fields|columns|format)\b)?\s*', b'', title)
            own = separator and separator in title
            found = _split(title, separator) if own else re.split(rb'[\s,;]+', title.strip())
            found = [cell.strip(b"'").lower() for cell in found]
            if {b'x', b'y', b'z'} <= set(found):
                places, names, in_comment = [found.index(axis) for axis in (b'x', b'y', b'z')], len(found), comment
        elif len(cells) == 1 and cells[0].isdigit() and count is None:
            count = int(cells[0])
        else:
            if len(cells) < 3:
                raise InputError(f'expected x, y and z, three columns, found {len(cells)}')
            num = len(cells) - (not cells[-1])
            if in_comment and names != len(cells):
                places = [0, 1, 2]  # a sentence that says x y z
            elif names < num if separator else names != num and places != [0, 1, 2]:
                raise InputError(f'expected the {names} columns that its header names, found {num}')
            break
        if end < 0:
            break
        place = end + 1
    return places, count, place


def _split(line: bytes, separator: bytes) -> list[bytes]:
    return [cell.strip() for cell in line.split(separator or None)] if line.strip() else []


def _with_decimal_points(text: bytes) -> bytes:
    """The text with points for its decimal commas. Raises InputError where numbers have both."""
    number = rb'(?<![^;\s])[+-]?\d*%b\d+(?:[eE][+-]?\d+)?(?![^;\s])'
    comma, point = (re.search(number % mark, text) if b'.' in text else None for mark in (b',', rb'\.'))
    if comma and point:
        found = f'{comma[0].decode()} and {point[0].decode()}'
        raise InputError(f'expected decimal points or decimal commas, found both: {found}')
    return text.replace(b',', b'.')


def _parse(text: bytes, places: list[int], separator: str) -> np.ndarray:
    """A table of numbers, [P, columns]; only the columns of these places where others differ in number or hold words.

    An empty column is NaN.
    """
    read = partial(np.loadtxt, comments=None, delimiter=separator or None, ndmin=2, encoding='latin1')
    columns = None if places == [0, 1, 2] else places
    with suppress(ValueError):
        return read(io.BytesIO(text), usecols=columns)
    mark, tight = separator.encode(), b'\n' + text.translate(None, b' ').strip(b'\n') + b'\n'
    if mark and any(pair in tight for pair in (mark + mark, mark + b'\n', b'\n' + mark, b'\n\n')):
        text = re.sub(rb'(?m)^[ \t]+$', b'', text)
        text = re.sub(rb'(?m)(?:(?<=%b)|^) *(?=%b)|(?<=%b) *$' % (mark, mark, mark), b'nan', text)
        with suppress(ValueError):
            return read(io.BytesIO(text), usecols=columns)
    try:
        return read(io.BytesIO(text), usecols=places)
    except ValueError as error:
        between = repr(separator) if separator else 'blanks'
        where = f'the columns {[place + 1 for place in places]}, separated by {between}'
        raise InputError(f'expected numbers in {where} ({error})') from error


def read_npy(path: Path) -> list[Polygons]:
    """The points of an array (see `_points`)."""
    content = path.read_bytes()
    return [Polygons(_points(read_array(content, read_header(content))))]


def read_npz(path: Path) -> list[Polygons]:
    """The points of the array 'points' of an archive, with its 'normals', or of its only array."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix('.npy'): info for info in archive.infolist()}
        member = members.get('points') or (next(iter(members.values())) if len(members) == 1 else None)
        if member is None:
            raise InputError(f"expected an array named 'points', or one array alone, found {sorted(members)}")
        points = _read_member(archive, member)
        normals = _read_member(archive, members['normals']) if {'points', 'normals'} <= members.keys() else None
    if normals is not None and len(normals) != len(points):
        raise InputError(f'expected a normal for each of {len(points)} points, found {len(normals)}')
    return [Polygons(points, vertex_normals=normals)]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    most = max(MAX_UNPACKED, MAX_RATIO * member.compress_size)
    if member.file_size > most:
        raise InputError(f'expected an array of at most {most} bytes, found {member.file_size}; save it uncompressed')
    content = archive.read(member)
    return _points(read_array(content, read_header(content)))


def _points(array: np.ndarray) -> np.ndarray:
    """Points [P, 3] float64 of an array [..., 3 or more columns], the first three x, y, z, or of records x, y, z.

    Of the axes of three and more, the last must be the shortest: a shorter one may be that of x, y, z.
    """
    if array.dtype.names and {'x', 'y', 'z'} <= set(array.dtype.names):
        array = np.stack([array[axis] for axis in 'xyz'], axis=-1)
    if array.ndim < 2 or array.shape[-1] < 3 or array.dtype.kind not in 'fiu':
        raise InputError(f'expected points [N, 3], found an array of shape {list(array.shape)} and type {array.dtype}')
    points = array.reshape(-1, array.shape[-1])
    if 0 < len(points) < points.shape[1] or any(3 <= size < points.shape[1] for size in array.shape):
        raise InputError(f'expected points [N, 3], found an array of shape {list(array.shape)}; transpose it')
    return points[:, :3].astype(np.float64)
