"""Mesh refinement by first and second derivatives of the field (paper, section 3.3 and supplementary).

The vertices of marching cubes lie on edges of a lattice. Here they are moved, with the faces unchanged, to minimise

    mean_F (sigmoid(f(x)) - threshold)^2 + 0.01 mean_F |n_face - n_target|^2,    n_target = -grad / |grad|,

where x is a random point of each face, Dirichlet(1/2, 1/2, 1/2), drawn anew in every step: the faces approach the surface
sigmoid(f) = threshold, and become perpendicular to its gradient. n_target is differentiated too, which takes second derivatives
of the field. N vertices, F faces, T query points.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.field import as_argument, bucket_size, check_finite, value_and_gradient
from onet_jax.progress import track

NORMAL_WEIGHT = 0.01  # lambda of the paper
# As in the official generator: RMSprop of PyTorch, and what is added to the length of a normal.
LEARNING_RATE = 1e-4  # see `refine_mesh` for when to take less
DECAY = 0.99
EPSILON = 1e-8  # added to the root of the running average, not under it
LENGTH_EPSILON = 1e-10

# Faces whose gradient is computed at a time: bounds the memory of activations and their derivatives.
FACE_CHUNK = 1024


def refine_mesh(
    mesh: trimesh.Trimesh,
    field: Callable,
    key: jax.Array,
    *,
    steps: int = 30,
    threshold: float = 0.2,
    learning_rate: float = LEARNING_RATE,
) -> trimesh.Trimesh:
    """A copy of the mesh whose vertices were moved by `steps` steps of RMSprop towards sigmoid(field) = threshold.

    field: [T, 3] object coordinates -> logits [T], of JAX. threshold: a probability in (0, 1). `key` draws the points of
    the faces. Sizes are rounded up, so that meshes of similar size share a compilation, as do all shapes where the field is a
    pytree, as of `model.bind` or `jax.tree_util.Partial`. Any other callable is compiled anew for each object.

    The default `learning_rate` is the paper's. RMSprop moves each coordinate by 10 learning rates in the first step, however
    small its gradient is, and by 7 and 6 in the next: 1e-3 of the longest edge. Meshes that are nearer to the surface than that
    need a lower rate, or they overshoot, though the loss falls. Mean distance to the surface of a chair, in 1e-4 of the longest
    edge, with a network of the paper's size:

        mesh                                            before   30 steps at 1e-4   100 at 1e-4   30 at 1e-5
        marching cubes, 32 cells                        24       7                                17
        marching cubes, 128 cells, to 5,000 faces       2.1      3.1                4.6           1.5

    Raises InputError for another kind of geometry, faces of vertices that are not there, steps < 0, a learning rate that is
    not positive, a threshold outside of (0, 1), another key, vertices that are not finite and a field that moves them to where
    they are not.
    """
    if not isinstance(steps, int | np.integer) or steps < 0:
        raise InputError(f'steps: expected a whole number >= 0, found {steps}')
    if not isinstance(mesh, trimesh.Trimesh):
        raise InputError(f'mesh: expected a trimesh.Trimesh, found a {type(mesh).__name__}')
    threshold_to_logit(threshold)  # raises InputError outside of (0, 1)
    if not 0 < learning_rate < np.inf:
        raise InputError(f'learning_rate: expected a number > 0, found {learning_rate}')
    if isinstance(key, int):
        raise InputError(f'key: expected a key of JAX, such as jax.random.key({key}), found {key}')
    vertices, faces = np.array(mesh.vertices), np.array(mesh.faces)
    check_finite(vertices, 'mesh.vertices')
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise InputError(
            f'mesh.faces: expected indices of {len(vertices)} vertices, found {faces.min()} to {faces.max()}'
        )
    if steps and len(faces):
        weights = np.asarray(face_weights(key, steps, bucket_size(len(faces), FACE_CHUNK)))[:, : len(faces)]
        vertices, _ = refine_vertices(vertices, faces, field, weights, threshold, learning_rate)
        check_finite(vertices, 'vertices moved by the values and the gradients of the field')
    return trimesh.Trimesh(vertices, faces, process=False)


def refinement_loss(mesh: trimesh.Trimesh, field: Callable, key: jax.Array, *, threshold: float = 0.2) -> float:
    """The loss that `refine_mesh` minimises, at one random point of each face: the same points for the same faces and key."""
    vertices, faces = np.array(mesh.vertices), np.array(mesh.faces)
    weights = face_weights(key, 1, bucket_size(len(faces), FACE_CHUNK))[0]
    return float(_loss(as_argument(field), pad(vertices), pad(faces), weights, len(faces), threshold))


@jax.jit
def _loss(field, vertices, faces, weights, num_faces, threshold):
    return loss_and_gradient(vertices.astype(float), faces, field, weights, threshold, num_faces)[0]


def refine_vertices(
    vertices: np.ndarray,
    faces: np.ndarray,
    field: Callable,
    weights: np.ndarray,
    threshold: float,
    learning_rate: float = LEARNING_RATE,
) -> tuple[np.ndarray, np.ndarray]:
    """vertices [N, 3], faces [F, 3], weights [steps, F, 3] of the corners -> moved vertices [N, 3], loss before each step.

    weights: the point of each face in each step, barycentric (see `face_weights`). N and F are positive. Computes in the
    precision that JAX is set to.
    """
    field, padded_faces, losses = as_argument(field), pad(faces), []
    start = jnp.asarray(pad(vertices), float)  # float32, or float64 with jax_enable_x64
    state = start, jnp.zeros_like(start)
    for step_weights in track(pad(weights, axis=1), 'refining', 'steps'):
        state, loss = _step(field, state, padded_faces, step_weights, len(faces), threshold, learning_rate)
        losses.append(np.asarray(loss))  # waits for the step, so that it is counted when it is done
    return np.asarray(state[0])[: len(vertices)], np.stack(losses)


@partial(jax.jit, static_argnums=(1, 2))
def face_weights(key: jax.Array, steps: int, num_faces: int) -> jax.Array:
    """Dirichlet(1/2, 1/2, 1/2) barycentric weights [steps, F, 3]: the squared coordinates of a random direction."""
    squares = jnp.square(jax.random.normal(key, (steps, num_faces, 3)))
    return squares / squares.sum(axis=-1, keepdims=True)


def pad(array: np.ndarray, axis: int = 0) -> np.ndarray:
    """The array with its last entry along `axis` repeated, up to FACE_CHUNK times a power of two.

    A repeated face evaluates the field at the points of another: padding causes no NaN that the mesh does not have.
    """
    size = np.shape(array)[axis]
    filling = np.repeat(np.take(array, [-1], axis), bucket_size(size, FACE_CHUNK) - size, axis)
    return np.concatenate([array, filling], axis)


@jax.jit
def _step(field, state, faces, weights, num_faces, threshold, learning_rate):
    vertices, average = state
    loss, gradient = loss_and_gradient(vertices, faces, field, weights, threshold, num_faces)
    average = DECAY * average + (1 - DECAY) * gradient**2
    return (vertices - learning_rate * gradient / (jnp.sqrt(average) + EPSILON), average), loss


def loss_and_gradient(
    vertices: jax.Array, faces: jax.Array, field: Callable, weights: jax.Array, threshold: float, num_faces: int
) -> tuple[jax.Array, jax.Array]:
    """The loss and its gradient with respect to the vertices [N, 3], for one point of each face.

    faces, weights [F, 3], padded by `pad`: the first `num_faces` count; pieces of FACE_CHUNK without any of them are skipped.
    """

    def add_piece(i, total):
        loss, gradient = total
        start = i * FACE_CHUNK
        piece, piece_weights = (jax.lax.dynamic_slice_in_dim(x, start, FACE_CHUNK) for x in (faces, weights))

        def piece_loss(corners):
            losses = _face_losses(corners, piece_weights, field, threshold)
            return jnp.where(start + jnp.arange(FACE_CHUNK) < num_faces, losses, 0).sum() / num_faces

        piece_value, by_corner = jax.value_and_grad(piece_loss)(vertices[piece])
        return loss + piece_value, gradient.at[piece].add(by_corner)

    num_pieces = (num_faces + FACE_CHUNK - 1) // FACE_CHUNK
    zero = jnp.zeros((), vertices.dtype), jnp.zeros_like(vertices)
    return jax.lax.fori_loop(0, num_pieces, add_piece, zero)


def _face_losses(corners, weights, field, threshold):
    """corners [F, 3, 3], weights [F, 3] -> the loss of each face [F]."""
    points = (weights[..., None] * corners).sum(axis=1)
    logits, gradient = value_and_gradient(field, points)
    # The gradient of the logits is known: as a linear function of the points, they need no other backward pass. Only the
    # gradient itself is left to be differentiated; that of a ReLU network is piecewise constant, which JAX sees.
    logits, slope, origin = jax.lax.stop_gradient((logits, gradient, points))
    logits = logits + (slope * (points - origin)).sum(axis=-1)
    probs = jax.nn.sigmoid(logits)
    target = _unit(-(probs * (1 - probs))[:, None] * gradient)
    normal = _unit(jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1]))
    return (probs - threshold) ** 2 + NORMAL_WEIGHT * ((normal - target) ** 2).sum(axis=-1)


def _unit(vectors):
    """[F, 3] -> vectors / (length + LENGTH_EPSILON). The derivative of the length at 0 is 0, as in PyTorch, and not NaN."""
    squared = (vectors**2).sum(axis=-1, keepdims=True)
    positive = squared > 0
    length = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)
    return vectors / (length + LENGTH_EPSILON)
