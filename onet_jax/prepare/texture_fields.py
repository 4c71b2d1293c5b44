"""Import of the layout of Texture Fields (Oechsle et al., ICCV 2019): posed views with depth, and oriented points. No JAX.

ROOT/<category>/{train,val,test}.lst      one model a line; or ROOT is the folder of one category
ROOT/<category>/<model>/pointcloud.npz    points, normals
                        image/*.png       views from random cameras, in the order of their names
                        depth/*.exr       their depth, inf is background, and cameras.npz: camera_mat_<i>, world_mat_<i>
                        visualize/        the same of fixed cameras: image/, depth/
                        input_image/*.jpg K pictures without cameras, which are seen in training and in evaluation

The layout has neither labelled points nor voxels: a dataset of it trains networks that read none. Coordinates stay those of the
files. The views have other sizes than ours and are resized to S = 137 px; M pixels along each side of a stored one.
"""

import importlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onet_jax.data.archives import parse_array, read_arrays, read_members, reject
from onet_jax.data.images import load_image
from onet_jax.data.records import Index, encode_picture
from onet_jax.data.schema import DEPTH_STEPS, VIEW_SIZE, Shape
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.mesh_files.textures import CODECS, to_eight_bits
from onet_jax.prepare.runners import Outcome, Runner, processes
from onet_jax.prepare.shapenet_files import find_models
from onet_jax.prepare.store import claim_folder, finish, keep_usual, store

CLOUD: dict[str, tuple[str, tuple]] = {'points': ('f', (None, 3)), 'normals': ('f', (None, 3))}
MAX_COORDINATE = 1.01  # of points; larger ones are not object coordinates
MAX_EDGE = 4096  # px, of a view
MAX_DEPTH = (2**16 - 1) / DEPTH_STEPS
FLIP = np.diag([1.0, -1.0, -1.0])  # x right, y up, z backwards -> x right, y down, z forwards


def import_texture_fields(root: str | Path, data_dir: str | Path, *, run: Runner | None = None) -> Index:
    """Make a dataset in `data_dir` of the layout of Texture Fields in `root`; returns its index.

    The pictures of input_image come first, then the random views, then the fixed ones. Splits are those of the lists. A model
    that cannot be read, or differs from most others in its number of points, pictures or views, is in no split but in
    `index.rejected`; one without pointcloud.npz has no surface samples, and a printed line says so. Raises FileNotFoundError or
    InputError when there is nothing to import, or `data_dir` was begun with other settings.
    """
    root, data_dir = Path(root), Path(data_dir)
    is_category = not any(root.glob('*/*.lst')) and any(root.glob('*.lst'))
    top = root.resolve().parent if is_category else root
    collection = find_models(top, [root.resolve().name] if is_category else None)
    for note in collection.notes:
        print(note, flush=True)
    models = tuple(dict.fromkeys(model for split in collection.splits.values() for model in split))
    if not models:
        first = next((f'; {name}: {reason}' for name, reason in collection.missing.items()), '')
        raise InputError(f'{root}: expected lists that name models, found none that is there{first}')
    counts = Counter(_count_pictures(top / category / name) for category, name in models)
    num_input, num_fixed = max(counts, key=lambda found: (counts[found], found))  # of most models
    source: dict[str, Any] = {'kind': 'texture_fields', 'root': str(root.resolve()), 'names': collection.names}
    # Where visualize has all the views, as in the demo of the original, they stand for the random ones.
    are_fixed = any((top / category / name / 'image').is_dir() for category, name in models)
    source |= {'num_input_views': num_input, 'num_fixed_views': num_fixed if are_fixed else 0}
    claim_folder(data_dir, source)
    work = partial(import_model, top, data_dir, num_input=num_input, num_fixed=num_fixed)
    outcome = (run or processes())(work, list(models), 'importing shapes')
    outcome = keep_usual(data_dir, Outcome(outcome.results, collection.missing | outcome.rejected))
    return finish(data_dir, tuple(collection.names), collection.splits, outcome, source)


def _count_pictures(folder: Path) -> tuple[int, int]:
    """How many pictures a model has in input_image and in visualize."""
    return len(_list_pictures(folder / 'input_image')), len(_list_pictures(folder / 'visualize' / 'image'))


def import_model(
    root: Path, data_dir: Path, category: str, name: str, *, num_input: int = 0, num_fixed: int = 0
) -> dict:
    """Store one model as a shape, unless it is stored already; returns as `store`.

    num_input, num_fixed: how many pictures without camera and fixed views it needs. Raises InputError for whatever is wrong
    with the model, OSError only when the shape cannot be written.
    """
    folder = root / category / name
    if not (folder / 'pointcloud.npz').exists():
        print(
            f'{folder / "pointcloud.npz"}: expected points and normals of the surface, found no such file: the shape has views '
            'alone, on which no network that reads oriented_cloud can be trained',
            flush=True,
        )

    def make() -> Shape:
        try:
            return read_model(folder, num_input, num_fixed)
        except OSError as error:
            raise InputError(str(error)) from error

    files = sorted(path for path in folder.rglob('*') if path.is_file())
    settings = {'category': category, 'name': name, 'files': [path.relative_to(folder).as_posix() for path in files]}
    return store(data_dir, category, name, settings, files, make)


def read_model(folder: Path, num_input: int = 0, num_fixed: int = 0) -> Shape:
    """The folder of a model as a shape. Raises FileNotFoundError or InputError, naming the file, for what is wrong with it."""
    cloud = {key: np.zeros((0, 3), np.float16) for key in CLOUD}
    if (folder / 'pointcloud.npz').exists():
        cloud = read_arrays(folder / 'pointcloud.npz', CLOUD)
        if len(cloud['points']) != len(cloud['normals']) or not len(cloud['points']):
            counts = f'{len(cloud["normals"])} for {len(cloud["points"])} points'
            reject(folder / 'pointcloud.npz', 'normals', 'one for each point, at least 1', counts)
        if (largest := np.abs(cloud['points']).max()) > MAX_COORDINATE:
            found = f'object coordinates, at most {MAX_COORDINATE}', str(largest)
            reject(folder / 'pointcloud.npz', 'points', *found)
    if (found := _count_pictures(folder)) != (num_input, num_fixed):
        raise InputError(
            f'{folder}: expected {num_input} pictures in input_image and {num_fixed} in visualize/image, as most models have, '
            f'found {found[0]} and {found[1]}'
        )
    posed = [
        (part, *each) for part in (folder, folder / 'visualize') for each in enumerate(_list_pictures(part / 'image'))
    ]
    if not posed:
        raise InputError(f'{folder}: expected pictures (png, jpg) in image/ or visualize/image/, found none')
    bare = [_read_input(path) for path in _list_pictures(folder / 'input_image')]
    pictures, alphas, depths, cameras = zip(*bare, *(_read_view(*view) for view in posed), strict=True)
    mixed = np.random.default_rng(0).permutation(len(cloud['points']))  # any slice of samples has to be a random one
    return Shape(
        folder.parent.name,
        folder.name,
        points=np.zeros((0, 3), np.float16),
        occ=np.zeros(0, bool),
        surface=cloud['points'][mixed].astype(np.float16),
        normals=cloud['normals'][mixed].astype(np.float16),
        voxels=None,
        loc=np.zeros(3),
        scale=np.float64(1),
        image=tuple(map(encode_picture, pictures)),
        alpha=tuple(map(encode_picture, alphas)),
        depth=tuple(map(encode_picture, depths)),
        world_mat=np.stack([camera.world_mat for camera in cameras]).astype(np.float32),
        camera_mat=np.stack([camera.camera_mat for camera in cameras]).astype(np.float32),
    )


def _list_pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob('*') if path.suffix.lower() in ('.png', '.jpg'))


def _read_input(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Camera]:
    """A picture as `_read_view` returns it, without object and depth; the camera, which nobody knows, is 0."""
    picture = np.round(255 * load_image(path, VIEW_SIZE)).astype(np.uint8)
    nothing = np.zeros((VIEW_SIZE, VIEW_SIZE), np.uint16)
    return picture, nothing.astype(np.uint8), nothing, Camera(np.zeros((3, 4)), np.zeros((3, 3)))


def _read_view(part: Path, i: int, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Camera]:
    """Picture [S, S, 3] uint8 on white, alpha [S, S] uint8, depth [S, S] uint16 as stored, and the camera of view i."""
    depth = read_depth(part / 'depth' / f'{path.stem}.exr')
    size = len(depth)
    pixels = _read_picture(path, size)
    covered = np.isfinite(depth)
    if not covered.any():
        raise InputError(f'{part / "depth" / path.stem}.exr: expected an object, found background alone')
    if depth[covered].min() <= 0 or depth[covered].max() > MAX_DEPTH:
        raise InputError(
            f'{part / "depth" / path.stem}.exr: expected depth above 0 and of at most {MAX_DEPTH:.2f}, found '
            f'{depth[covered].min():.4g} to {depth[covered].max():.4g}'
        )
    archive = part / 'depth' / 'cameras.npz'
    members = read_members(archive)
    camera_mat, world_mat = (
        parse_array(archive, f'{key}_{i}', members, 'f', (3, 4)).astype(np.float64)
        for key in ('camera_mat', 'world_mat')
    )
    if camera_mat[2, 2] == 0:
        reject(archive, f'camera_mat_{i}', 'an entry [2, 2] that is not 0', '0')

    picture = np.asarray(Image.fromarray(pixels).resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BOX))
    share = Image.fromarray(covered.astype(np.float32)).resize((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BOX)
    nearest = _nearest(depth)
    drawn = np.isfinite(nearest)
    alpha = np.where(drawn, np.maximum(np.round(255 * np.asarray(share)), 1), 0).astype(np.uint8)
    # The renderer smooths silhouettes in the picture, not in the depth: what is in the picture alone becomes background.
    picture = np.where(drawn[..., None], picture, np.uint8(255))
    steps = np.round(np.where(drawn, nearest, 0) * DEPTH_STEPS).astype(np.uint16)
    return picture, alpha, steps, to_camera(camera_mat, world_mat, VIEW_SIZE)


def to_camera(camera_mat: np.ndarray, world_mat: np.ndarray, size: int) -> Camera:
    """A camera of the layout, two matrices [3, 4], as ours for pictures of `size` px.

    Their axes are x right, y up, z backwards. A camera point (x, y, z) is seen at p, where z q p = P (x, y) + z b with
    P = camera_mat[:2, :2], b = camera_mat[:2, 2] and q = camera_mat[2, 2]; the picture is [0, 2]^2, its left and its bottom
    edge 0. The original code takes a pixel for its left upper corner, we take its centre, where depth maps agree best.
    """
    turned = camera_mat[:, :3] @ FLIP / camera_mat[2, 2]
    to_pixels = size / 2 * np.array([[1, 0, 0], [0, -1, 2], [0, 0, 2 / size]])
    pixels_mat = to_pixels @ turned
    return Camera(FLIP @ world_mat, pixels_mat / pixels_mat[2, 2])


def read_depth(path: Path) -> np.ndarray:
    """A depth map [M, M] float32 of an OpenEXR file, its first channel; inf is background.

    Raises FileNotFoundError, or InputError for a damaged one, another shape, NaN and without the library.
    """
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected the depth of a view, found no such file')
    exr = _require_openexr(path)
    try:
        with exr.File(str(path), header_only=True) as file:
            low, high = (np.asarray(corner) for corner in file.header()['dataWindow'])
            width, height = (high - low + 1).tolist()
        if not 0 < width == height <= MAX_EDGE:
            raise InputError(f'expected a square of at most {MAX_EDGE} px, found {width} x {height}')
        with exr.File(str(path)) as file:
            pixels = np.asarray(next(iter(file.channels().values())).pixels, np.float32)
    except Exception as error:  # a damaged file makes the library raise whatever it likes
        raise InputError(f'{path}: expected a depth map as OpenEXR, found another file ({error})') from error
    depth = pixels if pixels.ndim == 2 else pixels[..., 0]
    if np.isnan(depth).any():
        raise InputError(f'{path}: expected depth or inf, found NaN in {np.isnan(depth).sum()} pixels')
    return np.where(np.isneginf(depth), np.inf, depth)


def _require_openexr(path: Path) -> Any:
    try:
        return importlib.import_module('OpenEXR')
    except ModuleNotFoundError as error:
        raise InputError(
            f'{path}: expected the library OpenEXR, which reads depth maps, found it is not installed; run: '
            "pip install -e '.[exr]'"
        ) from error


def _read_picture(path: Path, size: int) -> np.ndarray:
    """RGB [M, M, 3] uint8 on white, of M = size px."""
    try:
        with Image.open(path, formats=CODECS) as image:
            if image.size != (size, size):
                raise InputError(f'{image.width} x {image.height} px beside a depth map of {size} x {size}')
            layer = to_eight_bits(image).convert('RGBA')
    except Exception as error:  # a damaged picture makes Pillow raise whatever it likes
        raise InputError(f'{path}: expected a picture of {size} x {size} px, found another file ({error})') from error
    white = Image.new('RGBA', layer.size, (255, 255, 255))
    return np.asarray(Image.alpha_composite(white, layer).convert('RGB'))


def _nearest(depth: np.ndarray) -> np.ndarray:
    """The nearest depth in each of S x S pixels of a depth map [M, M]: of those whose centre it holds, or that hold its own."""
    edges = np.arange(VIEW_SIZE + 1) * len(depth) / VIEW_SIZE
    firsts, lasts = np.ceil(edges[:-1] - 0.5).astype(int), np.ceil(edges[1:] - 0.5).astype(int)
    centres = np.floor((edges[:-1] + edges[1:]) / 2).astype(int)
    firsts, lasts = np.where(firsts < lasts, (firsts, lasts), (centres, centres + 1))
    bounds = list(zip(firsts, lasts, strict=True))
    rows = np.stack([depth[first:last].min(axis=0) for first, last in bounds])
    return np.stack([rows[:, first:last].min(axis=1) for first, last in bounds], axis=1)
