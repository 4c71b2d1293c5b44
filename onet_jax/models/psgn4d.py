"""PSGN 4D, a baseline of Occupancy Flow (Niemeyer et al., ICCV 2019): the Point Set Generation Network, of a clip.

Its decoder outputs the sets of points of all frames at once. Point n of each frame is meant to be the same place of the body;
only the loss with `correspondence` teaches that.

B batch, L frames, N predicted points, M surface points, C condition.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax import losses
from onet_jax.errors import InputError
from onet_jax.geometry.sequences import CloudSequence
from onet_jax.models.encoder_decoder import EncoderDecoder, functions_of, loss_of, signatures_of
from onet_jax.models.method import Method, check_names, keywords_of
from onet_jax.models.occupancy_flow import check_clips
from onet_jax.models.onet4d import ENCODERS
from onet_jax.networks.psgn import PointSetDecoder


class CloudSequenceNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, inputs [B, L, ...]) -> params
    encode: Callable  # (params, inputs [B, L, ...]) -> cond [B, C]
    points: Callable  # (params, cond [B, C]) -> points [B, L, N, 3] in object coordinates of frame 0
    loss: Callable  # (params, trajectories [B, L, M, 3], inputs [B, L, ...], axis_name=None) -> (scalar, Aux)


def frame_error(points: jax.Array, trajectories: jax.Array) -> jax.Array:
    """The squared Chamfer distance of points [B, L, N, 3] and [B, L, M, 3], the mean over the frames -> [B]."""
    frames = (x.reshape(-1, *x.shape[2:]) for x in (points, trajectories))
    return losses.chamfer_distance(*frames).reshape(points.shape[:2]).mean(axis=1)


def trajectory_error(points: jax.Array, trajectories: jax.Array) -> jax.Array:
    """The squared Chamfer distance of the paths of points [B, L, N, 3] and [B, L, M, 3], each path a point in 3 L dimensions
    -> [B]."""
    paths = (jnp.moveaxis(x, 1, 2).reshape(len(x), x.shape[2], -1) for x in (points, trajectories))
    return losses.chamfer_distance(*paths)


def make_model(
    *,
    encoder: str = 'pointnet_resnet',
    cond_size: int = 512,
    encoder_hidden_size: int = 512,
    decoder_hidden_size: int = 512,
    num_points: int = 1024,
    num_frames: int = 17,
    correspondence: bool = False,
    train_dtype: jnp.dtype | None = None,
) -> CloudSequenceNetwork:
    """The functions of a network, without weights; further keywords as of `onet4d.make_model`.

    num_points, num_frames   N, L
    correspondence           the loss is `trajectory_error` instead of `frame_error`

    Raises InputError for an unknown name.
    """
    keywords = locals()
    check_names(keywords, encoder=ENCODERS)

    def build_module(dtype):
        decoder = PointSetDecoder(decoder_hidden_size, dtype, (num_frames, num_points))
        return EncoderDecoder(
            ENCODERS[encoder].build(SimpleNamespace(**keywords, dtype=dtype)), decoder, ENCODERS[encoder].reads
        )

    error = trajectory_error if correspondence else frame_error
    return CloudSequenceNetwork(*functions_of(build_module(None)), partial(loss_of, build_module(train_dtype), error))


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are point clouds, one for each frame."""
    model = make_model(**keywords_of(config, make_model))
    check_clips(config, ENCODERS[config.model.encoder])
    if config.model.num_frames != config.data.num_frames:
        raise InputError(
            f'config.model.num_frames: expected config.data.num_frames = {config.data.num_frames}, '
            f'found {config.model.num_frames}'
        )
    error = trajectory_error if config.model.correspondence else frame_error

    def init(key, batch):
        return model.init(key, *batch['inputs'].values())

    def loss(variables, batch, key, axis_name):
        return model.loss(variables, batch['targets']['trajectories'], *batch['inputs'].values(), axis_name)

    def predict_points(params, inputs):
        return model.points(params, model.encode(params, *inputs.values()))

    def validation_metrics(params, batch):
        """The Chamfer distance of the frames, and the loss, to all surface points."""
        points, trajectories = predict_points(params, batch['inputs']), batch['targets']['trajectories']
        return {'chamfer': frame_error(points, trajectories), 'loss': error(points, trajectories)}

    def predict(params, inputs, key, workspace=None):
        return [CloudSequence(points) for points in np.asarray(predict_points(params, inputs))]

    return Method(init, loss, validation_metrics, predict, model, signatures=signatures_of(config, 'points'))
