"""The embedded datasets: procedural objects, rooms, random solids and shapes that move, generated on first use and cached.

Imports no JAX.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from onet_jax.data import records
from onet_jax.data.records import Index
from onet_jax.data.schema import SEQUENCES, Shape, ShapeSequence
from onet_jax.errors import InputError
from onet_jax.files import cache_folder, one_at_a_time
from onet_jax.geometry.solid import Solid
from onet_jax.prepare import (
    coloured_solids,
    constructive_solids,
    embedded_scene,
    moving_solids,
    procedural,
    random_solids,
    rooms,
    sequence_sampling,
    skeletons,
)
from onet_jax.prepare.coloured_solids import ColouredSolid, paint_solid
from onet_jax.prepare.constructive_solids import ConstructiveSolid
from onet_jax.prepare.runners import Runner, processes, refuse_second_reading
from onet_jax.prepare.sampling import check_options, sample_solid
from onet_jax.prepare.sequence_sampling import sample_sequence
from onet_jax.prepare.splits import count_held_out
from onet_jax.prepare.store import claim_folder, finish, recipe, store

# In the recipe of a dataset: other generators make other shapes under the same settings.
CODE = (Path(procedural.__file__), Path(constructive_solids.__file__))
MOVING_CODE = (
    *sorted(Path(__file__).parent.glob('moving_*.py')),
    *(Path(str(module.__file__)) for module in (skeletons, random_solids, sequence_sampling)),
)
FAMILIES = (*procedural.FAMILIES, *rooms.FAMILIES, *random_solids.FAMILIES)
MOVING_FAMILIES = moving_solids.FAMILIES  # of sequences
NUM_FIXED_VIEWS = 5  # of coloured solids (Oechsle et al., 2019)


def embedded_solid(seed: int, family: str, index: int) -> ConstructiveSolid:
    """Number `index` of a family. Raises InputError for an unknown family."""
    if family in rooms.FAMILIES:
        return rooms.make_room(seed, family, index)
    if family in random_solids.FAMILIES:
        return random_solids.make_random_solid(seed, family, index)
    return procedural.make_shape(seed, family, index)


def coloured_solid(seed: int, family: str, index: int) -> ColouredSolid:
    """`embedded_solid` in the colours and patterns of its family."""
    return paint_solid(embedded_solid(seed, family, index), seed, family, index)


def code_of(families: Sequence[str], coloured: bool = False) -> tuple[Path, ...]:
    """The generators of some families."""
    others: list[ModuleType] = [module for module in (rooms, random_solids) if set(families) & set(module.FAMILIES)]
    others += [coloured_solids] if coloured else []
    return (*CODE, *(Path(str(module.__file__)) for module in others))


def embedded_dataset(
    data_config: ConfigDict, *, num_points: int | None = None, splits: Sequence[str] = records.SPLITS
) -> Path:
    """The procedural dataset that `data_config` describes, built on first use and cached: of sequences where it has
    `num_stored_frames`, which are the frames of each; a scene for a network of rays.

    num_points: instead of that of the config, and splits: which of them are made. The shapes and their views are the same.

    It lies in $ONET_JAX_CACHE or ~/.cache/onet_jax, in a folder named after a digest of its settings (`families`, all of
    objects where empty, `num_shapes_per_family`, `num_points`, `num_views`, `sampling`, `dataset_seed`, `val_fraction`,
    `test_fraction`, `coloured`). It has depth where `inputs` or `targets` read it, and fixed views where it is coloured. Raises
    InputError for settings that make no dataset.
    """
    if 'rays' in data_config.inputs:
        return _embedded_scene(data_config)
    moves = 'num_stored_frames' in data_config
    prepare = prepare_moving if moves else prepare_procedural
    settings = {
        'families': _check_families(data_config.families, MOVING_FAMILIES if moves else FAMILIES),
        'num_shapes_per_family': data_config.num_shapes_per_family,
        'num_points': num_points or data_config.num_points,
        'seed': data_config.dataset_seed,
        'val_fraction': data_config.val_fraction,
        'test_fraction': data_config.test_fraction,
        'sampling': data_config.get('sampling', 'uniform'),
        'splits': tuple(splits),
    }
    if moves:
        seen = 'image_clip' in data_config.inputs
        settings |= {'num_frames': data_config.num_stored_frames, 'num_views': data_config.get('num_views', int(seen))}
    else:
        settings['num_views'] = data_config.num_views
        settings['depth'] = bool({'depth', 'depth_views'} & {*data_config.inputs, *data_config.targets})
        if data_config.get('coloured'):
            settings |= {'num_fixed_views': NUM_FIXED_VIEWS, 'coloured': True}
    code = MOVING_CODE if moves else code_of(settings['families'], settings.get('coloured', False))
    digest = recipe(settings, *code).hex()[:12]
    data_dir = cache_folder() / f'{"moving" if moves else "procedural"}-{digest}'
    _build_once(data_dir, data_dir / 'dataset.json', lambda: prepare(data_dir, **settings))
    return data_dir


def _embedded_scene(data_config: ConfigDict) -> Path:
    settings = {key: data_config[key] for key in ('num_views', 'view_size', 'dataset_seed')}
    num_held_out = 2 * embedded_scene.NUM_HELD_OUT
    if settings['num_views'] <= num_held_out or settings['view_size'] < 1:
        raise InputError(
            f'config.data: expected num_views above {num_held_out}, which are held out, and a view_size of at least 1, found '
            f'{settings["num_views"]} and {settings["view_size"]}'
        )
    digest = recipe(settings, *CODE, Path(embedded_scene.__file__), Path(coloured_solids.__file__)).hex()[:12]
    data_dir, (num_views, size, seed) = cache_folder() / f'scene-{digest}', settings.values()
    render = partial(embedded_scene.render_scene, data_dir, num_views=num_views, size=size, seed=seed)
    _build_once(data_dir, data_dir, render)
    return data_dir


def _build_once(data_dir: Path, sign: Path, build: Callable[[], Any]) -> None:
    """Build a dataset unless `sign` is there."""
    if not sign.exists():
        refuse_second_reading()  # else a spawned process would wait for the lock of its parent
        with one_at_a_time(data_dir.with_suffix('.lock')):  # all processes of a run ask for it at once
            if not sign.exists():
                build()


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
    num_fixed_views: int = 0,
    depth: bool = False,
    coloured: bool = False,
    sampling: str = 'uniform',
    splits: Sequence[str] = records.SPLITS,
    run: Runner | None = None,
) -> Index:
    """Build the dataset of procedural solids in `data_dir`; returns its index.

    families: names of `FAMILIES`; where empty, all of `procedural.FAMILIES`. The last `test_fraction` of
    each family is the test split, `val_fraction` before it the validation split, at least one shape each where the fraction
    is positive. splits: those whose shapes are made. num_fixed_views: after the num_views random ones. depth: whether to store
    the depth of the views. coloured: whether solids have the colours and patterns of `coloured_solids.py`. sampling: of the
    training points, one of `SAMPLING_STRATEGIES`; those of other splits are uniform. A shape that cannot be made is listed in
    the index with the reason. The result does not depend on the runner. Raises InputError for settings that make no dataset or
    differ from those that `data_dir` was begun with.
    """
    families, splits = list(_check_families(families, FAMILIES)), list(splits)
    settings = {key: value for key, value in locals().items() if key not in ('data_dir', 'run')}
    # Absent where it is off: what was made before the option came keeps its recipe.
    optional = {key: value for key in ('num_fixed_views', 'coloured') if (value := settings.pop(key))}
    data_dir, source = Path(data_dir), {'kind': 'procedural', **settings, **optional}
    check_options(sampling, num_views, depth, num_fixed_views)
    bounds = split_bounds(num_shapes_per_family, val_fraction, test_fraction)
    claim_folder(data_dir, source)
    sizes: dict[str, Any] = {'num_points': num_points, 'num_views': num_views, 'depth': depth, **optional}
    work = partial(prepare_shape, data_dir=data_dir, seed=seed, **sizes)
    names = _list_names(families, bounds, splits)
    outcome = (run or processes())(work, _list_tasks(names, sampling), 'preparing shapes')
    return finish(data_dir, families, names, outcome, source)


def prepare_shape(
    family: str, name: str, sampling: str, *, data_dir: Path, seed: int, coloured: bool = False, **sizes: Any
) -> dict:
    """Make and store one solid, unless it is stored already; returns as `store`. A function of the arguments alone.

    sizes: those of `sample_solid`.
    """
    sizes['sampling'] = sampling

    def make() -> Shape:
        if coloured:
            painted = coloured_solid(seed, family, int(name))
            mesh, colours = painted.surface()
            solid = Solid(mesh, painted.contains, picture=mesh, colours=colours)
        else:
            made = embedded_solid(seed, family, int(name))
            mesh = made.mesh()
            solid = Solid(mesh, made.contains, picture=mesh)
        return sample_solid(solid, family, name, seed=seed, **sizes)

    settings = {'family': family, 'name': name, 'seed': seed, **sizes, **({'coloured': True} if coloured else {})}
    return store(data_dir, family, name, settings, code_of([family], coloured), make)


def prepare_moving(
    data_dir: str | Path,
    *,
    families: Sequence[str],
    num_shapes_per_family: int,
    num_points: int,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    num_frames: int | None = None,
    num_views: int = 0,
    sampling: str = 'uniform',
    splits: Sequence[str] = records.SPLITS,
    run: Runner | None = None,
) -> Index:
    """Build the dataset of procedural sequences in `data_dir`; returns its index.

    families: names of `MOVING_FAMILIES`; where empty, all of them. num_shapes_per_family: sequences, of `num_frames` frames
    each, by default of as many as the generator makes. num_views: pictures of a frame. Otherwise as `prepare_procedural`.
    """
    families, splits = list(_check_families(families, MOVING_FAMILIES)), list(splits)
    num_frames = num_frames or moving_solids.NUM_FRAMES
    settings = {key: value for key, value in locals().items() if key not in ('data_dir', 'run')}
    data_dir, source = Path(data_dir), {'kind': 'moving', **settings}
    check_options(sampling)
    names = _list_names(families, split_bounds(num_shapes_per_family, val_fraction, test_fraction), splits)
    claim_folder(data_dir, source, SEQUENCES)
    sizes: dict[str, Any] = {'num_points': num_points, 'num_frames': num_frames, 'num_views': num_views}
    work = partial(prepare_sequence, data_dir=data_dir, seed=seed, **sizes)
    outcome = (run or processes())(work, _list_tasks(names, sampling), 'preparing sequences')
    return finish(data_dir, families, names, outcome, source, SEQUENCES)


def prepare_sequence(
    family: str,
    name: str,
    sampling: str,
    *,
    data_dir: Path,
    seed: int,
    num_points: int,
    num_frames: int,
    num_views: int,
) -> dict:
    """Make and store one sequence, unless it is stored already; returns as `store`. A function of the arguments alone."""
    sizes: dict[str, Any] = {'seed': seed, 'num_points': num_points, 'num_views': num_views, 'sampling': sampling}

    def make() -> ShapeSequence:
        moving = moving_solids.make_moving(seed, family, int(name), num_frames)
        return sample_sequence(moving, family, name, **sizes)

    settings = {'family': family, 'name': name, 'num_frames': num_frames, **sizes}
    return store(data_dir, family, name, settings, MOVING_CODE, make, SEQUENCES)


def _list_names(
    families: Sequence[str], bounds: dict[str, tuple[int, int]], splits: Sequence[str]
) -> dict[str, tuple[tuple[str, str], ...]]:
    """(family, name) of each shape of some splits."""
    return {
        split: tuple((family, shape_name(i)) for family in families for i in range(*bounds[split]))
        for split in records.SPLITS
        if split in splits
    }


def _list_tasks(names: dict[str, tuple[tuple[str, str], ...]], sampling: str) -> list[tuple[str, str, str]]:
    """(family, name, sampling) of each shape: only that of training points is chosen."""
    return [(*name, sampling if split == 'train' else 'uniform') for split, some in names.items() for name in some]


def shape_name(index: int) -> str:
    """The name of number `index` of a family."""
    return f'{index:06d}'


def split_bounds(num_shapes: int, val_fraction: float, test_fraction: float) -> dict[str, tuple[int, int]]:
    """The half-open range [start, stop) of each split of a family. Raises InputError when nothing is left to train on."""
    num_val, num_test = count_held_out(num_shapes, val_fraction), count_held_out(num_shapes, test_fraction)
    num_train = num_shapes - num_val - num_test
    if min(val_fraction, test_fraction) < 0 or num_train < 1:
        raise InputError(
            f'num_shapes_per_family: expected at least one training shape beside {num_val} for validation and '
            f'{num_test} for testing (val_fraction {val_fraction}, test_fraction {test_fraction}), found {num_shapes} in all'
        )
    return {'train': (0, num_train), 'val': (num_train, num_train + num_val), 'test': (num_train + num_val, num_shapes)}


def _check_families(families: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    families = tuple(families) or tuple(known if known is MOVING_FAMILIES else procedural.FAMILIES)
    unknown = sorted(set(families) - set(known))
    twice = sorted(family for family, n in Counter(families).items() if n > 1)
    if unknown or twice:
        raise InputError(
            f'families: expected different names of {known}, found {unknown or twice}'
            + (' more than once' if twice and not unknown else '')
        )
    return families
