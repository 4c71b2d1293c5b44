"""Graph convolutional networks that deform a mesh (Pixel2Mesh, Wang et al., ECCV 2018): template, layers, three blocks.

The template is an ellipsoid before the camera, in three levels of 156, 618 and 2,466 vertices: a level is the one before with
a new vertex in the middle of each edge (graph unpooling). Vertices keep their numbers from level to level. The coarsest is
what marching cubes make of an ellipsoid on a coarse grid; so were the vertices of the official file made, in this order.

The camera frame is that of `geometry/cameras.py`, in the unit of `world_mat`.

B batch, V vertices, E edges, F features, K largest number of neighbours. Channels come last.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.linalg import eigsh
from skimage.measure import marching_cubes

from onet_jax.errors import InputError
from onet_jax.geometry.cameras import IMAGE_SIZE, Camera, project
from onet_jax.networks.fast_gradients import platform_dependent, symmetric
from onet_jax.networks.feature_planes import sample_features
from onet_jax.networks.layers import Linear, cast

NUM_LEVELS = 3
NUM_HIDDEN = (12, 12, 13)  # hidden graph convolutions of each block
NO_DEPTH = 1e-6  # of a vertex in the plane of the camera
# The official ellipsoid: centre, semi-axes and the grid (first point, step, number of points along an axis), before it is moved
# to the unit of ShapeNet and in front of a camera that looks along +z.
CENTRE, SEMI_AXES = np.array([0, 0, -0.8]), np.array([0.2 * 2**0.5, 0.2, 0.2])
GRID_START, GRID_STEP, GRID_SIZE = np.array([-0.38, -0.3025, -1.0775]), 0.0775, 10
UNIT = 0.57  # lengths of the official ellipsoid per length of ShapeNet


class Level(NamedTuple):
    """A mesh as a graph. Sparse matrices have, of each row, the values at the neighbours of its vertex."""

    edges: np.ndarray  # [E, 2] int, each once; a vertex of the next level is in the middle of each
    neighbours: np.ndarray  # [K, V] int: in column v the neighbours of vertex v, then v itself
    adjacency: np.ndarray  # [K, V]: 1, then 0
    support: np.ndarray  # [K, V] of the scaled Laplacian, and its diagonal
    diagonal: float

    @property
    def num_vertices(self) -> int:
        return self.neighbours.shape[1]

    @property
    def num_entries(self) -> int:
        """Of the scaled Laplacian: both directions of each edge, and the diagonal."""
        return self.num_vertices + 2 * len(self.edges)


class Template(NamedTuple):
    """The mesh that a network deforms."""

    vertices: np.ndarray  # [V, 3] float32 of the coarsest level, in the camera frame
    levels: tuple[Level, ...]
    faces: np.ndarray  # [2 E / 3, 3] int of the finest level, counterclockwise seen from outside


@lru_cache
def make_ellipsoid() -> Template:
    """The official template, equal in its connectivity and in the order of vertices, edges and faces; faces look outwards.

    The official vertices are rounded to 6 decimals, and so are these.
    """
    axes = (GRID_START[axis] + GRID_STEP * np.arange(GRID_SIZE) for axis in range(3))
    points = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
    values = np.square((points - CENTRE) / SEMI_AXES).sum(axis=-1) - 1
    # scikit-image's first axis is z, and its table of cases depends on it; its faces look inwards.
    vertices, faces, _, _ = marching_cubes(values.T, 0.0, allow_degenerate=False)
    vertices, faces = vertices[:, ::-1], faces[:, ::-1]
    # Cells in the order y, x, z, and vertices in the order in which their faces name them.
    x, y, z = np.floor(vertices[faces].mean(axis=1)).T
    faces = faces[np.lexsort((z, x, y))]
    order = np.array(list(dict.fromkeys(faces.ravel().tolist())))
    vertices = np.round(GRID_START + GRID_STEP * vertices[order].astype(np.float64), 6).astype(np.float32)
    return make_template(vertices / np.array([UNIT, -UNIT, -UNIT], np.float32), np.argsort(order)[faces])


def make_template(vertices: np.ndarray, faces: np.ndarray) -> Template:
    """The levels of a closed mesh: vertices [V, 3] in the camera frame and faces [2 E / 3, 3], which look outwards."""
    num_vertices, is_turned = len(vertices), np.zeros(len(faces), bool)
    levels = [make_level(find_edges(faces), num_vertices)]
    for _ in range(NUM_LEVELS - 1):
        faces, is_turned = _subdivide(faces, is_turned, levels[-1])
        num_vertices += len(levels[-1].edges)
        levels.append(make_level(find_edges(faces), num_vertices))
    faces = np.where(is_turned[:, None], faces[:, ::-1], faces)
    return Template(np.asarray(vertices, np.float32), tuple(levels), faces)


def find_edges(faces: np.ndarray) -> np.ndarray:
    """The edges [E, 2] of faces (a, b, c): ab, ac and bc of each, in the order in which they first occur."""
    ends = np.sort(faces[:, [[0, 1], [0, 2], [1, 2]]].reshape(-1, 2), axis=1)
    _, first = np.unique(ends, axis=0, return_index=True)
    return ends[np.sort(first)]


def _subdivide(faces: np.ndarray, is_turned: np.ndarray, level: Level) -> tuple[np.ndarray, np.ndarray]:
    """Four faces for each, in the official order, and which of them look inwards."""
    middles = {(a, b): level.num_vertices + i for i, (a, b) in enumerate(level.edges.tolist())}

    def middle(a, b):
        return np.array([middles[min(pair), max(pair)] for pair in zip(a.tolist(), b.tolist(), strict=True)])

    a, b, c = faces.T
    ab, ac, bc = middle(a, b), middle(a, c), middle(b, c)
    parts = np.array([[a, ab, ac], [b, ab, bc], [c, ac, bc], [ab, ac, bc]])  # the second and the last are turned
    turned = is_turned[:, None] ^ np.array([False, True, False, True])
    return parts.transpose(2, 0, 1).reshape(-1, 3), turned.ravel()


def make_level(edges: np.ndarray, num_vertices: int) -> Level:
    """The tables of a graph whose edges [E, 2] are given once each.

    Its scaled Laplacian is 2 / lambda (1 - D^-1/2 A D^-1/2) - 1, with lambda the largest eigenvalue of what is in brackets:
    its eigenvalues are in [-1, 1].
    """
    ends = np.concatenate([edges, edges[:, ::-1]])
    ends = ends[np.lexsort((ends[:, 1], ends[:, 0]))]
    degrees = np.bincount(ends[:, 0], minlength=num_vertices)
    slots = np.arange(len(ends)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
    neighbours = np.tile(np.arange(num_vertices), (degrees.max(), 1))
    neighbours[slots, ends[:, 0]] = ends[:, 1]
    adjacency = (np.arange(len(neighbours))[:, None] < degrees).astype(np.float64)
    normalised = coo_array((degrees[ends].prod(axis=1) ** -0.5, ends.T), shape=(num_vertices,) * 2).tocsr()
    start = np.arange(1.0, num_vertices + 1)
    smallest = eigsh(normalised, 1, which='SA', v0=start, return_eigenvectors=False)
    factor = 2 / (1 - float(smallest[0]))
    support = -factor * adjacency * (degrees * degrees[neighbours]) ** -0.5
    return Level(edges, neighbours, adjacency, support, factor - 1)


def check_template(template: Template) -> None:
    """Raises InputError for a template whose levels are not three, each with a vertex for each edge of the one before."""
    found = [level.num_vertices for level in template.levels]
    expected = [len(template.vertices)]
    for level in template.levels[: NUM_LEVELS - 1]:
        expected.append(expected[-1] + len(level.edges))
    if len(found) != NUM_LEVELS or found != expected:
        raise InputError(
            f'template: expected {NUM_LEVELS} levels of {expected} vertices, one more for each edge of the level before, found '
            f'{len(found)} of {found}; `make_template` makes them of a mesh'
        )


def sum_neighbours(level: Level, weights: np.ndarray, x: jax.Array) -> jax.Array:
    """A sparse matrix of a level, symmetric and without its diagonal, times x [B, V, F] -> [B, V, F]."""

    def multiply(x):
        # One gather for each slot of the table takes a hundredth of the time of a dense matrix.
        slots = zip(level.neighbours, weights, strict=True)
        return reduce(jnp.add, (jnp.asarray(w[:, None], x.dtype) * x[..., numbers, :] for numbers, w in slots))

    def multiply_each(x):
        # A loop over the batch keeps XLA on a CPU from fusing the gathers with those that x comes from, for every slot anew:
        # three layers and their gradients take a fifth of the time.
        return jax.lax.map(multiply, x)

    return symmetric(lambda x: platform_dependent(x, cpu=multiply_each, default=multiply))(x)


def propagate(level: Level, x: jax.Array) -> jax.Array:
    """The scaled Laplacian of a level times x [B, V, F] -> [B, V, F]."""
    return level.diagonal * x + sum_neighbours(level, level.support, x)


def unpool(level: Level, x: jax.Array) -> jax.Array:
    """Graph unpooling: x [B, V, F] of the vertices of a level, then the means of the ends of its edges -> [B, V + E, F]."""
    first, second = level.edges.T
    return jnp.concatenate([x, (x[:, first] + x[:, second]) / 2], axis=1)


def sample_maps(maps: Sequence[jax.Array], camera_mat: jax.Array, points: jax.Array) -> list[jax.Array]:
    """Perceptual feature pooling: what feature maps have where points project to, by bilinear interpolation.

    maps: [B, H, W, F] each, H = W, with the outermost values on the edges of the picture (`align_corners`) and zeros beyond.
    camera_mat [B, 3, 3]: to px of an image of 137 px. points [B, V, 3] in the camera frame -> [B, V, F] each.
    """
    intrinsic: Any = camera_mat
    depth = points[..., 2:]
    # What lies in the plane of the camera is seen nowhere: of all finite places any will do.
    points = jnp.concatenate([points[..., :2], jnp.where(jnp.abs(depth) < NO_DEPTH, 1, depth)], axis=-1)
    unit = project(Camera(np.eye(3, 4), intrinsic), points)[0] / IMAGE_SIZE  # [0, 1] from edge to edge
    margin = 2  # of zeros, so that all beyond it, where places are clamped, is zero too

    def sample(values):
        last, padded = values.shape[1] - 1, jnp.pad(values, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        return sample_features(padded, (unit * last + margin) / (last + 2 * margin))

    return [sample(values) for values in maps]


class GraphConvolution(nn.Module):
    """x W_0 + b + S x W_1, with S of `propagate`: each vertex sees itself and its neighbours (paper, eq. 1)."""

    features: int

    @nn.compact
    def __call__(self, level: Level, *inputs: jax.Array, coarser: Level | None = None) -> jax.Array:
        """[B, V, F_1], [B, V, F_2], ..., which stand for their concatenation -> [B, V, features].

        coarser: the inputs are of the level before, and unpooled.
        """
        xavier, zeros = nn.initializers.xavier_uniform(), nn.initializers.zeros
        own = Linear(self.features, xavier, zeros, name='lin')(*inputs)
        others = Linear(self.features, xavier, use_bias=False, name='lin2')(*inputs)
        if coarser is not None:  # after the linear maps, with which it commutes: they see a quarter of the vertices
            own, others = unpool(coarser, own), unpool(coarser, others)
        return own + propagate(level, others)


class DeformationNetwork(nn.Module):
    """Three blocks of graph convolutions; each predicts where the vertices are, and the next one starts from there.

    Official name `simple`.
    """

    hidden_size: int = 192
    template: Callable[[], Template] = make_ellipsoid  # hashable, as the arrays are not
    dtype: jnp.dtype | None = None  # of features and their products

    @nn.compact
    def __call__(
        self, maps: Sequence[jax.Array], camera_mat: jax.Array
    ) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """maps and camera_mat as of `sample_maps` -> vertices [B, V, 3] of the three levels, after and before each block."""
        template, coarser, hidden, number = self.template(), None, (), 1
        check_template(template)
        points = jnp.broadcast_to(
            jnp.asarray(template.vertices, camera_mat.dtype), (len(camera_mat), *template.vertices.shape)
        )
        after, before = [], []
        for level, num_hidden in zip(template.levels, NUM_HIDDEN, strict=True):
            inputs = [cast(x, self.dtype) for x in (points, *sample_maps(maps, camera_mat, points), *hidden)]
            before.append(points if coarser is None else unpool(coarser, points))
            net = nn.relu(GraphConvolution(self.hidden_size, name=f'gc{number}')(level, *inputs, coarser=coarser))
            states = [net]
            for i in range(num_hidden):
                net = nn.relu(GraphConvolution(self.hidden_size, name=f'gc{number + 1}_{i}')(level, states[-1]))
                states.append((net + states[-2]) / 2 if i % 2 else net)
            net = states[-1]
            # Coordinates, not displacements: in the code as published the block does not add where the vertices were.
            points = GraphConvolution(3, name=f'gc{number + 2}')(level, net.astype(points.dtype))
            after.append(points)
            coarser, hidden, number = level, (net,), number + 3
        return tuple(after), tuple(before)
