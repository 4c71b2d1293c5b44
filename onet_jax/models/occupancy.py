"""Shapes as functions: f(points, condition) -> logits of occupancy, the surface being a level set.

What the papers of the family share, given the module of one: the jitted functions, the loss, the validation, the meshes.
B batch, T query points, C condition, Z latent. `params` is a plain tree {'params': ..., 'batch_stats': ...}. A condition is
an array [B, C] or a tree of arrays [B, ...], the feature maps of Convolutional Occupancy Networks.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import losses, metrics
from onet_jax.errors import InputError
from onet_jax.geometry.batched_extraction import extract_meshes
from onet_jax.geometry.extract import extract_mesh
from onet_jax.geometry.grid import voxel_centres
from onet_jax.models.method import Aux, Method

# Queries are decoded in pieces of this many points: the activations of one piece stay in the cache, and the memory
# that a query takes does not grow with the number of points.
CHUNK = 2048
MAX_LATTICE_POINTS = 1 << 28  # of the grids of one batch of meshes on an accelerator: 4.6 GB there


class OccupancyNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, batch) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond [B, C]
    occupancy: Callable  # (params, points [B, T, 3], cond [B, C], latent [B, Z] or None) -> logits [B, T]
    bind: (
        Callable  # (params, cond [1, C], latent [1, Z] or None) -> the field of one shape, points [T, 3] -> logits [T]
    )
    posterior: Callable  # (params, points [B, T, 3], occ [B, T], cond [B, C]) -> mean [B, Z], log_std [B, Z]


class Encoder(NamedTuple):
    """One of the encoders that a config can name."""

    input: str  # what it sees, in the words of `config.data.input`
    # From `config.model`, of which it reads its own keys, and the precision to compute in.
    build: Callable[[ConfigDict, jnp.dtype | None], nn.Module | None]


class OccupancyModule(nn.Module):
    """Encoder, decoder and latent encoder under the names of the official checkpoints."""

    decoder: nn.Module
    encoder: nn.Module | None = None
    encoder_latent: nn.Module | None = None
    free_nats: float = 0.0  # of the divergence of each latent number, in training

    def __call__(self, points, occ, inputs, noise, *, train=False, axis_name=None):
        """The two terms of the negative evidence lower bound (paper, eq. 3) of each shape, in nats.

        points [B, T, 3], occ [B, T], inputs [B, ...], noise [B, Z] standard normal -> reconstruction error [B], the
        cross-entropy summed over the points, and divergence of the posterior from the prior [B], 0 without latent code.
        In training each latent number counts as diverged by `free_nats` at least (Kingma et al., NIPS 2016): else it is
        cheapest at first to say nothing, and the decoder learns to do without.
        """
        cond = self.encode(inputs, train=train, axis_name=axis_name)
        latent, divergence = None, jnp.zeros(len(points), points.dtype)
        if self.encoder_latent is not None:
            mean, log_std = self.posterior(points, occ, cond)
            latent = mean + jnp.exp(log_std) * noise
            divergences = losses.kl_to_standard_normal(mean, log_std)
            divergence = (jnp.maximum(divergences, self.free_nats) if train else divergences).sum(axis=1)
        logits = self.decode(points, cond, latent, train=train, axis_name=axis_name)
        return losses.occupancy_bce(logits, occ).sum(axis=1), divergence

    def encode(self, inputs, *, train=False, axis_name=None):
        """inputs [B, ...] -> cond [B, C]; [B, 0] for a model without encoder."""
        if self.encoder is None:
            return jnp.zeros((len(inputs), 0))
        return self.encoder(inputs, train=train, axis_name=axis_name)

    def decode(self, points, cond, latent=None, *, train=False, axis_name=None):
        return self.decoder(points, cond, latent, train=train, axis_name=axis_name)

    def posterior(self, points, occ, cond):
        if self.encoder_latent is None:
            raise InputError('posterior: expected a model with a latent code, found config.model.latent_size = 0')
        return self.encoder_latent(points, occ, cond)


# The module is frozen and hashable, so it is a static argument of one jit that all models share: two models of the
# same configuration share their compilation.
@partial(jax.jit, static_argnums=0)
def _init(module, key, batch):
    points = batch['points'][:, :2]
    noise = jnp.zeros((len(points), module.decoder.latent_size))
    return module.init(key, points, jnp.zeros(points.shape[:2]), batch['inputs'], noise)


@partial(jax.jit, static_argnums=0)
def _encode(module, params, inputs):
    return module.apply(params, inputs, method='encode')


@partial(jax.jit, static_argnums=0)
def _occupancy(module, params, points, cond, latent=None):
    def decode(piece):
        return module.apply(params, piece, cond, latent, method='decode')

    num_points = points.shape[1]
    if num_points <= CHUNK:
        return decode(points)
    num_pieces = -(-num_points // CHUNK)
    padded = jnp.pad(points, ((0, 0), (0, num_pieces * CHUNK - num_points), (0, 0)))
    pieces = padded.reshape(len(points), num_pieces, CHUNK, 3).swapaxes(0, 1)
    logits = jax.lax.map(decode, pieces)  # [num_pieces, B, CHUNK]
    return logits.swapaxes(0, 1).reshape(len(points), -1)[:, :num_points]


@partial(jax.jit, static_argnums=(0, 4))
def _bind(module, params, cond, latent=None, dtype=jnp.float32):
    variables = {collection: tree.get('decoder', {}) for collection, tree in params.items()}
    cond, latent = jax.tree.map(lambda array: array[0], (cond, latent))
    return module.decoder.bind(variables, cond, latent, dtype)


@partial(jax.jit, static_argnums=0)
def _posterior(module, params, points, occ, cond):
    return module.apply(params, points, occ, cond, method='posterior')


def occupancy_network(module: OccupancyModule) -> OccupancyNetwork:
    """The functions of a network."""
    return OccupancyNetwork(
        *(partial(function, module) for function in (_init, _encode, _occupancy, _bind, _posterior))
    )


def sample_prior(key: jax.Array, rows: jax.Array, latent_size: int) -> jax.Array:
    """Latent codes [B, Z] from N(0, 1); each of the `rows` [B] int draws from its own key, whatever the batch is."""
    return jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (latent_size,)))(rows)


def decode_mesh(field: Callable, config: ConfigDict, seeds: np.ndarray | None = None) -> trimesh.Trimesh:
    """The mesh of one shape, whose field is bound, by the groups `mesh` and `eval`; no vertices where it is empty.

    seeds [N, 3]: points near the surface, where they are known (see `extract_mesh`).
    """
    return extract_mesh(
        field,
        resolution=config.mesh.resolution,
        upsampling_steps=config.mesh.upsampling_steps,
        threshold=config.eval.threshold,
        seeds=seeds,
    )


def decode_meshes(
    model: OccupancyNetwork,
    config: ConfigDict,
    params: dict,
    conds: Any,
    latents: jax.Array | None = None,
    seeds: np.ndarray | None = None,
) -> list[trimesh.Trimesh]:
    """The meshes of B codes: conds [B, C] or a tree of [B, ...], latents [B, Z], seeds [B, N, 3].

    On an accelerator as many at once as fit, and the batch leaves it as meshes; on a CPU one after the other.
    """
    num_codes = len(jax.tree.leaves(conds)[0])

    def bind(*code):
        return model.bind(params, *jax.tree.map(lambda array: array[None], code))

    meshes = []
    if jax.default_backend() == 'cpu':
        for b in range(num_codes):
            cond, latent, near = jax.tree.map(lambda array, b=b: array[b], (conds, latents, seeds))
            meshes.append(decode_mesh(bind(cond, latent), config, near))
        return meshes

    settings, fields = config.mesh, jax.vmap(bind)(conds, latents)
    at_once = max(1, MAX_LATTICE_POINTS // ((settings.resolution << settings.upsampling_steps) + 1) ** 3)
    for start in range(0, num_codes, at_once):
        some, near = jax.tree.map(lambda array, start=start: array[start : start + at_once], (fields, seeds))
        meshes += extract_meshes(
            some,
            min(at_once, num_codes - start),
            resolution=settings.resolution,
            upsampling_steps=settings.upsampling_steps,
            threshold=config.eval.threshold,
            seeds=near,
        )
    return meshes


def method(config: ConfigDict, module: OccupancyModule, trained: OccupancyModule, seen: str) -> Method:
    """What the trainer needs of a network, by the groups `eval` and `mesh` of a config.

    trained: the same network in the precision of the training step; seen: what its encoder reads, in the words of
    `config.data.input`.

    Raises ValueError for a threshold that is no probability and for an encoder that cannot read `config.data.input`.
    """
    if config.data.input != seen:
        raise InputError(
            f'config.data.input: expected {seen!r}, what the encoder {config.model.encoder!r} reads, '
            f'found {config.data.input!r}'
        )
    if not 0 < config.eval.threshold < 1:
        raise InputError(
            f'config.eval.threshold: expected a probability between 0 and 1, found {config.eval.threshold}'
        )
    model = occupancy_network(module)
    threshold, latent_size = config.eval.threshold, module.decoder.latent_size

    def loss(params, batch, key, axis_name):
        """Negative evidence lower bound averaged over the shapes; without latent code the paper's eq. 2."""
        noise = sample_prior(key, batch['row'], latent_size)
        (reconstruction, divergence), updated = trained.apply(
            params,
            *(batch[name] for name in ('points', 'occ', 'inputs')),
            noise,
            train=True,
            axis_name=axis_name,
            mutable=['batch_stats'],
        )
        scalars = {'reconstruction': reconstruction.mean(), 'kl': divergence.mean()} if latent_size else {}
        return (reconstruction + divergence).mean(), Aux(updated.get('batch_stats', {}), scalars)

    def latent_codes(key, rows):
        """What meshes are made from: samples of the prior, or its mean."""
        return sample_prior(key, rows, latent_size) if config.eval.sample else None

    def validation_metrics(params, batch):
        """IoU at the threshold on all points; the loss and its terms, in nats, on the subset.

        With `config.eval.voxel_iou` also 'iou_voxels', the IoU with the voxels at their centres.
        """
        noise_key, latent_key = jax.random.split(jax.random.key(config.seed))
        noise = sample_prior(noise_key, batch['row'], latent_size)
        points = jnp.take_along_axis(batch['points'], batch['subset'][:, :, None], axis=1)
        occ = jnp.take_along_axis(batch['occ'], batch['subset'], axis=1)
        reconstruction, divergence = module.apply(params, points, occ, batch['inputs'], noise)
        cond, latent = model.encode(params, batch['inputs']), latent_codes(latent_key, batch['row'])

        def iou(points, occ):
            logits = model.occupancy(params, points, cond, latent)
            return metrics.iou(jax.nn.sigmoid(logits) >= threshold, occ >= 0.5)

        values = {'iou': iou(batch['points'], batch['occ']), 'loss': reconstruction + divergence}
        if latent_size:
            values |= {'reconstruction': reconstruction, 'kl': divergence}
        if config.eval.voxel_iou:
            centres = jnp.asarray(voxel_centres(batch['voxels'].shape[1]).reshape(1, -1, 3), batch['points'].dtype)
            centres = jnp.broadcast_to(centres, (len(batch['voxels']), *centres.shape[1:]))
            values['iou_voxels'] = iou(centres, batch['voxels'].reshape(len(centres), -1))
        return values

    def reconstruct(params, inputs, key):
        """The meshes of a batch of inputs; the key draws the latent codes, where they are sampled.

        Points of an input cloud are seeds: thin parts that the coarse grid does not see are looked for there.
        """
        conds, latents = model.encode(params, inputs), latent_codes(key, jnp.arange(len(inputs)))
        return decode_meshes(model, config, params, conds, latents, np.asarray(inputs) if seen == 'points' else None)

    return Method(model.init, loss, validation_metrics, reconstruct)
