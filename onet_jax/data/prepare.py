"""Making the embedded dataset: procedural solids, labelled exactly, in parallel processes. Imports no JAX.

N volume points and as many surface points of a shape.
"""

import hashlib
import json
import multiprocessing
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from scipy.spatial import KDTree
from tqdm import tqdm

from onet_jax.data import procedural, records, solids
from onet_jax.data.records import Index, Shape
from onet_jax.files import write_json
from onet_jax.geometry import grid, sampling

# Streams of random numbers of one shape (the solid itself draws from its own).
POINTS_STREAM, SURFACE_STREAM = 1, 2


def embedded_dataset(data_config: ConfigDict) -> Path:
    """The procedural dataset that `data_config` describes, built on first use and cached.

    It lies in $ONET_JAX_CACHE or ~/.cache/onet_jax, in a folder named after its settings (`families`, all of them where
    empty, `num_shapes_per_family`, `num_points`, `dataset_seed`, `val_fraction`, `test_fraction`).
    """
    settings = {
        'families': _check_families(data_config.families),
        'num_shapes_per_family': data_config.num_shapes_per_family,
        'num_points': data_config.num_points,
        'seed': data_config.dataset_seed,
        'val_fraction': data_config.val_fraction,
        'test_fraction': data_config.test_fraction,
    }
    # Other generators make other shapes under the same settings.
    code = [Path(module.__file__).read_text() for module in (procedural, solids)]
    digest = hashlib.sha256(json.dumps([records.VERSION, settings, code]).encode()).hexdigest()[:12]
    cache = Path(os.environ.get('ONET_JAX_CACHE') or Path.home() / '.cache' / 'onet_jax')
    data_dir = cache / f'procedural-{digest}'
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
    num_workers: int | None = None,
) -> Index:
    """Build the dataset of procedural solids in `data_dir`; returns its index.

    families: names of `procedural.FAMILIES`, all of them where empty. The last `test_fraction` of each family is the
    test split, `val_fraction` before it the validation split, at least one shape each where the fraction is positive.
    Finished shapes of an interrupted run are kept; a shape that cannot be made is listed in the index with the reason.
    num_workers: processes, as many as there are cores by default; 1 works in this process. The result does not depend
    on it. Raises ValueError for settings that make no dataset or differ from those that `data_dir` was begun with.
    """
    data_dir = Path(data_dir)
    families = _check_families(families)
    bounds = split_bounds(num_shapes_per_family, val_fraction, test_fraction)
    source = {
        'kind': 'procedural',
        'families': list(families),
        'num_shapes_per_family': num_shapes_per_family,
        'num_points': num_points,
        'seed': seed,
        'val_fraction': val_fraction,
        'test_fraction': test_fraction,
    }
    _claim_folder(data_dir, source)

    rejected = {}
    with _open_pool(num_workers) as pool:
        tasks: dict[Future, str] = {
            pool.submit(prepare_shape, data_dir, seed, family, i, num_points): f'{family}/{shape_name(i)}'
            for family in families
            for i in range(num_shapes_per_family)
        }
        for task in tqdm(as_completed(tasks), total=len(tasks), desc='preparing shapes', unit='shape', mininterval=1):
            error = task.exception()
            if isinstance(error, (BrokenProcessPool, OSError)):  # of the machine, not of the shape
                pool.shutdown(cancel_futures=True)
                raise error
            if error is not None:
                rejected[tasks[task]] = f'{type(error).__name__}: {error}'

    if len(rejected) == len(tasks):
        name, reason = next(iter(rejected.items()))
        raise ValueError(f'{data_dir}: expected a shape that can be made, found none of {len(tasks)}; {name}: {reason}')
    splits = {
        split: tuple(
            (family, shape_name(i))
            for family in families
            for i in range(*bounds[split])
            if f'{family}/{shape_name(i)}' not in rejected
        )
        for split in records.SPLITS
    }
    index = Index(families, splits, num_points, num_points, dict(sorted(rejected.items())), source)
    records.write_index(data_dir, index)
    return index


def prepare_shape(data_dir: Path, seed: int, family: str, index: int, num_points: int) -> None:
    """Make and store one shape, unless its file is there and reads well. A function of the arguments alone."""
    path = records.shape_path(data_dir, family, shape_name(index))
    if path.exists() and _reads_well(path, num_points):
        return
    solid = procedural.make_shape(seed, family, index)
    family_code = zlib.crc32(family.encode())

    rng = np.random.default_rng(np.random.SeedSequence([seed, family_code, index, SURFACE_STREAM]))
    surface, normals = sampling.sample_surface(solid.mesh(), num_points, rng)
    # Rounded first: the labels belong to the points as stored.
    rng = np.random.default_rng(np.random.SeedSequence([seed, family_code, index, POINTS_STREAM]))
    points = rng.uniform(-grid.BOX / 2, grid.BOX / 2, (num_points, 3)).astype(np.float16)
    points = order_chunks(points, surface)
    centres = grid.voxel_centres(records.NUM_VOXELS)
    shape = Shape(
        family,
        shape_name(index),
        points,
        solid.contains(points.astype(np.float64)),
        surface.astype(np.float16),
        normals.astype(np.float16),
        solid.contains(centres.reshape(-1, 3)).reshape(centres.shape[:3]),
        np.zeros(3),
        1.0,
    )
    if not shape.occ.any():
        raise ValueError(f'expected points inside the solid, found none of {num_points}')
    records.write_shape(path, shape)


def order_chunks(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """Volume points [N, 3] with each chunk of 2048 ordered by distance to the surface samples [M, 3], nearest first.

    The order alone depends on the distance, so that at most 4,096 samples serve: they lie a few hundredths apart.
    """
    # For so few queries a tree that is quick to build is the faster one.
    tree = KDTree(surface[:4096], balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(points)
    chunk = np.arange(len(points)) // records.CHUNK_POINTS
    return points[np.lexsort((distance, chunk))]


def shape_name(index: int) -> str:
    return f'{index:06d}'


def split_bounds(num_shapes: int, val_fraction: float, test_fraction: float) -> dict[str, tuple[int, int]]:
    """First and last + 1 index of each split of a family. Raises ValueError when nothing is left to train on."""

    def count(fraction):
        return max(1, round(num_shapes * fraction)) if fraction > 0 else 0

    num_val, num_test = count(val_fraction), count(test_fraction)
    num_train = num_shapes - num_val - num_test
    if min(val_fraction, test_fraction) < 0 or num_train < 1:
        raise ValueError(
            f'num_shapes_per_family: expected at least one training shape beside {num_val} for validation and '
            f'{num_test} for testing (val_fraction {val_fraction}, test_fraction {test_fraction}), found {num_shapes} in all'
        )
    return {'train': (0, num_train), 'val': (num_train, num_train + num_val), 'test': (num_train + num_val, num_shapes)}


def _check_families(families: Sequence[str]) -> tuple[str, ...]:
    families = tuple(families) or tuple(procedural.FAMILIES)
    unknown = sorted(set(families) - set(procedural.FAMILIES))
    twice = sorted(family for family, n in Counter(families).items() if n > 1)
    if unknown or twice:
        raise ValueError(
            f'families: expected different names of {tuple(procedural.FAMILIES)}, found {unknown or twice}'
            + (' more than once' if twice and not unknown else '')
        )
    return families


def _claim_folder(data_dir: Path, source: dict) -> None:
    """Note the settings in the folder before the first shape, so that no other dataset is mixed in."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / 'source.json'
    found = source
    if (data_dir / 'dataset.json').exists():
        found = records.read_index(data_dir).source
    elif path.exists():
        found = json.loads(path.read_text())
    differing = sorted(key for key in source.keys() | found.keys() if source.get(key) != found.get(key))
    if differing:
        raise ValueError(
            f'{data_dir}: expected an empty folder or a dataset of the same settings, found other settings: '
            + ', '.join(f'{key} {found.get(key)!r} instead of {source.get(key)!r}' for key in differing)
            + '; choose another folder or delete this one'
        )
    write_json(path, source)


def _reads_well(path: Path, num_points: int) -> bool:
    try:
        shape = records.read_shape(path)
    except ValueError:
        return False
    return len(shape.points) == len(shape.surface) == num_points


def _open_pool(num_workers: int | None) -> Executor:
    if num_workers == 1:
        return ThreadPoolExecutor(1)
    # Spawned, not forked: a fork of a process in which JAX runs its threads can hang.
    return ProcessPoolExecutor(num_workers, mp_context=multiprocessing.get_context('spawn'))
