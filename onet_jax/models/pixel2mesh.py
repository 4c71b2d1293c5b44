"""Pixel2Mesh (Wang et al., ECCV 2018): the mesh of an object from one picture and its camera, by deforming an ellipsoid.

As the baseline in the paper of Occupancy Networks, whose authors re-implemented it. The network works in the camera frame, in
the unit of `world_mat`: there the ellipsoid stands, and there errors are measured.

B batch, V vertices of a level, M surface samples.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import losses
from onet_jax.data.fields import check_inputs
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import IMAGE_SIZE, Camera, project
from onet_jax.geometry.field import check_finite
from onet_jax.geometry.grid import CORNERS
from onet_jax.geometry.meshes import normalise
from onet_jax.models.method import (
    Aux,
    Compiled,
    Method,
    Signature,
    apply,
    as_floats,
    as_inputs,
    check_names,
    keywords_of,
)
from onet_jax.networks.encoders.image import PyramidEncoder
from onet_jax.networks.graph import (
    UNIT,
    DeformationNetwork,
    Level,
    Template,
    check_template,
    make_ellipsoid,
    sum_neighbours,
)

# Of the terms of the loss, for lengths in units of 1 / UNIT; `chamfer` also has the share of its way from vertices to samples.
WEIGHTS = {'chamfer': 3000.0, 'edge': 300.0, 'normal': 0.5, 'laplace': 1500.0, 'move': 100.0}
TO_SAMPLES = 0.55
FIRST_LAPLACE = 0.3  # of the first block, whose deformation is the largest


class MeshNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, images [B, H, H, 3], world_mat [B, 3, 4], camera_mat [B, 3, 3]) -> params
    encode: Callable  # (params, images, world_mat=None, camera_mat=None) -> feature maps [B, H', H', F]; cameras are ignored
    deform: (
        Callable  # (params, maps, camera_mat) -> vertices [B, V, 3] of the three levels, after and before each block
    )
    # (params, surface [B, M, 3], normals [B, M, 3], images, world_mat, camera_mat, axis_name=None) -> (scalar, Aux)
    loss: Callable
    terms: Callable  # (params, surface, normals, images, world_mat, camera_mat) -> Terms
    faces: np.ndarray  # [F, 3] of the last level, which look outwards
    place: Callable = lambda world_mat: world_mat  # world_mat -> the one that all functions above expect


class PixelToMesh(nn.Module):
    """Encoder and deformation network, under the names of the official checkpoints."""

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, images: jax.Array, camera_mat: jax.Array) -> tuple:
        return self.deform(self.encode(images), camera_mat)

    def encode(self, images: jax.Array) -> tuple[jax.Array, ...]:
        return self.encoder(as_inputs(images, 'image'))

    def deform(self, maps: Sequence[jax.Array], camera_mat: jax.Array) -> tuple:
        return self.decoder(maps, camera_mat)


class Terms(NamedTuple):
    """The terms of the loss, [blocks, B] each, without their weights."""

    to_vertices: jax.Array  # mean squared distance of a surface sample to the nearest vertex
    to_samples: jax.Array  # and of a vertex to the nearest sample
    edge: jax.Array  # mean squared length of an edge
    normal: jax.Array  # mean |cosine| between an edge and the normal of the surface at one of its ends
    laplace: jax.Array  # mean squared change of the Laplacian coordinates of a vertex
    move: jax.Array  # mean squared displacement of a vertex; 0 in the first block


def measure(
    template: Template,
    after: Sequence[jax.Array],
    before: Sequence[jax.Array],
    surface: jax.Array,
    normals: jax.Array,
) -> Terms:
    """The terms of the loss (paper, eq. 2 to 5): vertices [B, V, 3] of each level after and before its block, samples
    [B, M, 3] of the surface and normals of any length there, all in the camera frame.

    Means over edges count each in both directions and once more for each vertex, its edge to itself: the official code sums
    over the entries of a sparse matrix.
    """
    check_template(template)
    terms = [_measure_block(*block, surface, normals) for block in zip(template.levels, after, before, strict=True)]
    terms[0] = terms[0]._replace(move=jnp.zeros_like(terms[0].move))
    return jax.tree.map(lambda *values: jnp.stack(values), *terms)


def _measure_block(level: Level, after: jax.Array, before: jax.Array, surface: jax.Array, normals: jax.Array) -> Terms:
    nearest, nearest_vertex = losses.find_nearest(after, surface), losses.find_nearest(surface, after)
    first, second = level.edges.T
    edges = after[:, first] - after[:, second]
    directions, at_vertices = _normalise(edges), _normalise(losses.take(normals, nearest))
    at_first, at_second = (jnp.abs((directions * at_vertices[:, end]).sum(axis=-1)) for end in (first, second))
    change = _laplacian_coordinates(level, before) - _laplacian_coordinates(level, after)
    return Terms(
        to_vertices=_square(surface - losses.take(after, nearest_vertex)).mean(axis=1),
        to_samples=_square(after - losses.take(surface, nearest)).mean(axis=1),
        edge=2 * _square(edges).sum(axis=1) / level.num_entries,
        normal=(at_first + at_second).sum(axis=1) / level.num_entries,
        laplace=_square(change).mean(axis=1),
        move=_square(before - after).mean(axis=1),
    )


def _laplacian_coordinates(level: Level, vertices: jax.Array) -> jax.Array:
    """Vertices relative to the mean of their neighbours."""
    shares = jnp.asarray(1 / level.adjacency.sum(axis=0)[:, None], vertices.dtype)
    return vertices - shares * sum_neighbours(level, level.adjacency, vertices)


def _square(vectors: jax.Array) -> jax.Array:
    return jnp.square(vectors).sum(axis=-1)


def _normalise(vectors: jax.Array) -> jax.Array:
    """Unit vectors; those of zero length stay, with a gradient of zero."""
    squares = _square(vectors)[..., None]
    is_zero = squares == 0
    return jnp.where(is_zero, 0, vectors / jnp.sqrt(jnp.where(is_zero, 1, squares)))


def weigh(terms: Terms, unit: float = UNIT) -> dict[str, jax.Array]:
    """The weighted terms of the loss, [B] each, which sum to it.

    unit: the weights are made for shapes that are scaled by it, as those of Wang et al. were.
    """
    laplace = jnp.asarray([FIRST_LAPLACE, 1, 1], terms.laplace.dtype)[:, None]
    sums = {
        'chamfer': terms.to_vertices + TO_SAMPLES * terms.to_samples,
        'edge': terms.edge,
        'normal': terms.normal,
        'laplace': laplace * terms.laplace,
        'move': terms.move,
    }
    scales = {name: 1.0 if name == 'normal' else unit**2 for name in sums}
    return {name: WEIGHTS[name] * scales[name] * term.sum(axis=0) for name, term in sums.items()}


def to_camera(world_mat: jax.Array, points: jax.Array) -> jax.Array:
    """Points [B, N, 3] in object coordinates -> the camera frame of world_mat [B, 3, 4]."""
    return rotate(world_mat, points) + world_mat[:, None, :, 3]


def rotate(world_mat: jax.Array, vectors: jax.Array) -> jax.Array:
    """Vectors [B, N, 3] in object coordinates -> the camera frame, scaled as it is."""
    # Written out: matrix products of accelerators are not precise enough.
    x, y, z = (world_mat[:, None, :, k] * vectors[..., k : k + 1] for k in range(3))
    return x + y + z


def to_object(world_mat: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N, 3] in the camera frame of world_mat [3, 4] -> object coordinates, in float64."""
    world_mat = np.asarray(world_mat, np.float64)
    return np.linalg.solve(world_mat[:, :3], (points - world_mat[:, 3]).T).T


def check_cameras(world_mat: np.ndarray, camera_mat: np.ndarray, template: Template) -> None:
    """Raises InputError for the first camera that has no vertex of the template, or of the object's cube, in its picture."""
    check_finite(np.asarray(camera_mat), 'camera_mat')
    check_finite(np.asarray(world_mat)[..., :3], 'world_mat')
    for i, (world, intrinsic) in enumerate(zip(np.asarray(world_mat), np.asarray(camera_mat), strict=True)):
        seen = [('the template', np.eye(3, 4), template.vertices)]
        if is_placed(world):
            seen.append(("the object's cube", world, CORNERS - 0.5))
        for what, extrinsic, points in seen:
            pixels, depth = project(Camera(extrinsic, intrinsic), points)
            if not ((depth > 0) & ((pixels >= 0) & (pixels <= IMAGE_SIZE)).all(axis=-1)).any():
                raise InputError(
                    f'camera {i}: expected one that looks at the object, found that no vertex of {what} is in the picture; '
                    'world_mat is [R | t] to x right, y down, z forward, camera_mat is in px of a picture of 137 px'
                )


def make_model(
    *,
    encoder: str = 'pixel2mesh_cond',
    decoder: str = 'simple',
    encoder_hidden_size: int = 16,
    decoder_hidden_size: int = 192,
    same_distance: bool = False,
    train_dtype: jnp.dtype | None = None,
) -> MeshNetwork:
    """The functions of a network, without weights.

    encoder_hidden_size: features of the first convolution. decoder_hidden_size: features of a graph convolution. same_distance:
    see `at_distance`; the official code takes cameras as they are. Raises InputError for an unknown name.
    """
    check_names(locals(), encoder=('pixel2mesh_cond',), decoder=('simple',))
    make_module = partial(build_module, encoder_hidden_size, decoder_hidden_size)
    model = functions_of(make_module, make_ellipsoid, train_dtype)
    centre = make_ellipsoid().vertices.mean(axis=0)
    return model._replace(place=partial(at_distance, float(centre[2]))) if same_distance else model


def at_distance(distance: float, world_mat: jax.Array) -> jax.Array:
    """The same views [B, 3, 4] in the unit in which the origin of the object is as far away as the ellipsoid.

    Of cameras in another unit than those of ShapeNet, whose objects have a diagonal of 1, the ellipsoid would be elsewhere than
    the object.
    """
    found = jnp.linalg.norm(world_mat[:, :, 3], axis=-1)[:, None, None]
    return world_mat * jnp.where(jnp.isnan(found), 1, distance / found)


def build_module(
    encoder_hidden_size: int, hidden_size: int, template: Callable, dtype: jnp.dtype | None
) -> PixelToMesh:
    """The network for a template, a function without arguments."""
    return PixelToMesh(PyramidEncoder(encoder_hidden_size, dtype), DeformationNetwork(hidden_size, template, dtype))


def functions_of(
    make_module: Callable, template: Callable[[], Template], train_dtype: jnp.dtype | None = None
) -> MeshNetwork:
    """The functions of the module make_module(template, dtype)."""
    module, trained = make_module(template, None), make_module(template, train_dtype)
    check_template(template())
    return MeshNetwork(
        Compiled(_init, module),
        partial(_encode_checked, module),
        Compiled(_deform, module),
        partial(_loss, trained),
        Compiled(_terms, module),
        template().faces,
    )


def _init(module, key, images, world_mat, camera_mat):
    return module.init(key, images, as_floats(camera_mat, 'camera_mat'))


def _encode_checked(module, params, images, world_mat=None, camera_mat=None):
    if not isinstance(images, jax.core.Tracer):
        check_finite(np.asarray(images), 'images')
    return Compiled(_encode, module)(params, images)


def _encode(module, params, images):
    return apply(module, params, images, method='encode')


def _deform(module, params, maps, camera_mat):
    return apply(module, params, maps, as_floats(camera_mat, 'camera_mat'), method='deform')


def _terms(module, params, surface, normals, images, world_mat, camera_mat):
    after, before = apply(module, params, images, camera_mat)
    return measure(module.decoder.template(), after, before, to_camera(world_mat, surface), rotate(world_mat, normals))


def _loss(module, params, surface, normals, images, world_mat, camera_mat, axis_name=None):
    terms = weigh(_terms(module, params, surface, normals, images, world_mat, camera_mat))
    scalars = {f'loss_{name}': term.mean() for name, term in terms.items()}
    return sum(scalars.values()), Aux({}, scalars)


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are closed meshes."""
    model = make_model(**keywords_of(config, make_model))
    check_inputs(config, 'image', 'camera')
    if config.data.augment:
        raise InputError('config.data.augment: expected False, as the camera is that of the whole picture, found True')

    def inputs_of(inputs: dict[str, Any]) -> tuple:
        images, size = inputs['image'], config.data.image_size
        if images.shape[1:] != (size, size, 3):
            raise InputError(
                f'image: expected [B, {size}, {size}, 3], config.data.image_size, found the shape {list(images.shape)}'
            )
        return images, model.place(inputs['world_mat']), inputs['camera_mat']

    def init(key, batch):
        return model.init(key, *inputs_of(batch['inputs']))

    def loss(variables, batch, key, axis_name):
        targets = batch['targets']
        return model.loss(variables, targets['surface'], targets['normals'], *inputs_of(batch['inputs']), axis_name)

    def validation_metrics(params, batch):
        """The Chamfer distance of the last block, both ways, in squared units of the camera frame, and the loss."""
        targets = batch['targets']
        terms = model.terms(params, targets['surface'], targets['normals'], *inputs_of(batch['inputs']))
        return {'chamfer': terms.to_vertices[-1] + terms.to_samples[-1], 'loss': sum(weigh(terms).values())}

    def predict(params, inputs, key, workspace=None):
        images, world_mat, camera_mat = inputs_of(inputs)
        check_cameras(world_mat, camera_mat, make_ellipsoid())
        after, _ = model.deform(params, model.encode(params, images), camera_mat)
        return [
            make_mesh(*pair, model.faces) for pair in zip(np.asarray(after[-1]), np.asarray(world_mat), strict=True)
        ]

    # Of a batch of unknown size XLA fuses the gathers of `deform`, and compiles it for minutes: see `graph.sum_neighbours`.
    signatures = {'encode': Signature({'image': None}, ('maps',))}
    return Method(init, loss, validation_metrics, predict, model, signatures=signatures)


def make_mesh(vertices: np.ndarray, world_mat: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """The mesh in object coordinates of vertices [V, 3] in the camera frame; a camera that mirrors turns no face inside.

    Where the translation is not known, the longest edge becomes 1 and the centre 0.
    """
    if np.linalg.det(world_mat[:, :3]) < 0:
        faces = faces[:, ::-1]
    if is_placed(world_mat):
        return trimesh.Trimesh(to_object(world_mat, vertices), faces, process=False)
    vertices = to_object(np.nan_to_num(world_mat), vertices)
    return trimesh.Trimesh(normalise(vertices).to_object(vertices), faces, process=False)


def is_placed(world_mat: np.ndarray) -> bool:
    """Whether a camera [3, 4] knows where the object is."""
    return not np.isnan(world_mat[:, 3]).any()
