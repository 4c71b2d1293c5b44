"""ONet 4D, a baseline of Occupancy Flow (Niemeyer et al., ICCV 2019): f(point, time, code) -> occupancy.

The Occupancy Network of a clip, whose decoder takes the time as a fourth coordinate of a point. Meshes are extracted frame by
frame: they have neither faces in common nor correspondence.

B batch, L frames, T query points, P points of a cloud, C condition.
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
from onet_jax.data.fields import input_names
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.sequences import ChangingMeshes
from onet_jax.models import occupancy
from onet_jax.models.method import POINTS, Aux, Compiled, Method, Signature, apply, check_names, keywords_of
from onet_jax.models.occupancy import OccupancyModule, as_points, decode_meshes, in_chunks, mesh_settings
from onet_jax.models.occupancy_flow import MOTION_ENCODERS, check_clips
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder

# As `onet.ENCODERS`.
ENCODERS = {name: encoder for name, encoder in MOTION_ENCODERS.items() if name != 'none'}
SCALE = 1.5 / BOX  # of the extracted box, by that of a single shape: later frames leave the unit cube


class SpacetimeNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters. Time is in [0, 1]."""

    init: Callable  # (key, inputs [B, L, ...]) -> params
    encode: Callable  # (params, inputs [B, L, ...]) -> cond [B, C]
    occupancy_at: Callable  # (params, points [B, T, 3], time [B], cond [B, C]) -> logits [B, T]
    occupancy: Callable  # (params, points [B, T, 3], cond [B, C]) -> logits [B, T] at time 0
    # (params, cond [1, C], latent=None, time=0.0, scale=1.0) -> field of a moment, points / scale [T, 3] -> logits [T]
    bind: Callable
    # (params, points [B, T, 3], occ [B, T], time [B], inputs [B, L, ...], axis_name=None) -> (scalar, Aux)
    loss: Callable


def join_time(points: jax.Array, time: jax.Array) -> jax.Array:
    """points [B, T, 3] and time [B] -> [B, T, 4]."""
    time = jnp.broadcast_to(time[:, None, None], (*points.shape[:2], 1))
    return jnp.concatenate([points, time.astype(points.dtype)], axis=-1)


def slice_at(params: dict, time: float, scale: float = 1.0) -> dict:
    """The variables of the Occupancy Network that a moment is: the time becomes part of the bias of the first layer.

    scale: the network takes points / scale, so that the box of an extraction is so many times as large.
    """
    decoder = params['params']['decoder']
    kernel, bias = decoder['fc_p']['kernel'], decoder['fc_p']['bias']
    decoder = {**decoder, 'fc_p': {'kernel': scale * kernel[:3], 'bias': bias + time * kernel[3]}}
    return {**params, 'params': {**params['params'], 'decoder': decoder}}


def spacetime_loss(
    module: OccupancyModule,
    params: dict,
    points: jax.Array,
    occ: jax.Array,
    time: jax.Array,
    inputs: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The loss: the cross-entropy in nats, the mean over the points of one moment of each clip.

    points [B, T, 3], occ [B, T] in {0, 1}, time [B] in [0, 1], inputs [B, L, ...] -> the mean over the batch, and the updated
    running statistics. axis_name: of the devices that share the batch.
    """
    points, occ = as_points(points, occ, inputs=inputs, time=time)
    none = jnp.zeros((len(points), 0))
    (reconstruction, _), mutated = module.apply(
        params, join_time(points, time), occ, inputs, none, train=True, axis_name=axis_name, mutable=['batch_stats']
    )
    return reconstruction.mean() / points.shape[1], Aux(mutated, {})


def _init(module, key, inputs):
    points, none = jnp.zeros((len(inputs), 2, 4)), jnp.zeros((len(inputs), 0))
    return module.init(key, points, points[..., 0], inputs, none)


def _occupancy_at(module, params, points, time, cond):
    points, _ = as_points(points, time=time, cond=cond)
    return in_chunks(lambda chunk: apply(module, params, join_time(chunk, time), cond, method='decode'), points)


def _occupancy(occupancy, params, points, cond, latent=None):
    return occupancy(slice_at(params, 0.0), points, cond, latent)


def _bind(bind, params, cond, latent=None, time=0.0, scale=1.0):
    return bind(slice_at(params, time, scale), cond, latent)


def make_model(
    *,
    encoder: str = 'pointnet_resnet',
    decoder: str = 'cbatchnorm',
    cond_size: int = 512,
    encoder_hidden_size: int = 512,
    decoder_hidden_size: int = 256,
    train_dtype: jnp.dtype | None = None,
) -> SpacetimeNetwork:
    """The functions of a network, without weights; keywords as of `onet.make_model`, encoders of `ENCODERS` here.

    Raises InputError for an unknown name.
    """
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, decoder=DECODER_OPTIONS)

    def build_module(dtype):
        return OccupancyModule(
            decoder=Decoder(decoder_hidden_size, dtype=dtype, **DECODER_OPTIONS[decoder]),
            encoder=ENCODERS[encoder].build(SimpleNamespace(**keywords, dtype=dtype)),
            reads=ENCODERS[encoder].reads,
        )

    module = build_module(None)
    moment = occupancy.occupancy_network(module)
    return SpacetimeNetwork(
        init=Compiled(_init, module),
        encode=moment.encode,
        occupancy_at=Compiled(_occupancy_at, module),
        occupancy=partial(_occupancy, moment.occupancy),
        bind=partial(_bind, moment.bind),
        loss=partial(spacetime_loss, build_module(train_dtype)),
    )


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are meshes without correspondence."""
    model = make_model(**keywords_of(config, make_model))
    check_clips(config, ENCODERS[config.model.encoder])
    settings = mesh_settings(config)
    times = np.linspace(0, 1, config.data.num_frames, dtype=np.float32)

    def init(key, batch):
        return model.init(key, *batch['inputs'].values())

    def loss(variables, batch, key, axis_name):
        (inputs,), targets = batch['inputs'].values(), batch['targets']
        return model.loss(variables, targets['later_points'], targets['later_occ'], targets['time'], inputs, axis_name)

    def validation_metrics(params, batch):
        """IoU at the threshold and the loss, on all labelled points; means over the frames."""
        cond, targets = model.encode(params, *batch['inputs'].values()), batch['targets']

        def evaluate(frame):
            points, occ, time = frame
            logits = model.occupancy_at(params, points, jnp.full(len(points), time), cond)
            inside = jax.nn.sigmoid(logits) > settings['threshold']
            return metrics.iou(inside, occ >= 0.5), losses.occupancy_bce(logits, occ).mean(axis=1)

        points, occ = (jnp.moveaxis(targets[name], 1, 0) for name in ('points', 'occ'))
        ious, errors = jax.lax.map(evaluate, (points, occ, jnp.asarray(times)))  # [L, B]
        return {'iou': ious.mean(axis=0), 'loss': errors.mean(axis=0)}

    def predict(params, inputs, key, workspace=None):
        """The points of an input cloud are seeds of the extraction, as of an Occupancy Network."""
        (values,) = inputs.values()
        conds, frames = model.encode(params, values), []
        for k, time in enumerate(times):
            moment = model._replace(bind=partial(model.bind, time=time, scale=SCALE))
            seeds = np.asarray(values[:, k]) / SCALE if 'clip' in inputs else None
            meshes = decode_meshes(moment, params, conds, seeds=seeds, **settings)
            frames.append([mesh.apply_scale(SCALE) for mesh in meshes])
        return [ChangingMeshes(meshes) for meshes in zip(*frames, strict=True)]

    signatures = {
        'encode': Signature(dict.fromkeys(input_names(config.data)), ('cond',)),
        'occupancy_at': Signature({'points': POINTS, 'time': ('B',), 'cond': None}, ('logits',)),
    }
    return Method(init, loss, validation_metrics, predict, model, signatures=signatures)
