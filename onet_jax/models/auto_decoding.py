"""Auto-decoding: the code of a shape that an embedding has not seen, fitted to labelled points of the shape.

The network of configs/onet_embedding.py has no encoder but a learned code for each training shape (paper, section 4.1). Of
another shape it takes the code of the highest posterior density: the labels are the likelihood, as in training, and the
prior is a Gaussian with the means and deviations of the learned codes.

B shapes, T points, C condition, S training shapes.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import trimesh
from ml_collections import ConfigDict

from onet_jax import losses
from onet_jax.geometry.meshes import Frame
from onet_jax.models import occupancy_network
from onet_jax.models.method import Method
from onet_jax.models.occupancy import OccupancyModule, decode_mesh
from onet_jax.models.onet import build_module
from onet_jax.prepare.own_meshes import make_solid
from onet_jax.prepare.sampling import draw_points

NUM_POINTS = 16_384  # labelled points that a mesh is turned into
NUM_STEPS, LEARNING_RATE = 400, 0.05
POINTS_PER_STEP, POINTS_TO_CHOOSE = 2048, 512


def fit_codes(key: jax.Array, params: dict, config: ConfigDict, labelled: np.ndarray) -> jax.Array:
    """labelled [B, T, 4], points in object coordinates and their occupancies {0, 1} -> codes [B, C].

    Each begins at the training code that explains `POINTS_TO_CHOOSE` of the points best, then takes `NUM_STEPS` steps of
    Adam on `POINTS_PER_STEP` random points each. A function of the key and the arguments; shapes do not see each other.
    """
    keys, module = jax.random.split(key, len(labelled)), build_module(config.model)
    return jnp.concatenate([_fit(module, params, key, shape) for key, shape in zip(keys, labelled, strict=True)])


@partial(jax.jit, static_argnums=0)
def _fit(module: OccupancyModule, params: dict, key: jax.Array, labelled: jax.Array) -> jax.Array:
    """labelled [T, 4] -> code [1, C]."""
    learned = module.apply(params, jnp.arange(module.encoder.num_shapes), method='encode')  # [S, C]
    mean, deviation = learned.mean(axis=0), learned.std(axis=0)

    def misfit(code, rows):
        """Cross-entropy of some of the labels, in nats, summed as for all of them."""
        logits = module.apply(params, rows[None, :, :3], code[None], method='decode')[0]
        return losses.occupancy_bce(logits, rows[:, 3]).mean() * len(labelled)

    def negative_log_posterior(code, rows):
        return misfit(code, rows) + jnp.square((code - mean) / deviation).sum() / 2

    tx = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS))

    def step(state, key):
        code, opt_state = state
        rows = labelled[jax.random.randint(key, (POINTS_PER_STEP,), 0, len(labelled))]
        updates, opt_state = tx.update(jax.grad(negative_log_posterior)(code, rows), opt_state)
        return (optax.apply_updates(code, updates), opt_state), None

    few = labelled[:: max(1, len(labelled) // POINTS_TO_CHOOSE)]
    start = learned[jnp.argmin(jax.lax.map(lambda code: misfit(code, few), learned))]
    (code, _), _ = jax.lax.scan(step, (start, tx.init(start)), jax.random.split(key, NUM_STEPS))
    return code[None]


def fitting(method: Method, config: ConfigDict) -> Method:
    """The method of an embedding whose `reconstruct` takes labelled points [B, T, 4] of any shapes instead of numbers."""

    def reconstruct(params, labelled, key):
        model = occupancy_network(config.model)
        codes = fit_codes(key, params, config, labelled)
        return [decode_mesh(model.bind(params, code[None]), config) for code in codes]

    return method._replace(reconstruct=reconstruct)


def labelled_points(mesh: trimesh.Trimesh, seed: int) -> tuple[np.ndarray, Frame]:
    """`NUM_POINTS` uniform points of the cube with the occupancies of a mesh, [T, 4] float32, and the frame of the mesh.

    Raises ValueError for a mesh that cannot be labelled reliably (see `data/collection.py`).
    """
    solid = make_solid(mesh)
    surface = np.asarray(solid.surface.vertices)
    points = draw_points(np.random.default_rng(seed), solid, surface, NUM_POINTS, 'uniform').astype(np.float32)
    return np.column_stack([points, solid.contains(points.astype(np.float64))]), Frame(solid.loc, solid.scale)
