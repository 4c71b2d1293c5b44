"""Point clouds of users: their bulk without stray points, and scans with the edge of a cell. P points of a cloud."""

from functools import cache
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.geometry.clouds import describe_strays, drop_repeated, find_strays
from onet_jax.geometry.meshes import load_cloud
from onet_jax.geometry.sliding_window import NEIGHBOURS, matching_cell


def load_bulk(path: str | Path, keep_outliers: bool) -> np.ndarray:
    """The points [P, 3] of a file, float64, without its stray points, unless these are to be kept; either way it reports them.

    Raises FileNotFoundError or InputError as `load_cloud`.
    """
    cloud = load_cloud(path)
    stray = find_strays(cloud)
    if not stray.any():
        return cloud
    done = 'kept as --keep_outliers asks' if keep_outliers else 'left out; --keep_outliers keeps them'
    _tell(f'{path}: {describe_strays(cloud, stray)}: {done}')
    return cloud if keep_outliers else cloud[~stray]


@cache
def _tell(message: str) -> None:
    """Print it once, however often a file is read."""
    print(message, flush=True)


def load_scan(path: str | Path, data: ConfigDict, seed: int) -> tuple[np.ndarray, float]:
    """The points [P, 3] of a scan, without stray and repeated ones, and the edge of a cell, in its unit.

    The edge is `scan_cell` of the config, or where that is 0 such that a cell holds as many points as in training. Raises
    InputError, naming the file, for points that do not tell it; others as of `load_bulk`.
    """
    bulk = load_bulk(path, data.keep_outliers)
    cloud = drop_repeated(bulk)
    if data.scan_cell:
        return cloud, data.scan_cell
    cell = matching_cell(cloud, data.cell_size, data.num_input_points, seed) if len(cloud) > NEIGHBOURS else 0.0
    if not cell > 0:
        raise InputError(
            f'{path}: expected more than {NEIGHBOURS} points in different places, which tell the edge of a cell, found '
            f'{len(bulk)} points in {len(cloud)} places; give it by --cell'
        )
    return cloud, cell
