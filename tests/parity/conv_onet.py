"""Convolutional Occupancy Networks beside the official ones: U-Nets, encoders, decoders, whole networks, sliding windows."""

import ast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onet_jax import losses
from onet_jax.convert import official
from onet_jax.convert.names import LOCAL, layouts_of
from onet_jax.models.conv_onet import make_modules
from onet_jax.models.method import keywords_of
from onet_jax.networks.feature_planes import LocalDecoder
from onet_jax.networks.pointnet_plus_plus import BALL_RADII, GROUP_SIZES, gather, query_ball, sample_farthest
from onet_jax.networks.sliding_window import find_window_cells
from onet_jax.networks.unets import UNet, UNet3D
from parity.deviation import Deviations, compare, compare_by_name
from parity.golden import parameters, read_golden, under
from parity.modules import load_bare
from parity.settings import load_weights, make_config
from parity.steps import gradients, two_steps


def conv_deviations(name: str, data: dict, dtype) -> Deviations:
    """conv/conv_onet/*, by the first word of the name."""
    kinds = {'unet': unet, 'unet3d': unet, 'enc': encoder, 'dec': decoder, 'model': model}
    if name.startswith('model_crop'):
        return crop_model(data, dtype, 'out64' if dtype == np.float64 else 'out')
    return kinds[name.split('_')[0]](data, dtype, 'out64' if dtype == np.float64 else 'out')


def unet(data: dict, dtype, out: str) -> Deviations:
    """unet*: outputs, loss and gradients."""
    cfg = ast.literal_eval(str(data['meta/cfg']))
    if 'depth' in cfg:
        module = UNet(cfg['num_classes'], cfg['depth'], cfg['start_filts'], cfg['merge_mode'] == 'add')
    else:
        module = UNet3D(cfg['out_channels'], cfg['num_levels'], cfg['f_maps'])
    x, weights = (jnp.moveaxis(jnp.asarray(data[f'in/{key}'], dtype), 1, -1) for key in 'xw')
    net = load_bare(module, LOCAL, under(data, 'param/'), dtype, x)

    def loss(trainable, x):
        y = module.apply({'params': trainable}, x)
        return (y * weights).mean(), y

    (value, y), (by_weights, by_x) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        net.variables['params'], x
    )
    return {
        'outputs': compare((jnp.moveaxis(y, -1, 1), data[f'{out}/y'])),
        'loss': compare((value, data[f'{out}/loss'])),
        'gradient of the input': compare((jnp.moveaxis(by_x, -1, 1), data['out/grad_in/x'])),
        **gradients(net.by_name('params', by_weights), data, ''),
    }


def encoder(data: dict, dtype, out: str) -> Deviations:
    """enc_*: feature maps."""
    cfg = ast.literal_eval(str(data['meta/cfg']))
    inputs = jnp.asarray(data['in/inputs'], dtype)
    config = make_config(
        'conv_onet',
        {'encoder': cfg['encoder'], 'decoder': 'simple_local', 'c_dim': cfg['c_dim'], 'encoder_kwargs': cfg},
    )
    module = make_modules(**keywords_of(config, make_modules))[0].encoder
    module = module.clone(kernel_size=cfg['kernel_size']) if 'kernel_size' in cfg else module
    found, _ = load_bare(module, LOCAL, under(data, 'param/'), dtype, inputs).run(inputs)
    expected = under(data, f'{out}/feature/')
    if set(found) != set(expected):
        raise ValueError(f'expected the maps {sorted(expected)}, found {sorted(found)}')
    return {'outputs': compare(*((jnp.moveaxis(found[name], -1, 1), expected[name]) for name in expected))}


def decoder(data: dict, dtype, out: str) -> Deviations:
    """dec_*: logits, loss and gradients."""
    cfg = ast.literal_eval(str(data['meta/cfg']))
    points, occ = (jnp.asarray(data[f'in/{key}'], dtype) for key in ('p', 'occ'))
    cond = {name: jnp.moveaxis(jnp.asarray(x, dtype), 1, -1) for name, x in under(data, 'in/c/').items()}
    nearest = cfg.get('sample_mode') == 'nearest'
    module = LocalDecoder(
        cfg['hidden_size'], cfg.get('leaky', False), cfg['n_blocks'], interpolation='nearest' if nearest else 'linear'
    )
    net = load_bare(module, LOCAL, under(data, 'param/'), dtype, points, cond)

    def loss(trainable, points, cond):
        logits = module.apply({'params': trainable}, points, cond)
        return losses.occupancy_bce(logits, occ).sum(axis=1).mean(), logits

    (value, logits), (by_weights, by_points, by_cond) = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
    )(net.variables['params'], points, cond)
    by_map = [(jnp.moveaxis(by_cond[name], -1, 1), data[f'{out}/grad_in/c/{name}']) for name in cond]
    bound = module.bind_shape(
        {'params': net.variables['params']}, {name: x[0] for name, x in cond.items()}, dtype=dtype
    )
    return {
        'logits': compare((logits, data[f'{out}/logits']), (bound(points[0]), data[f'{out}/logits'][0])),
        'loss': compare((value, data[f'{out}/loss'])),
        'input gradients': compare((by_points, data[f'{out}/grad_in/p']), *by_map),
        'gradients': compare_by_name(net.by_name('params', by_weights), under(data, 'out/grad/')),
    }


def model(data: dict, dtype, out: str) -> Deviations:
    """model_*: logits, loss, gradients and, where they are there, two steps of Adam with the statistics after them, always
    against the float64 run."""
    state = parameters(data)
    config = make_config('conv_onet', ast.literal_eval(str(data['meta/cfg']))['model'])
    method, params = load_weights(state, config, dtype)
    (field,) = config.data.inputs

    def batch(number):
        arrays = {key: jnp.asarray(x, dtype) for key, x in under(data, f'in/batch{number}/').items()}
        targets = {'points': arrays['points'], 'occ': arrays['points.occ']}
        return {'inputs': {field: arrays['inputs']}, 'targets': targets, 'row': jnp.arange(len(arrays['points']))}

    first = batch(0)
    inputs = first['inputs'][field]
    logits = method.model.occupancy(params, first['targets']['points'], method.model.encode(params, inputs))
    deviations = {
        'logits': compare((logits, data[f'{out}/eval/logits'])),
        **two_steps(method, params, config, data, (first, batch(1)), dtype),
        'round trip': compare_by_name(official.to_state_dict(params, config), state),
    }
    if config.model.encoder == 'pointnet_plus_plus':
        deviations['chosen points'] = compare(*chosen_points(inputs, data))
    return deviations


def chosen_points(clouds: jax.Array, data: dict) -> list[tuple]:
    """What PointNet++ makes groups of, found and expected."""
    pairs, places = [], clouds
    for radius, size, num_centres in zip(BALL_RADII, GROUP_SIZES, (512, 128), strict=True):
        chosen = jax.vmap(lambda x, count=num_centres: sample_farthest(x, count))(places)
        centres = gather(places, chosen)
        near = jax.vmap(lambda a, b, r=radius, k=size: query_ball(a, b, r, k))(centres, places)
        pairs += [(chosen, data[f'out/fps{num_centres}']), (near, data[f'out/ball{size}'])]
        places = centres
    return pairs


def crop_model(data: dict, dtype, out: str) -> Deviations:
    """model_crop_*: cells, logits, loss, gradients and the losses of two steps of Adam, in windows of the official loader."""
    cfg, state = ast.literal_eval(str(data['meta/cfg'])), under(data, 'param/')
    config = make_config('conv_onet', {**cfg['data'], **cfg['model']})
    _, params = load_weights(state, config, dtype)
    _, module = make_modules(**keywords_of(config, make_modules))
    unit, num_cells, layouts = config.model.unit_size, module.encoder.num_cells, layouts_of(config, False)
    raw = read_golden('conv/conv_onet/crop_inputs.npz')

    def batch(number):
        arrays = under(data, f'in/batch{number}/')
        inputs = jnp.asarray(arrays['inputs'], dtype)
        # Of cells and of queries the official code gives the places, rounded to float32: for each the corner that makes it so.
        cells = np.stack(
            np.unravel_index(arrays['inputs.ind/grid'][:, 0], (num_cells + 1,) + (num_cells,) * 2)[::-1], axis=-1
        )
        low = inputs - (jnp.asarray(cells, dtype) + 0.5) * unit
        points = jnp.asarray(arrays['points'], dtype)
        corner = points - jnp.asarray(arrays['points.normalized/grid'], dtype) * unit * num_cells
        return inputs, low, points, corner, jnp.asarray(arrays['points.occ'], dtype)

    def forward(trainable, inputs, low, points, corner, occ):
        variables = {'params': trainable}
        cond = module.apply(variables, inputs, low, method=lambda m, x, low: m.encoder(x, low))
        logits = module.apply(variables, points, {**cond, 'low': corner}, method='decode')
        return losses.occupancy_bce(logits, occ).sum(axis=1).mean(), logits

    def cells(number):
        arrays, low = under(data, f'in/batch{number}/'), raw[f'in/batch{number}/input_vol'][:, :1]
        # The loader moves points outside of the window to the origin, which may lie in it.
        inputs = np.where(arrays['inputs.mask'][..., None], np.float32(-1e3), arrays['inputs'])
        return find_window_cells(inputs, low, np.float32(unit), num_cells), arrays['inputs.ind/grid'][:, 0]

    gradient = jax.jit(jax.value_and_grad(forward, has_aux=True))
    (value, logits), by_weights = gradient(params['params'], *batch(0))
    tx = optax.adam(1e-4)
    updates, _ = tx.update(by_weights, tx.init(params['params']))
    (second, _), _ = gradient(optax.apply_updates(params['params'], updates), *batch(1))
    return {
        'cells': compare(cells(0), cells(1)),
        'logits': compare((logits, data[f'{out}/eval/logits'])),
        'loss': compare((value, data[f'{out}/train/loss'])),
        **gradients(official.write_weights({'params': by_weights}, layouts), data, 'train/'),
        'losses of 2 Adam steps': compare((jnp.stack([value, second]), data['out64/adam/losses'])),
        'round trip': compare_by_name(official.to_state_dict(params, config), state),
    }
