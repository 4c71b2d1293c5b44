"""Making datasets: of procedural solids here, of meshes in `collection.py`. Imports no JAX.

Every kind of dataset is made in the same way: the folder is claimed for its settings, a runner does one task for each shape,
and the index is written last. A shape that is there and has the same recipe is not made again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm

from onet_jax.data import records
from onet_jax.data.records import Index, Shape
from onet_jax.errors import InputError
from onet_jax.files import cache_folder, one_at_a_time, write_json
from onet_jax.prepare import constructive_solids, procedural, rooms
from onet_jax.prepare.runners import Outcome, Runner, processes, refuse_second_reading
from onet_jax.prepare.sampling import Solid, check_sampling, sample_solid

# Other generators make other shapes under the same settings.
CODE = (Path(procedural.__file__), Path(constructive_solids.__file__))
ROOM_CODE = (*CODE, Path(rooms.__file__))
FAMILIES = (*procedural.FAMILIES, *rooms.FAMILIES)


def embedded_dataset(data_config: ConfigDict) -> Path:
    """The procedural dataset that `data_config` describes, built on first use and cached.

    It lies in $ONET_JAX_CACHE or ~/.cache/onet_jax, in a folder named after its settings (`families`, all of objects where
    empty, `num_shapes_per_family`, `num_points`, `num_views`, `sampling`, `dataset_seed`, `val_fraction`,
    `test_fraction`).
    """
    settings = {
        'families': _check_families(data_config.families),
        'num_shapes_per_family': data_config.num_shapes_per_family,
        'num_points': data_config.num_points,
        'num_views': data_config.num_views,
        'sampling': data_config.sampling,
        'seed': data_config.dataset_seed,
        'val_fraction': data_config.val_fraction,
        'test_fraction': data_config.test_fraction,
    }
    code = ROOM_CODE if set(settings['families']) & set(rooms.FAMILIES) else CODE
    digest = recipe(settings, *code).hex()[:12]
    data_dir = cache_folder() / f'procedural-{digest}'
    if not (data_dir / 'dataset.json').exists():
        refuse_second_reading()  # else it would wait for the lock of its parent
        with one_at_a_time(data_dir.with_suffix('.lock')):  # processes of one run ask for it at once
            if not (data_dir / 'dataset.json').exists():
                prepare_procedural(data_dir, **settings)
    return data_dir


def prepare_procedural(
    data_dir: str | Path,
    *,
    families: Sequence[str],
    num_shapes_per_family: int,
    num_points: int,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    num_views: int = 0,
    sampling: str = 'uniform',
    run: Runner | None = None,
) -> Index:
    """Build the dataset of procedural solids in `data_dir`; returns its index.

    families: names of `procedural.FAMILIES`, all of them where empty, and of `rooms.FAMILIES`. The last `test_fraction` of
    each family is the test split, `val_fraction` before it the validation split, at least one shape each where the fraction
    is positive.
    sampling: of the training points, see `data/sampling.py`; those of other splits are uniform.
    A shape that cannot be made is listed in the index with the reason. The result does not depend on the runner. Raises
    ValueError for settings that make no dataset or differ from those that `data_dir` was begun with.
    """
    data_dir = Path(data_dir)
    families = _check_families(families)
    check_sampling(sampling)
    bounds = split_bounds(num_shapes_per_family, val_fraction, test_fraction)
    source = {
        'kind': 'procedural',
        'families': list(families),
        'num_shapes_per_family': num_shapes_per_family,
        'num_points': num_points,
        'num_views': num_views,
        'sampling': sampling,
        'seed': seed,
        'val_fraction': val_fraction,
        'test_fraction': test_fraction,
    }
    claim_folder(data_dir, source)
    work = partial(prepare_shape, data_dir=data_dir, seed=seed, num_points=num_points, num_views=num_views)
    drawn = [sampling if i < bounds['train'][1] else 'uniform' for i in range(num_shapes_per_family)]
    tasks = [(family, shape_name(i), drawn[i]) for family in families for i in range(num_shapes_per_family)]
    outcome = (run or processes())(work, tasks, 'preparing shapes')
    splits = {
        split: tuple((family, shape_name(i)) for family in families for i in range(*bounds[split]))
        for split in records.SPLITS
    }
    return finish(data_dir, families, splits, outcome, (num_points, num_points, num_views), source)


def prepare_shape(
    family: str, name: str, sampling: str, *, data_dir: Path, seed: int, num_points: int, num_views: int
) -> str:
    """Make and store one solid, unless it is there; returns its recipe. A function of the arguments alone."""
    sizes = {'num_points': num_points, 'num_views': num_views, 'sampling': sampling}
    in_room = family in rooms.FAMILIES

    def make() -> Shape:
        made = (rooms.make_room if in_room else procedural.make_shape)(seed, family, int(name))
        mesh = made.mesh()
        solid = Solid(mesh, made.contains, picture=mesh)
        return sample_solid(solid, family, name, seed=seed, **sizes)

    made_from = recipe({'family': family, 'name': name, 'seed': seed, **sizes}, *(ROOM_CODE if in_room else CODE))
    return store(data_dir, family, name, made_from, make).recipe.hex()


def recipe(settings: dict, *files: Path) -> bytes:
    """SHA-256 of all that something is made from: what has the same recipe need not be made again."""
    digest = hashlib.sha256(json.dumps([records.VERSION, settings], sort_keys=True).encode())
    for path in files:
        with path.open('rb') as file:
            digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.digest()


def store(data_dir: Path, category: str, name: str, made_from: bytes, make: Callable[[], Shape]) -> Shape:
    """The shape in DATA_DIR, made and written unless it is there, reads well and has the recipe `made_from`.

    Raises the ValueError of `make` with which it rejects the shape, also from an earlier run.
    """
    path = records.shape_path(data_dir, category, name)
    if path.exists():
        try:
            shape = records.read_shape(path)
        except ValueError:
            shape = None  # of an interrupted or damaged disk: made anew
        if shape and shape.recipe == made_from:
            return shape

    note = data_dir / 'notes' / 'rejected' / category / f'{name}.json'
    found = read_note(note, made_from)
    if found is None:
        try:
            shape = make()._replace(recipe=made_from)
        except ValueError as error:
            found = {'reason': str(error)}
            write_note(note, made_from, found)
        else:
            records.write_shape(path, shape)
            return shape
    raise InputError(found['reason'])


def read_note(path: Path, made_from: bytes) -> dict | None:
    """What an earlier run found out, or None where it was of another recipe."""
    try:
        note = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # none, or one of a damaged disk
        return None
    return note if note.pop('recipe', None) == made_from.hex() else None


def write_note(path: Path, made_from: bytes, found: dict) -> None:
    """Keep what cost time to find out."""
    write_json(path, {'recipe': made_from.hex(), **found})


def claim_folder(data_dir: Path, source: dict) -> None:
    """Note the settings in the folder before the first shape, so that no other dataset is mixed in.

    Raises ValueError where the folder was begun with other settings.
    """
    path, found = data_dir / 'source.json', source
    if (data_dir / 'dataset.json').exists():
        found = records.read_index(data_dir).source
    elif path.exists():
        found = json.loads(path.read_text())
    differing = sorted(key for key in source.keys() | found.keys() if source.get(key) != found.get(key))
    if differing:
        raise InputError(
            f'{data_dir}: expected an empty folder or a dataset of the same settings, found other settings: '
            + ', '.join(f'{key} {found.get(key)!r} instead of {source.get(key)!r}' for key in differing)
            + '; choose another folder or delete this one'
        )
    write_json(path, source)


def finish(
    data_dir: Path,
    categories: Sequence[str],
    splits: dict[str, Sequence[tuple[str, str]]],
    outcome: Outcome,
    sizes: tuple[int, int, int],
    source: dict,
) -> Index:
    """Write the index of the shapes that were made; returns it. Raises ValueError when there is none.

    outcome: its results are the recipes of the shapes. sizes: numbers of points, surface samples and views.
    """
    if not outcome.results:
        first = next((f'; {name}: {reason}' for name, reason in outcome.rejected.items()), '')
        raise InputError(
            f'{data_dir}: expected a shape that can be made, found none, {len(outcome.rejected)} rejected{first}'
        )
    kept = {
        split: tuple(shape for shape in shapes if '/'.join(shape) in outcome.results)
        for split, shapes in splits.items()
    }
    for split in (split for split, shapes in kept.items() if not shapes):
        tqdm.write(f'{data_dir}: no shape is in the split {split!r}')
    content = hashlib.sha256(json.dumps(outcome.results, sort_keys=True).encode()).hexdigest()
    index = Index(tuple(categories), kept, *sizes, dict(sorted(outcome.rejected.items())), source, content)
    records.write_index(data_dir, index)
    return index


def shape_name(index: int) -> str:
    return f'{index:06d}'


def count_held_out(num_shapes: int, fraction: float) -> int:
    """Shapes of a split that holds `fraction` of them: at least one where the fraction is positive."""
    return max(1, round(num_shapes * fraction)) if fraction > 0 else 0


def split_bounds(num_shapes: int, val_fraction: float, test_fraction: float) -> dict[str, tuple[int, int]]:
    """First and last + 1 index of each split of a family. Raises ValueError when nothing is left to train on."""
    num_val, num_test = count_held_out(num_shapes, val_fraction), count_held_out(num_shapes, test_fraction)
    num_train = num_shapes - num_val - num_test
    if min(val_fraction, test_fraction) < 0 or num_train < 1:
        raise InputError(
            f'num_shapes_per_family: expected at least one training shape beside {num_val} for validation and '
            f'{num_test} for testing (val_fraction {val_fraction}, test_fraction {test_fraction}), found {num_shapes} in all'
        )
    return {'train': (0, num_train), 'val': (num_train, num_train + num_val), 'test': (num_train + num_val, num_shapes)}


def _check_families(families: Sequence[str]) -> tuple[str, ...]:
    families = tuple(families) or tuple(procedural.FAMILIES)
    unknown = sorted(set(families) - set(FAMILIES))
    twice = sorted(family for family, n in Counter(families).items() if n > 1)
    if unknown or twice:
        raise InputError(
            f'families: expected different names of {FAMILIES}, found {unknown or twice}'
            + (' more than once' if twice and not unknown else '')
        )
    return families
