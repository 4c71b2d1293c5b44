"""Clouds of any size to meshes, window by window, with a network of crops: memory is that of one window, and of the mesh.

The scene is a lattice of cells of a given edge in the user's unit; boxes of `step`^3 cells tile it. Around each box lies the
window that the network sees, whose U-Net knows the surroundings of the box. Windows start at multiples of `step` cells, which
the U-Net can halve as often as it does, so that neighbours agree but for their group norms and their far borders; in a band of
`BAND` cells to both sides of the border of their boxes the values of neighbours are blended, linearly. Boxes without points in
or near them are outside.

A window's values are kept in a folder, so that an interrupted scene goes on; the mesh is made of them box by box. N points.
"""

import hashlib
import itertools
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict
from scipy.spatial import KDTree
from tqdm import tqdm

from onet_jax import models
from onet_jax.data.sources import find_files
from onet_jax.errors import InputError
from onet_jax.files import write_atomically, write_json
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.meshes import CLOUD_FORMATS, MESH_FORMATS, load_cloud, save_mesh
from onet_jax.geometry.tiled_marching_cubes import join, march_block
from onet_jax.inference.domain import hash_weights
from onet_jax.models.conv_onet import build_module, is_crop
from onet_jax.models.method import Method
from onet_jax.models.occupancy import CHUNK
from onet_jax.networks.sliding_window import window_cells

SAMPLES = 2  # values along the edge of a cell
BAND = 2  # cells
LEAST_POINTS = 1024  # of a window, filled up to a power of two of them: few programs are compiled
ROOM_AREA = 3.0  # of a training room, in squares of its longest edge, as the distances of its points tell it
NEIGHBOURS = 8  # whose distance says how dense a cloud is
OUTSIDE = -1e4
DONE = 'done'  # in the folder of a scene whose mesh is written


class Layout(NamedTuple):
    """Numbers of cells along an axis."""

    window: int
    step: int  # of a box to the next
    band: int = BAND

    @property
    def num_values(self) -> int:
        """Along an axis, of a window: of its box and of the bands around it."""
        return SAMPLES * (self.step + 2 * self.band) + 1


def is_of_scenes(config: ConfigDict) -> bool:
    """Whether a config is of a network of windows."""
    return config.model.name == 'conv_onet' and is_crop(config.model)


def layout_of(config: ConfigDict, band: int = BAND) -> Layout:
    """Of the windows of a network of crops. Raises ValueError for another network."""
    model = config.model
    if not is_of_scenes(config):
        raise InputError(
            "config.model.encoder: expected 'pointnet_crop_local_pool', a network of windows, for a scene of any size, "
            f'found {model.encoder!r}; train configs/conv_onet.py:crops'
        )
    halvings = 1 << (model.unet3d_levels - 1)
    return Layout(window_cells(model.query_cells, model.unet3d_levels), model.query_cells // halvings * halvings, band)


def choose_cell(cloud: np.ndarray, config: ConfigDict) -> float:
    """The edge of a cell, in units of the cloud [N, 3], with which it is as dense for the network as the training rooms are."""
    some = cloud[np.random.default_rng(config.seed).permutation(len(cloud))[:2000]]
    distance, _ = KDTree(cloud, balanced_tree=False, compact_nodes=False).query(
        some, k=[min(NEIGHBOURS + 1, len(cloud))]
    )
    trained = np.sqrt(NEIGHBOURS * ROOM_AREA / (np.pi * config.data.num_input_points))
    return float(config.model.unit_size * np.median(distance) / trained)


def reconstruct_scenes(
    params: dict,
    config: ConfigDict,
    inputs: str | Path,
    output: str | Path,
    file_format: str,
    cell: float | None = None,
) -> list[Path]:
    """Reconstruct the cloud in a file, or those in a folder, into OUTPUT/<name of the source>.<format>; returns the files.

    Windows lie in OUTPUT/windows/<name> until the mesh is there; another run goes on, and makes nothing twice. cell: see
    `reconstruct_scene`. Raises ValueError for what is no cloud, and for a scene in which nothing is inside.
    """
    if file_format not in MESH_FORMATS:
        raise InputError(f'--format: expected one of {MESH_FORMATS}, found {file_format!r}')
    layout, written = layout_of(config), []
    for source in find_files(inputs, CLOUD_FORMATS):
        target, folder = Path(output) / f'{source.name}.{file_format}', Path(output) / 'windows' / source.name
        cloud = load_cloud(source.path)
        chosen = choose_cell(cloud, config) if cell is None else cell
        claim(folder, _describe(params, config, cloud, chosen, layout))
        if target.exists() and (folder / DONE).exists():
            print(f'{target} is done already', flush=True)
        else:
            mesh = reconstruct_scene(params, config, cloud, folder, chosen)
            if not len(mesh.faces):
                raise InputError(
                    f'{source.path}: the network finds nothing inside at threshold {config.eval.threshold} with cells of '
                    f'{chosen:.4g}; check that y is up, and try another --cell'
                )
            save_mesh(mesh, target)
            for path in folder.glob('window_*'):
                path.unlink()
            (folder / DONE).touch()
            faces = f'{len(mesh.vertices)} vertices, {len(mesh.faces)} faces'
            print(f'{source.path} -> {target}: {faces}, cells of {chosen:.4g}', flush=True)
        written.append(target)
    return written


def build_method(config: ConfigDict) -> Method:
    """As `models.build`; a network of windows reconstructs clouds [B, N, 3] in object coordinates window by window."""
    method = models.build(config)
    if not is_of_scenes(config):
        return method

    def reconstruct(params, inputs, key):
        meshes = []
        for cloud in np.asarray(inputs, np.float64):
            with tempfile.TemporaryDirectory() as folder:
                meshes.append(reconstruct_scene(params, config, cloud, folder, config.model.unit_size))
        return meshes

    return method._replace(reconstruct=reconstruct)


def reconstruct_scene(
    params: dict, config: ConfigDict, cloud: np.ndarray, folder: str | Path, cell: float | None = None, band: int = BAND
) -> trimesh.Trimesh:
    """The mesh of a cloud [N, 3] in its own frame, y up: closed and oriented outwards; no vertices where nothing is inside.

    cell: edge of a cell in the unit of the cloud, by default as `choose_cell` says. folder: what is done so far is kept there
    and taken from there, as long as the same is asked. Raises ValueError for a network that is none of crops, or a cell that
    is not positive.
    """
    layout, folder = layout_of(config, band), Path(folder)
    cell = choose_cell(cloud, config) if cell is None else cell
    if not cell > 0:
        raise InputError(f'cell: expected a positive length, found {cell}')
    low = find_origin(cloud, layout, cell)
    cells = ((cloud - low) / cell).astype(np.float32)
    claim(folder, _describe(params, config, cloud, cell, layout))
    boxes = find_boxes(cells, layout)
    index = Index(cells, layout)
    infer = partial(_infer, build_module(config.model), layout, params)
    for box in tqdm(boxes, desc='windows', unit='window', mininterval=5, leave=False):
        path = _path(folder, box)
        if not path.exists():
            points = fill_up(index.find(box), config.data.num_input_points, box)
            values = infer(config.model.unit_size * points)
            write_atomically(path, np.asarray(values, np.float16).tobytes())
    known = {tuple(box) for box in boxes.tolist()}
    level, size = threshold_to_logit(config.eval.threshold), (boxes.max(axis=0) + 1) * layout.step * SAMPLES + 1
    mesh = join(
        march_block(blend(folder, known, tuple(box), layout), level, box * layout.step * SAMPLES, size) for box in boxes
    )
    mesh.vertices = low + cell / SAMPLES * mesh.vertices
    return mesh


def _describe(params: dict, config: ConfigDict, cloud: np.ndarray, cell: float, layout: Layout) -> dict:
    """What decides the values of the windows, and the mesh."""
    settings = {name: config[name].to_dict() for name in ('model', 'data', 'eval')}
    settings |= {'cell': cell, 'layout': layout, 'weights': hash_weights(params).hex()}
    settings['cloud'] = hashlib.sha256(np.ascontiguousarray(cloud, np.float64).tobytes()).hexdigest()
    return json.loads(json.dumps(settings))  # as it is read again


def claim(folder: Path, settings: dict) -> None:
    """Empty the folder of what was made with other settings. Raises ValueError where it holds something else."""
    path = folder / 'scene.json'
    if folder.exists() and any(folder.iterdir()) and not path.exists():
        raise InputError(f'{folder}: expected an empty folder, or the windows of a scene, found something else')
    if path.exists() and json.loads(path.read_text()) != settings:
        shutil.rmtree(folder)
    write_json(path, settings)


def find_origin(cloud: np.ndarray, layout: Layout, cell: float) -> np.ndarray:
    """Where the first box of a scene begins, [3] in the unit of the cloud."""
    return cloud.min(axis=0) - 1.5 * layout.step * cell  # a flat floor does not lie on the border of boxes


def find_boxes(cells: np.ndarray, layout: Layout) -> np.ndarray:
    """Which boxes have a point [N, 3], in cells, in them or within half a margin of them: [K, 3] int, sorted."""
    grown = (layout.window - layout.step) / 4
    found = set()
    for sign in itertools.product((-1, 0, 1), repeat=3):
        boxes = np.floor((cells + grown * np.array(sign, np.float32)) / layout.step).astype(int)
        first, size = boxes.min(axis=0), np.ptp(boxes, axis=0) + 1
        # As single numbers they are sorted much faster than as rows.
        numbers = np.unique(np.ravel_multi_index((boxes - first).T, size))
        found |= set(zip(*(axis.tolist() for axis in np.unravel_index(numbers, size) + first[:, None]), strict=True))
    return np.array(sorted(found))


class Index:
    """Points [N, 3], in cells, to be found by box."""

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


def fill_up(points: np.ndarray, most: int, box: np.ndarray) -> np.ndarray:
    """At most `most` of the points [P, 3] at random, filled up to a bucket's size with such as lie in no window."""
    if len(points) > most:
        points = points[np.random.default_rng(box).permutation(len(points))[:most]]
    size = LEAST_POINTS
    while size < len(points):
        size *= 2
    return np.concatenate([points, np.full((size - len(points), 3), OUTSIDE, np.float32)])


@partial(jax.jit, static_argnums=(0, 1))
def _infer(module, layout, params, points):
    """Points [P, 3] around the centre of a window -> logits [n, n, n] of its box and band."""
    unit = module.encoder.unit
    cond = module.apply(params, points[None], train=True, method='encode')  # in a window as in training
    axis = unit * (jnp.arange(layout.num_values) / SAMPLES - (layout.step / 2 + layout.band))
    lattice = jnp.stack(jnp.meshgrid(axis, axis, axis, indexing='ij'), axis=-1).reshape(-1, 3)
    pieces = jnp.pad(lattice, ((0, -len(lattice) % CHUNK), (0, 0))).reshape(-1, 1, CHUNK, 3)
    logits = jax.lax.map(lambda piece: module.apply(params, piece, cond, method='decode')[0], pieces)
    return logits.ravel()[: len(lattice)].reshape((layout.num_values,) * 3)


def _path(folder: Path, box) -> Path:
    return folder / ('window_' + '_'.join(map(str, box)) + '.f16')


def blend(folder: Path, known: set[tuple[int, ...]], box: tuple[int, ...], layout: Layout) -> np.ndarray:
    """The values of a box, [n + 1, n + 1, n + 1] float32, of its window and its neighbours'; low on borders to unknown boxes.

    Two boxes get the same bits on their border: the same values are summed in the same order.
    """
    n, band = layout.step * SAMPLES, layout.band * SAMPLES
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
    return np.where(closed, np.float32(OUTSIDE), total / weights)
