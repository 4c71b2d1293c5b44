"""3D-R2N2 (Choy et al., ECCV 2016) of a single view: encoder, and decoder to the occupancy of 32^3 voxels.

As the baseline in the paper of Occupancy Networks: any of their encoders, and a decoder of 3D transposed convolutions.

B batch, T query points, C condition.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax import losses, metrics
from onet_jax.data.fields import check_inputs
from onet_jax.geometry.extract import threshold_to_logit
from onet_jax.geometry.voxels import Voxels
from onet_jax.models import onet
from onet_jax.models.encoder_decoder import EncoderDecoder, functions_of, loss_of, signatures_of
from onet_jax.models.method import POINTS, Compiled, Encoder, Method, Signature, check_names, keywords_of
from onet_jax.models.occupancy import as_points, mesh_settings
from onet_jax.networks.r2n2 import NUM_VOXELS, R2N2Encoder, VoxelDecoder

ENCODERS = onet.ENCODERS | {
    'r2n2_simple': Encoder('image', lambda k: R2N2Encoder(k.cond_size, False, k.dtype)),
    'r2n2_resnet': Encoder('image', lambda k: R2N2Encoder(k.cond_size, True, k.dtype)),
}
OUTSIDE = -1e4  # logit of points outside of the grid


class VoxelNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, inputs [B, ...]) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond [B, C]
    voxels: Callable  # (params, cond [B, C]) -> logits [B, 32, 32, 32], x slowest
    occupancy: Callable  # (params, points [B, T, 3], cond [B, C]) -> logits [B, T], of the voxel that holds a point
    loss: Callable  # (params, voxels [B, 32, 32, 32] in {0, 1}, inputs [B, ...], axis_name=None) -> (scalar, Aux)


def occupancy_at(decode: Callable, params: dict, points: jax.Array, cond: jax.Array) -> jax.Array:
    """The logit of the voxel that holds each point: see `VoxelNetwork`."""
    points, _ = as_points(points, cond=cond)
    logits = decode(params, cond)
    # Rounded towards zero, as the official evaluation does (see `geometry/voxels.py`).
    place = (points + 0.5) * NUM_VOXELS
    inside = ((place > -1) & (place < NUM_VOXELS)).all(axis=-1)
    x, y, z = jnp.moveaxis(jnp.where(inside[..., None], place, 0).astype(jnp.int32), -1, 0)
    rows = jnp.arange(len(points))[:, None]
    return jnp.where(inside, logits[rows, x, y, z], OUTSIDE)


def cross_entropy(logits: jax.Array, voxels: jax.Array) -> jax.Array:
    """The loss: binary cross-entropy in nats of logits and voxels [B, 32, 32, 32], the mean over the voxels -> [B]."""
    return losses.occupancy_bce(logits, voxels).mean(axis=(1, 2, 3))


def make_model(
    *,
    encoder: str = 'resnet18',
    decoder: str = 'simple',
    cond_size: int = 256,
    encoder_hidden_size: int = 512,
    decoder_hidden_size: int = 256,
    train_dtype: jnp.dtype | None = None,
) -> VoxelNetwork:
    """The functions of a network, without weights; keywords as of `onet.make_model`. Raises InputError for an unknown name."""
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, decoder=('simple',))
    module, trained = (
        EncoderDecoder(ENCODERS[encoder].build(k), VoxelDecoder(decoder_hidden_size, k.dtype), ENCODERS[encoder].reads)
        for k in (SimpleNamespace(**keywords, dtype=dtype) for dtype in (None, train_dtype))
    )
    init, encode, decode = functions_of(module)
    return VoxelNetwork(init, encode, decode, Compiled(occupancy_at, decode), partial(loss_of, trained, cross_entropy))


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are voxels at the threshold of `config.eval`."""
    model = make_model(**keywords_of(config, make_model))
    check_inputs(config, ENCODERS[config.model.encoder].reads)
    level = threshold_to_logit(mesh_settings(config)['threshold'])

    def init(key, batch):
        return model.init(key, *batch['inputs'].values())

    def loss(variables, batch, key, axis_name):
        return model.loss(variables, batch['targets']['voxels'], *batch['inputs'].values(), axis_name)

    def validation_metrics(params, batch):
        """The loss, the IoU of the voxels, and the IoU on labelled points, each looked up in its voxel."""
        targets, cond = batch['targets'], model.encode(params, *batch['inputs'].values())
        logits, voxels = model.voxels(params, cond), targets['voxels'] >= 0.5
        inside = model.occupancy(params, targets['points'], cond) >= level
        flat = (len(logits), -1)
        return {
            'iou': metrics.iou(inside, targets['occ'] >= 0.5),
            'iou_voxels': metrics.iou((logits >= level).reshape(flat), voxels.reshape(flat)),
            'loss': cross_entropy(logits, targets['voxels']),
        }

    def predict(params, inputs, key, workspace=None):
        logits = np.asarray(model.voxels(params, model.encode(params, *inputs.values())))
        return [Voxels(grid >= level, np.zeros(3), 1.0) for grid in logits]

    signatures = {
        **signatures_of(config, 'voxels', returns=('logits',)),
        'occupancy': Signature({'points': POINTS, 'cond': None}, ('logits',)),
    }
    return Method(init, loss, validation_metrics, predict, model, signatures=signatures)
