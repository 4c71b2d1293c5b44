"""Reader and writer of the official preprocessed ShapeNet layout. `shapenet.py` makes datasets of it.

ROOT/metadata.yaml                         category -> {id, name}
ROOT/<category>/{train,val,test}.lst       one model a line
ROOT/<category>/<model>/points.npz         points, occupancies (bool or packed bits), loc, scale
                        pointcloud.npz     points, normals, loc, scale
                        model.binvox       32^3 voxels
                        img_choy2016/      000.jpg, 001.jpg, ... and cameras.npz: camera_mat_<i>, world_mat_<i>
                        points_surface.npz as points.npz, but near the surface; for the sampling ablation only

A model may also be a room of Convolutional Occupancy Networks, in object coordinates and with several samplings:

        points_iou/points_iou_00.npz, ...  points, occupancies; semantics and z_scale are not read
        pointcloud/pointcloud_00.npz, ...  points, normals; semantics are not read
        item_dict.npz                      how it was generated; not read

T labelled points, N surface samples, V views. The files are not trusted: every fault is reported with the path, the key, what
was expected and what was found.
"""

import io
import math
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from PIL import Image
from scipy.spatial import KDTree

from onet_jax.data.archives import parse_array, read_arrays, read_members, reject
from onet_jax.data.records import SPLITS
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera, object_camera
from onet_jax.geometry.grid import voxel_centres
from onet_jax.geometry.voxels import Voxels, read_binvox, write_binvox
from onet_jax.json_files import is_file_name

FRAME = {'loc': ('f', (3,)), 'scale': ('f', ())}
POINTS = {'points': ('f', (None, 3)), 'occupancies': ('buif', (None,)), **FRAME}
CLOUD = {'points': ('f', (None, 3)), 'normals': ('f', (None, 3)), **FRAME}
IN_OBJECT = {'loc': np.zeros(3), 'scale': np.float64(1)}  # the frame of files in object coordinates
MAX_PIXELS = 1 << 24  # of one view


class Views(NamedTuple):
    """Renderings of one shape and their cameras, as in `geometry/cameras.py`."""

    jpegs: tuple[bytes, ...]  # V files, unchanged, RGB or grayscale
    camera_mat: np.ndarray  # [V, 3, 3] float64
    world_mat: np.ndarray  # [V, 3, 4] float64, for points in object coordinates
    stored_world_mat: np.ndarray  # [V, 3, 4] float64, as in the file: for points in the frame of the model's own file


class Model(NamedTuple):
    """What the folder of a model holds, as stored; None for files that it lacks. Points are in object coordinates."""

    points: np.ndarray  # [T, 3] float16 or float32
    occ: np.ndarray  # [T] bool
    loc: np.ndarray  # [3] float64; in the frame of the model's own file a point is at loc + scale * point
    scale: float
    ambiguous: float = 0.0  # share of ambiguous labels: a key of our own in points.npz that the official code ignores
    surface: np.ndarray | None = None  # [N, 3] float16 or float32
    normals: np.ndarray | None = None  # [N, 3] float16 or float32
    voxels: Voxels | None = None
    views: Views | None = None
    near_points: np.ndarray | None = None  # [K, 3] of points_surface.npz; read only
    near_occ: np.ndarray | None = None  # [K] bool


class Collection(NamedTuple):
    """The models that the lists of a root folder name."""

    names: dict[str, str]  # category, sorted -> name in metadata.yaml, or 'n/a'
    splits: dict[str, tuple[tuple[str, str], ...]]  # 'train', 'val', 'test' -> (category, model), in the lists' order
    missing: dict[str, str]  # 'category/model' -> why a listed model is in no split
    notes: tuple[str, ...]  # faults of the lists that leave the splits usable


def find_models(root: str | Path, categories: Sequence[str] | None = None) -> Collection:
    """Read the lists of all folders of `root` that have any, or of some `categories`, in sorted order.

    Blank lines, missing lists and models that are listed twice become notes, listed models without a folder `missing`.
    Raises FileNotFoundError without the root, InputError for a root without lists and for lists that are not text.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: expected the root of the ShapeNet layout, found no such folder')
    if categories is None:
        folders = {path.parent.name for path in root.glob('*/*.lst')}
        categories = sorted(name for name in folders if is_file_name(name))
    if not categories:
        raise InputError(f'{root}: expected folders of categories with lists (train.lst ...), found none')

    names = _read_names(root / 'metadata.yaml')
    splits, missing, notes = {}, {}, []
    listed: dict[tuple[str, str], str] = {}
    for split in SPLITS:
        found: dict[tuple[str, str], None] = {}
        for path in (root / category / f'{split}.lst' for category in categories):
            if not path.is_file():
                notes.append(f'{path}: expected a list of models, found no such file')
                continue
            for number, name in enumerate(_read_lines(path), start=1):
                model, where = (path.parent.name, name), f'{path}, line {number}'
                if not name:
                    notes.append(f'{where}: expected a model, found a blank line')
                elif not is_file_name(name):
                    missing['/'.join(model)] = f'{where}: expected the name of a folder, found {name!r}'
                elif model in found:
                    notes.append(f'{where}: expected each model once, found {name} again')
                elif not os.path.isdir(path.parent / name):
                    missing['/'.join(model)] = f'{where}: expected the folder {path.parent / name}, found none'
                else:
                    if model in listed:
                        notes.append(f'{where}: expected each model in one split, found {name} in {listed[model]} too')
                    listed[model], found[model] = path.name, None
        splits[split] = tuple(found)
    return Collection({category: names.get(category, 'n/a') for category in categories}, splits, missing, tuple(notes))


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding='utf-8-sig').split('\n')
    except ValueError as error:
        raise InputError(f'{path}: expected a list of models as text, found other bytes ({error})') from error
    return [line.strip() for line in (lines if lines[-1].strip() else lines[:-1])]


def _read_names(path: Path) -> dict[str, str]:
    """category -> name of a metadata.yaml; empty without the file. Raises InputError for a file of another content."""
    if not path.is_file():
        return {}
    try:
        # BaseLoader: all scalars are strings (the id 02691156 is not a number), and there are no merge keys.
        content = yaml.load(path.read_text(encoding='utf-8'), Loader=yaml.BaseLoader)
        names = {category: entry['name'] for category, entry in content.items()}
        if not all(isinstance(text, str) for pair in names.items() for text in pair):
            raise InputError('names that are no text')
        return names
    except Exception as error:
        raise InputError(
            f'{path}: expected YAML that maps each category to its id and name, found something else ({error!r})'
        ) from error


def read_shapenet_model(folder: str | Path, seed: int = 0) -> Model:
    """Read the folder of one model. All but points.npz may be missing. Of a room `seed` and name select the sampling.

    Raises FileNotFoundError without the folder or points.npz; InputError for a file that is damaged or not of the layout.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: expected the folder of a model, found none')
    if (folder / 'points_iou').is_dir():
        return _read_room(folder, seed)
    model = Model(*_read_points(folder / 'points.npz'))
    if (folder / 'pointcloud.npz').exists():
        surface, normals = _read_cloud(folder / 'pointcloud.npz', model)
        model = model._replace(surface=surface, normals=normals)
    if (folder / 'points_surface.npz').exists():
        near_points, near_occ, *_ = _read_points(folder / 'points_surface.npz')
        model = model._replace(near_points=near_points, near_occ=near_occ)
    if (folder / 'model.binvox').exists():
        model = model._replace(voxels=read_binvox(folder / 'model.binvox'))
    if (folder / 'img_choy2016').exists():
        model = model._replace(views=_read_views(folder / 'img_choy2016', model))
    return model


def _read_room(folder: Path, seed: int) -> Model:
    paths = sorted((folder / 'points_iou').glob('points_iou_*.npz'))
    if not paths:
        raise FileNotFoundError(f'{folder / "points_iou"}: expected points_iou_00.npz and so on, found none')
    number = zlib.crc32(f'{seed}/{folder.parent.name}/{folder.name}'.encode()) % len(paths)
    model = Model(*_read_points(paths[number], IN_OBJECT))
    path = folder / 'pointcloud' / paths[number].name.replace('points_iou', 'pointcloud')
    surface, normals = _read_cloud(path, model, IN_OBJECT)
    # A room has no voxels: a centre gets the label of the nearest point, less than a voxel away.
    _, nearest = KDTree(model.points).query(voxel_centres().reshape(-1, 3))
    voxels = Voxels(model.occ[nearest].reshape((32,) * 3), model.loc, model.scale)
    return model._replace(surface=surface, normals=normals, voxels=voxels)


def _read_points(path: Path, frame: dict | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, float]:
    """Points, occupancies, loc, scale, ambiguous. frame: `loc` and `scale` of a file that has none."""
    members = read_members(path)
    expected = POINTS | ({'ambiguous': ('f', ())} if 'ambiguous' in members else {})
    given = frame or {}
    arrays = {key: parse_array(path, key, members, *kind) for key, kind in expected.items() if key not in given} | given
    points, occ, scale = arrays['points'], arrays['occupancies'], float(arrays['scale'])
    num_points, num_bytes = len(points), -(-len(points) // 8)
    if not num_points:
        reject(path, 'points', 'at least one', 'none')
    if not scale > 0:
        reject(path, 'scale', 'a positive number', str(scale))
    ambiguous = float(arrays.get('ambiguous', 0))
    if not 0 <= ambiguous <= 1:
        reject(path, 'ambiguous', 'a share from 0 to 1', str(ambiguous))
    if occ.dtype == np.uint8 and len(occ) == num_bytes:
        occ = np.unpackbits(occ, count=num_points)
    elif len(occ) != num_points:
        reject(
            path, 'occupancies', f'{num_points} labels or uint8 [{num_bytes}], their bits', f'{occ.dtype} [{len(occ)}]'
        )
    other = (occ != 0) & (occ != 1)
    if other.any():
        reject(path, 'occupancies', '0 and 1', f'{occ[other][0]} and the like in {other.sum()} of {num_points}')
    return points, occ.astype(bool), arrays['loc'].astype(np.float64), scale, ambiguous


def _read_cloud(path: Path, model: Model, frame: dict | None = None) -> tuple[np.ndarray, np.ndarray]:
    given = frame or {}
    arrays = read_arrays(path, {key: kind for key, kind in CLOUD.items() if key not in given}) | given
    num_points, num_normals = len(arrays['points']), len(arrays['normals'])
    if not num_points or num_points != num_normals:
        reject(path, 'normals', 'one for each point, at least 1', f'{num_normals} for {num_points} points')
    for key, expected in (('loc', model.loc), ('scale', model.scale)):
        if not np.allclose(arrays[key], expected, rtol=1e-5, atol=1e-5 * model.scale):
            reject(path, key, f'{expected} as in points.npz', str(arrays[key]))
    return arrays['points'], arrays['normals']


def _read_views(folder: Path, model: Model) -> Views:
    jpegs = []
    paths = sorted(folder.glob('*.jpg'))
    for i, path in enumerate(paths):
        if path.name != f'{i:03d}.jpg':
            raise InputError(f'{folder}: expected the views 000.jpg, 001.jpg and so on, found {path.name} as view {i}')
        jpegs.append(path.read_bytes())
        check_jpeg(path, jpegs[-1])
    path = folder / 'cameras.npz'
    members = read_members(path)
    cameras = [key for key in members if key.startswith('world_mat_') and key.removeprefix('world_mat_').isdecimal()]
    if not jpegs or len(cameras) != len(jpegs):
        found = f'{len(cameras)} beside {len(jpegs)} views'
        reject(path, 'world_mat_<i>', 'one for each .jpg of the folder, at least 1', found)
    camera_mat, world_mat = (
        np.stack([parse_array(path, f'{key}_{i}', members, 'f', dims).astype(np.float64) for i in range(len(jpegs))])
        for key, dims in (('camera_mat', (3, 3)), ('world_mat', (3, 4)))
    )
    camera = object_camera(Camera(world_mat, camera_mat), model.loc, model.scale)
    return Views(tuple(jpegs), camera_mat, camera.world_mat, world_mat)


def check_jpeg(path: Path, content: bytes) -> None:
    """Raises InputError, naming the file, for content that is no whole JPEG image or too large a one."""
    try:
        with Image.open(io.BytesIO(content), formats=['JPEG']) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise InputError(f'{image.size[0]} x {image.size[1]} pixels, {MAX_PIXELS} at most')
            image.load()
    except Exception as error:  # Pillow raises anything on damaged bytes
        raise InputError(f'{path}: expected a whole JPEG image, found {len(content)} bytes ({error})') from error


def write_shapenet_model(folder: str | Path, model: Model) -> None:
    """Write the folder of one model so that the official code reads it; occupancies become packed bits."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    frame: dict[str, Any] = {'loc': np.asarray(model.loc, np.float64), 'scale': np.float64(model.scale)}
    labels: dict[str, Any] = {'occupancies': np.packbits(model.occ), 'ambiguous': np.float64(model.ambiguous)}
    np.savez(folder / 'points.npz', points=model.points, **labels, **frame)
    if model.surface is not None and model.normals is not None:
        np.savez(folder / 'pointcloud.npz', points=model.surface, normals=model.normals, **frame)
    if model.voxels is not None:
        write_binvox(folder / 'model.binvox', model.voxels)
    if model.views is not None:
        images = folder / 'img_choy2016'
        images.mkdir(exist_ok=True)
        for i, content in enumerate(model.views.jpegs):
            (images / f'{i:03d}.jpg').write_bytes(content)
        cameras: dict[str, Any] = {f'world_mat_{i}': matrix for i, matrix in enumerate(model.views.stored_world_mat)}
        cameras |= {f'camera_mat_{i}': matrix for i, matrix in enumerate(model.views.camera_mat)}
        np.savez(images / 'cameras.npz', **cameras)


def write_room(folder: str | Path, model: Model) -> None:
    """Write the folder of one room, with one sampling (`multi_files: 1` of the official code) and no semantics."""
    folder, half = Path(folder), np.float16
    if model.surface is None or model.normals is None:
        raise InputError(f'{folder}: expected a room with surface samples, found none')
    arrays: dict[str, Any]
    for name, points, arrays in (
        ('points_iou', model.points, {'occupancies': np.packbits(model.occ), 'z_scale': np.float64(1)}),
        ('pointcloud', model.surface, {'normals': model.normals.astype(half)}),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        semantics = np.zeros(len(points), np.int64)
        np.savez(folder / name / f'{name}_00.npz', points=points.astype(half), semantics=semantics, **arrays)
    np.savez(folder / 'item_dict.npz', multi_files=np.int64(1))


def write_lists(root: str | Path, names: dict[str, str], splits: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Write metadata.yaml and the lists of a root folder; arguments as in `Collection`. The lists end without a newline."""
    root = Path(root)
    for category in names:
        (root / category).mkdir(parents=True, exist_ok=True)
        for split in SPLITS:
            models = [name for c, name in splits.get(split, ()) if c == category]
            (root / category / f'{split}.lst').write_bytes('\n'.join(models).encode())
    content = {category: {'id': category, 'name': name} for category, name in names.items()}
    (root / 'metadata.yaml').write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')
