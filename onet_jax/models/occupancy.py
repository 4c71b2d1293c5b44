"""Occupancy fields: f(points, condition) -> logits of occupancy, whose level set is the surface.

Shared by Occupancy Networks, ONet 4D and Convolutional Occupancy Networks: the pure functions of a network, the loss (negative
evidence lower bound), the validation metrics and the extraction of meshes.

B batch, T query points, C condition, Z latent. `params` are all variables of a network, {'params': ..., 'batch_stats': ...}. A
condition is an array [B, C] or a tree of arrays [B, ...], the feature planes of Convolutional Occupancy Networks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from flax.errors import FlaxError
from jax.export import is_symbolic_dim
from ml_collections import ConfigDict

from onet_jax import losses, metrics
from onet_jax.data.fields import check_inputs
from onet_jax.errors import InputError
from onet_jax.geometry.batched_extraction import extract_meshes
from onet_jax.geometry.extract import extract_mesh
from onet_jax.geometry.grid import voxel_centres
from onet_jax.models.method import (
    POINTS,
    Aux,
    Compiled,
    Method,
    Model,
    Signature,
    apply,
    as_array,
    as_floats,
    as_inputs,
    encode,
)

# Queries are decoded in chunks of this many points: the activations of one chunk stay in the cache, and the memory that a query
# takes does not grow with the number of points.
DECODED_POINTS = 2048
MAX_LATTICE_POINTS = 1 << 28  # of all meshes that an accelerator extracts at once: 3.2 GB on a TPU


class OccupancyNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, inputs [B, ...]) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond [B, C], or a tree of [B, ...], here and below
    occupancy: Callable  # (params, points [B, T, 3], cond [B, C], latent [B, Z] or None) -> logits [B, T]
    bind: Callable  # (params, cond [1, C], latent [1, Z] or None) -> field of one shape, points [T, 3] -> logits [T]
    prior: Callable  # (key, rows [B] int) -> latent codes [B, Z] from N(0, 1), each row from its own key
    posterior: Callable  # (params, points [B, T, 3], occ [B, T], cond [B, C]) -> mean [B, Z], log_std [B, Z]
    # (params, points [B, T, 3], occ [B, T], inputs [B, ...], noise [B, Z]) -> reconstruction error [B] and divergence [B], nats
    elbo_terms: Callable
    # (params, points, occ, inputs, key=None, rows=None, axis_name=None) -> (scalar, Aux), see `negative_elbo`
    loss: Callable
    latent_size: int  # Z; 0 is no latent code


class OccupancyModule(nn.Module):
    """Encoder, decoder and latent encoder under the names of the official checkpoints."""

    decoder: nn.Module
    encoder: Any = None  # a module; None for a network without input
    encoder_latent: nn.Module | None = None
    reads: str = ''  # the field of the inputs

    def __call__(
        self,
        points: jax.Array,
        occ: jax.Array,
        inputs: jax.Array,
        noise: jax.Array,
        *,
        train: bool = False,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """The two terms of the negative evidence lower bound (paper, eq. 3) of each shape, in nats.

        points [B, T, 3], occ [B, T], inputs [B, ...], noise [B, Z] standard normal -> reconstruction error [B], the
        cross-entropy summed over the points, and KL divergence of the posterior from the prior, by latent dimension [B, Z].
        """
        cond = self.encode(inputs, train=train, axis_name=axis_name)
        latent, divergence = None, jnp.zeros((len(points), 0), points.dtype)
        if self.encoder_latent is not None:
            mean, log_std = self.posterior(points, occ, cond)
            latent = mean + jnp.exp(log_std) * noise
            divergence = losses.kl_to_standard_normal(mean, log_std)
        logits = self.decode(points, cond, latent, train=train, axis_name=axis_name)
        return losses.occupancy_bce(logits, occ).sum(axis=1), divergence

    def encode(self, inputs: jax.Array, *, train: bool = False, axis_name: str | None = None) -> Any:
        """inputs [B, ...] -> cond [B, C]; [B, 0] for a model without encoder."""
        inputs = as_inputs(inputs, self.reads)
        if self.encoder is None:
            return jnp.zeros((len(inputs), 0))
        return self.encoder(inputs, train=train, axis_name=axis_name)

    def decode(
        self,
        points: jax.Array,
        cond: Any,
        latent: jax.Array | None = None,
        *,
        train: bool = False,
        axis_name: str | None = None,
    ) -> jax.Array:
        return self.decoder(points, cond, latent, train=train, axis_name=axis_name)

    def posterior(self, points: jax.Array, occ: jax.Array, cond: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.encoder_latent is None:
            raise InputError('posterior: expected a model with a latent code, found config.model.latent_size = 0')
        return self.encoder_latent(points, occ, cond)


def _init(module, key, inputs):
    points = jnp.zeros((len(inputs), 2, 3), jnp.promote_types(inputs.dtype, jnp.float32))
    noise = jnp.zeros((len(points), module.decoder.latent_size), points.dtype)
    return module.init(key, points, points[..., 0], inputs, noise)


def as_points(points: Any, occ: Any = None, **others: Any) -> tuple[jax.Array, Any]:
    """Points and occupancies, in floating point. The other arrays, or trees of them, are checked only.

    Raises InputError unless points are [B, T, 3], occ is [B, T], the others are [B, ...], and all are real.
    """
    points, occ = as_array(points, 'points'), as_array(occ, 'occ')
    shape: tuple = getattr(points, 'shape', ())
    if len(shape) != 3 or shape[-1] != 3:
        raise InputError(f'points: expected an array [B, T, 3], found the shape {list(shape)}')
    if occ is not None and jnp.shape(occ) != shape[:2]:
        raise InputError(
            f'occ: expected {list(shape[:2])}, a value for each of the points, found {list(jnp.shape(occ))}'
        )
    for name, tree in others.items():
        found = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
        if not found <= {shape[:1]}:
            raise InputError(f'{name}: expected B = {shape[0]} rows, as points have, found arrays of {sorted(found)}')
    return as_floats(points, 'points'), None if occ is None else as_floats(occ, 'occ')


def _occupancy(module, params, points, cond, latent=None):
    points, _ = as_points(points, cond=cond, latent=latent)
    return in_chunks(lambda chunk: apply(module, params, chunk, cond, latent, method='decode'), points)


def in_chunks(decode: Callable, points: jax.Array) -> jax.Array:
    """decode: [B, T, 3] -> [B, T, ...], called with `DECODED_POINTS` points at a time."""
    num_points = points.shape[1]
    if is_symbolic_dim(num_points) or num_points <= DECODED_POINTS:  # symbolic: of a function that is exported
        return decode(points)
    padded = jnp.pad(points, ((0, 0), (0, -num_points % DECODED_POINTS), (0, 0)))
    chunks = padded.reshape(len(points), -1, DECODED_POINTS, 3).swapaxes(0, 1)
    values = jax.lax.map(decode, chunks).swapaxes(0, 1)  # [B, chunks, DECODED_POINTS, ...]
    return values.reshape(len(points), -1, *values.shape[3:])[:, :num_points]


@partial(jax.jit, static_argnums=(0, 4))
def _bind_shape(module, params, cond, latent, dtype):
    found = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((cond, latent))}
    if not found <= {(1,)}:
        raise InputError(
            f'cond, latent: expected one shape, arrays [1, ...], found arrays of {sorted(found)}; bind one by one'
        )
    variables = {collection: tree.get('decoder', {}) for collection, tree in params.items()}
    cond, latent = jax.tree.map(lambda array: array[0], (cond, latent))
    try:
        return module.decoder.bind_shape(variables, cond, latent, dtype)
    except FlaxError as error:
        raise InputError(f'params: expected those of this network, found others: {error}') from error


def bind_field(
    module: Any, params: dict, cond: Any, latent: jax.Array | None = None, dtype: Any = jnp.float32
) -> Callable:
    """The field of one shape, points [T, 3] -> logits [T], of a module with a `decoder`: cond [1, C], latent [1, Z]."""
    return _bind_shape(module, params, cond, latent, dtype)


def _prior(latent_size, key, rows):
    return jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (latent_size,)))(rows)


def _posterior(module, params, points, occ, cond):
    points, occ = as_points(points, occ, cond=cond)
    return module.apply(params, points, occ, cond, method='posterior')


def _elbo_terms(module, params, points, occ, inputs, noise):
    points, occ = as_points(points, occ, inputs=inputs, noise=noise)
    reconstruction, divergence = module.apply(params, points, occ, inputs, noise)
    return reconstruction, divergence.sum(axis=1)


def negative_elbo(
    module: OccupancyModule,
    free_bits: float,
    params: dict,
    points: jax.Array,
    occ: jax.Array,
    inputs: jax.Array,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The loss of the paper: the negative evidence lower bound (ELBO, eq. 3); without latent code the cross-entropy (eq. 2).

    points [B, T, 3], occ [B, T] in {0, 1}, inputs [B, ...] -> nats, summed over the points and averaged over the shapes, and
    the updated running statistics. key: of the noise that samples the latent codes (reparametrisation); shape i draws from
    fold_in(key, rows[i]), rows [B] int being 0 to B - 1 by default. axis_name: of the devices that share the batch. free_bits:
    the KL divergence of each latent dimension counts as at least so many nats (Kingma et al., NIPS 2016). This prevents
    posterior collapse: early in training an uninformative code is cheapest, and the decoder learns to ignore it. Raises
    InputError for arrays of other shapes and for a network with latent code without a key.
    """
    points, occ = as_points(points, occ, inputs=inputs)
    latent_size = module.decoder.latent_size
    if latent_size and key is None:
        raise InputError('loss: expected a key for the noise of the latent codes, found None')
    rows = jnp.arange(len(points)) if rows is None else rows
    noise = _prior(latent_size, key, rows) if latent_size else jnp.zeros((len(points), 0))
    (reconstruction, divergence), mutated = module.apply(
        params, points, occ, inputs, noise, train=True, axis_name=axis_name, mutable=['batch_stats']
    )
    divergence = jnp.maximum(divergence, free_bits).sum(axis=1)
    scalars = {'reconstruction': reconstruction.mean(), 'kl': divergence.mean()} if latent_size else {}
    return (reconstruction + divergence).mean(), Aux(mutated, scalars)


def occupancy_network(
    module: OccupancyModule, *, trained: OccupancyModule | None = None, free_bits: float = 0.0
) -> OccupancyNetwork:
    """The functions of a network. trained: the module of the loss, which may differ in its precision; `module` by default."""
    latent_size = module.decoder.latent_size
    return OccupancyNetwork(
        init=Compiled(_init, module),
        encode=partial(encode, module),
        occupancy=Compiled(_occupancy, module),
        bind=partial(bind_field, module),
        prior=partial(_prior, latent_size),
        posterior=Compiled(_posterior, module),
        elbo_terms=Compiled(_elbo_terms, module),
        loss=partial(negative_elbo, trained or module, free_bits),
        latent_size=latent_size,
    )


def decode_meshes(
    model: Model,
    params: dict,
    conds: Any,
    latents: jax.Array | None = None,
    seeds: np.ndarray | None = None,
    **settings: Any,
) -> list[trimesh.Trimesh]:
    """The meshes of B shapes: conds [B, C] or a tree of [B, ...], latents [B, Z], seeds [B, P, 3] points near the surfaces.

    settings: resolution, upsampling_steps and threshold, as of `extract_mesh`. An accelerator extracts as many meshes at once
    as its memory holds, a CPU one after the other. A mesh has no vertices where nothing is inside.
    """
    num_codes = len(jax.tree.leaves(conds)[0])

    def bind(*code):
        return model.bind(params, *jax.tree.map(lambda array: array[None], code))

    meshes = []
    if jax.default_backend() == 'cpu':
        for b in range(num_codes):
            cond, latent, near = jax.tree.map(lambda array, b=b: array[b], (conds, latents, seeds))
            meshes.append(extract_mesh(bind(cond, latent), seeds=near, **settings))
        return meshes

    fields = jax.vmap(bind)(conds, latents)
    at_once = meshes_at_once(settings['resolution'] << settings['upsampling_steps'])
    for start in range(0, num_codes, at_once):
        some, near = jax.tree.map(lambda array, start=start: array[start : start + at_once], (fields, seeds))
        meshes += extract_meshes(some, min(at_once, num_codes - start), seeds=near, **settings)
    return meshes


def meshes_at_once(num_cells: int) -> int:
    """How many meshes an accelerator extracts at once, on lattices of `num_cells` finest cells along an axis."""
    return max(1, MAX_LATTICE_POINTS // (num_cells + 3) ** 3)


def mesh_settings(config: ConfigDict) -> dict:
    """The settings of `decode_meshes`, from the groups `mesh` and `eval`. Raises InputError unless 0 < threshold < 1."""
    threshold = config.eval.get('threshold')
    if threshold is None or not 0 < threshold < 1:
        raise InputError(f'config.eval.threshold: expected a probability between 0 and 1, found {threshold}')
    return {**config.mesh, 'threshold': threshold}


def method(config: ConfigDict, model: OccupancyNetwork, reads: str) -> Method:
    """The `Method` of a network. reads: the field that its encoder reads, of `data/field_table.py`.

    Raises InputError for values of the config that do not go with the network.
    """
    check_inputs(config, reads)
    settings = mesh_settings(config)

    def loss(variables, batch, key, axis_name):
        (inputs,), targets = batch['inputs'].values(), batch['targets']
        return model.loss(variables, targets['points'], targets['occ'], inputs, key, batch['row'], axis_name)

    def latent_codes(key, rows):
        """Latent codes [B, Z] for meshes: samples of the prior, or None, which is its mean."""
        return model.prior(key, rows) if config.eval.get('sample') else None

    def predict(params, inputs, key, workspace=None):
        """key: of the latent codes, where they are sampled.

        The points of an input cloud are seeds of the extraction, so that parts thinner than a coarse cell are found.
        """
        (values,) = inputs.values()
        conds, latents = model.encode(params, values), latent_codes(key, jnp.arange(len(values)))
        seeds = np.asarray(inputs['cloud']) if 'cloud' in inputs else None
        return decode_meshes(model, params, conds, latents, seeds, **settings)

    def init(key, batch):
        (inputs,) = batch['inputs'].values()
        return model.init(key, inputs)

    metrics = partial(validation_metrics, model, latent_codes, config.eval.threshold, config.seed)
    latent = {'latent': ('B', model.latent_size)} if model.latent_size else {}
    signatures = {
        'encode': Signature({reads: None}, ('cond',)),
        'occupancy': Signature({'points': POINTS, 'cond': None, **latent}, ('logits',)),
    }
    return Method(init, loss, metrics, predict, model, signatures=signatures)


def validation_metrics(
    model: OccupancyNetwork,
    latent_codes: Callable,
    threshold: float,
    seed: int,
    params: dict,
    batch: dict,
) -> dict[str, jax.Array]:
    """{name: [B]}: IoU at the threshold on all labelled points; the loss and its terms, in nats, on the subset of them.

    With voxels among the targets also 'iou_voxels', the IoU with them at their centres.
    """
    noise_key, latent_key = jax.random.split(jax.random.key(seed))
    (inputs,), targets = batch['inputs'].values(), batch['targets']
    points = jnp.take_along_axis(targets['points'], targets['subset'][:, :, None], axis=1)
    occ = jnp.take_along_axis(targets['occ'], targets['subset'], axis=1)
    reconstruction, divergence = model.elbo_terms(params, points, occ, inputs, model.prior(noise_key, batch['row']))
    cond, latent = model.encode(params, inputs), latent_codes(latent_key, batch['row'])

    def iou(points, occ):
        logits = model.occupancy(params, points, cond, latent)
        return metrics.iou(jax.nn.sigmoid(logits) >= threshold, occ >= 0.5)

    values = {'iou': iou(targets['points'], targets['occ']), 'loss': reconstruction + divergence}
    if model.latent_size:
        values |= {'reconstruction': reconstruction, 'kl': divergence}
    if 'voxels' in targets:
        centres = jnp.asarray(voxel_centres(targets['voxels'].shape[1]).reshape(1, -1, 3), points.dtype)
        centres = jnp.broadcast_to(centres, (len(points), *centres.shape[1:]))
        values['iou_voxels'] = iou(centres, targets['voxels'].reshape(len(points), -1))
    return values
