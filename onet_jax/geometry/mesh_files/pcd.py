"""PCD, the point cloud format of PCL: ASCII, binary, and binary compressed with LZF. P points."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons
from onet_jax.geometry.mesh_files.text import decode, parse_rows

KINDS = {'F': 'f', 'I': 'i', 'U': 'u'}


def read_pcd(path: Path) -> list[Polygons]:
    """The points of a file, with their colours (fields rgb or rgba); invalid ones are NaN."""
    content = path.read_bytes()
    end = re.search(rb'(?m)^DATA[ \t]+(\w+)[^\n]*\n', content)
    if end is None:
        raise InputError(f'expected a PCD header that ends with a line DATA, found {content[:20]!r}')
    lines = content[: end.start()].decode(errors='replace').splitlines()
    header = {key: words for key, *words in (line.split() for line in lines if line.strip())}
    fields = header['FIELDS']
    counts = [int(count) for count in header.get('COUNT', ['1'] * len(fields))]
    types = [np.dtype(f'<{KINDS[kind]}{size}') for kind, size in zip(header['TYPE'], header['SIZE'], strict=True)]
    num = int(header['POINTS'][0])
    if not {'x', 'y', 'z'} <= set(fields) or num < 0 or min(counts) < 0:
        raise InputError(f'expected fields x, y, z of a number of points, found {header}')
    body, kind = content[end.end() :], end[1]
    # Padding may repeat a name, such as `_`.
    colour = next((field for field in ('rgb', 'rgba') if field in fields), '')
    names = [field if field in ('x', 'y', 'z', colour) else str(n) for n, field in enumerate(fields)]
    layout = [(name, dtype, (count,)) for name, dtype, count in zip(names, types, counts, strict=True)]
    if kind == b'ascii':
        starts = dict(zip(names, np.cumsum([0, *counts]), strict=False))
        rows = parse_rows(decode(body))
        rows = rows._replace(sizes=rows.sizes[rows.sizes > 0])
        table = rows.columns(sum(counts), 'point')
        if len(table) < num:
            raise InputError(f'expected the {num} points of the header, found {len(table)}; the file is cut off')
        packed = table[:num, starts[colour]].astype(types[names.index(colour)]) if colour else None
        return [Polygons(table[:num, [starts[axis] for axis in 'xyz']], vertex_colours=_colours(packed))]
    size = num * np.dtype(layout).itemsize
    if kind == b'binary_compressed':
        packed, unpacked = (int.from_bytes(body[n : n + 4], 'little') for n in (0, 4))
        body = _unpack(body[8 : 8 + packed], min(size, unpacked))
    if kind not in (b'binary', b'binary_compressed') or len(body) < size:
        raise InputError(
            f'expected {size} bytes for {num} points, found {len(body)} in a file of {kind!r}; export it again'
        )
    found: Any = {}
    if kind == b'binary':
        found = np.frombuffer(body, layout, num)
    else:  # field by field
        place = 0
        for name, dtype, (count,) in layout:
            found[name] = np.frombuffer(body, dtype, num * count, place).reshape(num, count)
            place += num * count * dtype.itemsize
    vertices = np.concatenate([found[axis][:, :1] for axis in 'xyz'], axis=1).astype(np.float64)
    return [Polygons(vertices, vertex_colours=_colours(found[colour][:, 0]) if colour else None)]


def _colours(packed: np.ndarray | None) -> np.ndarray | None:
    """Colours [P, 4] uint8 of numbers [P] of 32 bits, whatever their type: blue in the lowest byte, then green and red."""
    if packed is None or packed.dtype.itemsize != 4:
        return None
    rgba = np.full((len(packed), 4), 255, np.uint8)
    rgba[:, :3] = np.ascontiguousarray(packed).view('<u4')[:, None] >> np.array([16, 8, 0], np.uint32) & 255
    return rgba


def _unpack(content: bytes, size: int) -> bytes:
    """LZF: runs of bytes, and references to what has been unpacked already. At most `size` bytes."""
    found, place = bytearray(), 0
    while place < len(content) and len(found) < size:
        control = content[place]
        place += 1
        if control < 32:
            found += content[place : place + control + 1]
            place += control + 1
            continue
        length = control >> 5
        if length == 7:
            length += content[place]
            place += 1
        start = len(found) - ((control & 31) << 8) - content[place] - 1
        place += 1
        if start < 0:
            raise InputError('expected a reference to earlier bytes, found one before the first; export the file again')
        pattern = found[start : start + length + 2]
        found += (pattern * (-(-(length + 2) // len(pattern))))[: length + 2]
    return bytes(found)
