"""Occupancy Flow (Niemeyer et al., ICCV 2019): the occupancy of a shape at time 0, and a velocity field that moves its points.

A point at time t is pulled back to time 0 along dp/ds = v(p, s; motion code), where an Occupancy Network decides whether it is
inside. A mesh is extracted once, and its vertices move forwards: faces never change, and correspondences come for free. The
loss needs occupancies at any two times; trajectories of surface points are optional.

B batch, L frames, T points, S times in [0, 1], P points of a cloud, C condition, Z latent. Two codes belong to a sequence, of
its shape and of its motion: cond = (shape [B, C], motion [B, C]), latent = (shape [B, Z], motion [B, Z]).
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax import losses, metrics
from onet_jax.data.fields import check_inputs, input_names
from onet_jax.errors import InputError
from onet_jax.geometry.ode import Solver, check_solver
from onet_jax.geometry.sequences import CloudSequence
from onet_jax.models import occupancy
from onet_jax.models.method import (
    POINTS,
    Aux,
    Compiled,
    Encoder,
    Method,
    Signature,
    apply,
    check_names,
    encode,
    keywords_of,
)
from onet_jax.models.occupancy import as_points, decode_meshes, in_chunks, mesh_settings
from onet_jax.models.velocity_field import (
    Flow,
    FlowModule,
    Solved,
    backwards,
    find_velocity,
    forwards,
    interpolate,
    move_mesh,
    pull_back,
)
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder, VelocityField
from onet_jax.networks.encoders.image import ResNet
from onet_jax.networks.encoders.latent import LatentPointnet
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.sequences import FirstFrame, JoinedFrames, TwoStreamPointnet, VideoEncoder


def _pointnet(k: SimpleNamespace, residual: bool = True) -> nn.Module:
    return Pointnet(k.cond_size, k.encoder_hidden_size, residual, k.dtype)


# Official names -> the encoder of the shape, which sees frame 0 of the inputs, and that of the motion, which sees all.
ENCODERS: dict[str, Callable] = {
    'none': lambda k: None,
    'pointnet_resnet': lambda k: FirstFrame(_pointnet(k)),
    'pointnet_simple': lambda k: FirstFrame(_pointnet(k, residual=False)),
    'resnet18': lambda k: FirstFrame(ResNet(k.cond_size, 18, k.dtype)),
}
MOTION_ENCODERS = {
    'none': Encoder('none', lambda k: None),
    'pointnet_resnet': Encoder('clip', lambda k: JoinedFrames(_pointnet(k))),
    'pointnet_2stream': Encoder('end_clouds', lambda k: TwoStreamPointnet(k.cond_size, k.encoder_hidden_size, k.dtype)),
    'conv_3D': Encoder('image_clip', lambda k: VideoEncoder(k.cond_size, k.encoder_hidden_size, k.dtype)),
}
VALIDATED_POINTS = 2048  # of a frame, in the IoU of validation
KL_WEIGHT = 1e-4  # of the divergence, which is a mean over the dimensions, as are the other terms over points


class FlowNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, inputs [B, ...], clip [B, L, P, 3] or None, of the posterior) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond
    # (params, points [B, T, 3], times [S] rising, cond, latent=None, *, backward=False) -> [B, S, T, 3]: where points of time 0
    # are at the times; backward, where points of time 1 are at 1 - times
    advect: Callable
    pull_back: (
        Callable  # (params, points [B, T, 3], time [B], cond, latent=None) -> [B, T, 3], where they were at time 0
    )
    # (params, start [B, T, 3], end [B, T, 3], num_times, cond, latent=None) -> [B, S, T, 3], see `interpolate`
    interpolate: Callable
    occupancy: Callable  # (params, points [B, T, 3], cond, latent=None) -> logits [B, T] at time 0
    occupancy_at: Callable  # (params, points [B, T, 3], time [B], cond, latent=None) -> logits [B, T]
    velocity: (
        Callable  # (params, points [B, T, 3], time [B], cond, latent=None) -> [B, T, 3], per duration of the sequence
    )
    bind: Callable  # (params, cond, latent=None), of one sequence -> field at time 0, points [T, 3] -> logits [T]
    prior: Callable  # (key, rows [B] int) -> latent, each row from its own key
    posterior: Callable  # (params, clip [B, L, P, 3], cond) -> (mean, log_std), each as latent
    loss: Callable  # (params, targets, inputs, key=None, rows=None, axis_name=None) -> (scalar, Aux), see `flow_loss`
    latent_size: int  # Z; 0 is no latent codes


def _init(flow, key, inputs, clip=None):
    return flow.module.init(key, inputs, clip)


def _posterior(flow, params, clip, cond):
    return apply(flow.module, params, clip, cond, method='posterior')


def _occupancy(flow, params, points, cond, latent=None):
    points, _ = as_points(points, cond=cond, latent=latent)
    return in_chunks(lambda chunk: apply(flow.module, params, chunk, cond, latent, method='decode'), points)


def _velocity(flow, params, points, time, cond, latent=None):
    points, _ = as_points(points, time=time, cond=cond, latent=latent)
    return in_chunks(lambda chunk: find_velocity(flow, params, chunk, time, cond, latent), points)


def flow_loss(
    flow: Flow,
    backward: bool,
    params: dict,
    targets: dict,
    inputs: jax.Array,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The loss of the paper (eq. 6 to 8), the sum of a term for each kind of targets that there is, and running statistics.

    'points' [B, T, 3], 'occ' [B, T]            cross-entropy at time 0, in nats, the mean over the points
    'later_points', 'later_occ', 'time' [B]     the same at one time of each sequence
    'trajectories' [B, L, M, 3]                 how far points of frame 0 end from where they should be in the other frames,
                                                the mean of distances; backward: also from the last frame back, with all
                                                frames in both means, as in the official interpolation
    'clip' [B, L, P, 3]                         of the posterior; the divergence of its codes from N(0, 1), the mean over the
                                                dimensions, times `KL_WEIGHT`

    key, rows, axis_name: as of `occupancy.negative_elbo`.
    """
    module = flow.module
    mode: dict[str, Any] = {'train': True, 'axis_name': axis_name}
    rows = jnp.arange(len(inputs)) if rows is None else rows
    cond, mutated = module.apply(params, inputs, **mode, mutable=['batch_stats'], method='encode')
    latent, terms = None, {}
    if module.encoder_latent is not None:
        if key is None:
            raise InputError('loss: expected a key for the noise of the latent codes, found None')
        means, log_stds = module.apply(params, targets['clip'], cond, method='posterior')
        noise = _prior(means[0].shape[-1], key, rows)
        latent = jax.tree.map(lambda mean, log_std, noise: mean + jnp.exp(log_std) * noise, means, log_stds, noise)
        divergence = jax.tree.map(losses.kl_to_standard_normal, means, log_stds)
        terms['kl'] = KL_WEIGHT * sum(d.mean() for d in divergence)

    def cross_entropy(points, occ):
        nonlocal mutated
        variables = {**params, **mutated}
        logits, mutated = module.apply(
            variables, points, cond, latent, **mode, mutable=['batch_stats'], method='decode'
        )
        return losses.occupancy_bce(logits, occ).mean()

    if 'points' in targets:
        terms['reconstruction'] = cross_entropy(targets['points'], targets['occ'])
    if 'later_points' in targets:
        path = pull_back(flow, params, targets['later_points'], targets['time'], cond, latent)
        terms['later_reconstruction'] = cross_entropy(path.points, targets['later_occ'])
    if 'trajectories' in targets:
        true = targets['trajectories']
        times = jnp.linspace(0, 1, true.shape[1], dtype=true.dtype)
        first = 0 if backward else 1
        forward = forwards(flow, params, true[:, 0], times[first:], cond, latent).points
        terms['correspondence'] = losses.distances(forward, true[:, first:]).mean()
        if backward:
            back = backwards(flow, params, true[:, -1], times, cond, latent).points[:, ::-1]
            terms['correspondence'] += losses.distances(back, true).mean()
    return sum(terms.values()), Aux(mutated, terms)


def _prior(latent_size, key, rows):
    return tuple(
        jax.vmap(lambda row, k=k: jax.random.normal(jax.random.fold_in(k, row), (latent_size,)))(rows)
        for k in jax.random.split(key)
    )


def make_model(
    *,
    encoder: str = 'pointnet_resnet',
    encoder_temporal: str = 'pointnet_resnet',
    decoder: str = 'cbatchnorm',
    cond_size: int = 128,
    encoder_hidden_size: int = 128,
    decoder_hidden_size: int = 256,
    velocity_hidden_size: int = 128,
    velocity_blocks: int = 5,
    latent_size: int = 0,
    leaky: bool = False,
    backward: bool = False,
    rtol: float = 1e-3,
    atol: float = 1e-5,
    max_steps: int = 128,
    adjoint: str = 'backpropagation',
    shared_steps: bool = False,
    train_dtype: jnp.dtype | None = None,
) -> FlowNetwork:
    """The functions of a network, without weights.

    encoder, encoder_temporal, decoder    official names, of `ENCODERS`, `MOTION_ENCODERS` and `DECODER_OPTIONS`; decoder 'none'
                                          is a network of correspondences alone
    cond_size                             C of both codes
    encoder_hidden_size                   width of PointNets, and of the first convolution of videos
    decoder_hidden_size                   width of the decoder
    velocity_hidden_size, velocity_blocks   width of the velocity field, and its number of ResNet blocks
    latent_size                           Z of both latent codes; 0 is a network without
    leaky                                 leaky ReLU (slope 0.2) as the last activation of decoder and velocity field
    backward                              trajectories also from the last frame back (see `flow_loss`)
    rtol, atol, max_steps, adjoint        of `geometry/ode.py`, `Solver`
    shared_steps                          see `Flow`; the official code shares them
    train_dtype                           mixed precision: type of the features of encoders and decoder in the loss

    Raises InputError for an unknown name.
    """
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, encoder_temporal=MOTION_ENCODERS, decoder=('none', *DECODER_OPTIONS))
    solver = Solver(rtol, atol, max_steps, adjoint)
    check_solver(solver)

    def build_flow(dtype):
        k = SimpleNamespace(**keywords, dtype=dtype)
        options = {'leaky': leaky, 'dtype': dtype, **DECODER_OPTIONS.get(decoder, {})}
        posteriors = [
            LatentPointnet(latent_size, encoder_hidden_size, dtype) if latent_size else None for _ in range(2)
        ]
        module = FlowModule(
            vector_field=VelocityField(velocity_hidden_size, velocity_blocks, leaky),
            decoder=None if decoder == 'none' else Decoder(decoder_hidden_size, latent_size, **options),
            encoder=ENCODERS[encoder](k),
            encoder_temporal=MOTION_ENCODERS[encoder_temporal].build(k),
            encoder_latent=posteriors[0] and FirstFrame(posteriors[0]),
            encoder_latent_temporal=posteriors[1] and JoinedFrames(posteriors[1]),
            reads=MOTION_ENCODERS[encoder_temporal].reads,
        )
        return Flow(module, solver, shared_steps)

    return flow_network(build_flow(None), partial(flow_loss, build_flow(train_dtype), backward), latent_size)


def flow_network(flow: Flow, loss: Callable, latent_size: int) -> FlowNetwork:
    """The functions of a network."""
    move, move_back, move_to_start = (Solved(function, flow) for function in (forwards, backwards, pull_back))

    def advect(params, points, times, cond, latent=None, *, backward=False, **options):
        return (move_back if backward else move)(params, points, times, cond, latent, **options)

    def occupancy_at(params, points, time, cond, latent=None):
        return occupied(params, move_to_start(params, points, time, cond, latent), cond, latent)

    def bind(params, cond, latent=None):
        return occupancy.bind_field(flow.module, params, cond[0], None if latent is None else latent[0])

    occupied = Compiled(_occupancy, flow)
    return FlowNetwork(
        init=Compiled(_init, flow),
        encode=partial(encode, flow.module),
        advect=advect,
        pull_back=move_to_start,
        interpolate=partial(interpolate, advect),
        occupancy=occupied,
        occupancy_at=occupancy_at,
        velocity=Compiled(_velocity, flow),
        bind=bind,
        prior=partial(_prior, latent_size),
        posterior=Compiled(_posterior, flow),
        loss=loss,
        latent_size=latent_size,
    )


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are meshes that move, or points where the network has no decoder."""
    model = make_model(**keywords_of(config, make_model))
    check_clips(config, MOTION_ENCODERS[config.model.encoder_temporal])
    has_decoder, times = config.model.decoder != 'none', np.linspace(0, 1, config.data.num_frames, dtype=np.float32)
    settings = mesh_settings(config) if has_decoder else {}

    def init(key, batch):
        (inputs,) = batch['inputs'].values()
        return model.init(key, inputs, batch['targets'].get('clip'))

    def loss(variables, batch, key, axis_name):
        (inputs,) = batch['inputs'].values()
        return model.loss(variables, batch['targets'], inputs, key, batch['row'], axis_name)

    def validation_metrics(params, batch):
        """IoU, and correspondence L2: the mean distance of points of frame 0 from where they should be; means over times."""
        (inputs,), targets, found = batch['inputs'].values(), batch['targets'], {}
        cond = model.encode(params, inputs)
        if has_decoder and 'points' in targets:
            found['iou'] = mean_iou(
                model,
                params,
                times,
                config.eval.threshold,
                cond,
                targets['points'][:, :, :VALIDATED_POINTS],
                targets['occ'],
            )
        if 'trajectories' in targets:
            true = targets['trajectories'][:, :, : config.data.num_trajectories]
            if config.model.backward:
                moved = model.interpolate(params, true[:, 0], true[:, -1], len(times), cond)
            else:
                moved = model.advect(params, true[:, 0], times, cond)
            found['correspondence_l2'] = losses.distances(moved, true).mean(axis=(1, 2))
        return found

    def predict(params, inputs, key, workspace=None):
        (values,) = inputs.values()
        cond = model.encode(params, values)
        latent = model.prior(key, jnp.arange(len(values))) if config.eval.get('sample') else None
        if has_decoder:
            seeds = np.asarray(inputs['clip'][:, 0]) if 'clip' in inputs else None
            meshes = decode_meshes(model, params, cond, latent, seeds, **settings)
            return [move_mesh(model, params, times, mesh, *code_of(cond, latent, b)) for b, mesh in enumerate(meshes)]
        if config.model.backward:
            points = model.interpolate(params, values[:, 0], values[:, -1], len(times), cond)
        else:
            points = model.advect(params, values[:, 0], times, cond)
        return [CloudSequence(moved) for moved in np.asarray(points)]

    latent = {'latent': (('B', model.latent_size),) * 2} if model.latent_size else {}
    occupied = Signature({'points': POINTS, 'cond': None, **latent}, ('logits',))
    signatures = {
        'encode': Signature(dict.fromkeys(input_names(config.data)), ('cond',)),
        **({'occupancy': occupied} if has_decoder else {}),
        'velocity': Signature({'points': POINTS, 'time': ('B',), 'cond': None, **latent}, ('velocity',)),
    }
    return Method(init, loss, validation_metrics, predict, model, signatures=signatures)


def check_clips(config: ConfigDict, encoder: Encoder) -> None:
    """Raises InputError unless the encoder reads the inputs of the config, and the points of clips correspond."""
    check_inputs(config, encoder.reads)
    if 'clip' in (*input_names(config.data), *config.data.targets) and not config.data.corresponding:
        raise InputError(
            'config.data.corresponding: expected True, for the encoder of clips sees the way of each point through all '
            'frames, found False; those of the first and the last cloud need no correspondence'
        )


def code_of(cond: tuple, latent: tuple | None, b: int) -> tuple:
    """cond and latent of sequence b of a batch, with a batch of 1."""
    return jax.tree.map(lambda array: array[b : b + 1], (cond, latent))


def mean_iou(
    model: FlowNetwork,
    params: dict,
    times: np.ndarray,
    threshold: float,
    cond: tuple,
    points: jax.Array,
    occ: jax.Array,
) -> jax.Array:
    """points [B, L, T, 3], occ [B, L, more than T] -> the IoU of each sequence, the mean over its times [B]."""

    def iou(frame):
        time, points, occ = frame
        logits = model.occupancy_at(params, points, jnp.full(len(points), time), cond)
        return metrics.iou(jax.nn.sigmoid(logits) > threshold, occ >= 0.5)

    frames = (jnp.asarray(times), jnp.moveaxis(points, 1, 0), jnp.moveaxis(occ, 1, 0)[:, :, : points.shape[2]])
    return jax.lax.map(iou, frames).mean(axis=0)
