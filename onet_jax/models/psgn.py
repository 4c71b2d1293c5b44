"""PSGN, the Point Set Generation Network (Fan et al., CVPR 2017): encoder, and decoder to a set of 1,024 points.

As the baseline in the paper of Occupancy Networks: in object coordinates, with any of their encoders.

B batch, N predicted points, M surface samples, C condition.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import losses
from onet_jax.data.fields import check_inputs
from onet_jax.errors import InputError
from onet_jax.models import onet
from onet_jax.models.encoder_decoder import EncoderDecoder, functions_of, loss_of, signatures_of
from onet_jax.models.method import Encoder, Method, check_names, keywords_of
from onet_jax.networks.psgn import HourglassEncoder, PointSetDecoder, TwoBranchDecoder

ENCODERS = onet.ENCODERS | {'psgn_cond': Encoder('image', lambda k: HourglassEncoder(k.cond_size, k.dtype))}
DECODERS = {
    'simple': lambda k: PointSetDecoder(k.decoder_hidden_size, k.dtype),
    'psgn_2branch': lambda k: TwoBranchDecoder(k.cond_size, k.dtype),
}


class PointSetNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, inputs [B, ...]) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond [B, C], or a tree of [B, ...]
    points: Callable  # (params, cond) -> points [B, N, 3] in object coordinates
    loss: Callable  # (params, surface [B, M, 3], inputs [B, ...], axis_name=None) -> (scalar, Aux)


def make_model(
    *,
    encoder: str = 'resnet18',
    decoder: str = 'simple',
    cond_size: int = 256,
    encoder_hidden_size: int = 512,
    decoder_hidden_size: int = 512,
    train_dtype: jnp.dtype | None = None,
) -> PointSetNetwork:
    """The functions of a network, without weights; keywords as of `onet.make_model`.

    The decoder 'psgn_2branch' goes with the encoder 'psgn_cond' only. Raises InputError for an unknown name, and for two that
    do not go together.
    """
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, decoder=DECODERS)
    if (encoder == 'psgn_cond') != (decoder == 'psgn_2branch'):
        raise InputError(
            "config.model.decoder: expected 'psgn_2branch' with the encoder 'psgn_cond' and no other, "
            f'found {decoder!r} with {encoder!r}'
        )

    def build_module(dtype):
        k = SimpleNamespace(**keywords, dtype=dtype)
        return EncoderDecoder(ENCODERS[encoder].build(k), DECODERS[decoder](k), ENCODERS[encoder].reads)

    functions = functions_of(build_module(None))
    return PointSetNetwork(*functions, partial(loss_of, build_module(train_dtype), losses.chamfer_distance))


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are point clouds."""
    model = make_model(**keywords_of(config, make_model))
    check_inputs(config, ENCODERS[config.model.encoder].reads)

    def init(key, batch):
        return model.init(key, *batch['inputs'].values())

    def loss(variables, batch, key, axis_name):
        return model.loss(variables, batch['targets']['surface'], *batch['inputs'].values(), axis_name)

    def predict_points(params, inputs):
        return model.points(params, model.encode(params, *inputs.values()))

    def validation_metrics(params, batch):
        """The Chamfer distance of the loss, to all surface samples."""
        return {
            'chamfer': losses.chamfer_distance(predict_points(params, batch['inputs']), batch['targets']['surface'])
        }

    def predict(params, inputs, key, workspace=None):
        return [trimesh.PointCloud(points) for points in np.asarray(predict_points(params, inputs))]

    return Method(init, loss, validation_metrics, predict, model, signatures=signatures_of(config, 'points'))
