"""Datasets of your own sequences: meshes that move, in folders of numbered files or in animations. Imports no JAX.

The first folder below the root is the category, the rest of the path the name (see `geometry/mesh_files/animations.py`). What
cannot be read or labelled reliably is in no split; `index.rejected` has the reason.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from onet_jax.data.records import Index
from onet_jax.data.schema import SEQUENCES, ShapeSequence
from onet_jax.errors import InputError
from onet_jax.geometry.companions import find_companions
from onet_jax.geometry.mesh_files.animations import find_sequences, read_sequence
from onet_jax.prepare.dfaust import find_categories, import_dfaust
from onet_jax.prepare.own_meshes import check_fractions, rejecting
from onet_jax.prepare.runners import Outcome, Runner, processes
from onet_jax.prepare.sampling import check_options
from onet_jax.prepare.sequence_sampling import orient_sequence, sample_sequence
from onet_jax.prepare.splits import draw_splits, sanitise
from onet_jax.prepare.store import claim_folder, finish, store


def prepare_sequences(
    root: str | Path,
    data_dir: str | Path,
    *,
    num_points: int,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    num_frames: int | None = None,
    num_views: int = 0,
    sampling: str = 'uniform',
    run: Runner | None = None,
) -> Index:
    """Make a dataset in `data_dir` of the sequences below `root`; returns its index.

    A folder in the original layout (see `dfaust.py`) is imported, with its own splits and frames. Of others the splits are
    drawn from the seed, category by category. num_frames: of each sequence, at equidistant times; by default all of them, and
    30 in a second of an animation. num_points: labelled points, and surface samples, of a frame. num_views:
    pictures of a frame. sampling: of the labelled points of the training sequences, one of `SAMPLING_STRATEGIES`; those of
    other splits are uniform.

    Raises FileNotFoundError or InputError when there is nothing to prepare, for settings that make no dataset, or when
    `data_dir` was begun with others.
    """
    root, data_dir = Path(root), Path(data_dir)
    check_options(sampling)
    if find_categories(root):
        if sampling != 'uniform':
            raise InputError(f"sampling: expected 'uniform', the stored points of {root}, found {sampling!r}")
        return import_dfaust(root, data_dir, num_points=num_points, seed=seed, run=run)
    check_fractions(val_fraction, test_fraction)
    found: dict[tuple[str, str], str] = {}
    for category, name, path in find_sequences(root):
        key = (sanitise(category), sanitise(name))
        if key in found:
            raise InputError(f'{path}: expected another name than that of {found[key]}; rename one of them')
        found[key] = path
    settings: dict[str, Any] = {
        'seed': seed,
        'num_points': num_points,
        'num_frames': num_frames,
        'num_views': num_views,
    }
    shares = {'val_fraction': val_fraction, 'test_fraction': test_fraction}
    source = {'kind': 'sequences', 'root': str(root.resolve()), **settings, **shares, 'sampling': sampling}
    claim_folder(data_dir, source, SEQUENCES)
    run = run or processes()
    read = run(
        partial(describe_sequence, num_frames=num_frames), [(*key, path) for key, path in found.items()], 'reading'
    )
    good = [key for key in found if '/'.join(key) in read.results]
    # Different numbers: no sequence is a duplicate of another, not even where two motions of one body begin alike.
    splits = draw_splits({key: np.full(6, i) for i, key in enumerate(good)}, seed, **shares)
    training = set(splits['train'])
    tasks = [(*key, found[key], sampling if key in training else 'uniform') for key in good]
    made = run(partial(prepare_sequence, data_dir=data_dir, **settings), tasks, 'preparing sequences')
    outcome = Outcome(made.results, read.rejected | made.rejected)
    return finish(data_dir, sorted({category for category, _ in found}), splits, outcome, source, SEQUENCES)


def describe_sequence(category: str, name: str, path: str, *, num_frames: int | None) -> int:
    """The number of frames of a sequence. Raises InputError, with the reason, for one that cannot be used."""
    with _naming(path):
        moving, _ = orient_sequence(read_sequence(path, num_frames=num_frames))
    return len(moving.vertices)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turn every exception but MemoryError into an InputError that names the file: one bad sequence never stops a run."""
    try:
        with rejecting(path):
            yield
    except InputError as error:
        if path.partition('#')[0] in str(error):
            raise
        raise InputError(f'{path}: {error}') from error


def prepare_sequence(
    category: str,
    name: str,
    path: str,
    sampling: str,
    *,
    data_dir: Path,
    seed: int,
    num_points: int,
    num_frames: int | None,
    num_views: int,
) -> dict:
    """Make and store one sequence, unless it is stored already; returns as `store`.

    Raises InputError, with the reason, for whatever is wrong with it.
    """
    sizes: dict[str, Any] = {'seed': seed, 'num_points': num_points, 'num_views': num_views, 'sampling': sampling}

    def make() -> ShapeSequence:
        with _naming(path):
            return sample_sequence(read_sequence(path, num_frames=num_frames), category, name, **sizes)

    settings = {'category': category, 'name': name, 'num_frames': num_frames, **sizes}
    stored = store(data_dir, category, name, settings, _list_files(path), make, SEQUENCES)
    gc.collect()  # a Trimesh is in a reference cycle: without this the memory of a worker process grows
    return stored


def _list_files(path: str) -> list[Path]:
    """The files that a sequence is read from: those of a folder; an animation and those beside it that it names."""
    file = Path(path.rpartition('#')[0] if '#' in path and not Path(path).exists() else path)
    if file.is_dir():
        return sorted(child for child in file.iterdir() if child.is_file())
    return [file, *find_companions(file)]
