"""Reading the user's own files (point clouds, pictures, voxels; meshes, for an embedding) as inputs of a network."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.images import load_image
from onet_jax.data.sources import Source, find_files, find_photos
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import CLOUD_FORMATS, MESH_FORMATS, Frame, load_cloud, load_mesh, normalise
from onet_jax.geometry.voxels import read_binvox
from onet_jax.models import auto_decoding, occupancy_network
from onet_jax.models.occupancy import sample_prior

OBJECT_FRAME = Frame(np.zeros(3), 1.0)


def _points_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    return cloud_input(load_cloud(source.path), config)


def _image_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    return load_image(source.path, config.data.image_size, source.box), OBJECT_FRAME


def _voxels_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    voxels = read_binvox(source.path)
    if voxels.values.shape != (32, 32, 32):
        raise InputError(
            f'{source.path}: expected 32 x 32 x 32 voxels, found {" x ".join(map(str, voxels.values.shape))}'
        )
    return voxels.values.astype(np.float32), OBJECT_FRAME


def _labelled_input(source: Source, config: ConfigDict) -> tuple[np.ndarray, Frame]:
    try:
        return auto_decoding.labelled_points(load_mesh(source.path), config.seed)
    except ValueError as error:
        raise InputError(str(error) if str(source.path) in str(error) else f'{source.path}: {error}') from error


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


def find_reader(config: ConfigDict) -> Reader:
    """The reader of what the model of a config sees. Raises ValueError for a model that sees no files."""
    if config.data.input not in READERS:
        raise InputError(
            f'config.data.input: expected a model with one of the inputs {sorted(READERS)}, found '
            f'{config.data.input!r}; a model without input is sampled by `python -m launch.sample`'
        )
    return READERS[config.data.input]


def bind_input(params: dict, config: ConfigDict, values: np.ndarray) -> Callable:
    """The field [T, 3] -> logits [T] of one input as a reader gives it, in object coordinates."""
    model, key = occupancy_network(config.model), jax.random.key(config.seed)
    if config.data.input == 'index':
        cond = auto_decoding.fit_codes(key, params, config, values[None])
    else:
        cond = model.encode(params, values[None])
    latent = sample_prior(key, jnp.arange(1), config.model.latent_size) if config.eval.sample else None
    return model.bind(params, cond, latent)
