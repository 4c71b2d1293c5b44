"""Templates, encoders and decoder of AtlasNet (Groueix et al., CVPR 2018): a surface as the image of learned maps.

B batch, P input points, C condition, K patches, N points of a template, d its dimension (2 of squares, 3 of the sphere).
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.errors import InputError
from onet_jax.networks.encoders.image import ResNet
from onet_jax.networks.layers import BatchNorm, Linear, cast, global_max_pool

IMAGE_SIZE = 224  # px, the only one that the official ResNet reads
# Corners of an icosahedron by their order in the official templates.
ICOSAHEDRON = (
    (0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6), (7, 1, 8),
    (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (5, 4, 9), (2, 4, 11), (6, 2, 10), (8, 6, 7), (9, 8, 1),
)  # fmt: skip


class Template(NamedTuple):
    """A regular triangulation of the square [0, 1]^2 or of the unit sphere."""

    vertices: np.ndarray  # [N, d] float64
    faces: np.ndarray  # [F, 3] int


def make_square(num_points: int) -> Template:
    """The largest square grid of at most `num_points`, which are at least 4; the first coordinate slowest."""
    side = int(num_points**0.5)
    ticks = np.arange(side) / (side - 1)
    numbers = np.arange(side * side).reshape(side, side)
    # Two triangles of each cell: at the corner (i, j) with i > 0, and at the opposite corner.
    lower = numbers[1:, :-1], numbers[1:, 1:], numbers[:-1, :-1]
    upper = numbers[:-1, 1:], numbers[:-1, :-1], numbers[1:, 1:]
    faces = [np.stack(corners, axis=-1).reshape(-1, 3) for corners in (lower, upper)]
    return Template(np.stack(np.meshgrid(ticks, ticks, indexing='ij'), axis=-1).reshape(-1, 2), np.concatenate(faces))


def make_sphere(num_points: int) -> Template:
    """The coarsest icosphere of at least `num_points`.

    The flat faces of the icosahedron are subdivided, and their vertices projected to the sphere once, at the end.
    """
    golden, signs = (1 + 5**0.5) / 2, np.array([(-1, 1), (1, 1), (-1, -1), (1, -1)])
    rectangle = np.column_stack([signs * [1, golden], np.zeros(4)])
    vertices, faces = np.concatenate([np.roll(rectangle, i, axis=1) for i in range(3)]), np.array(ICOSAHEDRON)
    while len(vertices) < num_points:
        vertices, faces = _subdivide(vertices, faces)
    return Template(vertices / np.linalg.norm(vertices, axis=1, keepdims=True), faces)


def _subdivide(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each triangle as four, by the midpoints of its edges, which are numbered as they first occur."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2)
    unique, first, inverse = np.unique(edges, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    ab, bc, ca = (len(vertices) + np.argsort(order)[inverse.reshape(-1, 3)]).T
    a, b, c = faces.T
    corners = np.stack([a, ab, ca, b, bc, ab, c, ca, bc, ab, bc, ca], axis=1)
    return np.concatenate([vertices, vertices[unique[order]].mean(axis=1)]), corners.reshape(-1, 3)


def draw_squares(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Uniform points of the unit square, shape (K, N) -> [K, N, 2]."""
    return jax.random.uniform(key, (*shape, 2))


def draw_spheres(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Uniform points of the unit sphere, shape (K, N) -> [K, N, 3]."""
    points = jax.random.normal(key, (*shape, 3))
    return points / jnp.linalg.norm(points, axis=-1, keepdims=True)


# Name of a decoder -> its regular template from a number of points, and random points (key, (K, N)) -> [K, N, d].
TEMPLATES = {'squares': (make_square, draw_squares), 'sphere': (make_sphere, draw_spheres)}


def around_one(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Initial gamma of the batch normalisations of the autoencoder: N(1, 0.02^2)."""
    return 1 + 0.02 * jax.random.normal(key, shape, dtype)


class CloudEncoder(nn.Module):
    """PointNet with batch normalisation: three layers for each point, maximum over the points, two layers."""

    cond_size: int = 1024
    hidden_size: int = 64
    dtype: jnp.dtype | None = None  # of features and their products

    @nn.compact
    def __call__(self, points: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """points [B, P, 3] in object coordinates -> cond [B, C]."""

        def norm(net, name):
            return BatchNorm(around_one, name=name)(net, train=train, axis_name=axis_name)

        net = cast(points, self.dtype)
        for i, features in enumerate((self.hidden_size, 2 * self.hidden_size, self.cond_size), start=1):
            net = norm(Linear(features, name=f'conv{i}')(net if i == 1 else nn.relu(net)), f'bn{i}')
        net = global_max_pool(net, axis=1).astype(points.dtype)
        for i in (1, 2):
            net = nn.relu(norm(Linear(self.cond_size, name=f'lin{i}')(net), f'bn{i + 3}'))
        return net


class ImageEncoder(nn.Module):
    """ResNet-18, without the normalisation of images."""

    cond_size: int = 1024
    dtype: jnp.dtype | None = None  # of the trunk

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False, axis_name: str | None = None) -> jax.Array:
        """images [B, 224, 224, 3] in [0, 1] -> cond [B, C]. Raises InputError for another size."""
        if images.shape[1:3] != (IMAGE_SIZE, IMAGE_SIZE):
            height, width = images.shape[1:3]
            raise InputError(
                f'inputs: expected images of {IMAGE_SIZE} x {IMAGE_SIZE} px (config.data.image_size), which the encoder '
                f"'atlasnet_resnet18' reads, found {height} x {width}"
            )
        resnet = ResNet(self.cond_size, normalised=False, dtype=self.dtype)
        nn.share_scope(self, resnet)
        return resnet(images, train=train, axis_name=axis_name)


class PatchMap(nn.Module):
    """The map of one patch: points of its template -> points of the surface, given a condition."""

    hidden_size: int = 512
    scale_init: nn.initializers.Initializer = nn.initializers.ones  # of gamma of the batch normalisations
    dtype: jnp.dtype | None = None  # of features and their products

    @nn.compact
    def __call__(
        self, cond: jax.Array, template: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """cond [B, C], template [N, d] -> points [B, N, 3]."""

        def activate(net, name):
            return nn.relu(BatchNorm(self.scale_init, name=name)(net, train=train, axis_name=axis_name))

        # Of the concatenation of point and condition, the part of the points is the same for all shapes.
        net = Linear(cond.shape[-1], name='conv1')(template) + cond[:, None]
        net = activate(cast(net, self.dtype), 'bn1')
        for conv, norm in (('conv2', 'bn2'), ('conv_list_0', 'bn_list_0'), ('conv_list_1', 'bn_list_1')):
            net = activate(Linear(self.hidden_size, name=conv)(net), norm)
        return Linear(3, name='last_conv')(net.astype(cond.dtype))


class PatchDecoder(nn.Module):
    """The maps of all patches. Their weights are stacked: one program, of batched matrix products."""

    hidden_size: int = 512
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, cond: jax.Array, template: jax.Array, *, train: bool = False, axis_name: str | None = None
    ) -> jax.Array:
        """cond [B, C], template [K, N, d] -> points [B, K, N, 3] in object coordinates."""
        map_patches = nn.vmap(
            partial(PatchMap.__call__, train=train, axis_name=axis_name),
            in_axes=(None, 0),
            out_axes=1,
            variable_axes={'params': 0, 'batch_stats': 0},
            split_rngs={'params': True},
        )
        return map_patches(PatchMap(self.hidden_size, self.scale_init, self.dtype, name='decoder'), cond, template)
