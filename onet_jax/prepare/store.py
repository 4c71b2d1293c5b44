"""What all preparations of datasets share: caching of shapes by content hash, rejected shapes, the index. Imports no JAX.

A preparation claims its folder for its settings, a runner does one task for each shape, and the index is written last. The
recipe of a shape is a hash of all that it is made from: a stored shape with the same recipe is not made again.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onet_jax.data import records
from onet_jax.data.records import Index
from onet_jax.data.schema import SHAPES, Layout
from onet_jax.errors import InputError
from onet_jax.files import file_state, one_at_a_time, remove_leftovers, write_json
from onet_jax.json_files import TEXT, read_json
from onet_jax.prepare.runners import Outcome

REJECTED = {'recipe': TEXT, 'reason': TEXT}


def claim_folder(data_dir: Path, source: dict, layout: Layout = SHAPES) -> None:
    """Write the settings into the folder before the first shape, so that two datasets are never mixed.

    What killed runs have left half written is removed. Raises InputError where the folder was begun with other settings.
    """
    with one_at_a_time(data_dir / '.lock'):
        _claim(data_dir, source, layout)
    for folder in data_dir.glob('**/'):
        remove_leftovers(folder)


def _claim(data_dir: Path, source: dict, layout: Layout) -> None:
    path, found = data_dir / 'source.json', source
    if (data_dir / 'dataset.json').exists():
        found = records.read_index(data_dir, layout).source
    elif path.exists():
        found = read_json(path, {})
    differing = sorted(key for key in source.keys() | found.keys() if source.get(key) != found.get(key))
    if differing:
        raise InputError(
            f'{data_dir}: expected an empty folder or a dataset of the same settings, found other settings: '
            + ', '.join(f'{key} {found.get(key)!r} instead of {source.get(key)!r}' for key in differing)
            + '; choose another folder or delete this one'
        )
    write_json(path, source)


def recipe(settings: dict, *files: Path) -> bytes:
    """SHA-256 of settings and files: the cache key of what is made from them."""
    digest = hashlib.sha256(json.dumps([records.VERSION, settings], sort_keys=True).encode())
    for path in files:
        with path.open('rb') as file:
            digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.digest()


@contextmanager
def recipe_of(settings: dict, *files: Path) -> Iterator[bytes]:
    """The recipe of what is made from files in the block.

    Raises InputError for a file that cannot be read, and at the end for one that has changed meanwhile: what was made is of
    neither the old nor the new one, and must not be cached.
    """
    states = [file_state(path) for path in files]
    try:
        made_from = recipe(settings, *files)
    except OSError as error:
        raise InputError(f'{error.filename}: expected a file that can be read ({error.strerror})') from error
    yield made_from
    for path, state in zip(files, states, strict=True):
        if file_state(path) != state:
            raise InputError(f'{path}: expected a file that stays, found that it has changed meanwhile; prepare again')


def store(
    data_dir: Path,
    category: str,
    name: str,
    settings: dict,
    files: Sequence[Path],
    make: Callable[[], Any],
    layout: Layout = SHAPES,
) -> dict:
    """Make and write an example, unless DATA_DIR has a readable one of the same recipe, that of `settings` and `files`.

    Returns what `finish` needs, for JSON: 'recipe', 'columns', 'counts' of points, samples and views, and 'num_frames', 0 of a
    shape. Raises the InputError with which `make` rejects the example, or rejected it in an earlier run, and those of
    `recipe_of`.
    """
    path = layout.path(data_dir, category, name)
    note = data_dir / 'notes' / 'rejected' / category / f'{name}.json'
    with recipe_of(settings, *files) as made_from:
        if path.exists():
            try:
                example = records.read_example(layout, path)
            except InputError:
                example = None  # damaged: made again
            if example and example.recipe.tobytes() == made_from:
                return _describe(layout, example)
        found = read_note(note, made_from, REJECTED)
        if found is not None:
            raise InputError(found['reason'])
        try:
            example, reason = make()._replace(recipe=np.frombuffer(made_from, np.uint8)), ''
        except InputError as error:
            example, reason = None, str(error)
    if example is None:
        write_note(note, made_from, {'reason': reason})
        raise InputError(reason)
    records.write_example(layout, path, example)
    return _describe(layout, example)


def _describe(layout: Layout, example: Any) -> dict:
    columns = layout.present(example)
    counts = records.count(layout, {name: getattr(example, name) for name in columns})
    return {
        'recipe': example.recipe.tobytes().hex(),
        'columns': list(columns),
        'counts': [counts[per] for per in ('point', 'sample', 'view')],
        'num_frames': counts.get('frame', 0),
    }


def read_note(path: Path, made_from: bytes, schema: object) -> dict | None:
    """The cached result of an earlier run, or None where there is none of this recipe and schema."""
    try:
        note = read_json(path, schema)
    except (FileNotFoundError, InputError):  # none, or a damaged one
        return None
    return note if note.pop('recipe') == made_from.hex() else None


def write_note(path: Path, made_from: bytes, found: dict) -> None:
    """Cache a result for later runs."""
    write_json(path, {'recipe': made_from.hex(), **found})


def keep_usual(data_dir: Path, outcome: Outcome, layout: Layout = SHAPES) -> Outcome:
    """Reject the examples of other numbers of points, samples or views than most have, and delete their files."""
    counts = Counter(tuple(found['counts']) for found in outcome.results.values())
    # Ties go to the larger numbers, so that the result does not depend on the order in which tasks end.
    usual = max(counts.items(), key=lambda item: item[::-1])[0] if counts else ()
    kept, rejected = {}, dict(outcome.rejected)
    for name, found in outcome.results.items():
        if tuple(found['counts']) == usual:
            kept[name] = found
            continue
        layout.path(data_dir, *name.split('/')).unlink()
        rejected[name] = 'expected {} labelled points, {} surface samples and {} views as most models have, '.format(
            *usual
        ) + 'found {}, {} and {}'.format(*found['counts'])
    return Outcome(kept, rejected)


def finish(
    data_dir: Path,
    categories: Sequence[str],
    splits: Mapping[str, Sequence[tuple[str, str]]],
    outcome: Outcome,
    source: dict,
    layout: Layout = SHAPES,
) -> Index:
    """Write the index of the examples that were made; returns it. Its columns are those that all of them have.

    outcome: its results are those of `store`, with the same counts. Raises InputError when there is none.
    """
    made = outcome.results
    if not made:
        first = next((f'; {name}: {reason}' for name, reason in outcome.rejected.items()), '')
        raise InputError(
            f'{data_dir}: expected a {layout.noun} that can be made, found none, {len(outcome.rejected)} rejected{first}'
        )
    kept = {split: tuple(shape for shape in shapes if '/'.join(shape) in made) for split, shapes in splits.items()}
    for split in (split for split, shapes in kept.items() if not shapes):
        print(f'{data_dir}: no {layout.noun} is in the split {split!r}', flush=True)
    num_points, num_samples, num_views = next(iter(made.values()))['counts']
    index = Index(
        tuple(categories),
        kept,
        tuple(name for name in layout.columns if all(name in found['columns'] for found in made.values())),
        num_points,
        num_samples,
        num_views,
        dict(sorted(outcome.rejected.items())),
        source,
        hashlib.sha256(json.dumps([[name, made[name]['recipe']] for name in sorted(made)]).encode()).hexdigest(),
        layout.name,
        {name: made[name]['num_frames'] for name in sorted(made) if made[name]['num_frames']},
    )
    records.write_index(data_dir, index)
    return index
