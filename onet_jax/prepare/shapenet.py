"""Import and export of the official preprocessed ShapeNet (its files: see `shapenet_files.py`). Imports no JAX.

T labelled points, N surface samples, V views.
"""

import io
import zlib
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from onet_jax.data import records
from onet_jax.data.records import Index, encode_picture
from onet_jax.data.schema import NUM_VOXELS, VIEW_SIZE, Shape
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera, object_camera
from onet_jax.geometry.voxels import Voxels
from onet_jax.prepare import rooms
from onet_jax.prepare.runners import Outcome, Runner, processes
from onet_jax.prepare.sampling import check_options, chunk_order
from onet_jax.prepare.shapenet_files import (
    Model,
    Views,
    find_models,
    read_shapenet_model,
    write_lists,
    write_room,
    write_shapenet_model,
)
from onet_jax.prepare.store import claim_folder, finish, keep_usual, store
from onet_jax.progress import track

MAX_COORDINATE = 1.01  # of points and normals; larger ones are not object coordinates


def import_shapenet(
    root: str | Path, data_dir: str | Path, *, sampling: str = 'uniform', seed: int = 0, run: Runner | None = None
) -> Index:
    """Make a dataset in `data_dir` of the official layout in `root`; returns its index.

    sampling: of the training points (ablation of section 4.6): 'uniform' are all points as stored, 'equal' half of them inside,
    'surface' those of points_surface.npz. Splits are those of the lists; a model that cannot be read, has no surface samples or
    no voxels, or differs from most others in its number of points or views is in no split but in `index.rejected`. seed:
    selects one of the several samplings of a room. The files have neither colours nor alpha nor depth. The result does not
    depend on the runner.

    Raises FileNotFoundError or InputError when there is nothing to import or `data_dir` was begun with other settings.
    """
    root, data_dir = Path(root), Path(data_dir)
    check_options(sampling)
    collection = find_models(root)
    for note in collection.notes:
        print(note, flush=True)
    names, settings = collection.names, {'sampling': sampling, 'seed': seed}
    source = {'kind': 'shapenet', 'root': str(root.resolve()), 'names': names, **settings}
    models = tuple(dict.fromkeys(model for split in collection.splits.values() for model in split))
    if not models:
        first = next((f'; {name}: {reason}' for name, reason in collection.missing.items()), '')
        raise InputError(f'{root}: expected lists that name models, found none that is there{first}')
    claim_folder(data_dir, source)
    training = set(collection.splits['train'])
    tasks = [(*model, sampling if model in training else 'uniform', seed) for model in models]
    outcome = (run or processes())(partial(import_model, root, data_dir), tasks, 'importing shapes')
    outcome = keep_usual(data_dir, Outcome(outcome.results, collection.missing | outcome.rejected))
    return finish(data_dir, tuple(names), collection.splits, outcome, source)


def import_model(root: Path, data_dir: Path, category: str, name: str, sampling: str, seed: int) -> dict:
    """Store one model as a shape, unless it is stored already; returns as `store`.

    Raises InputError for whatever is wrong with the model, OSError only when the shape cannot be written.
    """
    folder = root / category / name

    def make() -> Shape:
        try:
            return to_shape(read_shapenet_model(folder, seed), category, name, sampling)
        except OSError as error:
            raise InputError(str(error)) from error
        except ValueError as error:
            raise InputError(str(error) if str(folder) in str(error) else f'{folder}: {error}') from error

    files = sorted(path for path in folder.rglob('*') if path.is_file())
    settings = {
        'category': category,
        'name': name,
        'sampling': sampling,
        'seed': seed,
        'files': [path.relative_to(folder).as_posix() for path in files],
    }
    return store(data_dir, category, name, settings, files, make)


def to_shape(model: Model, category: str, name: str, sampling: str = 'uniform') -> Shape:
    """A model as a shape: coordinates rounded to float16, labels as stored, points sorted in chunks (see `records.py`).

    sampling: as of `import_shapenet`. Raises InputError for a model without surface samples or 32^3 voxels, not in object
    coordinates, or without the points that the sampling needs.
    """
    if model.surface is None or model.normals is None:
        raise InputError('expected pointcloud.npz, found no such file')
    if model.voxels is None:
        raise InputError('expected model.binvox, found no such file')
    if model.voxels.values.shape != (NUM_VOXELS,) * 3:
        raise InputError(f'model.binvox: expected {NUM_VOXELS}^3 voxels, found {list(model.voxels.values.shape)}')
    for key in ('points', 'surface', 'normals'):
        largest = np.abs(getattr(model, key)).max()
        if largest > MAX_COORDINATE:
            raise InputError(f'{key}: expected object coordinates, at most {MAX_COORDINATE}, found {largest}')
    # The files need not be in random order (the official sample_mesh.py can append points near the surface).
    rng = np.random.default_rng(zlib.crc32(f'{category}/{name}'.encode()))
    mixed = rng.permutation(len(model.surface))
    surface, normals = model.surface[mixed].astype(np.float16), model.normals[mixed].astype(np.float16)
    points, occ = _draw_points(rng, model, sampling)
    order = chunk_order(points, surface)
    return Shape(
        category,
        name,
        points=points[order],
        occ=occ[order],
        surface=surface,
        normals=normals,
        voxels=model.voxels.values,
        loc=model.loc,
        scale=np.float64(model.scale),
        ambiguous=np.float64(model.ambiguous),
        **(view_columns(model.views) if model.views else {}),
    )


def _draw_points(rng: np.random.Generator, model: Model, sampling: str) -> tuple[np.ndarray, np.ndarray]:
    """As many labelled points as the model has, with their labels, in random order."""
    points, occ, num_points = model.points, model.occ, len(model.points)
    drawn = rng.permutation(num_points)
    if sampling == 'equal':
        if occ.all() or not occ.any():
            raise InputError(
                f'points.npz: expected points inside and outside, found {occ.sum()} of {num_points} inside'
            )
        # With replacement, as the official code draws them: a twentieth of the points is inside.
        counts = (num_points - num_points // 2, num_points // 2)
        drawn = rng.permutation(
            np.concatenate([rng.choice(np.flatnonzero(occ == side), n) for side, n in enumerate(counts)])
        )
    elif sampling == 'surface':
        if model.near_points is None or model.near_occ is None or len(model.near_points) < num_points:
            found = 'no such file' if model.near_points is None else str(len(model.near_points))
            raise InputError(f'points_surface.npz: expected at least {num_points} points, found {found}')
        points, occ = model.near_points, model.near_occ
        drawn = rng.permutation(len(points))[:num_points]
    return points[drawn].astype(np.float16), occ[drawn]


def view_columns(views: Views) -> dict:
    """The columns of views: images of 137 x 137 px unchanged, others resized, with their cameras."""
    files, camera_mat = [], views.camera_mat.copy()
    for i, file in enumerate(views.jpegs):
        with Image.open(io.BytesIO(file), formats=['JPEG']) as image:
            if image.size != (VIEW_SIZE, VIEW_SIZE):
                camera_mat[i] = np.diag([VIEW_SIZE / image.width, VIEW_SIZE / image.height, 1]) @ camera_mat[i]
                pixels = image.convert('RGB').resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BILINEAR)
                file = encode_picture(np.asarray(pixels))
        files.append(file)
    return {
        'image': tuple(files),
        'world_mat': views.world_mat.astype(np.float32),
        'camera_mat': camera_mat.astype(np.float32),
    }


def export_shapenet(data_dir: str | Path, root: str | Path) -> None:
    """Write a dataset in the official layout, so that the original code reads it; `root` is a new or an empty folder.

    Colours, alpha and depth are lost. The lists are written last: a root without them is of an interrupted run. Raises
    FileNotFoundError or InputError for a dataset that cannot be read, InputError when `root` is not empty.
    """
    data_dir, root = Path(data_dir), Path(root)
    index = records.read_index(data_dir)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f'{root}: expected a new or an empty folder to write to, found something in it')
    shapes = tuple(dict.fromkeys(shape for split in records.SPLITS for shape in index.splits.get(split, ())))
    for category, name in track(shapes, 'exporting', 'shapes'):
        shape = records.read_shape(records.shape_path(data_dir, category, name), index)
        if not len(shape.points) or shape.voxels is None:
            raise InputError(f'{data_dir}: expected labelled points and voxels to write, found a dataset without them')
        # The official binvox files have the frame of the shape in their header.
        voxels = Voxels(shape.voxels, shape.loc, shape.scale)
        labels = (shape.points, shape.occ, shape.loc, shape.scale, shape.ambiguous)
        model = Model(*labels, shape.surface, shape.normals, voxels)
        if shape.image is not None:
            camera = Camera(shape.world_mat.astype(np.float64), shape.camera_mat.astype(np.float64))
            stored = object_camera(camera, -shape.loc / shape.scale, 1 / shape.scale)  # of the shape's own frame
            model = model._replace(views=Views(shape.image, *camera[::-1], stored.world_mat))
        write = write_room if category in rooms.FAMILIES else write_shapenet_model
        write(root / category / name, model)
    names = index.source.get('names') or {}
    write_lists(root, {category: names.get(category, category) for category in index.categories}, index.splits)
