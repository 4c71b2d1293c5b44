"""Datasets of your own meshes: any folder tree of mesh files, closed or not. Imports no JAX.

The first folder below the root is the category, the rest of the path the name. Each mesh is moved into object
coordinates (the transform is kept), turned into a solid (`geometry/watertight.py`) and sampled. What cannot be labelled
reliably is in no split but in `index.rejected`, with the reason.
"""

import gc
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from tqdm import tqdm

from onet_jax.data.prepare import claim_folder, count_held_out, finish, store
from onet_jax.data.records import SPLITS, Index, Shape
from onet_jax.data.runners import Outcome, Runner, processes
from onet_jax.data.sampling import SAMPLINGS, Solid, sample_solid
from onet_jax.geometry.meshes import load_mesh, normalise
from onet_jax.geometry.watertight import close

MESH_SUFFIXES = ('.off', '.obj', '.ply', '.stl', '.glb', '.gltf')
MAX_NAME = 200  # bytes, of a shape
MAX_AMBIGUOUS = 0.5  # share of the volume; what is less certain is rejected
UPS = {'y': np.eye(3), 'z': np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])}  # up axis of the files -> rotation to y up
# Two meshes are the same shape when all their invariants agree to this: copies do to 1e-6, while a hole that is wider by a
# tenth moves one of them by 1e-3.
SAME = 2e-4
# Nodes and weights of the quadrature of a triangle that is exact to degree 4 (Dunavant, 1985).
_A, _B = (0.108103018168070, 0.445948490915965), (0.816847572980459, 0.091576213509771)
NODES = np.array([[x if i == j else y for j in range(3)] for x, y in (_A, _B) for i in range(3)])
WEIGHTS = np.repeat([0.223381589678011, 0.109951743655322], 3)


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
    sampling: str = 'uniform',
    up: str = 'y',
    run: Runner | None = None,
) -> Index:
    """Make a dataset in `data_dir` of the mesh files below `root`; returns its index.

    Splits are drawn from the seed, category by category, and keep copies of one shape together (also moved, turned,
    scaled or cut into other triangles); or they are those of `lists`, a folder with <category>/{train,val,test}.lst of names
    or name stems, one a line. sampling: of the training shapes, see `data/sampling.py`; those of other splits are uniform.
    up: the axis of the files that points up. Raises FileNotFoundError or ValueError when there is nothing to prepare, for
    settings that make no dataset, or when `data_dir` was begun with others.
    """
    root, data_dir = Path(root), Path(data_dir)
    if sampling not in SAMPLINGS:
        raise ValueError(f'sampling: expected one of {SAMPLINGS}, found {sampling!r}')
    if up not in UPS:
        raise ValueError(f'up: expected one of {sorted(UPS)}, found {up!r}')
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise ValueError(
            f'val_fraction, test_fraction: expected shares of less than 1 in all, found {val_fraction}, {test_fraction}'
        )
    files = find_meshes(root)
    listed, missing = read_lists(lists, files) if lists else (None, {})
    source = {
        'kind': 'meshes',
        'root': str(root.resolve()),
        'num_meshes': len(files),
        'num_points': num_points,
        'num_views': num_views,
        'seed': seed,
        'val_fraction': val_fraction,
        'test_fraction': test_fraction,
        'lists': str(Path(lists).resolve()) if lists else None,
        'sampling': sampling,
        'up': up,
    }
    claim_folder(data_dir, source)

    run = run or processes()
    found = run(describe_mesh, [(*key, str(path)) for key, path in files.items()], 'reading meshes')
    good = {key: np.asarray(found.results['/'.join(key)]) for key in files if '/'.join(key) in found.results}
    if listed is None:
        splits = draw_splits(good, seed, val_fraction, test_fraction)
    else:
        splits = {split: [key for key in keys if key in good] for split, keys in listed.items()}
        _report_copies(splits, good)
    training = set(splits['train'])
    work = partial(prepare_mesh, data_dir=data_dir, seed=seed, num_points=num_points, num_views=num_views, up=up)
    wanted = dict.fromkeys(key for split in SPLITS for key in splits[split])
    tasks = [(*key, str(files[key]), sampling if key in training else 'uniform') for key in wanted]
    made = run(work, tasks, 'preparing shapes')
    outcome = Outcome(made.results, missing | found.rejected | made.rejected)
    categories = sorted({category for category, _ in files})
    return finish(data_dir, categories, splits, outcome, (num_points, num_points, num_views), source)


def find_meshes(root: Path) -> dict[tuple[str, str], Path]:
    """(category, name) of every mesh file below `root`, sorted; files in `root` itself have its name for a category.

    Raises FileNotFoundError without any, ValueError for two of one name.
    """
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: expected a folder of meshes, found none')
    files: dict[tuple[str, str], Path] = {}
    for path in sorted(p for p in root.rglob('*') if p.suffix.lower() in MESH_SUFFIXES and p.is_file()):
        *folders, _ = path.relative_to(root).parts
        parts = [_plain(part) for part in (*(folders or [root.resolve().name]), path.stem)]
        key = (parts[0], '-'.join(parts[1:]))
        if key in files:  # the same name in two formats
            key = (key[0], f'{key[1]}-{path.suffix.lower()[1:]}')
        if key in files:
            raise ValueError(f'{path}: expected another name than that of {files[key]}; rename one of them')
        files[key] = path
    if not files:
        raise FileNotFoundError(f'{root}: expected files {"|".join(MESH_SUFFIXES)} in it, found none')
    return files


def _plain(part: str) -> str:
    """A part of a path that is a file name anywhere."""
    return re.sub(r'[^\w.+-]', '_', part).lstrip('.') or '_'


def describe_mesh(category: str, name: str, path: str) -> list[float]:
    """`invariants` of a file. Raises ValueError for one that cannot be read or stored."""
    if len(name.encode()) > MAX_NAME:  # file systems allow 255
        raise ValueError(
            f'{path}: expected a name of at most {MAX_NAME} bytes below its category, found {name!r}; shorten it'
        )
    mesh = _read(path)
    return invariants(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces)).tolist()


def _read(path: str) -> trimesh.Trimesh:
    try:
        mesh = load_mesh(path)
    except (OSError, MemoryError) as error:  # one bad file never stops a run
        raise ValueError(f'{path}: expected a mesh that can be read ({type(error).__name__}: {error})') from error
    faces, num_vertices = np.asarray(mesh.faces), len(mesh.vertices)
    if faces.min() < 0 or faces.max() >= num_vertices:
        raise ValueError(
            f'{path}: expected faces of the vertices 0 to {num_vertices - 1}, found {faces.min()} to {faces.max()}; the file '
            'is damaged'
        )
    if not np.isfinite(np.asarray(mesh.vertices)[faces]).all():
        raise ValueError(f'{path}: expected finite vertices, found NaN or infinity')
    return mesh


def invariants(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Numbers of a surface that do not change when it is moved, turned, scaled or cut into other triangles: [6].

    With x from the centroid of the surface and lengths in units of the root of E|x|^2: the eigenvalues of E[x x^T] but the
    largest, sqrt(area), |E[x |x|^2]|, E|x|^4 and the smallest eigenvalue of E[x x^T |x|^2]; integrals over the area are
    exact. Raises ValueError for a surface without area.
    """
    # A sheet that was drawn from both sides is the same shape.
    places = np.unique(np.round(vertices / (1e-6 * max(np.ptp(vertices), 1e-300))), axis=0, return_inverse=True)[1]
    _, once = np.unique(np.sort(places.reshape(-1)[faces], axis=1), axis=0, return_index=True)
    corners = vertices[faces[np.sort(once)]]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    total = areas.sum()
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f'mesh: expected a surface with a finite area, found {total}')
    points = (NODES @ corners).reshape(-1, 3)
    weights = (areas[:, None] * WEIGHTS / total).ravel()
    offset = points - weights @ points
    squared = np.square(offset).sum(axis=1)
    scale = weights @ squared
    offset, squared = offset / scale**0.5, squared / scale
    second = np.linalg.eigvalsh((offset * weights[:, None]).T @ offset)
    fourth = np.linalg.eigvalsh((offset * (weights * squared)[:, None]).T @ offset)
    third = np.linalg.norm((weights * squared) @ offset)
    return np.array([*second[:2], (total / scale) ** 0.5 / 3, third, fourth.sum(), fourth[0]])


def draw_splits(
    shapes: dict[tuple[str, str], np.ndarray], seed: int, val_fraction: float, test_fraction: float
) -> dict[str, list[tuple[str, str]]]:
    """Splits of shapes with their invariants: groups of copies in random order, first to test, then to val, then to train."""
    keys = list(shapes)
    groups: dict[int, list[tuple[str, str]]] = {}
    for key, label in zip(keys, _group([shapes[key] for key in keys]), strict=True):
        groups.setdefault(label, []).append(key)
    splits: dict[str, list] = {split: [] for split in SPLITS}
    for category in sorted({category for category, _ in keys}):
        # A group that spans categories goes with the first of them.
        own = [group for group in groups.values() if min(group)[0] == category]
        size = sum(map(len, own))
        num_test = min(count_held_out(size, test_fraction), size - 1)  # one at least is for training
        num_val = min(count_held_out(size, val_fraction), size - 1 - num_test)
        wanted = {'test': num_test, 'val': num_val, 'train': size}
        # Large groups of copies are for training: a held-out split of copies would measure nothing.
        order = np.random.default_rng([seed, len(own)]).permutation(len(own))
        for group in sorted((own[i] for i in order), key=len):
            split = next(split for split, room in wanted.items() if room >= len(group))
            wanted[split] -= len(group)
            splits[split] += group
    return {split: sorted(keys) for split, keys in splits.items()}


def _group(values: Sequence[np.ndarray]) -> np.ndarray:
    """[S] labels: equal for shapes that are copies of each other, directly or through others."""
    if not len(values):
        return np.zeros(0, int)
    pairs = KDTree(np.reshape(values, (len(values), -1))).query_pairs(SAME, p=np.inf, output_type='ndarray')
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(values),) * 2)
    return connected_components(graph, directed=False)[1]


def read_lists(
    lists: str | Path, files: dict[tuple[str, str], Path]
) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """Splits from <category>/{train,val,test}.lst, and {'category/name': where it is listed} of names without a mesh.

    A name is that of a mesh, or of the folder in the category that holds it. Raises FileNotFoundError for a missing list,
    ValueError for a name in two lists.
    """
    lists, splits, missing, seen = Path(lists), {split: [] for split in SPLITS}, {}, {}
    keys = {(category, _plain(path.parent.name)): (category, name) for (category, name), path in files.items()}
    keys |= {key: key for key in files}
    for category in sorted({category for category, _ in files}):
        for split in SPLITS:
            path = lists / category / f'{split}.lst'
            if not path.is_file():
                raise FileNotFoundError(f'{path}: expected a list of names, one a line, found no such file')
            for name in filter(None, map(str.strip, path.read_text().splitlines())):
                key = keys.get((category, _plain(name)))
                if key is None:
                    missing[f'{category}/{name}'] = f'{path}: expected the name of a mesh, found none of this name'
                elif key in seen:
                    raise ValueError(f'{path}: expected every name in one list, found {name!r} in {seen[key]}, too')
                else:
                    seen[key] = path
                    splits[split].append(key)
    return splits, missing


def _report_copies(splits: dict[str, list[tuple[str, str]]], shapes: dict[tuple[str, str], np.ndarray]) -> None:
    """Say which shapes of given lists are copies of one in another split: such a split measures less than it seems to."""
    split_of = {key: split for split, keys in splits.items() for key in keys if key in shapes}
    keys = list(split_of)
    labels = _group([shapes[key] for key in keys]) if keys else ()
    groups: dict[int, list[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        groups.setdefault(label, []).append(f'{"/".join(key)} ({split_of[key]})')
    for group in groups.values():
        if len({name.rpartition(' ')[2] for name in group}) > 1:
            tqdm.write('copies of one shape in several splits: ' + ', '.join(group))


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
) -> float:
    """Make and store one shape, unless it is there; returns the share of its volume that is ambiguous.

    Raises ValueError, with the reason, for whatever is wrong with the mesh.
    """

    def make() -> Shape:
        try:
            solid = make_solid(_read(path), up)
            sizes = {'num_points': num_points, 'num_views': num_views, 'sampling': sampling}
            return sample_solid(solid, category, name, seed=seed, **sizes)
        except ValueError:
            raise
        except Exception as error:  # one bad mesh never stops a run, whatever library stumbles over it
            raise ValueError(f'{path}: {type(error).__name__}: {error}') from error

    ambiguous = store(data_dir, category, name, (num_points, num_points, num_views), make).ambiguous
    gc.collect()  # a Trimesh refers to itself: without this they pile up in a process that works on many
    return ambiguous


def make_solid(mesh: trimesh.Trimesh, up: str = 'y') -> Solid:
    """A mesh in its own frame -> its solid. Raises ValueError for one that cannot be labelled reliably."""
    mesh.vertices = np.asarray(mesh.vertices, np.float64) @ UPS[up].T
    frame = normalise(np.asarray(mesh.vertices)[np.ravel(mesh.faces)])
    if not (np.isfinite(frame.loc).all() and np.isfinite(frame.scale) and frame.scale > 0):
        raise ValueError(f'mesh: expected finite vertices that are not all one, found a box of edge {frame.scale}')
    mesh.vertices = frame.to_object(mesh.vertices)
    labelled = close(mesh)
    if labelled.ambiguous > MAX_AMBIGUOUS:
        raise ValueError(
            f'mesh: expected a solid, found a surface for which {labelled.ambiguous:.0%} of the volume is a matter of '
            f'judgement, more than {MAX_AMBIGUOUS:.0%}; close its holes'
        )
    return Solid(labelled.surface, labelled.contains, mesh, frame.loc, frame.scale, labelled.ambiguous)
