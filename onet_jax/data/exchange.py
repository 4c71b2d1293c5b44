"""Datasets of this package from the official ShapeNet layout (see `shapenet.py`) and back.

N volume points and M surface points of a shape. Imports no JAX: processes that prepare data use it.
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from scipy.spatial import KDTree
from tqdm import tqdm

from onet_jax.data import records
from onet_jax.data.prepare import _claim_folder, _open_pool
from onet_jax.data.records import CHUNK_POINTS, NUM_VOXELS, Index, Shape
from onet_jax.data.shapenet import Model, find_models, read_shapenet_model, write_lists, write_shapenet_model
from onet_jax.geometry.voxels import Voxels

MAX_COORDINATE = 1.01  # of points and normals; what lies further out is not in object coordinates


def import_shapenet(
    root: str | Path, data_dir: str | Path, *, classes: Sequence[str] | None = None, num_workers: int | None = None
) -> Index:
    """Make a dataset in `data_dir` of the official layout in `root`; returns its index.

    classes: categories, all that have lists by default. Splits are those of the lists; a model that cannot be read, has no
    surface points or no voxels, or differs from most others in its number of points is in no split but in
    `index.rejected`. Shapes that an interrupted run has finished are kept. num_workers: processes, as many as there are
    cores by default; 1 works in this process. The result does not depend on it.

    Raises FileNotFoundError or ValueError when there is nothing to import or `data_dir` was begun with other settings.
    """
    root, data_dir = Path(root), Path(data_dir)
    collection = find_models(root, classes)
    for note in collection.notes:
        tqdm.write(note)
    source = {'kind': 'shapenet', 'root': str(root.resolve()), 'names': collection.names}
    models = tuple(dict.fromkeys(model for split in collection.splits.values() for model in split))
    rejected = dict(collection.missing)
    if not models:
        raise ValueError(f'{root}: expected lists that name models, found none{_first(rejected)}')
    _claim_folder(data_dir, source)

    num_points = {}  # of the volume and of the surface
    with _open_pool(num_workers) as pool:
        tasks = {pool.submit(import_model, root, data_dir, *model): model for model in models}
        for task in tqdm(as_completed(tasks), total=len(tasks), desc='importing shapes', unit='shape', mininterval=1):
            error = task.exception()
            if isinstance(error, (BrokenProcessPool, OSError)):  # of the machine, not of the model
                pool.shutdown(cancel_futures=True)
                raise error
            if error is not None:
                rejected['/'.join(tasks[task])] = f'{type(error).__name__}: {error}'
            else:
                num_points[tasks[task]] = task.result()

    if not num_points:
        raise ValueError(f'{root}: expected a model that can be used, found none{_first(rejected)}')
    # The larger of two numbers that are equally frequent, so that the result does not depend on who finished first.
    usual = max(Counter(num_points.values()).items(), key=lambda item: item[::-1])[0]
    for model, found in num_points.items():
        if found != usual:
            records.shape_path(data_dir, *model).unlink()
            rejected['/'.join(model)] = (
                f'expected {usual[0]} volume and {usual[1]} surface points as most models have, found {found[0]} and {found[1]}'
            )
    splits = {
        split: tuple(model for model in listed if '/'.join(model) not in rejected)
        for split, listed in collection.splits.items()
    }
    index = Index(tuple(collection.names), splits, *usual, dict(sorted(rejected.items())), source)
    records.write_index(data_dir, index)
    return index


def _first(rejected: dict[str, str]) -> str:
    return next((f' ({len(rejected)} rejected, first {name}: {reason})' for name, reason in rejected.items()), '')


def import_model(root: Path, data_dir: Path, category: str, name: str) -> tuple[int, int]:
    """Store one model as a shape, unless its file is there and reads well; returns N and M.

    Raises ValueError for whatever is wrong with the model, OSError only when the shape cannot be written.
    """
    path = records.shape_path(data_dir, category, name)
    try:
        shape = records.read_shape(path)
    except (FileNotFoundError, ValueError):
        folder = root / category / name
        try:
            shape = to_shape(read_shapenet_model(folder), category, name)
        except OSError as error:
            raise ValueError(str(error)) from error
        except ValueError as error:
            raise ValueError(str(error) if str(folder) in str(error) else f'{folder}: {error}') from error
        records.write_shape(path, shape)
    return len(shape.points), len(shape.surface)


def to_shape(model: Model, category: str, name: str) -> Shape:
    """A model as a shape: coordinates rounded to float16, the stored labels, the points in the order of training chunks.

    Raises ValueError for a model without surface points or 32^3 voxels or not in object coordinates.
    """
    for part, file in ((model.surface, 'pointcloud.npz'), (model.voxels, 'model.binvox')):
        if part is None:
            raise ValueError(f'expected {file}, found no such file')
    if model.voxels.values.shape != (NUM_VOXELS,) * 3:
        raise ValueError(f'model.binvox: expected {NUM_VOXELS}^3 voxels, found {list(model.voxels.values.shape)}')
    for key in ('points', 'surface', 'normals'):
        largest = np.abs(getattr(model, key)).max()
        if largest > MAX_COORDINATE:
            raise ValueError(f'{key}: expected object coordinates, at most {MAX_COORDINATE}, found {largest}')
    # Nothing says that the files are in random order (`sample_mesh.py` can append points near the surface).
    rng = np.random.default_rng(zlib.crc32(f'{category}/{name}'.encode()))
    mixed = rng.permutation(len(model.surface))
    surface, normals = model.surface[mixed].astype(np.float16), model.normals[mixed].astype(np.float16)
    mixed = rng.permutation(len(model.points))
    points, occ = model.points[mixed].astype(np.float16), model.occ[mixed]
    order = chunk_order(points, surface)
    voxels = model.voxels.values
    # VIEWS: the one place where `model.views` (JPEG bytes, camera_mat, world_mat in object coordinates) enters a Shape.
    return Shape(category, name, points[order], occ[order], surface, normals, voxels, model.loc, model.scale)


def chunk_order(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """The permutation [N] behind `prepare.order_chunks`, for points that have their labels already."""
    tree = KDTree(surface[:4096], balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(points)
    return np.lexsort((distance, np.arange(len(points)) // CHUNK_POINTS))


def export_shapenet(data_dir: str | Path, root: str | Path) -> None:
    """Write a dataset in the official layout, so that the original code reads it; `root` is a new or an empty folder.

    The lists come last: a root without them is of an interrupted run. Raises FileNotFoundError or ValueError for a dataset
    that cannot be read, ValueError when there is something in `root`.
    """
    data_dir, root = Path(data_dir), Path(root)
    index = records.read_index(data_dir)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f'{root}: expected a new or an empty folder to write to, found something in it')
    shapes = tuple(dict.fromkeys(shape for split in records.SPLITS for shape in index.splits.get(split, ())))
    for category, name in tqdm(shapes, desc='exporting shapes', unit='shape', mininterval=1):
        shape = records.read_shape(records.shape_path(data_dir, category, name), index)
        # The official files note the frame of the shape as that of the voxels.
        voxels = Voxels(shape.voxels, shape.loc, shape.scale)
        # VIEWS: the one place where those of a Shape enter the layout; stored_world_mat is that of
        # `cameras.object_camera(Camera(world_mat, camera_mat), -loc / scale, 1 / scale)`.
        model = Model(shape.points, shape.occ, shape.loc, shape.scale, shape.surface, shape.normals, voxels)
        write_shapenet_model(root / category / name, model)
    names = index.source.get('names') or {}
    write_lists(root, {category: names.get(category, category) for category in index.categories}, index.splits)
