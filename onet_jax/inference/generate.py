"""Generation: meshes of samples of the prior, and of an interpolation between two shapes (paper, section 4.5, supplementary).

Of a network of shapes that move (Occupancy Flow, section 4.4) they are sequences, whose codes are pairs, of the shape and of
the motion; those of two sequences make a third (motion transfer). C condition, Z latent code; all arrays have a batch of 1.
Meshes are in object coordinates.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax.data.clip_inputs import file_of, read_clip
from onet_jax.data.clips import sequence_of
from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import has_input, in_order, input_names, read_inputs, shows_objects
from onet_jax.data.sources import Source
from onet_jax.data.user_inputs import OBJECT_FRAME
from onet_jax.errors import InputError
from onet_jax.files import refuse_existing, refuse_replacing
from onet_jax.geometry.extract import extract_mesh
from onet_jax.geometry.meshes import check_format, save_mesh
from onet_jax.geometry.sequence_files import fit
from onet_jax.geometry.sequences import MeshSequence, frames_of, move
from onet_jax.inference.clip_files import clip_files, save_clip
from onet_jax.models.method import Model
from onet_jax.models.occupancy import mesh_settings
from onet_jax.models.velocity_field import move_mesh
from onet_jax.progress import track, working
from onet_jax.scores import as_geometry
from onet_jax.viz.pictures import Item, animation, contact_sheet, render

TILE = 192  # px, of a sequence among others


class Code(NamedTuple):
    """What the decoder f(p, c, z) is conditioned on: one shape, or one sequence."""

    cond: Any  # c [1, C], or a tree of feature maps; of a sequence (shape [1, C], motion [1, C])
    latent: Any  # z [1, Z], of a sequence (shape [1, Z], motion [1, Z]); None for a model without latent code


def sample_code(model: Model, params: dict, config: ConfigDict, number: int, seed: int) -> Code:
    """z drawn from the prior N(0, 1), a function of (seed, number); a network without z has learned one shape: this one.

    Raises InputError for a model with an input and for a number outside of [0, 2^31).
    """
    if has_input(config.data):
        raise InputError(
            f'config: expected a model without input to sample, found data.inputs {input_names(config.data)}; '
            '`onet reconstruct` and `onet colorize` take inputs'
        )
    if not 0 <= number < 2**31:
        raise InputError(f'number of a sample: expected 0 to {2**31 - 1}, found {number}')
    cond = model.encode(params, np.zeros((1, 0), np.float32))
    return Code(cond, model.prior(jax.random.key(seed), jnp.array([number])) if model.latent_size else None)


def infer_code(model: Model, params: dict, config: ConfigDict, flag: str, name: str, data_dir: Path | None) -> Code:
    """The code of the shape `name` = CATEGORY/NAME of a dataset; of a sequence the first clip, or CATEGORY/NAME/START.

    z is the mean of the posterior q(z | points, occupancies, c), of a sequence of q(z | clip). It is given as many labelled
    points as in training, and a model with an input the one that evaluation draws. Raises InputError, naming `flag`, for an
    unknown shape or without a dataset.
    """
    if data_dir is None:
        raise InputError(
            f'--data_dir: expected the dataset of {flag}={name}, for this workdir was not trained here; found none'
        )
    dataset = open_dataset(data_dir)
    places: dict[str, tuple[str, int]] = {}
    for split in filter(dataset.index.splits.get, dataset.index.splits):
        for i, example in dataset.examples(config, split).items():
            places['/'.join(example)] = split, i
            if moves(model):
                places.setdefault('/'.join(sequence_of(example)), (split, i))
    if name not in places:
        known = 'the number of a sample' if model.latent_size else 'a file'
        raise InputError(
            f'{flag}: expected {known} or a shape of {data_dir} such as {next(iter(places))}, found {name!r}'
        )
    split, position = places[name]
    seen = ('none',) if not model.latent_size else ('clip',) if moves(model) else ('volume_points',)
    ((batch, _),) = dataset.evaluation_batches(config, split, targets=seen, batch_size=1, positions=[position])
    targets, cond = batch['targets'], model.encode(params, *in_order(batch['inputs']))
    if not model.latent_size:
        return Code(cond, None)
    if moves(model):
        return Code(cond, model.posterior(params, targets['clip'], cond)[0])
    chosen = targets['subset'][0]
    mean, _ = model.posterior(params, targets['points'][:, chosen], targets['occ'][:, chosen], cond)
    return Code(cond, mean)


def encode_file(model: Model, params: dict, config: ConfigDict, path: str | Path) -> Code:
    """c of an input file, read as in reconstruction; of a network of sequences without input z, from a clip.

    Raises OSError or InputError that name the file.
    """
    path = Path(path)
    source = Source(path.stem, path)
    if not has_input(config.data):
        arrays, _ = read_clip(source, config.data, config.seed)
        cond = model.encode(params, np.zeros((1, 0), np.float32))
        return Code(cond, model.posterior(params, arrays['clip'][None], cond)[0])
    inputs, _ = read_inputs(config.data, source, config.seed)
    return Code(model.encode(params, *(array[None] for array in in_order(inputs))), None)


def moves(model: Model) -> bool:
    """Whether a model is of shapes that move."""
    return hasattr(model, 'advect')


def mix(shape: Code, motion: Code) -> Code:
    """The shape of one sequence with the motion of another (motion transfer)."""
    return Code(*(a if a is None else (a[0], b[1]) for a, b in zip(shape, motion, strict=True)))


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
    shape: str | None = None,
    motion: str | None = None,
    data_dir: str | Path | None = None,
) -> list[Path]:
    """Write samples of the prior as OUTPUT/sample_000.<format>, ..., and OUTPUT/contact_sheet.png; returns the mesh files.

    Sample i is a function of (seed, i). An empty level set is reported; it has a tile, but no file. Sequences have the files of
    `clip_files.py`, and contact_sheet.gif shows them side by side. shape, motion: sequences, named as the ends of
    `interpolate_files`, whose code of the shape or of the motion all samples have; with both there is one, without a prior.
    So there is of a network without latent code, which has learned one shape.

    Raises InputError for a model with an input, and for a file that would be replaced.
    """
    if (shape or motion) and not moves(model):
        raise InputError('--shape, --motion: expected a network of shapes that move, found one of shapes that do not')
    num_samples = 1 if (shape and motion) or not getattr(model, 'latent_size', 0) else num_samples
    targets, sheet = _mesh_files(model, output, 'sample_', num_samples, file_format), Path(output) / 'contact_sheet.png'
    named = {name: flag for flag, name in (('--shape', shape), ('--motion', motion)) if name}
    _refuse(model, config, targets, file_format, [sheet], list(named))
    given = {name: _find_code(model, params, config, flag, name, seed, data_dir) for name, flag in named.items()}
    codes = []
    for number in range(num_samples):
        drawn = None if shape and motion else sample_code(model, params, config, number, seed)
        code = drawn or given[str(shape)]
        if named:
            code = mix(given.get(str(shape)) or code, given.get(str(motion)) or code)
        codes.append(code)
    shapes = _decode_files(model, params, config, codes, targets, file_format)
    shown = {name: decode(model, params, config, code) for name, code in given.items()}
    shown |= {target.stem: made for target, made in shapes.items()}
    _draw(list(shown), list(shown.values()), f'seed {seed}', sheet)
    return [target for target, made in shapes.items() if len(made.faces)]


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
    of the dataset `data_dir`; for another model, and for one of sequences, an input file. Codes are interpolated linearly.
    strip.gif plays forwards and backwards in a loop; of sequences all steps move in it side by side. An empty level set is
    reported; it has a tile, but no file.

    Raises, before anything is written, InputError or OSError for ends that cannot be read, fewer than 2 steps, and a file
    that would be replaced.
    """
    if num_steps < 2:
        raise InputError(f'--num_steps: expected at least 2, the start and the end, found {num_steps}')
    targets = _mesh_files(model, output, '', num_steps, file_format)
    strip, ends = Path(output) / 'strip.png', (('--start', start), ('--end', end))
    _refuse(model, config, targets, file_format, [strip, strip.with_suffix('.gif')], [start, end])
    with working(f'encoding {start} and {end}'):
        first, last = (_find_code(model, params, config, flag, name, seed, data_dir) for flag, name in ends)
    shapes = _decode_files(model, params, config, interpolate(first, last, num_steps), targets, file_format)
    names = [target.stem for target in targets]
    if moves(model):
        _draw(names, list(shapes.values()), '', strip)
    else:
        pictures = [render(shape) for shape in track(shapes.values(), 'drawing', 'shapes')]
        contact_sheet([Item(f'{start} to {end}', '', pictures)], names, strip)
        animation(pictures, strip.with_suffix('.gif'))
    return [target for target, shape in shapes.items() if len(shape.faces)]


def _find_code(
    model: Model, params: dict, config: ConfigDict, flag: str, name: str, seed: int, data_dir: str | Path | None
) -> Code:
    """The code that `name`, the value of `flag`, stands for: of a file, a sample or a shape of the dataset."""
    latent_size = getattr(model, 'latent_size', 0)
    is_occupancy = hasattr(model, 'bind') and 'threshold' in config.eval
    if not is_occupancy or not (shows_objects(config.data) or latent_size):
        raise InputError(
            'config: expected a model of occupancy with inputs that are read from files, or with a latent code, to move '
            f'between shapes, found data.inputs {input_names(config.data)} and latent_size {latent_size}'
        )
    if moves(model) and file_of(Path(name)).exists():
        return encode_file(model, params, config, name)
    if not (latent_size or moves(model)):
        return encode_file(model, params, config, name)
    if latent_size and name.isdecimal():
        return sample_code(model, params, config, int(name), seed)
    return infer_code(model, params, config, flag, name, Path(data_dir) if data_dir else None)


def decode(model: Model, params: dict, config: ConfigDict, code: Code) -> trimesh.Trimesh | MeshSequence:
    """The mesh of a code; of a sequence its vertices move to `config.data.num_frames` times."""
    mesh = extract_mesh(model.bind(params, *code), **mesh_settings(config))
    if not moves(model):
        return mesh
    return move_mesh(model, params, np.linspace(0, 1, config.data.num_frames, dtype=np.float32), mesh, *code)


def _mesh_files(model: Model, output: str | Path, prefix: str, count: int, file_format: str) -> list[Path]:
    check_format(file_format)
    return [Path(output) / f'{prefix}{i:03d}.{"glb" if moves(model) else file_format}' for i in range(count)]


def _refuse(
    model: Model,
    config: ConfigDict,
    targets: Sequence[Path],
    file_format: str,
    pictures: Sequence[Path],
    names: Sequence[str],
) -> None:
    """Raises InputError for a file that would be replaced, above all one of the inputs, of which some have these names."""
    written = [*targets, *pictures]
    if moves(model):
        written += [path for target in targets for path in clip_files(target, config.data.num_frames, file_format)[1:]]
        written += [picture.with_suffix('.gif') for picture in pictures]
    refuse_replacing([Path(name) for name in names if os.path.exists(name)], written)
    refuse_existing(written)


def _decode_files(
    model: Model, params: dict, config: ConfigDict, codes: Sequence[Code], targets: Sequence[Path], file_format: str
) -> dict[Path, trimesh.Trimesh | MeshSequence]:
    """The mesh or the sequence of each code, by its file; an empty one is not written."""
    shapes = {}
    for code, target in zip(codes, track(targets, 'extracting meshes', 'shapes'), strict=True):
        shape = shapes[target] = decode(model, params, config, code)
        mesh = as_geometry(shape)
        if len(shape.faces):
            save_clip(shape, target, file_format) if isinstance(shape, MeshSequence) else save_mesh(shape, target)
            print(f'{target}: {len(mesh.vertices)} vertices, {len(shape.faces)} faces', flush=True)
        else:
            print(f'{target}: empty level set at threshold {config.eval.threshold}, not written', flush=True)
    return shapes


def _draw(names: Sequence[str], shapes: Sequence[Any], title: str, path: Path) -> None:
    """A contact sheet; of sequences the first, the middle and the last frame, and beside it a GIF of all that move."""
    if not isinstance(shapes[0], MeshSequence):
        contact_sheet([Item(name, '', (shape,)) for name, shape in zip(names, shapes, strict=True)], (title,), path)
        return
    visible = [shape for shape in shapes if len(shape.faces)]
    frame = fit(*visible) if visible else OBJECT_FRAME
    frames = [frames_of(move(shape, frame.to_object)) for shape in shapes]
    num_frames = len(frames[0])
    chosen = [0, num_frames // 2, num_frames - 1]
    items = [Item(name, '', [row[k] for k in chosen]) for name, row in zip(names, frames, strict=True)]
    contact_sheet(items, [f'time {k / (num_frames - 1):g}' for k in chosen], path, size=TILE)
    columns = track(range(num_frames), f'drawing {path.with_suffix(".gif")}', 'frames')
    animation(
        [np.concatenate([render(row[k], size=TILE) for row in frames], axis=1) for k in columns],
        path.with_suffix('.gif'),
    )
