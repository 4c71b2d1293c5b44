"""Sliding-window inference: the mesh of a scene of any size, from overlapping windows whose values are blended.

The scene is a lattice of cells; boxes of `step`^3 cells tile it. Around each box lies the window that a network sees, so that
its receptive field covers the surroundings of the box. Windows start at multiples of `step` cells: where the network is
equivariant to such shifts, neighbours agree but for their far borders. In a band of cells to both sides of the border between
boxes the values of neighbours are blended linearly. Boxes without points in or near them are outside.

The values of a window are kept in a folder as float16, so that an interrupted scene goes on; the mesh is made of them box by
box. Memory is that of one window, and of the mesh. P points of a cloud or a window, K boxes, n values along an axis.
"""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from scipy.spatial import KDTree
from tqdm import tqdm

from onet_jax.errors import InputError
from onet_jax.files import write_atomically, write_json
from onet_jax.geometry.field import bucket_size, check_finite
from onet_jax.geometry.tiled_marching_cubes import join, march_block

SAMPLES_PER_CELL = 2  # values along its edge
BAND = 2  # cells
MIN_POINTS = 1024  # of a window, filled up to a power of two of them: few programs are compiled
FAR = -1e4  # cells: the coordinates of points in no window
OUTSIDE_LOGIT = -1e4  # on the border of boxes that are outside
ROOM_AREA = 3.0  # of a training room, in squares of its longest edge, as the distances of its points tell it
NEIGHBOURS = 8  # whose distance says how dense a cloud is
NUM_PROBES = 2000  # points whose neighbours are looked at


class Layout(NamedTuple):
    """Numbers of cells along an axis."""

    window: int
    step: int  # of a box to the next
    band: int = BAND

    @property
    def num_values(self) -> int:
        """n, of a window: of its box and of the bands around it, at every half cell from the lowest corner."""
        return SAMPLES_PER_CELL * (self.step + 2 * self.band) + 1


def extract_sliding_window(
    cells: np.ndarray, infer: Callable, layout: Layout, folder: str | Path, level: float, max_points: int
) -> trimesh.Trimesh:
    """The surface value = level of a scene, in cells from its origin: closed, oriented outwards; empty where nothing is inside.

    cells: points [P, 3] float32 in cells from the origin (see `find_origin`). infer: points [P, 3] float32 in cells from the
    centre of a window, at most `max_points` of its own and filled up to a power of two with points outside of every window
    -> logits [n, n, n] of its box and bands (see `Layout.num_values`). folder: of the values that are there already, see
    `claim`.
    """
    folder, boxes, index = Path(folder), find_boxes(cells, layout), PointIndex(cells, layout)
    for box in tqdm(boxes, desc='windows', unit='window', mininterval=5, leave=False):
        path = _path(folder, box)
        if not path.exists():
            values = np.asarray(infer(fill_up(index.find(box), max_points, box)), np.float16)
            check_finite(values, f'field in box {box.tolist()}')
            write_atomically(path, values.tobytes())
    known, stride = {tuple(box) for box in boxes.tolist()}, layout.step * SAMPLES_PER_CELL
    size = (boxes.max(axis=0) + 1) * stride + 1
    mesh = join(march_block(blend(folder, known, tuple(box), layout), level, box * stride, size) for box in boxes)
    mesh.vertices /= SAMPLES_PER_CELL
    return mesh


def claim(folder: str | Path, settings: dict) -> None:
    """Empty the folder of what was made with other settings: all that decides the values of the windows, for JSON.

    Raises InputError where it holds something else.
    """
    folder = Path(folder)
    path, settings = folder / 'scene.json', json.loads(json.dumps(settings))  # as it is read again
    if folder.exists() and any(folder.iterdir()) and not path.exists():
        raise InputError(f'{folder}: expected an empty folder, or the windows of a scene, found something else')
    if path.exists() and json.loads(path.read_text()) != settings:
        shutil.rmtree(folder)
    write_json(path, settings)


def matching_cell(cloud: np.ndarray, unit_size: float, num_input_points: int, seed: int) -> float:
    """The edge of a cell, in units of the cloud [P, 3], with which it is as dense for the network as the training rooms are.

    Those have `num_input_points` points, and cells of `unit_size`.
    """
    probes = cloud[np.random.default_rng(seed).permutation(len(cloud))[:NUM_PROBES]]
    tree = KDTree(cloud, balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(probes, k=[min(NEIGHBOURS + 1, len(cloud))])
    trained = np.sqrt(NEIGHBOURS * ROOM_AREA / (np.pi * num_input_points))
    return float(unit_size * np.median(distance) / trained)


def find_origin(cloud: np.ndarray, layout: Layout, cell: float) -> np.ndarray:
    """Where the first box of a scene begins, [3] in the unit of the cloud [P, 3], as is the edge `cell`."""
    if not cell > 0:
        raise InputError(f'cell: expected a positive length, found {cell}')
    return cloud.min(axis=0) - 1.5 * layout.step * cell  # a flat floor does not lie on the border of boxes


def find_boxes(cells: np.ndarray, layout: Layout) -> np.ndarray:
    """Which boxes have a point [P, 3], in cells, in them or within half a margin of them: [K, 3] int, sorted."""
    grown = (layout.window - layout.step) / 4
    found = set()
    for sign in itertools.product((-1, 0, 1), repeat=3):
        boxes = np.floor((cells + grown * np.array(sign, np.float32)) / layout.step).astype(int)
        first, size = boxes.min(axis=0), np.ptp(boxes, axis=0) + 1
        # As single numbers they are sorted much faster than as rows.
        numbers = np.unique(np.ravel_multi_index((boxes - first).T, size))
        found |= set(zip(*(axis.tolist() for axis in np.unravel_index(numbers, size) + first[:, None]), strict=True))
    return np.array(sorted(found))


class PointIndex:
    """Points [P, 3], in cells, to be found by box."""

    def __init__(self, cells: np.ndarray, layout: Layout):
        boxes = np.floor(cells / layout.step).astype(int)
        order = np.lexsort(boxes.T[::-1])
        keys, starts = np.unique(boxes[order], axis=0, return_index=True)
        ends = [*starts[1:].tolist(), len(cells)]
        self.points, self.layout = cells[order], layout
        self.slices = {
            key: slice(*ends) for key, *ends in zip(map(tuple, keys.tolist()), starts.tolist(), ends, strict=True)
        }

    def find(self, box: np.ndarray) -> np.ndarray:
        """The points in the window of a box, [P, 3] in cells from its centre."""
        half = self.layout.window / 2
        reach = int(np.ceil((half - self.layout.step / 2) / self.layout.step))
        near = itertools.product(range(-reach, reach + 1), repeat=3)
        found = [
            self.points[self.slices[key]] for key in (tuple(box + np.array(n)) for n in near) if key in self.slices
        ]
        points = np.concatenate([np.zeros((0, 3), np.float32), *found]) - (box + np.float32(0.5)) * self.layout.step
        return points[((points >= -half) & (points < half)).all(axis=1)].astype(np.float32)


def fill_up(points: np.ndarray, max_points: int, box: np.ndarray) -> np.ndarray:
    """At most `max_points` of the points [P, 3] at random, filled up to a power of two with such as lie in no window."""
    if len(points) > max_points:
        points = points[np.random.default_rng(box).permutation(len(points))[:max_points]]
    filling = bucket_size(len(points), MIN_POINTS) - len(points)
    return np.concatenate([points, np.full((filling, 3), FAR, np.float32)])


def blend(folder: Path, known: set[tuple[int, ...]], box: tuple[int, ...], layout: Layout) -> np.ndarray:
    """The values of a box, [m, m, m] float32 with m = SAMPLES_PER_CELL step + 1, of its window and its neighbours'.

    They are low on borders to unknown boxes. Two boxes get the same bits on their border: the same values are summed in the
    same order.
    """
    n, band = layout.step * SAMPLES_PER_CELL, layout.band * SAMPLES_PER_CELL
    total, weights = np.zeros((2, n + 1, n + 1, n + 1), np.float32)
    closed = np.zeros_like(total, bool)
    # Along an axis from a window's first value to its last: up over the two bands, and down again.
    place = np.arange(layout.num_values)
    rise = np.minimum(place, place[::-1])
    share = np.clip((rise + 0.5) / (2 * band + 1), 0, 1).astype(np.float32)
    for offset in itertools.product((-1, 0, 1), repeat=3):
        other = tuple(int(b + o) for b, o in zip(box, offset, strict=True))
        if other not in known:
            border = tuple({-1: slice(0, 1), 0: slice(None), 1: slice(n, n + 1)}[o] for o in offset)
            closed[border] = True
            continue
        values = np.fromfile(_path(folder, other), np.float16).reshape((layout.num_values,) * 3)
        # Value i of this box is value i + band - offset * n of the other window.
        here = [range(max(0, o * n - band), min(n, o * n + n + band) + 1) for o in offset]
        there = [slice(r.start + band - o * n, r.stop + band - o * n) for r, o in zip(here, offset, strict=True)]
        here = tuple(slice(r.start, r.stop) for r in here)
        x, y, z = (share[part] for part in there)
        weight = x[:, None, None] * y[:, None] * z
        total[here] += weight * values[tuple(there)]
        weights[here] += weight
    return np.where(closed, np.float32(OUTSIDE_LOGIT), total / weights)


def _path(folder: Path, box: np.ndarray | tuple[int, ...]) -> Path:
    return folder / ('window_' + '_'.join(map(str, box)) + '.f16')
