"""Sampling a solid: labelled points, surface samples with normals and colours, voxels and rendered views. Imports no JAX.

T labelled points, N = T surface samples, V views.
"""

import zlib

import numpy as np
from scipy.spatial import KDTree

from onet_jax.data.records import encode_picture
from onet_jax.data.schema import CHUNK_POINTS, DEPTH_STEPS, NUM_VOXELS, VIEW_SIZE, Shape
from onet_jax.errors import InputError
from onet_jax.geometry import grid
from onet_jax.geometry.cameras import Camera, aim, fixed_cameras, sample_cameras
from onet_jax.geometry.render import render_views
from onet_jax.geometry.sampling import sample_surface, sample_surface_with_colours
from onet_jax.geometry.solid import Solid

# How labelled points are drawn (paper, section 4.6): uniform in the cube; as many inside as outside; or half of them on the
# surface with Gaussian noise of standard deviation NEAR_STD, half uniform.
SAMPLING_STRATEGIES = ('uniform', 'equal', 'surface')
NEAR_STD = 0.01
MAX_ROUNDS = 400  # of rejection sampling, T points each, to find T / 2 inside: enough for 0.2 % of the cube
NUM_COLOURED = 100_000  # coloured samples of a mesh, for the nearest samples of the surface rebuilt from it
# Streams of random numbers of one shape (a procedural solid itself draws from its own).
POINTS_STREAM, SURFACE_STREAM, VIEWS_STREAM, COLOURS_STREAM = 1, 2, 3, 4


def sample_solid(
    solid: Solid,
    category: str,
    name: str,
    *,
    seed: int,
    num_points: int,
    num_views: int = 0,
    num_fixed_views: int = 0,
    depth: bool = False,
    sampling: str = 'uniform',
) -> Shape:
    """Sample all columns of a shape; for num_views > 0 those of so many random views, and of num_fixed_views fixed ones after
    them, `depth` among them where it is asked for.

    A function of the arguments alone. Raises InputError for options that `check_options` refuses and for a solid without points
    inside.
    """
    check_options(sampling, num_views, depth, num_fixed_views)

    def stream(number):
        return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(f'{category}/{name}'.encode()), number]))

    surface, normals, colours = sample_coloured_surface(
        solid, num_points, stream(SURFACE_STREAM), stream(COLOURS_STREAM)
    )
    # Rounded first: the labels are those of the points as stored.
    points = draw_points(stream(POINTS_STREAM), solid, surface, num_points, sampling).astype(np.float16)
    points = points[chunk_order(points, surface)]
    occ = solid.contains(points.astype(np.float64))
    if not occ.any():
        raise InputError(f'expected points inside the solid, found none of {num_points}')
    centres = grid.voxel_centres(NUM_VOXELS)
    return Shape(
        category,
        name,
        points=points,
        occ=occ,
        surface=surface.astype(np.float16),
        normals=normals.astype(np.float16),
        voxels=solid.contains(centres.reshape(-1, 3)).reshape(centres.shape[:3]),
        loc=np.asarray(solid.loc, np.float64),
        scale=np.float64(solid.scale),
        ambiguous=np.float64(solid.ambiguous),
        colours=colours,
        **view_columns(solid, stream(VIEWS_STREAM), num_views, num_fixed_views, depth),
    )


def check_options(sampling: str, num_views: int = 0, depth: bool = False, num_fixed_views: int = 0) -> None:
    """Raises InputError for a name that is none of SAMPLING_STRATEGIES, and for depth and fixed views without random ones."""
    if sampling not in SAMPLING_STRATEGIES:
        raise InputError(f'sampling: expected one of {SAMPLING_STRATEGIES}, found {sampling!r}')
    if depth and not num_views:
        raise InputError('depth: expected views to give the depth of, found num_views = 0; ask for views or no depth')
    if num_fixed_views and not num_views:
        raise InputError(
            f'num_fixed_views: expected none without random views, found {num_fixed_views} and num_views = 0; ask for both'
        )


def sample_coloured_surface(
    solid: Solid, num_points: int, rng: np.random.Generator, colours_rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Surface samples, their normals and the colours of `solid.picture` there: [N, 3] float32, float32 and uint8 (sRGB)."""
    if solid.surface is solid.picture:
        points, normals, colours = sample_surface_with_colours(solid.surface, num_points, rng, solid.colours)
        return points.astype(np.float32), normals, colours
    points, normals = sample_surface(solid.surface, num_points, rng)
    points = points.astype(np.float32)
    places, _, colours = sample_surface_with_colours(solid.picture, NUM_COLOURED, colours_rng, solid.colours)
    if (colours == colours[0]).all():  # most meshes have no colours
        return points, normals, np.tile(colours[0], (num_points, 1))
    _, nearest = KDTree(places, balanced_tree=False, compact_nodes=False).query(points)
    return points, normals, colours[nearest]


def draw_points(
    rng: np.random.Generator, solid: Solid, surface: np.ndarray, num_points: int, sampling: str
) -> np.ndarray:
    """Points [T, 3] in random order, by one of SAMPLING_STRATEGIES; surface [N, 3]: samples of the surface.

    Raises InputError where 'equal' does not find enough points inside.
    """

    def uniform(count):
        return rng.uniform(-grid.BOX / 2, grid.BOX / 2, (count, 3))

    if sampling == 'uniform':
        return uniform(num_points)
    if sampling == 'surface':
        num_near = num_points // 2
        near = surface[rng.integers(len(surface), size=num_near)] + rng.normal(scale=NEAR_STD, size=(num_near, 3))
        near = near.clip(-grid.BOX / 2, grid.BOX / 2)
        return rng.permutation(np.concatenate([near, uniform(num_points - num_near)]))
    halves: dict[bool, list[np.ndarray]] = {True: [], False: []}
    missing = {True: num_points // 2, False: num_points - num_points // 2}
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
    """The permutation [T] that sorts each chunk of points [T, 3] by distance to the surface samples [N, 3], nearest first.

    Only the order depends on the distances: 4,096 samples, a few hundredths apart, are enough.
    """
    # Quick to build rather than to query.
    tree = KDTree(surface[:4096], balanced_tree=False, compact_nodes=False)
    distance, _ = tree.query(points)
    return np.lexsort((distance, np.arange(len(points)) // CHUNK_POINTS))


def view_columns(solid: Solid, rng: np.random.Generator, num_views: int, num_fixed_views: int, depth: bool) -> dict:
    """Render the columns of views: num_views with random cameras, distributed as those of the R2N2 renderings, and after them
    num_fixed_views with `fixed_cameras`."""
    if not num_views:
        return {}
    low, high = solid.picture.bounds
    parts = zip(sample_cameras(rng, num_views), fixed_cameras(num_fixed_views), strict=True)
    cameras = aim(Camera(*map(np.concatenate, parts)), (low + high) / 2, np.linalg.norm(high - low))
    views = render_views(solid.picture, cameras, size=VIEW_SIZE, colour=solid.colours)
    columns = {
        'image': tuple(map(encode_picture, views.rgb)),
        'alpha': tuple(map(encode_picture, views.alpha)),
        'world_mat': cameras.world_mat.astype(np.float32),
        'camera_mat': cameras.camera_mat.astype(np.float32),
    }
    if depth:  # uint16 suffices: a camera that frames an object is nearer to it than 65,535 steps
        steps = np.round(np.where(np.isfinite(views.depth), views.depth, 0) * DEPTH_STEPS).astype(np.uint16)
        columns['depth'] = tuple(map(encode_picture, steps))
    return columns
