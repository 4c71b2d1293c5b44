"""From a solid to the arrays of one shape: volume points with labels, surface points, voxels, views. Imports no JAX.

N volume points and as many surface points of a shape, V views.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from scipy.spatial import KDTree

from onet_jax.data import records
from onet_jax.data.records import CHUNK_POINTS, Shape, Views, encode_view
from onet_jax.errors import InputError
from onet_jax.geometry import grid
from onet_jax.geometry.cameras import aim, sample_cameras
from onet_jax.geometry.render import render_views
from onet_jax.geometry.sampling import sample_surface

# How volume points are drawn (paper, section 4.6): uniform in the cube; as many inside as outside; or half of them from the
# surface with Gaussian noise of NEAR_STD, half uniform.
SAMPLINGS = ('uniform', 'equal', 'surface')
NEAR_STD = 0.01
MAX_ROUNDS = 400  # of N uniform points each, to find N / 2 inside: enough for 0.2 % of the cube
# Streams of random numbers of one shape (a procedural solid itself draws from its own).
POINTS_STREAM, SURFACE_STREAM, VIEWS_STREAM = 1, 2, 3


class Solid(NamedTuple):
    """What a shape is sampled from, in object coordinates."""

    surface: trimesh.Trimesh  # closed, oriented outwards
    contains: Callable[[np.ndarray], np.ndarray]  # points [T, 3] -> [T] bool
    picture: trimesh.Trimesh  # what the views show; it may be open and have colours
    loc: np.ndarray = np.zeros(3)  # in the own frame of the shape a point is at loc + scale * point
    scale: float = 1.0
    ambiguous: float = 0.0


def sample_solid(
    solid: Solid, category: str, name: str, *, seed: int, num_points: int, num_views: int = 0, sampling: str = 'uniform'
) -> Shape:
    """A function of the arguments alone. Raises ValueError for a solid without points inside."""

    def stream(number):
        return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(f'{category}/{name}'.encode()), number]))

    surface, normals = sample_surface(solid.surface, num_points, stream(SURFACE_STREAM))
    # Rounded first: the labels belong to the points as stored.
    points = draw_points(stream(POINTS_STREAM), solid, surface, num_points, sampling).astype(np.float16)
    points = points[chunk_order(points, surface)]
    occ = solid.contains(points.astype(np.float64))
    if not occ.any():
        raise InputError(f'expected points inside the solid, found none of {num_points}')
    centres = grid.voxel_centres(records.NUM_VOXELS)
    return Shape(
        category,
        name,
        points,
        occ,
        surface.astype(np.float16),
        normals.astype(np.float16),
        solid.contains(centres.reshape(-1, 3)).reshape(centres.shape[:3]),
        np.asarray(solid.loc, np.float64),
        float(solid.scale),
        solid.ambiguous,
        take_views(solid.picture, stream(VIEWS_STREAM), num_views) if num_views else None,
    )


def check_sampling(sampling: str) -> None:
    """Raises ValueError for a name that is none of SAMPLINGS."""
    if sampling not in SAMPLINGS:
        raise InputError(f'sampling: expected one of {SAMPLINGS}, found {sampling!r}')


def draw_points(
    rng: np.random.Generator, solid: Solid, surface: np.ndarray, num_points: int, sampling: str
) -> np.ndarray:
    """Volume points [N, 3] in random order, by one of SAMPLINGS; `surface` [M, 3] are samples of the surface."""
    check_sampling(sampling)

    def uniform(count):
        return rng.uniform(-grid.BOX / 2, grid.BOX / 2, (count, 3))

    if sampling == 'uniform':
        return uniform(num_points)
    if sampling == 'surface':
        num_near = num_points // 2
        near = surface[rng.integers(len(surface), size=num_near)] + rng.normal(scale=NEAR_STD, size=(num_near, 3))
        near = near.clip(-grid.BOX / 2, grid.BOX / 2)
        return rng.permutation(np.concatenate([near, uniform(num_points - num_near)]))
    halves, missing = {True: [], False: []}, {True: num_points // 2, False: num_points - num_points // 2}
    for _ in range(MAX_ROUNDS):
        points = uniform(num_points)
        inside = solid.contains(points.astype(np.float16).astype(np.float64))
        for side, wanted in missing.items():
            found = points[inside == side][:wanted]
            halves[side].append(found)
            missing[side] -= len(found)
        if not any(missing.values()):
            return rng.permutation(np.concatenate([*halves[True], *halves[False]]))
    raise InputError(
        f'expected {num_points // 2} points inside, found {num_points // 2 - missing[True]}; it is too thin'
    )


def chunk_order(points: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """The permutation [N] that orders each chunk of 2048 points by distance to the surface samples, nearest first.

    The order alone depends on the distance, so that at most 4,096 samples serve: they lie a few hundredths apart.
    """
    # For so few queries a tree that is quick to build is the faster one.
    tree = KDTree(surface[:4096], balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(points)
    return np.lexsort((distance, np.arange(len(points)) // CHUNK_POINTS))


def take_views(mesh: trimesh.Trimesh, rng: np.random.Generator, num_views: int) -> Views:
    """Pictures of a mesh in object coordinates from random cameras with the distribution of the R2N2 renderings."""
    low, high = mesh.bounds
    cameras = aim(sample_cameras(rng, num_views), (low + high) / 2, np.linalg.norm(high - low))
    pictures = render_views(mesh, cameras, size=records.VIEW_SIZE)
    jpegs = tuple(encode_view(pixels) for pixels in pictures.rgb)
    return Views(jpegs, cameras.world_mat.astype(np.float32), cameras.camera_mat.astype(np.float32))
