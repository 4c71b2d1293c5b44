"""LAS, LAZ and E57, the point clouds of laser scanners and surveys, by the libraries of the extra `scan`: laspy and pye57.

A file is read chunk by chunk, and of more than `MAX_POINTS` points only so many are kept, drawn with a fixed seed. P points.
"""

import importlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons, to_bytes

MAX_POINTS = 5_000_000  # of a file: more than a network sees
CHUNK = 1_000_000  # points
COMPRESSED = 128  # kinds of points in LAS files from this on; they say nothing about the size of the file
RECORD, LONGEST = 54, 1024  # bytes of a variable length record of a LAS file, at least, and of a point, at most
CARTESIAN = ('cartesianX', 'cartesianY', 'cartesianZ')
SPHERICAL = ('sphericalRange', 'sphericalAzimuth', 'sphericalElevation')
COLOURS = ('colorRed', 'colorGreen', 'colorBlue')

Chunk = tuple[np.ndarray, np.ndarray | None]  # points [P, 3] float64, colours [P, 3] of any scale


def read_las(path: Path) -> list[Polygons]:
    """The points of a LAS or LAZ file, with their colours where it has some."""
    laspy = _require('laspy', path)
    _require('lazrs', path)
    _check_las(path)
    with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs, read_evlrs=False) as reader:
        has_colours = {'red', 'green', 'blue'} <= set(reader.header.point_format.dimension_names)
        chunks = (
            (
                np.column_stack([points.x, points.y, points.z]).astype(np.float64),
                np.column_stack([points.red, points.green, points.blue]) if has_colours else None,
            )
            for points in reader.chunk_iterator(CHUNK)
        )
        points, colours = _draw(path, chunks, reader.header.point_count)
    if colours is None or not colours.any():  # all are 0 where a scanner has no camera
        return [Polygons(points)]
    return [
        Polygons(points, vertex_colours=to_bytes(colours, 1 if colours.max() <= 255 else 255 / 65535))
    ]  # 8 or 16 bits


def _check_las(path: Path) -> None:
    """Raises InputError for counts in the header for which the file is too small: the library allocates what they say."""
    with path.open('rb') as file:
        header, size = file.read(255).ljust(255, b'\0'), path.stat().st_size
    start, num_records, kind, length, num = struct.unpack_from('<IIBHI', header, 96)
    if header[25] >= 4:
        (num,) = struct.unpack_from('<Q', header, 247)
    if header[:4] != b'LASF' or not num_records * RECORD <= start <= size or length > LONGEST:
        raise InputError(f'expected the header of a LAS file, found {header[:4]!r} or wrong counts; export it again')
    if kind < COMPRESSED and start + num * length > size:
        raise InputError(f'expected {num} points of {length} bytes, found {size} bytes in all; the file is cut off')


def read_e57(path: Path) -> list[Polygons]:
    """The valid points of all scans of an E57 file in their common frame, with colours where all scans have some."""
    pye57 = _require('pye57', path)
    with pye57.E57(str(path)) as file:
        headers = [file.get_header(number) for number in range(file.scan_count)]
        total = sum(header.point_count for header in headers)
        has_colours = bool(headers) and all(set(COLOURS) <= set(header.point_fields) for header in headers)
        chunks = (
            chunk for header in headers for chunk in _scan_chunks(pye57.libe57, file.image_file, header, has_colours)
        )
        points, colours = _draw(path, chunks, total)
    return [Polygons(points, vertex_colours=None if colours is None else to_bytes(colours, 255))]


def _scan_chunks(libe57: Any, image_file: Any, header: Any, has_colours: bool) -> Iterator[Chunk]:
    """The chunks of one scan, of which invalid points are NaN; colours are in [0, 1]."""
    axes = CARTESIAN if set(CARTESIAN) <= set(header.point_fields) else SPHERICAL
    if not set(axes) <= set(header.point_fields):
        raise InputError(
            f'expected the fields {CARTESIAN} or {SPHERICAL} of points, found {sorted(header.point_fields)}'
        )
    state = 'cartesianInvalidState' if axes is CARTESIAN else 'sphericalInvalidState'
    names = [*axes, *(COLOURS if has_colours else ()), *({state} & set(header.point_fields))]
    columns, buffers = {name: np.zeros(CHUNK) for name in names}, libe57.VectorSourceDestBuffer()
    for name, column in columns.items():
        buffers.append(libe57.SourceDestBuffer(image_file, name, column, CHUNK, True, True))
    limits = [_colour_limits(header, name) for name in COLOURS] if has_colours else []
    reader = header.points.reader(buffers)
    while num := reader.read():
        found = {name: column[:num] for name, column in columns.items()}
        points = np.stack([found[name] for name in axes], axis=1)
        if axes is SPHERICAL:
            distance, azimuth, elevation = points.T
            flat = distance * np.cos(elevation)
            points = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], axis=1)
        points = points @ header.rotation_matrix.T + header.translation
        if state in found:
            points[found[state] != 0] = np.nan
        colours = [(found[name] - low) / (high - low) for name, (low, high) in zip(COLOURS, limits, strict=False)]
        yield points, np.stack(colours, axis=1) if has_colours else None
    reader.close()


def _colour_limits(header: Any, name: str) -> tuple[float, float]:
    """The values of a colour that are black and full; 0 and 255 where a scan does not say."""
    if not header.node.isDefined('colorLimits'):
        return 0.0, 255.0
    low, high = (float(header['colorLimits'][f'{name}{end}'].value()) for end in ('Minimum', 'Maximum'))
    return (low, high) if high > low else (0.0, 255.0)


def _draw(path: Path, chunks: Iterator[Chunk], total: int) -> Chunk:
    """The points of all chunks, or a random part of them, about `MAX_POINTS`. Raises InputError unless there are `total`."""
    rng, share = np.random.default_rng(0), MAX_POINTS / max(total, 1)
    points, colours, num = [np.zeros((0, 3))], [], 0
    for chunk, painted in chunks:
        num += len(chunk)
        kept = rng.random(len(chunk)) < share if share < 1 else slice(None)
        points.append(chunk[kept])
        if painted is not None:
            colours.append(painted[kept])
    if num != total:
        raise InputError(f'expected the {total} points of the header, found {num}; the file is cut off')
    found = np.concatenate(points)
    if share < 1:
        print(f'{path}: {len(found)} of {total} points are used, drawn with a fixed seed', flush=True)
    return found, np.concatenate(colours) if colours else None


def _require(name: str, path: Path) -> Any:
    """The module of a library that the core does not need. Raises InputError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(
            f'expected the library {name}, which reads {path.suffix} files, found it is not installed; run: '
            "pip install -e '.[scan]'"
        ) from error
