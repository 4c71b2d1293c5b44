"""Datasets of your own meshes: any folder tree of mesh files, watertight or not. Imports no JAX.

The first folder below the root is the category, the rest of the path the name. Each mesh is normalised to object coordinates
(the transform is stored), closed (`geometry/solid.py`) and sampled. Meshes that cannot be labelled reliably are in no split;
`index.rejected` has the reason.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from onet_jax.data.records import SPLITS, Index, Shape
from onet_jax.data.sources import check_file
from onet_jax.errors import InputError
from onet_jax.geometry.companions import find_companions
from onet_jax.geometry.meshes import MESH_INPUTS, UPS, load_mesh
from onet_jax.geometry.solid import make_solid
from onet_jax.geometry.watertight import MAX_FACES
from onet_jax.json_files import TEXT, Value, number
from onet_jax.prepare.runners import Outcome, Runner, processes
from onet_jax.prepare.sampling import check_options, sample_solid
from onet_jax.prepare.splits import draw_splits, invariants, read_lists, report_copies, sanitise
from onet_jax.prepare.store import REJECTED, claim_folder, finish, read_note, recipe_of, store, write_note

MAX_SHAPE_NAME = 200  # bytes, of a shape
INVARIANTS = Value(
    '6 numbers', lambda found: isinstance(found, list) and len(found) == 6 and all(map(number().fits, found))
)


def prepare_meshes(
    root: str | Path,
    data_dir: str | Path,
    *,
    num_points: int,
    num_views: int,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    lists: str | Path | None = None,
    num_fixed_views: int = 0,
    depth: bool = False,
    sampling: str = 'uniform',
    up: str = 'y',
    run: Runner | None = None,
) -> Index:
    """Make a dataset in `data_dir` of the mesh files below `root`; returns its index.

    Splits are drawn from the seed, category by category, and keep duplicates of a shape together (also translated, rotated,
    scaled or remeshed); or they are those of `lists`, a folder with <category>/{train,val,test}.lst of names, one a line (see
    `splits.read_lists`). num_fixed_views: after the num_views random ones, evenly around. depth: whether to store the depth of
    the views. sampling: of the training points, one of `SAMPLING_STRATEGIES`; those of other splits are uniform. up: the axis
    of the files that points up, 'y' or 'z'. Raises FileNotFoundError or InputError when there is nothing to prepare, for
    settings that make no dataset, or when `data_dir` was begun with others.
    """
    root, data_dir = Path(root), Path(data_dir)
    check_options(sampling, num_views, depth, num_fixed_views)
    if up not in UPS:
        raise InputError(f'up: expected one of {sorted(UPS)}, found {up!r}')
    check_fractions(val_fraction, test_fraction)
    files = find_meshes(root)
    listed, missing = read_lists(lists, files) if lists else (None, {})
    # Absent where there are none: what was made before they came keeps its recipe.
    fixed = {'num_fixed_views': num_fixed_views} if num_fixed_views else {}
    source = {
        'kind': 'meshes',
        **fixed,
        'root': str(root.resolve()),
        'num_meshes': len(files),
        'num_points': num_points,
        'num_views': num_views,
        'depth': depth,
        'seed': seed,
        'val_fraction': val_fraction,
        'test_fraction': test_fraction,
        'lists': str(Path(lists).resolve()) if lists else None,
        'sampling': sampling,
        'up': up,
    }
    claim_folder(data_dir, source)

    run = run or processes()
    tasks = [(*key, str(path)) for key, path in files.items()]
    found = run(partial(describe_mesh, data_dir=data_dir), tasks, 'reading meshes')
    good = {key: np.asarray(found.results['/'.join(key)]) for key in files if '/'.join(key) in found.results}
    if listed is None:
        splits = draw_splits(good, seed, val_fraction, test_fraction)
    else:
        splits = {split: [key for key in keys if key in good] for split, keys in listed.items()}
        report_copies(splits, good)
        unlisted = sorted('/'.join(key) for key in files.keys() - {key for keys in listed.values() for key in keys})
        if unlisted:
            shown = ', '.join(unlisted[:10]) + (', ...' if len(unlisted) > 10 else '')
            print(f'{lists}: expected every mesh in a list, found {len(unlisted)} in none: {shown}', flush=True)
    training = set(splits['train'])
    settings: dict[str, Any] = {
        'seed': seed,
        'num_points': num_points,
        'num_views': num_views,
        'depth': depth,
        'up': up,
        **fixed,
    }
    work = partial(prepare_mesh, data_dir=data_dir, **settings)
    wanted = dict.fromkeys(key for split in SPLITS for key in splits[split])
    tasks = [(*key, str(files[key]), sampling if key in training else 'uniform') for key in wanted]
    made = run(work, tasks, 'preparing shapes')
    outcome = Outcome(made.results, missing | found.rejected | made.rejected)
    categories = sorted({category for category, _ in files})
    return finish(data_dir, categories, splits, outcome, source)


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    """Raises InputError for shares that leave nothing to train on."""
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise InputError(
            f'val_fraction, test_fraction: expected shares of less than 1 in all, found {val_fraction}, {test_fraction}'
        )


def find_meshes(root: Path) -> dict[tuple[str, str], Path]:
    """(category, name) of every mesh file below `root`, sorted; the category of files in `root` itself is its name.

    Raises FileNotFoundError when there is none, InputError for two of one name.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: expected a folder of meshes, found none')
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(p for p in _walk(root) if p.suffix.lower()[1:] in MESH_INPUTS):
        *folders, _ = path.relative_to(root).parts
        parts = [sanitise(part) for part in (*(folders or [root.resolve().name]), path.stem)]
        key = (parts[0], '-'.join(parts[1:]))
        if key in files:  # the same name in two formats
            key = (key[0], f'{key[1]}-{path.suffix.lower()[1:]}')
        if key in files:
            raise InputError(f'{path}: expected another name than that of {files[key]}; rename one of them')
        files[key] = path
    if not files:
        raise FileNotFoundError(f'{root}: expected files {"|".join(MESH_INPUTS)} in it, found none')
    return files


def _walk(folder: Path, around: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All but folders below a folder, without ._NAME and __MACOSX of macOS; links are followed, but into no cycle."""
    around |= {folder.resolve()}
    for path in folder.iterdir():
        if path.name.startswith('._') or path.name == '__MACOSX':
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() not in around:
            yield from _walk(path, around)


def describe_mesh(category: str, name: str, path: str, *, data_dir: Path) -> list[float]:
    """`splits.invariants` of a mesh file, cached in DATA_DIR. Raises InputError for one that cannot be read or stored."""
    if len(name.encode()) > MAX_SHAPE_NAME:  # file systems allow 255
        raise InputError(
            f'{path}: expected a name of at most {MAX_SHAPE_NAME} bytes below its category, found {name!r}; shorten it'
        )
    note = data_dir / 'notes' / 'surfaces' / category / f'{name}.json'
    with recipe_of(*_made_from(path)) as made_from:
        known = read_note(note, made_from, _surface_note)
        found: dict = known or {}
        if known is None:
            try:
                with rejecting(path):
                    mesh = _read(path)
                    numbers = invariants(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces))
                found = {'invariants': numbers.tolist()}
            except InputError as error:
                found = {'reason': str(error)}
    if known is None:
        write_note(note, made_from, found)
    if 'reason' in found:
        raise InputError(found['reason'])
    return found['invariants']


def _surface_note(note: Any) -> dict:
    """The schema of a note of `describe_mesh`."""
    is_rejected = isinstance(note, dict) and 'reason' in note
    return REJECTED if is_rejected else {'recipe': TEXT, 'invariants': INVARIANTS}


@contextmanager
def rejecting(path: str) -> Iterator[None]:
    """Turn every exception but MemoryError into an InputError that names the file: one bad mesh never stops a run."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f'{path}: {type(error).__name__}: {error}') from error


def _made_from(path: str, **settings: object) -> tuple[Any, ...]:
    """What the recipe of a mesh is of (see `store.recipe_of`): settings, the file and those beside it that it names.

    Raises InputError for one that cannot be read.
    """
    check_file(Path(path))
    try:
        return {'file': Path(path).name, **settings}, Path(path), *find_companions(Path(path))
    except OSError as error:
        raise InputError(f'{path}: expected a file that can be read ({error.strerror})') from error


def _read(path: str) -> trimesh.Trimesh:
    """Load a mesh, without unreferenced vertices. Raises InputError for one that is damaged or has too many faces."""
    mesh = load_mesh(path)
    if len(mesh.faces) > MAX_FACES:
        raise InputError(f'{path}: expected at most {MAX_FACES:,} faces, found {len(mesh.faces):,}; simplify the mesh')
    mesh.remove_unreferenced_vertices()
    return mesh


def prepare_mesh(
    category: str,
    name: str,
    path: str,
    sampling: str,
    *,
    data_dir: Path,
    seed: int,
    num_points: int,
    num_views: int,
    up: str,
    depth: bool = False,
    **fixed: int,
) -> dict:
    """Make and store one shape, unless it is stored already; returns as `store`. fixed: `num_fixed_views`, where there are any.

    Raises InputError, with the reason, for whatever is wrong with the mesh.
    """
    settings = {'category': category, 'name': name, 'seed': seed, 'up': up}
    sizes: dict[str, Any] = {
        'num_points': num_points,
        'num_views': num_views,
        'depth': depth,
        'sampling': sampling,
        **fixed,
    }

    def make() -> Shape:
        with rejecting(path):
            return sample_solid(make_solid(_read(path), up), category, name, seed=seed, **sizes)

    made_from, *files = _made_from(path, **settings, **sizes)
    stored = store(data_dir, category, name, made_from, files, make)
    gc.collect()  # a Trimesh is in a reference cycle: without this the memory of a worker process grows
    return stored
