"""Point clouds of users: without stray points and, on request, outliers; the edge of a cell of a scan. P points of a cloud."""

import os
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.files import file_state
from onet_jax.geometry.clouds import describe_strays, drop_repeated, find_outliers, find_strays
from onet_jax.geometry.companions import find_companions
from onet_jax.geometry.meshes import load_coloured_cloud
from onet_jax.geometry.sliding_window import NEIGHBOURS, matching_cell


def load_bulk(path: str | Path, keep_outliers: bool, remove_outliers: bool = False) -> np.ndarray:
    """The points [P, 3] of a file, float64, without its stray points, unless these are to be kept; either way it reports them.

    remove_outliers: also leave out what `find_outliers` finds. Raises FileNotFoundError or InputError as `load_cloud`.
    """
    return load_coloured_bulk(path, keep_outliers, remove_outliers)[0]


def load_coloured_bulk(
    path: str | Path, keep_outliers: bool, remove_outliers: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """The points of `load_bulk`, and their colours [P, 3] uint8 sRGB, None where the file has none. Raises as it does."""
    path = Path(path)
    files = [path, *find_companions(path)] if os.path.isfile(path) else []
    return _load_bulk(path, keep_outliers, remove_outliers, tuple(map(str, map(file_state, files))))


@lru_cache(maxsize=1)
def _load_bulk(
    path: Path, keep_outliers: bool, remove_outliers: bool, state: object
) -> tuple[np.ndarray, np.ndarray | None]:
    """Kept for the next caller, since a large file takes long; state: of the files that hold it, which may change."""
    cloud, colours = load_coloured_cloud(path)
    stray = find_strays(cloud)
    if stray.any():
        done = 'kept as --keep_outliers asks' if keep_outliers else 'left out; --keep_outliers keeps them'
        _tell(f'{path}: {describe_strays(cloud, stray)}: {done}')
    kept = ~stray if not keep_outliers else np.ones(len(cloud), bool)
    if remove_outliers:
        outlying = find_outliers(cloud[kept])
        _tell(f'{path}: {outlying.sum()} of {len(outlying)} points are outliers: left out as --remove_outliers asks')
        kept[kept] = ~outlying
    if not kept.all():
        cloud, colours = cloud[kept], None if colours is None else colours[kept]
    cloud.flags.writeable = False
    return cloud, colours


@cache
def _tell(message: str) -> None:
    """Print it once, however often a file is read."""
    print(message, flush=True)


def find_cell(bulk: np.ndarray, data: ConfigDict, seed: int, where: str = 'cloud') -> tuple[np.ndarray, float]:
    """The points [P', 3] of a scan without repeated ones, and the edge of a cell, in its unit.

    The edge is `scan_cell` of the config, or where that is 0 such that a cell holds as many points as in training. Raises
    InputError, with `where` they are from, for points that do not tell it.
    """
    cloud = drop_repeated(bulk)
    if data.scan_cell:
        return cloud, data.scan_cell
    cell = matching_cell(cloud, data.cell_size, data.num_input_points, seed) if len(cloud) > NEIGHBOURS else 0.0
    if not cell > 0:
        raise InputError(
            f'{where}: expected more than {NEIGHBOURS} points in different places, which tell the edge of a cell, found '
            f'{len(bulk)} points in {len(cloud)} places; give it by --cell'
        )
    return cloud, cell
