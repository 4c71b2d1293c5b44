"""Validation of a dataset: every example is read, and its columns are checked for consistency. Imports no JAX."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_dilation
from scipy.spatial import KDTree

from onet_jax.data import records
from onet_jax.data.schema import DEPTH_STEPS, LAYOUTS, VIEW_SIZE, Shape, ShapeSequence
from onet_jax.errors import InputError
from onet_jax.geometry import grid
from onet_jax.geometry.cameras import Camera, project
from onet_jax.geometry.upright import is_up_doubtful
from onet_jax.prepare.runners import Outcome, Runner, processes

ROUNDING = 3e-4  # of float16 in the cube
MAX_INSIDE = 0.95  # share of the labelled points inside; a shape with more of them is taken to be inside out
MAX_CHECKED = 20_000  # labelled points of a shape
# Radius of the largest hole between surface samples, in mean distances to the nearest neighbour: at 1 of 300,000 points of a
# surface there is no sample within it.
GAP = 4
# At least these shares of the labelled points have the label of the nearest other one, and of their voxel, where no surface
# lies between.
MIN_ALIKE, MIN_VOXELS = 0.999, 0.95
# At least this share of the labelled points within NEAR of the surface lies on the side that the normals of the nearest
# WITNESSES samples agree on; SPARE more may not, at the edges of thin parts.
MIN_SIDES, NEAR, WITNESSES, SPARE = 0.95, 0.02, 8, 5
WHITE, RINGING = 250, 20  # least value of the background of an image; JPEG artefacts beside the object
MIN_SEEN = 0.9  # least share of the surface samples that lie in the silhouette, and not in front of the depth map
DEPTH_SLACK = 0.02  # tolerance of depth, in units of the longest edge
MIN_VISIBLE = 0.05  # least share of the surface samples that lie on the depth map
# Of three frames of a sequence: so many surface samples keep their distance to a neighbour, up to this factor.
STRETCH, MIN_KEPT = 4.0, 0.9
MAX_DOUBTFUL = 0.5  # share of the shapes of a category whose up is doubtful, above which it is said


class Checked(NamedTuple):
    """What the validation of a dataset has found."""

    header: list[str]
    rows: list[list[str]]  # of a table: each category, and all
    problems: dict[str, str]  # 'category/name': its faults
    hints: list[str]  # what is no fault, but should be looked at


def check_dataset(data_dir: str | Path, run: Runner | None = None) -> Checked:
    """Validate all shapes, or sequences.

    Raises FileNotFoundError or InputError for a dataset without a usable index.
    """
    data_dir = Path(data_dir)
    index = records.read_index(data_dir, None)
    listed, check = _count_listed(index), check_shape if index.layout == 'shapes' else check_sequence
    outcome = (run or processes())(partial(check, data_dir=data_dir, index=index), list(listed), 'checking')
    problems = {}
    for shape, count in listed.items():
        name = '/'.join(shape)
        faults = [outcome.rejected[name]] if name in outcome.rejected else []
        if count > 1:
            faults.append(f'expected it once in the splits, found it {count} times')
        if shape[0] not in index.categories:
            faults.append(f'expected a category of {list(index.categories)}, found {shape[0]!r}')
        if name in index.rejected:
            faults.append('expected it in a split or rejected, found both')
        if faults:
            problems[name] = '; '.join(faults)
    return Checked(*_table(index, outcome, problems), dict(sorted(problems.items())), _list_hints(index, outcome))


def list_notes(data_dir: str | Path) -> list[str]:
    """What is unusual about a dataset but valid: splits without shapes, shape files in no split.

    Raises FileNotFoundError or InputError for a dataset without a usable index.
    """
    index = records.read_index(data_dir, None)
    layout = LAYOUTS[index.layout]
    notes = [
        f'the split {split!r} has no {layout.name}; training needs train and val, evaluation the split that it is told'
        for split in records.SPLITS
        if not index.splits.get(split)
    ]
    listed = {layout.path(data_dir, *name) for name in _count_listed(index)}
    unlisted = sorted(set((Path(data_dir) / layout.name).glob('*/*.npz')) - listed)
    if unlisted:
        notes.append(f'{layout.noun} files that are in no split: {len(unlisted)}, {unlisted[0]} first')
    return notes


def _count_listed(index: records.Index) -> Counter[tuple[str, str]]:
    return Counter(name for split in records.SEQUENCE_SPLITS for name in index.splits.get(split, ()))


def check_shape(category: str, name: str, *, data_dir: Path, index: records.Index) -> dict[str, float]:
    """Statistics of one shape: shares of points inside and of ambiguous volume, in [0, 1]; 1 where up is doubtful, else 0.

    Raises InputError with all its faults.
    """
    try:
        shape = records.read_shape(records.shape_path(data_dir, category, name), index)
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
    if index.num_views and not index.num_points:  # of a layout that has views alone, or views and a surface
        faults, inside = [*_check_views(shape, index.num_input_views)], np.nan
    elif not (len(shape.points) and len(shape.surface)):
        raise InputError(f'expected points and surface samples, found {len(shape.points)} and {len(shape.surface)}')
    else:
        samples = _make_tree(shape.surface)
        relations = (check(shape, samples) for check in (_check_neighbours, _check_sides, _check_voxels))
        faults = [
            *_check_ranges(shape),
            *_check_normals(shape),
            *chain(*relations),
            *_check_views(shape, index.num_input_views),
        ]
        inside = float(shape.occ.mean())
    if faults:
        raise InputError('; '.join(faults))
    doubtful = float(is_up_doubtful(shape.surface)) if len(shape.surface) else 0.0
    return {'inside': inside, 'ambiguous': shape.ambiguous, 'up_doubtful': doubtful}


def check_sequence(category: str, name: str, *, data_dir: Path, index: records.Index) -> dict[str, float]:
    """As `check_shape`, of a sequence: its first frame, one in the middle and the last are checked like shapes."""
    try:
        sequence = records.read_sequence(records.sequence_path(data_dir, category, name), index)
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
    if not (sequence.points_seq.size and sequence.pcl_seq.size):
        raise InputError(f'expected points and surface samples, found {sequence.points_seq.shape[:2]} points')
    num_frames, faults = len(sequence.scale_seq), []
    for k in sorted({0, num_frames // 2, num_frames - 1}):
        frame = Shape(
            category,
            name,
            points=sequence.points_seq[k],
            occ=sequence.occ_seq[k],
            surface=sequence.pcl_seq[k],
            normals=None,
            voxels=None,
            loc=sequence.loc_seq[k],
            scale=sequence.scale_seq[k],
        )
        samples = _make_tree(frame.surface)
        found = chain(_check_ranges(frame), _check_neighbours(frame, samples), _check_places(sequence, k))
        faults += [f'frame {k}: {fault}' for fault in found]
    for k, content in enumerate(sequence.image_seq or ()):
        try:
            records.decode_picture('image_seq', content)
        except InputError as error:
            faults.append(f'picture {k}: {error}')
    if faults:
        raise InputError('; '.join(faults))
    # What moves need not stand: nothing is said about up.
    return {'inside': float(sequence.occ_seq.mean()), 'ambiguous': 0.0, 'up_doubtful': 0.0}


def _check_places(sequence: ShapeSequence, k: int) -> Iterator[str]:
    """Whether the surface samples of frame k are the places of the body of the first: neighbours stay neighbours."""
    picked = slice(0, 2000)
    first, later = (sequence.pcl_seq[frame].astype(np.float64) * sequence.scale_seq[frame] for frame in (0, k))
    apart, other = _make_tree(first).query(first[picked], k=[2])
    ratio = np.linalg.norm(later[picked] - later[other[:, 0]], axis=1) / np.maximum(apart[:, 0], ROUNDING)
    kept = np.mean(ratio < STRETCH)
    if kept < MIN_KEPT:
        yield (
            f'pcl_seq: expected {MIN_KEPT:.0%} of the surface samples beside their neighbour of the first frame, found '
            f'{kept:.0%}; the samples of different frames do not correspond'
        )


def _check_ranges(shape: Shape) -> Iterator[str]:
    if shape.scale <= 0:
        yield f'scale: expected a positive number, found {shape.scale}'
    if not 0 <= shape.ambiguous <= 1:
        yield f'ambiguous: expected a share from 0 to 1, found {shape.ambiguous}'
    # Surface samples lie within the padding even when they are rounded; labelled points reach its faces.
    for key, limit in (('points', grid.BOX / 2 + ROUNDING), ('surface', grid.BOX / 2)):
        furthest = float(np.abs(getattr(shape, key)).max())
        if furthest > limit:
            yield f'{key}: expected coordinates of at most {grid.BOX / 2}, found {furthest:.4f}'
    inside = shape.occ.mean()
    if not 0 < inside <= MAX_INSIDE:
        yield f'occ: expected a share inside of more than 0 and at most {MAX_INSIDE}, found {inside:.4f}'


def _check_normals(shape: Shape) -> Iterator[str]:
    lengths = np.linalg.norm(shape.normals.astype(np.float64), axis=1)
    if not np.allclose(lengths, 1, atol=5e-3):
        yield f'normals: expected unit vectors, found lengths from {lengths.min():.3f} to {lengths.max():.3f}'


def _check_neighbours(shape: Shape, samples: KDTree) -> Iterator[str]:
    picked = _subsample(shape.points)
    apart, other = _make_tree(shape.points).query(shape.points[picked], k=[2])
    free = _is_free(shape.points[picked], apart[:, 0], samples)
    alike = shape.occ[picked][free] == shape.occ[other[free, 0]]
    if alike.size and alike.mean() < MIN_ALIKE:
        yield (
            f'occ: expected {MIN_ALIKE:.1%} of the labelled points to have the label of the nearest other one where no surface '
            f'is between them, found {alike.mean():.2%} of {alike.size}; labels are wrong, or surface is missing'
        )


def _check_sides(shape: Shape, samples: KDTree) -> Iterator[str]:
    distance, _ = samples.query(shape.points, distance_upper_bound=NEAR)
    near = np.flatnonzero(np.isfinite(distance))
    near = near[_subsample(near)]
    _, witness = samples.query(shape.points[near], k=range(1, min(WITNESSES, samples.n) + 1))
    ray = shape.points[near, None].astype(np.float64) - samples.data[witness]
    below = np.einsum('pki,pki->pk', ray, shape.normals[witness].astype(np.float64)) < 0
    # The nearest sample alone may lie on the other side of a part that is thinner than the distance between samples.
    unanimous = (below == below[:, :1]).all(axis=1)
    agreeing = below[unanimous, 0] == shape.occ[near][unanimous]
    if np.count_nonzero(~agreeing) > (1 - MIN_SIDES) * agreeing.size + SPARE:
        yield (
            f'surface: expected {MIN_SIDES:.0%} of the labelled points near it on the side that its normals tell, found '
            f'{agreeing.mean():.1%} of {agreeing.size}; surface and labels do not belong together, or the normals point inwards'
        )


def _check_voxels(shape: Shape, samples: KDTree) -> Iterator[str]:
    points = shape.points[_subsample(shape.points)].astype(np.float64)
    index = np.floor((points + 0.5) * len(shape.voxels)).astype(int)
    centre = (index + 0.5) / len(shape.voxels) - 0.5
    told = ((index >= 0) & (index < len(shape.voxels))).all(axis=1)
    told &= _is_free(points, np.linalg.norm(points - centre, axis=1), samples)
    agreeing = shape.voxels[tuple(index[told].T)] == shape.occ[_subsample(shape.points)][told]
    if agreeing.size and agreeing.mean() < MIN_VOXELS:
        yield (
            f'voxels: expected them to agree with {MIN_VOXELS:.0%} of the labelled points away from the surface, found '
            f'{agreeing.mean():.1%} of {agreeing.size}'
        )


def _subsample(rows: np.ndarray) -> slice:
    return slice(None, None, max(1, -(-len(rows) // MAX_CHECKED)))


def _make_tree(points: np.ndarray) -> KDTree:
    # Quick to build rather than to query: it answers about as many queries as it has points.
    return KDTree(points, balanced_tree=False, compact_nodes=False)


def _is_free(points: np.ndarray, radius: np.ndarray, samples: KDTree) -> np.ndarray:
    """Whether a ball of `radius` [K] around each of the points [K, 3] holds no surface: [K] bool.

    The surface is no nearer than the nearest sample less the radius of the largest hole between samples.
    """
    spacing, _ = samples.query(samples.data[:1000], k=[2])
    needed = radius + GAP * spacing.mean() + ROUNDING
    distance, _ = samples.query(points, distance_upper_bound=needed.max())
    return distance > needed


def _check_views(shape: Shape, first: int) -> Iterator[str]:
    """first: of the views that have cameras."""
    samples = shape.surface[:: max(1, len(shape.surface) // 2000)]
    for i in range(len(shape.image or ())):
        try:
            pixels = records.decode_picture('image', shape.image[i])
            alpha, depth = (
                records.decode_picture(name, files[i]) if (files := getattr(shape, name)) else None
                for name in ('alpha', 'depth')
            )
        except InputError as error:
            yield f'view {i}: {error}'
            continue
        if i < first:
            continue
        drawn = np.any(pixels < WHITE, axis=2)
        if drawn.all() or not drawn.any():
            yield f'view {i}: expected an object on white, found {drawn.mean():.0%} of the pixels drawn'
            continue
        if alpha is not None:
            drawn, stray = alpha > 0, ((pixels < WHITE - RINGING).any(axis=2) & (alpha == 0)).sum()
            if stray:
                yield f'view {i}: expected white where alpha is 0, found {stray} pixels drawn'
        if not len(samples):
            if depth is not None and ((depth > 0) != drawn).any():
                yield _tell_depth(i, depth, drawn)
            continue
        place, distance = project(Camera(shape.world_mat[i], shape.camera_mat[i]), samples)
        within = (distance > 0) & ((place >= 0) & (place < VIEW_SIZE)).all(axis=1)
        x, y = place[within].astype(int).T
        # Dilated by a pixel: silhouettes are anti-aliased, and a sheet without thickness has some in the solid.
        seen = binary_dilation(drawn, np.ones((3, 3)))[y, x].sum() / len(samples)
        if seen < MIN_SEEN:
            yield f'view {i}: expected {MIN_SEEN:.0%} of the surface samples on the object, found {seen:.0%}'
        elif depth is not None:
            yield from _check_depth(i, shape, drawn, depth, depth[y, x] / DEPTH_STEPS, distance[within])


def _check_depth(
    i: int, shape: Shape, drawn: np.ndarray, depth: np.ndarray, told: np.ndarray, distance: np.ndarray
) -> Iterator[str]:
    """told, distance: the depth map at the pixels of surface samples, 0 for background; and the depth of the samples."""
    if ((depth > 0) != drawn).any():
        yield _tell_depth(i, depth, drawn)
        return
    behind = (distance - told)[told > 0]
    slack = DEPTH_SLACK * np.linalg.norm(shape.world_mat[i, 2, :3])  # in the unit of the camera
    if (behind > -slack).mean() < MIN_SEEN or (np.abs(behind) < slack).mean() < MIN_VISIBLE:
        yield (
            f'view {i}: expected surface samples at its depth and behind it, found {(np.abs(behind) < slack).mean():.0%} at it '
            f'and {(behind <= -slack).mean():.0%} before it'
        )


def _tell_depth(i: int, depth: np.ndarray, drawn: np.ndarray) -> str:
    return f'view {i}: expected depth where there is an object, found {(depth > 0).sum()} pixels of {drawn.sum()}'


def _list_hints(index: records.Index, outcome: Outcome) -> list[str]:
    hints = []
    for category in index.categories:
        doubtful = [found['up_doubtful'] for name, found in outcome.results.items() if name.split('/')[0] == category]
        if sum(doubtful) > MAX_DOUBTFUL * len(doubtful):
            hints.append(
                f'{category}: {sum(doubtful):.0f} of {len(doubtful)} shapes look as if y did not point up; look at them by '
                '--picture, and where z points up in the files of meshes prepare them again with --up=z'
            )
    return hints


def _table(index: records.Index, outcome: Outcome, problems: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    splits = [split for split in records.SEQUENCE_SPLITS if split in records.SPLITS or split in index.splits]
    header = ['category', *splits, 'bad', 'rejected', 'inside min', 'median', 'max', 'ambiguous mean']
    categories = list(dict.fromkeys([*index.categories, *(category for category, _ in _count_listed(index))]))

    def row(title: str, categories: Sequence[str]) -> list[str]:
        def count(names):
            return str(sum(name.split('/')[0] in categories for name in names))

        found = [value for name, value in outcome.results.items() if name.split('/')[0] in categories]
        inside = np.array([value['inside'] for value in found]) if found else np.full(1, np.nan)
        ambiguous = np.mean([value['ambiguous'] for value in found]) if found else np.nan
        counts = [count(map('/'.join, index.splits.get(split, ()))) for split in splits]
        shares = (inside.min(), np.median(inside), inside.max(), ambiguous)
        return [
            title,
            *counts,
            count(problems),
            count(index.rejected),
            *('n/a' if np.isnan(share) else f'{share:.4f}' for share in shares),
        ]

    rows = [row(category, [category]) for category in categories]
    return header, [*rows, row('all', categories)]
