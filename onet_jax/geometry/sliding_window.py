"""Sliding-window inference: the mesh of a scene of any size, from overlapping windows whose values are blended.

The scene is a lattice of cells, which boxes of `step`^3 cells tile. Around each box is the larger window that the network sees,
so that its receptive field covers the surroundings of the box. Windows start at multiples of `step` cells: if the network is
equivariant to such shifts, neighbouring windows agree except near their borders. In a band of cells on both sides of the border
between boxes the values of both windows are blended linearly. Boxes without points in or near them are outside.

A scanner sees far surfaces sparsely. Windows of too few points for cells of their size are left out, and the points in their
boxes make a surface of their own, from windows of cells twice as large, and so on: a scene has one surface for each scale.

The values of a window are stored in a folder as float16, so that an interrupted scene can be resumed; the mesh is extracted box
by box. Memory is that of one window and of the mesh. P points of a cloud or a window, K boxes, n values along an axis.
"""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh
from scipy.spatial import KDTree

from onet_jax.errors import InputError
from onet_jax.files import remove_leftovers, write_atomically, write_json
from onet_jax.geometry.field import bucket_size, check_finite
from onet_jax.geometry.tiled_marching_cubes import join, march_block
from onet_jax.json_files import read_json
from onet_jax.progress import track, working

SAMPLES_PER_CELL = 2  # values along its edge
BAND = 2  # cells
MIN_POINTS = 4096  # of a window, padded to a power of two of them: few programs are compiled
SPARSE = 8  # a window is left out where a plane through it would have one point in more cells than this
NUM_SCALES = 4
MAX_VALUES = 2**62 / 3  # of the lattice of a scene
FAR = -1e4  # cells: the coordinates of padding points, which lie in no window
OUTSIDE_LOGIT = -1e4  # on the border of boxes that are outside
ROOM_AREA = 3.0  # of a training room, in squares of its longest edge, estimated from the distances of its points
NEIGHBOURS = 8  # the density of a cloud is estimated from the distance to the 8th nearest neighbour
NUM_PROBES = 2000  # of so many points


class Layout(NamedTuple):
    """Numbers of cells along an axis, of any scale."""

    window: int
    step: int  # from a box to the next
    band: int = BAND

    @property
    def num_values(self) -> int:
        """n: values of a box and the bands around it, at every half cell from the lowest corner."""
        return SAMPLES_PER_CELL * (self.step + 2 * self.band) + 1


class Scale(NamedTuple):
    """The part of a scene that is as dense as cells of one size ask for."""

    cell: int  # edge of its cells, in those of the scene
    boxes: np.ndarray  # [K, 3] int, sorted
    points: 'PointIndex'


def extract_sliding_window(
    cells: np.ndarray, infer: Callable, layout: Layout, folder: str | Path, level: float, max_points: int
) -> trimesh.Trimesh:
    """The surface value = level of a scene, in cells from its origin: closed, oriented outwards; empty where nothing is inside.

    cells: points [P, 3] float64 in cells from the origin (see `find_origin`). infer: points [P, 3] float32 in cells from the
    centre of a window, at most `max_points`, padded to a power of two with points outside of every window -> logits [n, n, n]
    of its box and bands (see `Layout.num_values`). folder: of the values of windows, those of an earlier run among them (see
    `claim`). Raises InputError for values that are not finite and for points too far apart.
    """
    folder, scales = Path(folder), find_scales(cells, layout)
    windows = [(scale, box) for scale in scales for box in scale.boxes]
    for scale, box in track(windows, 'evaluating the network', 'windows'):
        path = _path(folder, scale.cell, box)
        if not path.exists():
            values = np.asarray(infer(fill_up(scale.points.find(box), max_points, box)), np.float16)
            check_finite(values, f'field in box {box.tolist()}')
            write_atomically(path, values.tobytes())
    with working('extracting the surface'):
        meshes = [_extract_scale(scale, layout, folder, level) for scale in scales]
    firsts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    faces = [mesh.faces + first for mesh, first in zip(meshes, firsts, strict=False)]
    return trimesh.Trimesh(np.concatenate([m.vertices for m in meshes]), np.concatenate(faces), process=False)


def _extract_scale(scale: Scale, layout: Layout, folder: Path, level: float) -> trimesh.Trimesh:
    known, stride = {tuple(box) for box in scale.boxes.tolist()}, layout.step * SAMPLES_PER_CELL
    size = (scale.boxes.max(axis=0) + 1) * stride + 1
    blended = (blend(folder, scale.cell, known, tuple(box), layout) for box in scale.boxes)
    mesh = join(
        march_block(values, level, box * stride, size) for values, box in zip(blended, scale.boxes, strict=True)
    )
    mesh.vertices *= scale.cell / SAMPLES_PER_CELL
    return mesh


def find_scales(cells: np.ndarray, layout: Layout) -> list[Scale]:
    """The boxes of a scene of points [P, 3], in cells: at least one scale. Raises InputError as `find_boxes`.

    The first is that of the scene, all of it where no window is dense.
    """
    fewest = layout.window**2 // SPARSE
    scales: list[Scale] = []
    for cell in (1 << i for i in range(NUM_SCALES)):
        if scales and len(cells) < fewest:
            break
        boxes, index = find_boxes(cells / cell, layout), PointIndex(cells / cell, layout)
        dense = np.array([len(index.find(box)) >= fewest for box in boxes])
        if dense.any() or not scales:
            boxes = boxes[dense | ~dense.any()]
            scales.append(Scale(cell, boxes, index))
        kept = set(map(tuple, boxes.tolist()))
        left = [cell * index.points[part] for box, part in index.slices.items() if box not in kept]
        cells = np.concatenate([np.zeros((0, 3)), *left])
    return scales


def claim(folder: str | Path, settings: dict) -> None:
    """Delete windows of other settings from the folder, and write these into it. settings: all that the values depend on.

    Raises InputError where it holds something else.
    """
    folder = Path(folder)
    path, settings = folder / 'scene.json', json.loads(json.dumps(settings))  # as it is read again
    remove_leftovers(folder)
    if folder.exists() and any(folder.iterdir()) and not path.exists():
        raise InputError(f'{folder}: expected an empty folder, or the windows of a scene, found something else')
    try:
        found = read_json(path, {})
    except (FileNotFoundError, InputError):  # none, or a damaged one
        found = None
    for window in folder.glob('window_*.f16') if found != settings else ():
        window.unlink()
    write_json(path, settings)


def matching_cell(cloud: np.ndarray, unit_size: float, num_input_points: int, seed: int) -> float:
    """The edge of a cell, in the unit of the cloud [P, 3], at which a cell holds as many points as in training.

    There rooms have `num_input_points` points, and cells the edge `unit_size`.
    """
    probes = cloud[np.random.default_rng(seed).permutation(len(cloud))[:NUM_PROBES]]
    tree = KDTree(cloud, balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(probes, k=[NEIGHBOURS + 1])
    trained = np.sqrt(NEIGHBOURS * ROOM_AREA / (np.pi * num_input_points))
    return float(unit_size * np.median(distance) / trained)


def find_origin(cloud: np.ndarray, layout: Layout, cell: float) -> np.ndarray:
    """The lowest corner of the first box of a scene, [3] in the unit of the cloud [P, 3], as is `cell`, the edge of a cell.

    Raises InputError for an edge that is not positive.
    """
    if not cell > 0:
        raise InputError(f'cell: expected a positive length, found {cell}')
    return cloud.min(axis=0) - 1.5 * layout.step * cell  # a flat floor does not lie on the border of boxes


def find_boxes(cells: np.ndarray, layout: Layout) -> np.ndarray:
    """The boxes with a point [P, 3], in cells, in them or within half a margin of them: [K, 3] int, sorted.

    Raises InputError for points so far apart that the lattice has more values than can be numbered.
    """
    num_values = np.prod(SAMPLES_PER_CELL * (np.ptp(cells, axis=0) + 2 * layout.window))
    if num_values > MAX_VALUES:
        raise InputError(
            f'points: expected a scene of at most {MAX_VALUES:.2g} values, found one of {num_values:.2g}, '
            f'{np.ptp(cells, axis=0).max():.3g} cells long; leave out the points that are far away, or take larger cells'
        )
    grown = (layout.window - layout.step) / 4
    found = set()
    for sign in itertools.product((-1, 0, 1), repeat=3):
        boxes = np.floor((cells + grown * np.array(sign)) / layout.step).astype(int)
        first, size = boxes.min(axis=0), np.ptp(boxes, axis=0) + 1
        # As single numbers they are sorted much faster than as rows.
        numbers = np.unique(np.ravel_multi_index((boxes - first).T, size))
        found |= set(zip(*(axis.tolist() for axis in np.unravel_index(numbers, size) + first[:, None]), strict=True))
    return np.array(sorted(found))


class PointIndex:
    """A spatial hash of points [P, 3], in cells, by box."""

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
        points = np.concatenate([np.zeros((0, 3)), *found]) - (box + 0.5) * self.layout.step
        return points[((points >= -half) & (points < half)).all(axis=1)].astype(np.float32)


def fill_up(points: np.ndarray, max_points: int, box: np.ndarray) -> np.ndarray:
    """At most `max_points` of the points [P, 3], at random, padded to a power of two with points that lie in no window."""
    if len(points) > max_points:
        points = points[np.random.default_rng(box).permutation(len(points))[:max_points]]
    filling = bucket_size(len(points), MIN_POINTS) - len(points)
    return np.concatenate([points, np.full((filling, 3), FAR, np.float32)])


def blend(folder: Path, cell: int, known: set[tuple[int, ...]], box: tuple[int, ...], layout: Layout) -> np.ndarray:
    """The values of a box, [m, m, m] float32 with m = SAMPLES_PER_CELL step + 1, blended of its window and its neighbours'.

    cell: of the scale that the box is of.
    On borders to boxes that are not `known` they are OUTSIDE_LOGIT. Two boxes have the same bits on their common border: the
    same terms are summed in the same order.
    """
    n, band = layout.step * SAMPLES_PER_CELL, layout.band * SAMPLES_PER_CELL
    total, weights = np.zeros((2, n + 1, n + 1, n + 1), np.float32)
    closed = np.zeros_like(total, bool)
    # The weights along an axis, from the first value of a window to its last: they rise over two bands, and fall again.
    place = np.arange(layout.num_values)
    rise = np.minimum(place, place[::-1])
    share = np.clip((rise + 0.5) / (2 * band + 1), 0, 1).astype(np.float32)
    for offset in itertools.product((-1, 0, 1), repeat=3):
        other = tuple(int(b + o) for b, o in zip(box, offset, strict=True))
        if other not in known:
            border = tuple({-1: slice(0, 1), 0: slice(None), 1: slice(n, n + 1)}[o] for o in offset)
            closed[border] = True
            continue
        values = np.fromfile(_path(folder, cell, other), np.float16).reshape((layout.num_values,) * 3)
        # Value i of this box is value i + band - offset * n of the other window.
        here = [range(max(0, o * n - band), min(n, o * n + n + band) + 1) for o in offset]
        there = [slice(r.start + band - o * n, r.stop + band - o * n) for r, o in zip(here, offset, strict=True)]
        here = tuple(slice(r.start, r.stop) for r in here)
        x, y, z = (share[part] for part in there)
        weight = x[:, None, None] * y[:, None] * z
        total[here] += weight * values[tuple(there)]
        weights[here] += weight
    return np.where(closed, np.float32(OUTSIDE_LOGIT), total / weights)


def _path(folder: Path, cell: int, box: np.ndarray | tuple[int, ...]) -> Path:
    return folder / ('window_' + '_'.join(map(str, (cell, *box))) + '.f16')
