"""Networks of sequences beside the official ones: encoders and decoders of Occupancy Flow, whole ONet 4D and PSGN 4D."""

import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax import configs, losses
from onet_jax.convert import names, official
from onet_jax.models import onet4d, psgn4d
from onet_jax.networks.encoders.latent import LatentEncoder, LatentPointnet
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.sequences import FirstFrame, JoinedFrames, TwoStreamPointnet, VideoEncoder
from parity.deviation import Deviations, compare, compare_by_name
from parity.golden import under
from parity.modules import load_bare, load_decoder

ENCODERS = {
    'spatial_pointnet_resnet': lambda sizes: Pointnet(*sizes),
    'spatial_pointnet_simple': lambda sizes: Pointnet(*sizes, residual=False),
    'temporal_pointnet_resnet': lambda sizes: JoinedFrames(Pointnet(*sizes)),
    'temporal_pointnet_first_only': lambda sizes: FirstFrame(Pointnet(*sizes)),
    'temporal_pointnet_2stream': lambda sizes: TwoStreamPointnet(2 * sizes[0], sizes[1]),
    'temporal_conv_3d': lambda sizes: VideoEncoder(sizes[0], sizes[1] // 16),
    'temporal_conv_3d_17x40': lambda sizes: VideoEncoder(sizes[0], sizes[1] // 16),
    'latent_pointnet_dim3': lambda sizes: FirstFrame(LatentPointnet(*sizes)),
    'latent_pointnet_dim15': lambda sizes: JoinedFrames(LatentPointnet(*sizes)),
    'latent_pointnet_dim15_c': lambda sizes: JoinedFrames(LatentPointnet(*sizes)),
    'latent_simple': lambda sizes: LatentEncoder(*sizes),
    'latent_simple_c_leaky': lambda sizes: LatentEncoder(*sizes, leaky=True),
    'latent_simple_evalshape': lambda sizes: LatentEncoder(*sizes),
}


def encoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/encoders/*: outputs, and gradients of their sum, weighted. Pictures are [B, L, 3, H, W] there."""
    out, state, is_latent = 'out64' if dtype == np.float64 else 'out', under(data, 'param/'), name.startswith('latent')
    last = next(key for end in ('fc_mean', 'fc_out', 'fc_c') for key in state if key.endswith(f'{end}.weight'))
    module, layout = ENCODERS[name](state[last].shape), names.LISTS if is_latent else names.PLAIN
    inputs = [np.moveaxis(data['in/x'], 2, -1) if 'conv_3d' in name else data['in/x']]
    if name.startswith('latent_simple'):
        inputs = [data['in/points'], data['in/occ']]
        if inputs[0].ndim == 4:  # labelled points of several frames
            inputs = [array[:, 0] for array in inputs]
    if is_latent:
        inputs.append(data.get('in/c', np.zeros((len(inputs[0]), 0))))
    inputs = [jnp.asarray(array, dtype) for array in inputs]
    encoder, keys = load_bare(module, layout, state, dtype, *inputs), ('mean', 'logstd') if is_latent else ('y',)

    def weighted_sum(trainable):
        outputs = module.apply({'params': trainable}, *inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        weights = (jnp.asarray(data[f'in/w_{key}'], dtype) for key in keys)
        return sum((y * w).sum() for y, w in zip(outputs, weights, strict=True)), outputs

    (_, outputs), by_weights = jax.jit(jax.value_and_grad(weighted_sum, has_aux=True))(encoder.variables['params'])
    return {
        'outputs': compare(*((y, data[f'{out}/{key}']) for y, key in zip(outputs, keys, strict=True))),
        'gradients': compare_by_name(encoder.by_name('params', by_weights), under(data, 'out/grad/')),
    }


def cancelled(names: Iterable[str]) -> set[str]:
    """The biases that a normalisation with the statistics of the batch removes: their gradient is rounding noise."""
    return {name for name in names if re.fullmatch(r'(decoder\.)?(fc_p|fc_z|block\d\.fc_[01])\.bias', name)}


def decoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/decoders/*: logits, loss, gradients and statistics. Of ONet 4D the time is the last coordinate of a point."""
    out = 'out64' if dtype == np.float64 else 'out'
    points, cond, latent, occ = (jnp.asarray(data[f'in/{key}'], dtype) for key in ('p', 'c', 'z', 'occ'))
    times = jnp.asarray(data.get('in/t', np.zeros((len(points), 0))), dtype)[:, None]
    num_dims = points.shape[-1] + times.shape[-1]
    decoder = load_decoder(name.split('_', 1)[1], data, dtype, cond.shape[1], latent.shape[1], num_dims)

    def loss(trainable, points, train):
        joined = jnp.concatenate([points, jnp.broadcast_to(times, (*points.shape[:2], times.shape[-1]))], axis=-1)
        logits, updated = decoder.module.apply(
            {**decoder.variables, 'params': trainable}, joined, cond, latent, train=train, mutable=['batch_stats']
        )
        return losses.occupancy_bce(logits, occ).mean(), (logits, updated)

    # Operation by operation: all decoders share most of what that compiles.
    deviations, gradients_of = {}, jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    for mode in ('eval', 'train'):
        (value, (logits, updated)), (by_weights, by_points) = gradients_of(
            decoder.variables['params'], points, mode == 'train'
        )
        expected = under(data, f'{out}/{mode}/')
        deviations[f'logits, {mode}'] = compare((logits, expected['logits']))
        deviations[f'loss, {mode}'] = compare((value, expected['loss_mean']))
        deviations[f'input gradients, {mode}'] = compare((by_points, expected['grad_in/p']))
    found, expected = decoder.by_name('params', by_weights), under(data, 'out/train/grad/')
    deviations['gradients'] = compare_by_name(found, expected, cancelled(expected) if updated else set())
    if updated:
        statistics = decoder.by_name('batch_stats', updated['batch_stats'])
        deviations['statistics'] = compare_by_name(statistics, under(data, 'out/train/buffers/'))
    return deviations


PAPERS = {'onet4d': onet4d, 'psgn4d': psgn4d}


def sequence_config(paper: str, state: dict, num_frames: int) -> ConfigDict:
    """The config of a network in a file, from the shapes of its weights."""
    encoder = under(state, 'encoder.') or under(state, 'encoder_temporal.')
    cond_size, hidden_size = encoder['fc_c.weight'].shape
    config = getattr(configs, paper)()
    with config.unlocked():
        config.model.update(cond_size=cond_size, encoder_hidden_size=hidden_size)
        config.model.decoder_hidden_size = len(state['decoder.fc_p.bias' if paper == 'onet4d' else 'decoder.fc_0.bias'])
        config.data.num_frames = num_frames
        if paper == 'psgn4d':
            config.model.num_frames = num_frames
            config.model.num_points = len(state['decoder.fc_out.bias']) // (3 * num_frames)
    return config


def load_network(paper: str, data: dict, dtype) -> tuple:
    """The method of a file, its variables, its config and its inputs."""
    state, inputs = under(data, 'param/'), jnp.asarray(data['in/inputs'], dtype)
    config = sequence_config(paper, state, inputs.shape[1])
    method = PAPERS[paper].build(config)
    shapes = jax.eval_shape(method.model.init, jax.random.key(0), inputs)
    variables = official.from_state_dict(state, shapes, config)
    return method, jax.tree.map(lambda x: jnp.asarray(x, dtype), variables), config, inputs


def onet4d_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/onet4d/*: logits, loss, gradients and validation step."""
    out = 'out64' if dtype == np.float64 else 'out'
    method, variables, config, inputs = load_network('onet4d', data, dtype)
    model, names = method.model, ('points_t', 'points_t.occ', 'points_t.time', 'points_iou', 'points_iou.occ')
    points, occ, time, all_points, all_occ = (jnp.asarray(data[f'in/{name}'], dtype) for name in names)
    batch = {'inputs': {'clip': inputs}, 'targets': {'points': all_points, 'occ': all_occ}}

    @jax.jit
    def evaluate(variables):
        cond = model.encode(variables, inputs)
        trainable = variables['params']
        (value, _), by_weights = jax.value_and_grad(
            lambda params: model.loss({**variables, 'params': params}, points, occ, time, inputs), has_aux=True
        )(trainable)
        return model.occupancy_at(variables, points, time, cond), value, by_weights, method.metrics(variables, batch)

    logits, value, by_weights, values = evaluate(variables)
    gradients = under(data, 'out/train/grad/')
    found = official.to_state_dict({'params': by_weights}, config)
    return {
        'logits': compare((logits, data[f'{out}/eval/logits'])),
        'training loss': compare((value, data[f'{out}/train/loss'])),  # float32 in both runs
        'gradients': compare_by_name(found, gradients, cancelled(gradients)),
        'validation step': compare((values['iou'].mean(), data[f'{out}/eval_step/iou'])),
        'round trip': compare_by_name(official.to_state_dict(variables, config), under(data, 'param/')),
    }


def psgn4d_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/psgn4d/*: points, both losses and their gradients."""
    out = 'out64' if dtype == np.float64 else 'out'
    method, variables, config, inputs = load_network('psgn4d', data, dtype)
    trajectories, deviations = jnp.asarray(data['in/points_mesh'], dtype), {}
    points = method.model.points(variables, method.model.encode(variables, inputs))
    for run, correspondence in (('loss_chamfer', False), ('loss_corr', True)):
        with config.unlocked():
            config.model.correspondence = correspondence
        loss = PAPERS['psgn4d'].build(config).model.loss
        (value, _), by_weights = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables, trajectories, inputs)
        deviations[f'loss, {run}'] = compare((value, data[f'{out}/{run}/loss']))
        found = official.to_state_dict(by_weights, config)
        deviations[f'gradients, {run}'] = compare_by_name(found, under(data, f'out/{run}/grad/'))
    return {
        'points': compare((points, data[f'{out}/points'])),
        **deviations,
        'round trip': compare_by_name(official.to_state_dict(variables, config), under(data, 'param/')),
    }
