"""3D-R2N2 and PSGN beside the official ones: encoders, whole networks, validation, two steps of Adam."""

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.configs import psgn, r2n2
from onet_jax.convert import official
from onet_jax.convert.names import FAMILIES
from onet_jax.geometry.voxels import voxels_contain
from onet_jax.losses import chamfer_distance
from onet_jax.metrics import iou
from onet_jax.networks.r2n2 import R2N2Encoder
from parity.deviation import Deviations, compare, compare_by_name
from parity.golden import parameters, under
from parity.modules import load_bare
from parity.settings import load_weights
from parity.steps import gradients, two_steps


def encoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """conv/r2n2/enc_*: codes, loss and gradients."""
    out = 'out64' if dtype == np.float64 else 'out'
    images, weights = jnp.moveaxis(jnp.asarray(data['in/x'], dtype), 1, -1), jnp.asarray(data['in/w/y'], dtype)
    module, layout = R2N2Encoder(weights.shape[1], name.endswith('resnet')), FAMILIES['r2n2'].encoders['r2n2_simple']
    net = load_bare(module, layout, parameters(data), dtype, images)

    def loss(trainable, images):
        code = module.apply({'params': trainable}, images)
        return (code * weights).mean(), code

    (value, code), (by_weights, by_images) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        net.variables['params'], images
    )
    return {
        'outputs': compare((code, data[f'{out}/y'])),
        'loss': compare((value, data[f'{out}/L'])),
        'norms of input gradients': compare((jnp.linalg.norm(by_images), data['out64/gradnorm_in/x'])),
        **gradients(net.by_name('params', by_weights), data, ''),
    }


def make_config(name: str, state: dict) -> ConfigDict:
    """Of the network in a file, from the shapes of its weights."""
    config = {'model_pointnet': r2n2, 'model_simple': psgn, 'model_2branch_c64': psgn}[name](
        '2branch' if '2branch' in name else 'points'
    )
    with config.unlocked():
        if '2branch' in name:
            config.model.cond_size = len(state['encoder.conv_block7.0.bias'])
        else:
            config.model.cond_size, config.model.encoder_hidden_size = state['encoder.fc_c.weight'].shape
    return config


def model_deviations(name: str, data: dict, dtype) -> Deviations:
    """conv/r2n2/model_* and conv/psgn/model_*."""
    out, state = 'out64' if dtype == np.float64 else 'out', parameters(data)
    config = make_config(name, state)
    method, params = load_weights(state, config, dtype)

    def batch(number):
        arrays = under(data, f'in/batch{number}/')
        inputs = jnp.asarray(arrays['inputs'], dtype)
        targets = {'surface': arrays['pointcloud']} if 'pointcloud' in arrays else {'voxels': unpack(arrays['voxels'])}
        return {
            'inputs': {config.data.inputs[0]: jnp.moveaxis(inputs, 1, -1) if inputs.ndim == 4 else inputs},
            'targets': jax.tree.map(lambda x: jnp.asarray(x, dtype), targets),
            'row': jnp.arange(len(inputs)),
        }

    first = batch(0)
    outputs = r2n2_outputs if config.model.name == 'r2n2' else psgn_outputs
    return {
        **outputs(method, params, first['inputs'], data, out),
        **two_steps(method, params, config, data, (first, batch(1)), dtype),
        'round trip': compare_by_name(official.to_state_dict(params, config), state),
    }


def unpack(bits: np.ndarray) -> np.ndarray:
    """np.packbits of voxels [2, 32, 32, 32] -> {0, 1}."""
    return np.unpackbits(bits).reshape(2, 32, 32, 32)


def r2n2_outputs(method, params, inputs, data: dict, out: str) -> Deviations:
    """Codes, logits of voxels, and the IoUs of the official validation at both of its thresholds."""
    model, arrays = method.model, under(data, 'in/batch0/')
    points, occ = arrays['points_iou'], arrays['points_iou.occ'] >= 0.5

    @jax.jit  # one program, with one decoder in it
    def evaluate(params, points, inputs):
        cond = model.encode(params, *inputs.values())
        return cond, model.voxels(params, cond), model.occupancy(params, points, cond)

    dtype = jax.tree.leaves(params)[0].dtype
    cond, logits, looked_up = map(np.asarray, evaluate(params, jnp.asarray(points, dtype), inputs))
    ious = []
    for threshold in (0.4, 0.5):
        level = np.log(threshold) - np.log1p(-threshold)
        expected = under(data, f'{out}/eval_step_thr{threshold}/')
        inside = looked_up >= level
        np.testing.assert_array_equal(
            inside, [voxels_contain(g >= level, p) for g, p in zip(logits, points, strict=True)]
        )
        voxels = unpack(arrays['voxels']).reshape(2, -1) > 0
        found = iou((logits >= level).reshape(2, -1), voxels).mean(), iou(inside, occ).mean()
        ious += zip(found, (expected['iou_voxels'], expected['iou']), strict=True)
    pairs = {
        'out': (logits[:, None], data['out/eval/logits']),
        'out64': (logits.ravel()[::7], data.get('out64/eval/logits_stride7')),
    }
    return {
        'condition': compare((cond, data[f'{out}/eval/c'])),
        'voxels': compare(pairs[out]),
        'validation step': compare(*ious),
    }


def psgn_outputs(method, params, inputs, data: dict, out: str) -> Deviations:
    """Points, and of the network of point clouds the Chamfer distance of the official validation."""
    points = method.model.points(params, method.model.encode(params, *inputs.values()))
    expected = data[f'{out}/eval/points']  # in float64 some files have every eighth
    found = {'points': compare((points[:, :: points.shape[1] // expected.shape[1]], expected))}
    if f'{out}/eval_step/chamfer' in data:
        surface = jnp.asarray(data['in/batch0/pointcloud_chamfer'], points.dtype)
        distance = chamfer_distance(points, surface).mean()
        found['validation step'] = compare((distance, data[f'{out}/eval_step/chamfer']))
    return found
