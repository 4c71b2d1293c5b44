"""From the user's own files (point clouds, pictures, voxels; meshes, for an embedding) to meshes in the user's frame."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.images import load_image
from onet_jax.data.sources import Source, find_files, find_photos
from onet_jax.evaluation import fit
from onet_jax.evaluation.domain import SHARE, Domain
from onet_jax.evaluation.report import show_input
from onet_jax.geometry.meshes import CLOUD_FORMATS, MESH_FORMATS, Frame, load_cloud, load_mesh, normalise, save_mesh
from onet_jax.geometry.voxels import read_binvox
from onet_jax.models.method import Method
from onet_jax.models.onet import occupancy_network
from onet_jax.viz.page import write_page
from onet_jax.viz.pictures import SIZE, Item

MAX_SHOWN = 100  # items of a page
OBJECT_FRAME = Frame(np.zeros(3), 1.0)


def _points_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    return cloud_input(load_cloud(source.path), config)


def _image_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    return load_image(source.path, config.data.image_size, source.box), OBJECT_FRAME


def _voxels_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    voxels = read_binvox(source.path)
    if voxels.values.shape != (32, 32, 32):
        raise ValueError(
            f'{source.path}: expected 32 x 32 x 32 voxels, found {" x ".join(map(str, voxels.values.shape))}'
        )
    return voxels.values.astype(np.float32), OBJECT_FRAME


def _labelled_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    try:
        return fit.labelled_points(load_mesh(source.path), config.seed)
    except ValueError as error:
        raise ValueError(str(error) if str(source.path) in str(error) else f'{source.path}: {error}') from error


class Reader(NamedTuple):
    """How files become inputs of a network."""

    find: Callable[[str | Path], list[Source]]
    read: Callable[[Source, ConfigDict], tuple[np.ndarray, Frame]]  # -> input without the batch axis, and its frame


READERS = {
    'points': Reader(partial(find_files, formats=CLOUD_FORMATS), _points_input),
    'image': Reader(find_photos, _image_input),
    'voxels': Reader(partial(find_files, formats=('binvox',)), _voxels_input),
    'index': Reader(partial(find_files, formats=MESH_FORMATS), _labelled_input),
}


def draw_points(cloud: np.ndarray, num_points: int, seed: int) -> np.ndarray:
    """num_points of a cloud [N, 3] at random; a cloud with fewer points repeats some of them."""
    rng = np.random.default_rng(seed)
    return cloud[rng.choice(len(cloud), num_points, replace=len(cloud) < num_points)]


def cloud_input(cloud: np.ndarray, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    """cloud [N, 3] in any frame -> what the network sees, [P, 3] float32 in object coordinates, and its frame.

    The cloud is normalised to longest edge 1 and centre 0, and `config.data.num_input_points` of its points are drawn
    with `config.seed`, as in training.
    """
    frame = normalise(cloud)
    points = frame.to_object(draw_points(cloud, config.data.num_input_points, config.seed))
    return points.astype(np.float32), frame


def reconstruct_input(
    method: Method, params: dict, config: ConfigDict, values: np.ndarray, frame: Frame
) -> trimesh.Trimesh:
    """The mesh of one input, in the frame of the input; no vertices where the level set is empty."""
    return _to_user(_reconstruct(method, params, config, values), frame)


def _reconstruct(method: Method, params: dict, config: ConfigDict, values: np.ndarray) -> trimesh.Trimesh:
    (mesh,) = method.reconstruct(params, values[None], jax.random.key(config.seed))
    return mesh


def _to_user(mesh: trimesh.Trimesh, frame: Frame) -> trimesh.Trimesh:
    moved = mesh.copy()
    moved.vertices = frame.to_user(mesh.vertices)
    return moved


def reconstruct_files(
    method: Method,
    params: dict,
    config: ConfigDict,
    inputs: str | Path,
    output: str | Path,
    file_format: str,
    domain: Domain | None = None,
) -> list[Path]:
    """Reconstruct a file or all that a folder has into OUTPUT/<name of the source>.<format>; returns the files written.

    OUTPUT/index.html shows each input beside its mesh, the first `MAX_SHOWN` of them, and says which are outside of the
    domain of the network, where that is known.

    Raises ValueError before anything is written when two inputs share a name or a mesh would replace an input, and
    for an unreadable input or one whose level set is empty; files written before stay.
    """
    if config.data.input not in READERS:
        raise ValueError(
            f'config.data.input: expected a model with one of the inputs {sorted(READERS)}, found '
            f'{config.data.input!r}; a model without input is sampled by `python -m launch.sample`'
        )
    if file_format not in MESH_FORMATS:
        raise ValueError(f'--format: expected one of {MESH_FORMATS}, found {file_format!r}')
    if config.data.input == 'index':
        method = fit.fitting(method, config)
    find, read = READERS[config.data.input]
    items, num_outside = [], 0
    targets = {source: Path(output) / f'{source.name}.{file_format}' for source in find(inputs)}
    _check_targets(targets)
    for source, target in targets.items():
        path = source.path
        values, frame = read(source, config)
        mesh = _reconstruct(method, params, config, values)
        if not len(mesh.faces):
            raise ValueError(
                f'{path}: the network finds nothing inside at threshold {config.eval.threshold}; '
                'check that the object is upright (y up) and resembles the training shapes'
            )
        save_mesh(_to_user(mesh, frame), target)
        words = ''
        if domain is not None:
            code = occupancy_network(config.model).encode(params, values[None])
            strangeness = float(domain.strangeness(np.asarray(code))[0])
            words, num_outside = describe(strangeness), num_outside + (strangeness > 1)
        if len(items) < MAX_SHOWN:
            # A photo in full, although the network sees few of its pixels; other inputs as they are seen.
            seen = load_image(path, SIZE, source.box) if config.data.input == 'image' else values
            items.append(Item(source.name, words, (show_input(seen), mesh)))
        size = f'{len(mesh.vertices)} vertices, {len(mesh.faces)} faces'
        print(f'{path} -> {target}: ' + ', '.join(filter(None, [size, words])), flush=True)
    write_page(
        Path(output) / 'index.html',
        title=f'{len(targets)} reconstructions',
        lead=_lead(config, domain, num_outside, len(targets)),
        summary={},
        items=items,
        column_titles=('photo' if config.data.input == 'image' else 'input', 'reconstruction'),
    )
    return list(targets.values())


def describe(strangeness: float) -> str:
    """In words, for people: what a number of `Domain.strangeness` means."""
    if strangeness > 1:
        return f'OUTSIDE the training domain ({strangeness:.2f} times the limit): do not trust this shape'
    return f'within the training domain ({strangeness:.2f} times the limit)'


def _lead(config: ConfigDict, domain: Domain | None, num_outside: int, num_inputs: int) -> str:
    known = f'Threshold {config.eval.threshold:g}.' + (
        f' The first {MAX_SHOWN} of {num_inputs} are shown.' if num_inputs > MAX_SHOWN else ''
    )
    if domain is None:
        return f'{known} Whether the inputs resemble those of the training was not measured.'
    return (
        f'{known} {num_outside} of {num_inputs} inputs are outside the training domain: their codes are farther from those of '
        f'training inputs than {SHARE:.0%} of the validation inputs are. A network of this kind answers such inputs with a '
        'shape that it knows, not with the one that is there.'
    )


def _check_targets(targets: dict[Source, Path]) -> None:
    """Raises ValueError where a mesh would replace another one or an input."""
    inputs = {source.path.resolve(): source.path for source in targets}
    owners: dict[Path, Path] = {}
    for (_, path, _), target in targets.items():
        if target.resolve() in inputs:
            raise ValueError(
                f'{target}: expected a new file, found the input {inputs[target.resolve()]}; choose another --output'
            )
        if target in owners:
            raise ValueError(
                f'{target}: expected one input of this name, found {owners[target]} and {path}; rename one of them'
            )
        owners[target] = path
