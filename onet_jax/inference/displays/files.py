"""Files in the viewer: a mesh or a cloud, a mesh beside its input, a folder of reconstructions, a sequence that plays.

All are shown in object coordinates, a mesh and its input in the same ones. L frames, P points of a cloud.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from onet_jax.data.clip_inputs import FRAME_FORMATS, file_of, list_frames
from onet_jax.data.images import IMAGE_FORMATS, load_image
from onet_jax.data.posed_views import is_scene
from onet_jax.data.scans import load_coloured_bulk
from onet_jax.data.user_inputs import find_turn
from onet_jax.errors import InputError
from onet_jax.geometry.colours import has_colours
from onet_jax.geometry.mesh_files.animations import ANIMATED_FORMATS, HDF5_FORMATS, read_sequence
from onet_jax.geometry.mesh_files.gltf_animations import animation_names
from onet_jax.geometry.meshes import CLOUD_FORMATS, load_frame, load_geometry, load_mesh, normalise, reading
from onet_jax.geometry.sequence_files import fit
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence, frames_of, move
from onet_jax.inference.clip_files import load_clip
from onet_jax.inference.displays.quality import COLOURS, compare
from onet_jax.inference.displays.scenes import display_views
from onet_jax.inference.gallery import describe
from onet_jax.inference.manifest import Manifest
from onet_jax.viz.display import Choice, Display, Shown
from onet_jax.viz.pictures import SIZE, Item, PaintedCloud, thin

MANIFEST = 'manifest.json'
WANTED = (
    f'a mesh or a cloud ({"|".join(CLOUD_FORMATS)}), a folder with the frames of a sequence, one with posed pictures, one that '
    '`onet reconstruct` has written, or a trained network'
)


def choose_display(path: str | Path, given: str | Path | None = None, up: str = 'auto') -> Callable[[], Display]:
    """What reads a file or a folder, by its kind, which is found out at once.

    given: the input that a mesh, or a sequence of meshes, was made from. up: the axis of files that points up, 'x', 'y' or 'z',
    or 'auto', which finds it; of a scene its cameras say it. Raises FileNotFoundError for what is missing, or another folder;
    what it returns raises InputError that names the file where one is damaged.
    """
    path, given = Path(path), None if given is None else Path(given)
    is_folder = path.is_dir()
    for each in filter(None, (path, given)):
        if not file_of(each).exists():
            raise FileNotFoundError(f'{each}: expected {WANTED}, found none')
    if is_folder and (is_scene(path) or (path / MANIFEST).is_file()):
        if given is not None:
            raise InputError(f'--input: expected none for {path}, whose inputs are known, found {given}')
        return partial(display_views if is_scene(path) else display_reconstructions, path)
    if is_sequence(path):
        return partial(display_sequence, path, given, up)
    if is_folder:
        raise FileNotFoundError(f'{path}: expected {WANTED}, found another folder')
    return partial(display_shape, path, given, up)


def display_shape(path: Path, given: Path | None, up: str) -> Display:
    """A mesh or a cloud in its colours; with an input the two beside each other, in the colours of quality control."""
    shape, caption = load_shape(path)
    if given is None:
        frame = normalise(shape.vertices)._replace(turn=find_turn(np.asarray(shape.vertices), up))
        shape.vertices = frame.to_object(shape.vertices)
        title = 'mesh' if isinstance(shape, trimesh.Trimesh) else 'cloud'
        return Display((), lambda: Shown((title,), [Item(path.name, caption, (shape,))]))
    if not isinstance(shape, trimesh.Trimesh):
        raise InputError(f'{path}: expected a mesh beside --input, found a point cloud')
    shapes = {'input': _join(shape, given, up), 'mesh': shape}
    return Display((COLOURS,), lambda colours: compare(path.name, caption, shapes, colours))


def display_reconstructions(folder: Path) -> Display:
    """The inputs and the reconstructions of a folder of `onet reconstruct`, one at a time."""
    items = {name: item for name, item in Manifest(folder).items.items() if item['status'] == 'done'}
    if not items:
        raise InputError(f'{folder / MANIFEST}: expected reconstructions, found none that is done')

    @cache
    def read(name: str) -> dict[str, Any]:
        return _read_item(folder, items[name])

    def make(name: str, colours: str) -> Shown:
        return compare(name, describe(items[name]), read(name), colours)

    return Display((Choice('shape', tuple(items), next(iter(items))), COLOURS), make)


def display_sequence(path: Path, given: Path | None, up: str) -> Display:
    """A sequence, beside the one that it was made from."""
    shapes = {'sequence': read_frames(path)}
    if given is not None:
        shapes = {'input': read_frames(given), **shapes}
    num_frames, frame = len(frames_of(shapes['sequence'])), fit(*shapes.values())
    frame = frame._replace(turn=find_turn(np.asarray(frames_of(shapes['sequence'])[0].vertices), up))
    moved = {title: move(shape, frame.to_object) for title, shape in shapes.items()}
    item = Item(path.name, f'{num_frames} frames, longest edge of all {frame.scale:.4g}', tuple(moved.values()))
    return Display((), lambda: Shown(tuple(moved), [item]))


def load_shape(path: Path) -> tuple[trimesh.Trimesh | trimesh.PointCloud, str]:
    """A mesh or a cloud of a file, and its size in words. Equal vertices are one, unless seams of colours need several."""
    shape = load_geometry(path)
    if not len(shape.vertices):
        raise InputError(f'{path}: expected a shape, found none')
    has_seams = isinstance(shape, trimesh.Trimesh) and has_colours(shape)
    return load_mesh(path) if has_seams else shape, describe_shape(shape)


def describe_shape(shape: trimesh.Trimesh | trimesh.PointCloud) -> str:
    """The size of a shape in words."""
    size = f'longest edge {normalise(shape.vertices).scale:.4g}'
    if isinstance(shape, trimesh.PointCloud):
        return f'{len(shape.vertices):,} points, {size}'
    state = 'closed' if shape.is_watertight else 'open'
    return f'{len(shape.vertices):,} vertices, {len(shape.faces):,} faces, {state}, {size}'


def is_sequence(path: Path) -> bool:
    """Whether a path is an animation, as FILE or FILE#NAME, or a folder of several numbered meshes or clouds."""
    if path.is_dir():
        frames = (each for each in path.iterdir() if each.suffix.lower()[1:] in FRAME_FORMATS)
        return sum(any(map(str.isdigit, frame.stem)) for frame in frames) > 1
    kind, file = path.suffix.lower()[1:], file_of(path)
    if file != path or not file.is_file() or kind not in ANIMATED_FORMATS:
        return file.is_file() and (file != path or kind in HDF5_FORMATS)
    with reading(path):
        return bool(animation_names(path))


def read_frames(path: Path) -> Any:
    """A sequence in the user's frame: an animation, or a folder of numbered meshes or clouds, of which any number of points."""
    if not path.is_dir():
        return read_sequence(path)
    frames = [load_frame(file) for file in list_frames(path)]
    meshes = tuple(frame for frame in frames if isinstance(frame, trimesh.Trimesh))
    if len(meshes) < len(frames):
        few = min(len(frame.vertices) for frame in frames)
        return CloudSequence(np.stack([thin(frame.vertices, few) for frame in frames]))
    first = meshes[0]
    if all(len(m.vertices) == len(first.vertices) and np.array_equal(m.faces, first.faces) for m in meshes):
        return MeshSequence(np.stack([mesh.vertices for mesh in meshes]), np.asarray(first.faces))
    return ChangingMeshes(meshes)


def _read_item(folder: Path, item: dict) -> dict[str, Any]:
    """The input of an entry of a manifest, None where it is gone or nothing to see, and what was made of it."""
    target, source = folder / item['mesh'], Path(str(item.get('input', '')))
    kind, seen = source.suffix.lower()[1:], None
    if 'frames' in item:
        made = load_clip(target, item['frames'], next(target.with_suffix('').iterdir()).suffix[1:])
        seen = read_frames(source) if is_sequence(source) else None
        frame = fit(*(shape for shape in (seen, made) if shape is not None))
        seen, made = seen and move(seen, frame.to_object), move(made, frame.to_object)
    else:
        made, _ = load_shape(target)
        if kind in CLOUD_FORMATS and source.is_file():
            seen = _join(made, source, item.get('up', 'auto'))
        else:
            made.vertices = normalise(made.vertices).to_object(made.vertices)
        if kind in IMAGE_FORMATS and source.is_file():
            seen = np.round(255 * load_image(source, SIZE, item.get('box'))).astype(np.uint8)
    return {'input': seen, 'reconstruction': made}


def _join(shape: Any, source: Path, up: str) -> np.ndarray | PaintedCloud:
    """Move a shape in place to object coordinates of it and its cloud, which is returned, with the colours of its file."""
    cloud, colours = load_coloured_bulk(source, keep_outliers=False)
    frame = normalise(np.concatenate([shape.vertices, cloud]))._replace(turn=find_turn(cloud, up))
    shape.vertices = frame.to_object(shape.vertices)
    cloud = frame.to_object(cloud)
    return cloud if colours is None else PaintedCloud(cloud, colours)
