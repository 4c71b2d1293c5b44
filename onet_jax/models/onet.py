"""Occupancy Networks (Mescheder et al., CVPR 2019): f(points, condition) -> logits, the surface being a level set.

B batch, T query points, C condition, Z latent. `params` is a plain tree {'params': ..., 'batch_stats': ...}.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from onet_jax import losses, metrics
from onet_jax.geometry.extract import extract_mesh
from onet_jax.models.method import Aux, Method
from onet_jax.networks.decoders import ConditionalBatchNormDecoder
from onet_jax.networks.encoders.points import ResnetPointnet

# Queries are decoded in pieces of this many points: the activations of one piece stay in the cache, and the memory
# that a query takes does not grow with the number of points.
CHUNK = 2048


class OccupancyNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, batch) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond [B, C]
    occupancy: Callable  # (params, points [B, T, 3], cond [B, C], latent [B, Z] or None) -> logits [B, T]


class OccupancyModule(nn.Module):
    """Encoder and decoder under the names of the official checkpoints."""

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, points, inputs, *, train=False, axis_name=None):
        """points [B, T, 3], inputs [B, ...] -> logits [B, T]."""
        cond = self.encode(inputs, train=train, axis_name=axis_name)
        return self.decode(points, cond, train=train, axis_name=axis_name)

    def encode(self, inputs, *, train=False, axis_name=None):
        return self.encoder(inputs, train=train, axis_name=axis_name)

    def decode(self, points, cond, latent=None, *, train=False, axis_name=None):
        return self.decoder(points, cond, latent, train=train, axis_name=axis_name)


def build_module(config: ConfigDict) -> OccupancyModule:
    """The network of `config.model`: `encoder`, `encoder_hidden_size`, `cond_size`, `decoder_hidden_size`."""
    encoders = {'pointnet_resnet': ResnetPointnet}
    if config.encoder not in encoders:
        raise ValueError(f'config.model.encoder: expected one of {sorted(encoders)}, found {config.encoder!r}')
    return OccupancyModule(
        encoder=encoders[config.encoder](cond_size=config.cond_size, hidden_size=config.encoder_hidden_size),
        decoder=ConditionalBatchNormDecoder(hidden_size=config.decoder_hidden_size),
    )


# The module is frozen and hashable, so it is a static argument of one jit that all models share: two models of the
# same configuration share their compilation.
@partial(jax.jit, static_argnums=0)
def _init(module, key, batch):
    return module.init(key, batch['points'][:, :2], batch['inputs'])


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


def occupancy_network(config: ConfigDict) -> OccupancyNetwork:
    """The functions of the network that `config.model` describes."""
    module = build_module(config)
    return OccupancyNetwork(partial(_init, module), partial(_encode, module), partial(_occupancy, module))


def method(config: ConfigDict) -> Method:
    """What the trainer needs, from the groups `model`, `train` (threshold) and `mesh` of a config."""
    module = build_module(config.model)
    model = occupancy_network(config.model)
    threshold = config.eval.threshold

    def loss(params, batch, key, axis_name):
        """Cross-entropy summed over the points and averaged over the shapes (paper, eq. 2). Draws nothing: no latent."""
        logits, updated = module.apply(
            params, batch['points'], batch['inputs'], train=True, axis_name=axis_name, mutable=['batch_stats']
        )
        value = losses.occupancy_bce(logits, batch['occ']).sum(axis=1).mean(axis=0)
        return value, Aux(updated['batch_stats'], {})

    def validation_metrics(params, batch):
        """IoU of the thresholded network and the loss of each shape, per point so that it does not scale with T."""
        logits = model.occupancy(params, batch['points'], model.encode(params, batch['inputs']))
        return {
            'iou': metrics.iou(jax.nn.sigmoid(logits) >= threshold, batch['occ'] >= 0.5),
            'loss': losses.occupancy_bce(logits, batch['occ']).mean(axis=1),
        }

    def reconstruct(params, inputs, key):
        """The meshes of a batch of inputs, one after the other. Draws nothing: no latent."""
        conds = model.encode(params, inputs)
        return [
            extract_mesh(
                lambda points, cond=cond: model.occupancy(params, points[None], cond[None])[0],
                resolution=config.mesh.resolution,
                upsampling_steps=config.mesh.upsampling_steps,
                threshold=threshold,
            )
            for cond in conds
        ]

    return Method(model.init, loss, validation_metrics, reconstruct)
