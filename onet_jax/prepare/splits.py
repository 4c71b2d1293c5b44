"""Training, validation and test splits of a collection of meshes: drawn, with duplicate shapes kept together, or from lists.

The key of a shape is (category, name). S shapes, F faces. Imports no JAX.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from onet_jax.data.records import SPLITS
from onet_jax.data.sources import read_lines
from onet_jax.errors import InputError
from onet_jax.geometry.watertight import weld
from onet_jax.json_files import MAX_NAME, is_file_name

# Two meshes are duplicates when all their invariants agree to this: those of copies agree to 1e-6, while a hole that is a tenth
# wider changes one of them by 1e-3.
SAME = 2e-4
# Quadrature of a triangle, exact to degree 4 (Dunavant, 1985): barycentric nodes and weights.
_A, _B = (0.108103018168070, 0.445948490915965), (0.816847572980459, 0.091576213509771)
NODES = np.array([[x if i == j else y for j in range(3)] for x, y in (_A, _B) for i in range(3)])
WEIGHTS = np.repeat([0.223381589678011, 0.109951743655322], 3)


def invariants(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Moment invariants of a surface, [6]: the same after translation, rotation, reflection, scaling and remeshing.

    With x from the centroid of the surface and lengths in units of the root of E|x|^2: the two smaller eigenvalues of E[x x^T],
    sqrt(area) / 3, |E[x |x|^2]|, E|x|^4 and the smallest eigenvalue of E[x x^T |x|^2]. Integrals over the area are exact.
    Raises InputError for a surface without area.
    """
    low, size = vertices.min(axis=0), max(np.ptp(vertices, axis=0).max(), 1e-300)
    # A double-sided sheet is the same shape as a single-sided one.
    vertices, faces = weld((vertices - low) / size, faces)
    corners = vertices[faces]
    areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    total = areas.sum()
    if not (np.isfinite(total) and total > 0):
        raise InputError(f'mesh: expected a surface with a finite area, found {total * size**2}')
    corners -= areas @ corners.mean(axis=1) / total
    second, third, fourth = np.zeros((3, 3)), np.zeros(3), np.zeros((3, 3))
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        x, weights = node @ corners, weight * areas / total
        squared = np.square(x).sum(axis=1)
        second += (x * weights[:, None]).T @ x
        third += (weights * squared) @ x
        fourth += (x * (weights * squared)[:, None]).T @ x
    scale = np.trace(second)
    second, fourth = np.linalg.eigvalsh(second / scale), np.linalg.eigvalsh(fourth / scale**2)
    third = np.linalg.norm(third / scale**1.5)
    return np.array([*second[:2], (total / scale) ** 0.5 / 3, third, fourth.sum(), fourth[0]])


def draw_splits(
    shapes: dict[tuple[str, str], np.ndarray], seed: int, val_fraction: float, test_fraction: float
) -> dict[str, list[tuple[str, str]]]:
    """Draw splits, category by category: groups of duplicates fill test, then val, then train.

    Small groups come first, those of one size in random order. shapes: key -> invariants [6].
    """
    keys = list(shapes)
    groups: dict[int, list[tuple[str, str]]] = {}
    for key, label in zip(keys, _group([shapes[key] for key in keys]), strict=True):
        groups.setdefault(label, []).append(key)
    splits: dict[str, list] = {split: [] for split in SPLITS}
    for category in sorted({category for category, _ in keys}):
        # A group that spans categories goes with the first of them.
        own = [group for group in groups.values() if min(group)[0] == category]
        size = sum(map(len, own))
        num_test = min(count_held_out(size, test_fraction), size - 1)  # at least one is for training
        num_val = min(count_held_out(size, val_fraction), size - 1 - num_test)
        wanted = {'test': num_test, 'val': num_val, 'train': size}
        # Large groups of duplicates are for training: a held-out split of duplicates would measure nothing.
        order = np.random.default_rng([seed, len(own)]).permutation(len(own))
        for group in sorted((own[i] for i in order), key=len):
            split = next(split for split, room in wanted.items() if room >= len(group))
            wanted[split] -= len(group)
            splits[split] += group
    return {split: sorted(keys) for split, keys in splits.items()}


def count_held_out(num_shapes: int, fraction: float) -> int:
    """How many of `num_shapes` a split of this fraction has: at least one where the fraction is positive."""
    return max(1, round(num_shapes * fraction)) if fraction > 0 else 0


def _group(values: Sequence[np.ndarray]) -> np.ndarray:
    """Labels [S]: equal for shapes that are duplicates of each other, directly or through others (connected components)."""
    if not len(values):
        return np.zeros(0, int)
    pairs = KDTree(np.reshape(values, (len(values), -1))).query_pairs(SAME, p=np.inf, output_type='ndarray')
    graph = coo_array((np.ones(len(pairs)), pairs.T), shape=(len(values),) * 2)
    return connected_components(graph, directed=False)[1]


def read_lists(
    lists: str | Path, files: dict[tuple[str, str], Path]
) -> tuple[dict[str, list[tuple[str, str]]], dict[str, str]]:
    """Splits from <category>/{train,val,test}.lst, and {'category/name': reason} of listed names without a mesh.

    A name is that of a mesh, or of the folder that holds its file. Raises FileNotFoundError for a missing list, InputError for
    a list that is not text and a name that is listed twice.
    """
    lists, missing = Path(lists), {}
    splits: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    seen: dict[tuple[str, str], Path] = {}
    keys = {(category, sanitise(path.parent.name)): (category, name) for (category, name), path in files.items()}
    keys |= {key: key for key in files}
    for category in sorted({category for category, _ in files}):
        for split in SPLITS:
            path = lists / category / f'{split}.lst'
            if not path.is_file():
                raise FileNotFoundError(f'{path}: expected a list of names, one a line, found no such file')
            for name in filter(None, (line for _, line in read_lines(path))):
                key = keys.get((category, sanitise(name)))
                if key is None:
                    missing[f'{category}/{name}'] = f'{path}: expected the name of a mesh, found none of this name'
                elif key in seen:
                    raise InputError(f'{path}: expected every name in one list, found {name!r} in {seen[key]}, too')
                else:
                    seen[key] = path
                    splits[split].append(key)
    return splits, missing


def sanitise(part: str) -> str:
    """A component of a path as a file name that every file system accepts."""
    name = re.sub(r'[^\w.+-]', '_', part).lstrip('.') or '_'
    if len(name.encode()) > MAX_NAME:
        digest = hashlib.sha256(os.fsencode(part)).hexdigest()[:16]  # two names may begin alike
        name = f'{name.encode()[: MAX_NAME - 20].decode(errors="ignore")}_{digest}'
    return name if is_file_name(name) else f'_{name}'


def report_copies(splits: dict[str, list[tuple[str, str]]], shapes: dict[tuple[str, str], np.ndarray]) -> None:
    """Print which shapes of given lists have duplicates in another split: such a split overestimates generalisation."""
    split_of = {key: split for split, keys in splits.items() for key in keys if key in shapes}
    keys = list(split_of)
    labels = _group([shapes[key] for key in keys]) if keys else ()
    groups: dict[int, list[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        groups.setdefault(label, []).append(f'{"/".join(key)} ({split_of[key]})')
    for group in groups.values():
        if len({name.rpartition(' ')[2] for name in group}) > 1:
            print('copies of one shape in several splits: ' + ', '.join(group), flush=True)
