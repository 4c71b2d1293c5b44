"""Generation: meshes of samples of the prior, and of an interpolation between two shapes (paper, section 4.5, supplementary).

C condition, Z latent code; all arrays have a batch of 1. Meshes are in object coordinates.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import has_input, in_order, input_names, read_inputs, shows_objects
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.files import refuse_existing, refuse_replacing
from onet_jax.geometry.extract import extract_mesh
from onet_jax.geometry.meshes import check_format, save_mesh
from onet_jax.models.method import Model
from onet_jax.models.occupancy import mesh_settings
from onet_jax.progress import track, working
from onet_jax.viz.pictures import Item, animation, contact_sheet, render


class Code(NamedTuple):
    """What the decoder f(p, c, z) is conditioned on: one shape."""

    cond: jax.Array  # c [1, C], or a tree of feature maps
    latent: jax.Array | None  # z [1, Z]; None for a model without latent code


def sample_code(model: Model, params: dict, config: ConfigDict, number: int, seed: int) -> Code:
    """z drawn from the prior N(0, 1), a function of (seed, number).

    Raises InputError for a model with an input or without a latent code, and for a number outside of [0, 2^31).
    """
    latent_size = getattr(model, 'latent_size', 0)
    if has_input(config.data) or not latent_size:
        raise InputError(
            'config: expected a model without input and with a latent code (model.latent_size > 0) to sample, found '
            f'data.inputs {input_names(config.data)} and {latent_size}; `onet reconstruct` takes inputs'
        )
    if not 0 <= number < 2**31:
        raise InputError(f'number of a sample: expected 0 to {2**31 - 1}, found {number}')
    cond = model.encode(params, np.zeros((1, 0), np.float32))
    return Code(cond, model.prior(jax.random.key(seed), jnp.array([number])))


def infer_code(model: Model, params: dict, config: ConfigDict, flag: str, name: str, data_dir: Path | None) -> Code:
    """z = the mean of the posterior q(z | points, occupancies, c), for the shape `name` = CATEGORY/NAME of a dataset.

    It is given as many labelled points as in training, and a model with an input the one that evaluation draws. Raises
    InputError, naming `flag`, for an unknown shape or without a dataset.
    """
    if data_dir is None:
        raise InputError(
            f'--data_dir: expected the dataset of {flag}={name}, for this workdir was not trained here; found none'
        )
    dataset = open_dataset(data_dir)
    places = {
        shape: (split, i) for split in dataset.index.splits for i, shape in enumerate(dataset.index.splits[split])
    }
    category, _, shape_name = name.partition('/')
    if (category, shape_name) not in places:
        raise InputError(
            f'{flag}: expected the number of a sample or a shape of {data_dir} such as {"/".join(next(iter(places)))}, '
            f'found {name!r}'
        )
    split, position = places[category, shape_name]
    ((batch, _),) = dataset.evaluation_batches(
        config, split, targets=('volume_points',), batch_size=1, positions=[position]
    )
    targets = batch['targets']
    cond = model.encode(params, *in_order(batch['inputs']))
    chosen = targets['subset'][0]
    mean, _ = model.posterior(params, targets['points'][:, chosen], targets['occ'][:, chosen], cond)
    return Code(cond, mean)


def encode_file(model: Model, params: dict, config: ConfigDict, path: str | Path) -> Code:
    """c of an input file, read as in reconstruction. Raises OSError or InputError that name the file."""
    path = Path(path)
    inputs, _ = read_inputs(config.data, Source(path.stem, path), config.seed)
    return Code(model.encode(params, *(array[None] for array in in_order(inputs))), None)


def interpolate(start: Code, end: Code, num_steps: int) -> list[Code]:
    """Linear interpolation: num_steps equidistant codes from start to end, both included exactly."""
    shares = np.linspace(0, 1, num_steps).tolist()
    return [jax.tree.map(lambda a, b, t=t: (1 - t) * a + t * b, start, end) for t in shares]


def sample_files(
    model: Model,
    params: dict,
    config: ConfigDict,
    num_samples: int,
    seed: int,
    output: str | Path,
    file_format: str,
) -> list[Path]:
    """Write samples of the prior as OUTPUT/sample_000.<format>, ..., and OUTPUT/contact_sheet.png; returns the mesh files.

    Sample i is a function of (seed, i). An empty level set is reported; it has a tile, but no file. Raises InputError for a
    model with an input or without a latent code, and for a file that would be replaced.
    """
    targets = _mesh_files(output, 'sample_', num_samples, file_format)
    refuse_existing([*targets, Path(output) / 'contact_sheet.png'])
    codes = [sample_code(model, params, config, number, seed) for number in range(num_samples)]
    meshes = _decode_files(model, params, config, codes, targets)
    items = [Item(target.stem, '', (mesh,)) for target, mesh in meshes.items()]
    contact_sheet(items, (f'seed {seed}',), Path(output) / 'contact_sheet.png')
    return [target for target, mesh in meshes.items() if len(mesh.faces)]


def interpolate_files(
    model: Model,
    params: dict,
    config: ConfigDict,
    start: str,
    end: str,
    *,
    num_steps: int,
    seed: int,
    data_dir: str | Path | None,
    output: str | Path,
    file_format: str,
) -> list[Path]:
    """Interpolate between two shapes: OUTPUT/000.<format>, ..., strip.png and strip.gif; returns the mesh files.

    start, end: for a model with a latent code '3', the number of a sample (see `sample_files`), or 'chair/0007', a shape
    of the dataset `data_dir`; for another model an input file. Codes are interpolated linearly. strip.gif plays forwards and
    backwards in a loop. An empty level set is reported; it has a tile, but no file.

    Raises, before anything is written, InputError or OSError for ends that cannot be read, fewer than 2 steps, and a file
    that would be replaced.
    """
    if num_steps < 2:
        raise InputError(f'--num_steps: expected at least 2, the start and the end, found {num_steps}')
    targets = _mesh_files(output, '', num_steps, file_format)
    strip, morph = Path(output) / 'strip.png', Path(output) / 'strip.gif'
    named, written = (('--start', start), ('--end', end)), [*targets, strip, morph]
    refuse_replacing([Path(name) for _, name in named if os.path.isfile(name)], written)
    refuse_existing(written)
    with working(f'encoding {start} and {end}'):
        first, last = (_find_code(model, params, config, flag, name, seed, data_dir) for flag, name in named)
    meshes = _decode_files(model, params, config, interpolate(first, last, num_steps), targets)
    pictures = [render(mesh) for mesh in track(meshes.values(), 'drawing', 'shapes')]
    contact_sheet([Item(f'{start} to {end}', '', pictures)], [target.stem for target in targets], strip)
    animation(pictures, morph)
    return [target for target, mesh in meshes.items() if len(mesh.faces)]


def _find_code(
    model: Model, params: dict, config: ConfigDict, flag: str, name: str, seed: int, data_dir: str | Path | None
) -> Code:
    """The code that `name`, the value of `flag`, stands for: of a file, a sample or a shape of the dataset."""
    latent_size = getattr(model, 'latent_size', 0)
    if not hasattr(model, 'bind') or not (shows_objects(config.data) or latent_size):
        raise InputError(
            'config: expected a model of occupancy with inputs that are read from files, or with a latent code, to move '
            f'between shapes, found data.inputs {input_names(config.data)} and latent_size {latent_size}'
        )
    if not latent_size:
        return encode_file(model, params, config, name)
    if name.isdecimal():
        return sample_code(model, params, config, int(name), seed)
    return infer_code(model, params, config, flag, name, Path(data_dir) if data_dir else None)


def _mesh_files(output: str | Path, prefix: str, count: int, file_format: str) -> list[Path]:
    check_format(file_format)
    return [Path(output) / f'{prefix}{i:03d}.{file_format}' for i in range(count)]


def _decode_files(
    model: Model, params: dict, config: ConfigDict, codes: Sequence[Code], targets: Sequence[Path]
) -> dict[Path, trimesh.Trimesh]:
    """The mesh of each code, by its file; an empty one is not written."""
    meshes, settings = {}, mesh_settings(config)
    for code, target in zip(codes, track(targets, 'extracting meshes', 'shapes'), strict=True):
        mesh = extract_mesh(model.bind(params, *code), **settings)
        if len(mesh.faces):
            save_mesh(mesh, target)
            print(f'{target}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces', flush=True)
        else:
            print(f'{target}: empty level set at threshold {config.eval.threshold}, not written', flush=True)
        meshes[target] = mesh
    return meshes
