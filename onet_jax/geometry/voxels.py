"""Voxel grids: binvox files, the boundary mesh of a grid and the official point-in-voxel test. Imports no JAX.

A grid [X, Y, Z] bool fills the unit cube [-0.5, 0.5]^3 in object coordinates, whatever its resolution; True is occupied. T
query points.
"""

from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.files import write_atomically

MAX_VOXELS = 512**3  # of one file: bounds the memory that a few hostile bytes can ask for
MAX_COUNT = 255  # of one run; run-length encoding by pairs of bytes (value, count)
HEADER_LINES, LINE_BYTES = 16, 256  # more than any header has
HEADER = {'dim': (3, int), 'translate': (3, float), 'scale': (1, float)}  # keyword -> how many numbers, of which type


class Voxels(NamedTuple):
    """A voxel grid and the frame in the header of its file (in the official files loc and scale of the shape)."""

    values: np.ndarray  # [X, Y, Z] bool, True occupied
    translate: np.ndarray  # [3] float64
    scale: float


def read_binvox(path: str | Path) -> Voxels:
    """Read a binvox file of at most 512^3 voxels.

    Raises FileNotFoundError without the file; InputError, naming it, for one that is of another kind, truncated, or whose runs
    do not fill the grid of its header. Memory is allocated for what the file holds, not for what its header claims.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a binvox file, found no such file')
    with path.open('rb') as file:
        header = _read_header(path, file)
        x, z, y = header['dim']  # y is the fastest axis of the file
        num_voxels = x * z * y
        if min(x, z, y) < 1 or num_voxels > MAX_VOXELS:
            _reject(path, f'dim of 1 to {MAX_VOXELS} voxels', f'dim {x} {z} {y}')
        # A run is no shorter than one voxel.
        runs = np.frombuffer(file.read(min(2 * num_voxels + 1, path.stat().st_size)), np.uint8)
    if len(runs) % 2:
        _reject(path, 'runs of two bytes, at most one for each voxel', f'at least {len(runs)} bytes; it may be cut off')
    values, counts = runs[::2], runs[1::2]
    if values.max(initial=0) > 1:
        _reject(path, 'runs of 0 and 1', f'a run of {values.max()}')
    total = counts.sum(dtype=np.int64)
    if total != num_voxels:
        _reject(path, f'runs of {num_voxels} voxels in all (dim {x} {z} {y})', f'{total} voxels')
    grid = np.repeat(values.astype(bool), counts).reshape(x, z, y).transpose(0, 2, 1)
    return Voxels(np.ascontiguousarray(grid), np.array(header['translate'], np.float64), header['scale'][0])


def _read_header(path: Path, file: BinaryIO) -> dict[str, list]:
    """Read the header, up to the line 'data': keyword -> numbers. The file is left at the first run."""
    first = file.readline(LINE_BYTES)
    if first.split()[:1] != [b'#binvox']:
        _reject(path, "a file that begins with '#binvox 1'", repr(first[:16]))
    words = {}
    for _ in range(HEADER_LINES):
        keyword, *numbers = file.readline(LINE_BYTES).split() or [b'']
        if keyword == b'data':
            break
        words[keyword.decode('latin-1')] = numbers
    else:
        _reject(path, f"a line 'data' among the first {HEADER_LINES}", 'none')

    header = {}
    for keyword, (num, kind) in HEADER.items():
        try:
            header[keyword] = [kind(number) for number in words[keyword]]
            valid = len(header[keyword]) == num and np.isfinite(header[keyword]).all()
        except (KeyError, ValueError, OverflowError, TypeError):
            valid = False
        if not valid or (keyword == 'scale' and header[keyword][0] <= 0):
            found = b' '.join(words[keyword]).decode('latin-1') if keyword in words else 'no such line'
            _reject(path, f"{num} {kind.__name__} after '{keyword}'", repr(found))
    return header


def _reject(path: Path, expected: str, found: str) -> None:
    raise InputError(f'{path}: expected {expected}, found {found}')


def write_binvox(path: str | Path, voxels: Voxels) -> None:
    """Write a binvox file, byte for byte as the official code does, atomically."""
    values = np.asarray(voxels.values, bool).transpose(0, 2, 1)
    flat = values.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
    lengths = np.diff(starts, append=len(flat))
    # A run longer than MAX_COUNT is cut into full pieces and the rest.
    pieces = -(-lengths // MAX_COUNT)
    runs = np.full((pieces.sum(), 2), MAX_COUNT, np.uint8)
    runs[:, 0] = np.repeat(flat[starts], pieces)
    runs[np.cumsum(pieces) - 1, 1] = lengths - (pieces - 1) * MAX_COUNT
    lines = (
        '#binvox 1',
        'dim {} {} {}'.format(*values.shape),
        'translate ' + ' '.join(repr(float(x)) for x in voxels.translate),
        f'scale {float(voxels.scale)!r}',
        'data\n',
    )
    write_atomically(Path(path), '\n'.join(lines).encode() + runs.tobytes())


def voxels_to_mesh(values: np.ndarray) -> trimesh.Trimesh:
    """The boundary of occupied voxels [X, Y, Z], in object coordinates: two triangles for each side next to an empty voxel.

    Outside of the grid all is empty. Vertices are shared and faces point outwards; where two voxels touch along an edge only,
    the edge belongs to four sides. Vertices, faces and their order are those of the official code.
    """
    values = np.asarray(values, bool)
    padded = np.pad(values, 1)
    unit = np.eye(3, dtype=np.int64)
    quads = []
    for axis in range(3):
        inner = tuple(slice(None) if i == axis else slice(1, -1) for i in range(3))
        before = np.delete(padded, -1, axis)[inner]
        after = np.delete(padded, 0, axis)[inner]
        first, second = unit[(axis + 1) % 3], unit[(axis + 2) % 3]
        for faces, corners in (
            (after & ~before, (0 * first, second, first + second, first)),  # the normal points down the axis
            (before & ~after, (0 * first, first, first + second, second)),
        ):
            quads.append(np.argwhere(faces)[:, None] + np.stack(corners))
    lattice = np.array(values.shape) + 1
    flat = np.ravel_multi_index(tuple(np.moveaxis(np.concatenate(quads), -1, 0)), lattice)
    used, quads = np.unique(flat, return_inverse=True)
    quads = quads.reshape(-1, 4)
    vertices = np.stack(np.unravel_index(used, lattice), axis=1) / np.array(values.shape) - 0.5
    return trimesh.Trimesh(vertices, np.concatenate([quads[:, :3], quads[:, [2, 3, 0]]]), process=False)


def voxels_contain(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Occupied voxels [X, Y, Z] and points [T, 3] in object coordinates -> [T] bool, True in an occupied voxel.

    As in the official evaluation of voxel baselines, the index is rounded towards zero: a point less than one voxel below
    the grid counts as in its first layer. All other points outside of the grid are outside.
    """
    values = np.asarray(values, bool)
    position = (np.asarray(points, np.float64) + 0.5) * values.shape
    in_grid = ((position > -1) & (position < values.shape)).all(axis=1)
    result = np.zeros(len(position), bool)
    result[in_grid] = values[tuple(position[in_grid].astype(np.int64).T)]
    return result
