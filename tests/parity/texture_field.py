"""Texture Fields beside the official code: encoders, decoders, unprojection, and the networks with their training steps.

There pixel i of N is at the left edge of ours, and cameras have y up and look along -z.
"""

import ast
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.configs import onet_points
from onet_jax.convert import names, official
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.views import unproject_depth
from onet_jax.models import adversarial, texture_field
from onet_jax.models.method import Method
from onet_jax.networks import texture
from onet_jax.networks.encoders.image import ResNet
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.texture import AppearanceEncoder, Discriminator, TextureDecoder, TextureModule, ViewUNet
from onet_jax.training.optim import make_optimizer
from parity.deviation import Deviations, compare, compare_by_name
from parity.golden import under
from parity.modules import load_bare
from parity.steps import last_gradients, start_training

LAYOUTS = {
    'decoder': names.TEXTURE,
    'encoder': names.RESNET,
    'vae_encoder': names.PICTURES,
    'discriminator': names.PICTURES,
}


def out_of(dtype) -> str:
    return 'out64' if dtype == np.float64 else 'out'


def last_axis(array: np.ndarray, dtype) -> jax.Array:
    """With the channels, which come second there, as the last axis."""
    return jnp.asarray(np.moveaxis(array, 1, -1), dtype)


def official_camera(world_mat: np.ndarray, camera_mat: np.ndarray, size: int) -> Camera:
    """Matrices [B, 3, 4] of the official code -> the camera of the same pixels of `size` px."""
    flip = np.diag([1.0, -1.0, -1.0])
    to_px = np.array([[size / 2, 0, 0.5], [0, -size / 2, size + 0.5], [0, 0, 1]])
    plane, focus = np.float64(camera_mat[:, :2, :3]), np.float64(camera_mat[:, 2, 2])
    intrinsic = np.zeros((len(world_mat), 3, 3))
    # There the image plane is (P (x, y) / z + b) / q with z < 0.
    intrinsic[:, :2, :2] = -plane[:, :, :2] * [1, -1] / focus[:, None, None]
    intrinsic[:, :2, 2] = plane[:, :, 2] / focus[:, None]
    intrinsic[:, 2, 2] = 1
    return Camera(flip @ np.float64(world_mat), to_px @ intrinsic)


def read_inputs(data: dict, prefix: str, dtype) -> tuple[dict, jax.Array]:
    """The inputs of a batch and its pictures, as training has them."""
    stored = under(data, f'in/{prefix}')
    depth = stored['2d.depth']
    camera = official_camera(stored['2d.world_mat'], stored['2d.camera_mat'], depth.shape[-1])
    arrays = {
        'oriented_cloud': np.moveaxis(np.concatenate([stored['pointcloud'], stored['pointcloud.normals']], 1), 1, 2),
        'view_depth': np.where(np.isfinite(depth), depth, 0),
        'view_world_mat': camera.world_mat[:, None],
        'view_camera_mat': camera.camera_mat[:, None],
    }
    if 'condition' in stored:
        arrays['image'] = np.moveaxis(stored['condition'], 1, -1)
    rgb = np.moveaxis(stored['2d.img'], 1, -1)[:, None]
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), (arrays, rgb))


def unprojection_deviations(name: str, data: dict, dtype) -> Deviations:
    """unprojection: the points of the pixels with depth, and which these are. The official camera algebra is in float32."""
    found = {}
    for end in ('', '_b'):
        depth, seen = data[f'in/depth{end}'][:, 0], data[f'out/mask{end}'][:, 0].swapaxes(1, 2) > 0
        camera = official_camera(data['in/world_mat'], data[f'in/camera_mat{end}'], depth.shape[-1])
        np.testing.assert_array_equal(np.isfinite(depth), seen)
        depth = np.where(seen, depth, 0)
        for kind, array in (('numpy', np.asarray), ('jax', partial(jnp.asarray, dtype=dtype))):
            points = np.asarray(unproject_depth(Camera(*map(array, camera)), array(depth)))
            expected = data.get(f'{out_of(dtype)}/loc3d{end}', data[f'out/loc3d{end}'])
            expected = np.moveaxis(expected, 1, -1).swapaxes(1, 2)
            found[f'unprojected, {kind}{end}'] = compare((points[seen], expected[seen]))
    return found


def weighted(
    module: nn.Module,
    layout: names.Layout,
    data: dict,
    dtype,
    *inputs: jax.Array,
    scale: Callable = lambda params: params,
) -> tuple:
    """The output of a module, and the gradients of its sum, weighted, by official names. scale: of its weights."""
    net = load_bare(module, layout, under(data, 'param/'), dtype, *inputs)
    weights = data['in/w']
    weights = last_axis(weights, dtype) if weights.ndim > 2 else jnp.asarray(weights, dtype)

    def total(trainable):
        y = module.apply({'params': scale(trainable)}, *inputs)
        return (y * weights).sum(), y

    (_, y), by_weights = jax.jit(jax.value_and_grad(total, has_aux=True))(net.variables['params'])
    return y, net.by_name('params', by_weights)


def equalise(params: dict) -> dict:
    """Weights with an equalised learning rate (Karras et al., ICLR 2018), an official option, are scaled in use."""
    return jax.tree.map(lambda x: x * np.sqrt(2 / len(x)) if x.ndim == 2 else x, params)


def decoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """decoder_*: colours and gradients."""
    cfg, points = ast.literal_eval(str(data['meta/cfg'])), last_axis(data['in/p'], dtype)
    codes = (jnp.asarray(data[f'in/{key}'], dtype) for key in 'cz')
    module = TextureDecoder(cfg['hidden'], 7 if 'larger' in name else 5, cfg['leaky'], cfg['resnet_leaky'])
    options = {'scale': equalise} if cfg.get('eq_lr') else {}
    y, by_weights = weighted(module, names.TEXTURE, data, dtype, points, *codes, **options)
    return {
        'outputs': compare((jnp.moveaxis(y, -1, 1), data[f'{out_of(dtype)}/y'])),
        'gradients': compare_by_name(by_weights, under(data, 'out/grad/')),
    }


def geometry_deviations(name: str, data: dict, dtype) -> Deviations:
    """geometry_*: codes and gradients."""
    state, kind = under(data, 'param/'), name.split('_')[1]
    module = Pointnet(*state['fc_c.weight'].shape, kind == 'resnet', leaky=name.endswith('leaky'))
    cloud = last_axis(np.concatenate([data['in/points'], data['in/normals']], axis=1), dtype)
    y, by_weights = weighted(module, names.GEOMETRY[kind], data, dtype, cloud)
    return {
        'outputs': compare((y, data[f'{out_of(dtype)}/y'])),
        'gradients': compare_by_name(by_weights, under(data, 'out/grad/')),
    }


def after_pixel_norm(x: jax.Array) -> jax.Array:
    """The activation of features that are scaled to length 1 in each pixel, an official option."""
    return nn.leaky_relu(x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-5), 0.2)


def discriminator_deviations(name: str, data: dict, dtype) -> Deviations:
    """discriminator_*: logits, with official options that no experiment uses."""
    state, depth = under(data, 'param/'), data['in/depth'][:, 0]
    inputs = last_axis(data['in/x'], dtype), jnp.asarray(np.where(np.isfinite(depth), depth, 0), dtype)
    module = Discriminator(*first_and_most_features(state))
    net = load_bare(module, names.PICTURES, state, dtype, *inputs)
    scaled = jax.tree_util.tree_map_with_path(  # the residual branches
        lambda path, x: x * 0.1 if any(key.key == 'conv_1' for key in path) else x, net.variables
    )
    with patch.object(texture, '_leaky', after_pixel_norm):
        logits = module.apply(scaled, *inputs)
    return {'outputs': compare((logits, data[f'{out_of(dtype)}/y']))}


def first_and_most_features(state: dict) -> tuple[int, int]:
    """Of the convolutions of pictures."""
    return len(state['conv_img.bias']), max(len(x) for key, x in state.items() if key.endswith('conv_1.bias'))


def unet_deviations(name: str, data: dict, dtype) -> Deviations:
    """nvs_unet: the pictures of the baseline."""
    depth, cond = np.nan_to_num(data['in/depth'][:, 0], posinf=0), jnp.asarray(data['in/c'], dtype)
    depth, state = jnp.asarray(depth, dtype), under(data, 'param/')
    module = ViewUNet(len(state['conv_0.bias']))
    net = load_bare(module, names.PLAIN, state, dtype, depth, cond)
    rgb = texture_field.on_white(module.apply(net.variables, depth, cond), depth)
    found = official.write_weights({'params': {'decoder': net.variables['params']}}, {'decoder': names.PLAIN})
    return {
        'outputs': compare((jnp.moveaxis(rgb, -1, 1), data[f'{out_of(dtype)}/y'])),
        'round trip': compare_by_name({key.removeprefix('decoder.'): x for key, x in found.items()}, state),
    }


class Network(NamedTuple):
    """The network of a file, and its weights."""

    model: texture_field.TextureField
    variables: dict
    layouts: dict[str, names.Layout]

    def named(self, tree: dict) -> dict[str, np.ndarray]:
        """Variables, or gradients {'params': ...}, by the names of the file."""
        found = official.write_weights(tree, self.layouts)
        return {key.replace('discriminator.', 'model_d/'): x for key, x in found.items()}


def load_network(state: dict, inputs: dict, rgb: jax.Array, dtype) -> Network:
    """From official weights, those of the discriminator with its name before them."""
    geometry_kind = 'simple' if 'geometry_encoder.conv_p.bias' in state else 'resnet'
    geometry_size, geometry_hidden_size = state['geometry_encoder.fc_c.weight'].shape
    num_blocks = sum(key.endswith('conv_0.bias') for key in state if key.startswith('decoder.block'))
    cond_size = state['decoder.fc_cz_0.weight'].shape[1] - geometry_size
    parts: dict[str, nn.Module] = {}
    if 'encoder.fc.bias' in state:
        parts['encoder'] = ResNet(cond_size, 18)
    if 'vae_encoder.fc_mean.bias' in state:
        parts['vae_encoder'] = AppearanceEncoder(cond_size, *first_and_most_features(under(state, 'vae_encoder.')))
    if 'discriminator.fc.bias' in state:
        parts['discriminator'] = Discriminator(*first_and_most_features(under(state, 'discriminator.')))
    leaky = geometry_kind == 'simple'
    module = TextureModule(
        TextureDecoder(len(state['decoder.conv_p.bias']), num_blocks, True, LEAKY_BLOCKS[num_blocks]),
        cond_size,
        Pointnet(geometry_size, geometry_hidden_size, not leaky, leaky=leaky),
        **parts,
    )
    model, layouts = (
        texture_field.functions_of(module, module),
        {**LAYOUTS, 'geometry_encoder': names.GEOMETRY[geometry_kind]},
    )
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs, rgb)
    variables = official.read_weights(state, shapes, layouts)
    return Network(model, jax.tree.map(lambda x: jnp.asarray(x, dtype), variables), layouts)


LEAKY_BLOCKS = {5: True, 7: False}  # by the number of blocks, as the official experiments have them


def render(network: Network, inputs: dict, cond: jax.Array) -> jax.Array:
    """[B, 3, S, S], as the files have pictures."""
    geometry = network.model.encode_geometry(network.variables, inputs['oriented_cloud'])
    views = (inputs[f'view_{name}'] for name in ('depth', *Camera._fields))
    rgb = network.model.render(network.variables, *views, geometry, cond)
    return jnp.moveaxis(rgb[:, 0], -1, 1)


def method_of(model: texture_field.TextureField) -> Method:
    """As `build` makes it."""

    def loss(variables, batch, key, axis_name):
        return model.loss(variables, batch['inputs'], batch['targets'], key, batch['row'], axis_name)

    def discriminator_loss(variables, batch, key, axis_name):
        return model.discriminator_loss(variables, batch['inputs'], batch['targets'], key, batch['row'], axis_name)

    is_gan = model.loss.args[0].discriminator is not None
    make_step = partial(adversarial.make_adversarial_step, discriminator_loss) if is_gan else None
    return Method(None, loss, None, None, model, make_step)


def rmsprop():
    """With the official rate."""
    config = onet_points()
    with config.unlocked():
        config.optim.update(name='rmsprop', learning_rate=1e-4)
    return make_optimizer(config, 1)


def two_steps(network: Network, batches: list[dict], data: dict, dtype) -> tuple[list[dict], dict, Deviations]:
    """The scalars of two training steps, the gradients of the first, and how far weights and statistics are off."""
    before = network.named(network.variables)
    with patch.object(texture_field, '_prior', lambda latent_size, key, rows: rows):  # rows are latent codes
        state, step = start_training(method_of(network.model), network.variables, rmsprop())
        state, first = step(state, batches[0], jax.random.key(0))
        gradients, after_first = network.named({'params': last_gradients(state)}), network.named(state.variables)
        state, second = step(state, batches[1], jax.random.key(0))
    after, expected = network.named(state.variables), under(data, 'out64/train/after_step2_delta/')
    expected = expected or {
        key.removeprefix('model_g/'): x for key, x in under(data, 'out64/after_step2_delta/').items()
    }
    changes = {key: after[key] - before[key] for key in expected}
    found = {'changes of the weights': compare_by_name(changes, expected)} if dtype == np.float64 else {}
    statistics = under(data, 'out/train/buffers_after_step1/')
    if statistics:
        found['statistics'] = compare_by_name(after_first, statistics)
    return [first, second], gradients, found


# Before the max pooling, in which equal maxima share the gradient here: the pictures of this file have few colours.
FIRST = 'encoder.features.conv1.weight'


def view_deviations(name: str, data: dict, dtype) -> Deviations:
    """singleview: codes, pictures and both losses, two training steps."""
    out, state = out_of(dtype), under(data, 'param/')
    inputs, rgb = read_inputs(data, '', dtype)
    network = load_network(state, inputs, rgb, dtype)
    model, variables = network.model, network.variables
    cond = model.encode(variables, inputs['image'])
    pictures, true = render(network, inputs, cond), data['in/2d.img']
    batch = {'inputs': inputs, 'targets': rgb, 'row': jnp.arange(len(rgb))}
    scalars, gradients, found = two_steps(network, [batch, batch], data, dtype)
    norms = {key: np.linalg.norm(x) for key, x in gradients.items()}
    expected_norms = under(data, f'{out}/train/gradnorm/')
    first_norm = expected_norms.pop(FIRST)
    # The first step of RMSprop goes by the signs of gradients, of which those of the first convolution differ.
    found.pop('changes of the weights', None)
    return {
        'condition': compare(
            (cond, data[f'{out}/eval/z']),
            (model.encode_geometry(variables, inputs['oriented_cloud']), data[f'{out}/eval/c']),
        ),
        'rendered': compare((pictures, data[f'{out}/eval/image'])),
        'rendered, losses': compare(
            (np.abs(pictures - true).mean(), data[f'{out}/eval/loss_L1']),
            (np.square(pictures - true).mean(), data[f'{out}/eval/loss_L2']),
        ),
        'rendered, training loss': compare((scalars[0]['loss'], data[f'{out}/train/losses'][0])),
        '2 training losses': compare(([s['loss'] for s in scalars], data[f'{out}/train/losses'])),
        'small gradients': compare_by_name(gradients, under(data, 'out/train/grad/')),
        'rendered, norms of gradients': compare_by_name(norms, expected_norms),
        'gradients through the pooling': compare((norms[FIRST], first_norm)),
        **found,
        'round trip': compare_by_name(network.named(variables), state),
    }


def vae_deviations(name: str, data: dict, dtype) -> Deviations:
    """vae: posterior, terms of the loss, pictures, two training steps."""
    out, state = out_of(dtype), under(data, 'param/')
    inputs, rgb = read_inputs(data, '', dtype)
    network = load_network(state, inputs, rgb, dtype)
    model, variables = network.model, network.variables
    mean, std = model.posterior(variables, rgb[:, 0], model.encode_geometry(variables, inputs['oriented_cloud']))
    noises = [jnp.asarray(data[f'in/eps_{i}'], dtype) for i in range(2)]
    batches = [{'inputs': inputs, 'targets': rgb, 'row': noise} for noise in noises]
    scalars, gradients, found = two_steps(network, batches, data, dtype)
    expected, pictures = under(data, f'{out}/elbo/'), render(network, inputs, mean + std * noises[0])
    weight, of_prior = texture_field.VAE_WEIGHT, render(network, inputs, 0 * mean)
    return {
        'posterior': compare((mean, data[f'{out}/vae_mean']), (jnp.log(std), data[f'{out}/vae_logstd'])),
        'loss of the posterior': compare((scalars[0]['kl'] / weight, expected['kl'])),
        'rendered, losses': compare(
            (scalars[0]['reconstruction'] / weight, expected['recon']), (scalars[0]['loss'] / weight, expected['loss'])
        ),
        'rendered': compare(
            (pictures, expected['image_fake']),
            (render(network, inputs, noises[1]), data[f'{out}/image_from_z_eps_1']),
        ),
        'mean of the prior': compare(
            (of_prior, data['out/image_prior_mean']),
            (jnp.where(inputs['view_depth'] > 0, of_prior, 0), data['out/image_prior_mean_black_bg']),
        ),
        'rendered, training losses': compare(([s['loss'] for s in scalars], data[f'{out}/train/losses'])),
        'gradients': compare_by_name(gradients, under(data, 'out/train/grad/')),
        **found,
        'round trip': compare_by_name(network.named(variables), state),
    }


def gan_deviations(name: str, data: dict, dtype) -> Deviations:
    """gan: the discriminator, its losses and its penalty, two steps of both networks."""
    out, state = out_of(dtype), under(data, 'param/model_g/')
    state |= {f'discriminator.{key}': x for key, x in under(data, 'param/model_d/').items()}
    halves = [read_inputs(data, f'{kind}/', dtype) for kind in ('g_step', 'd_step')]
    (inputs, rgb) = halves[1]
    network = load_network(state, inputs, rgb, dtype)
    module, variables = network.model.loss.args[0], network.variables

    def judge(pictures):
        return module.apply(variables, pictures, inputs['view_depth'], method='judge')

    real, penalty = adversarial.with_penalty(judge, rgb)

    def joined(*of_both):  # every second row is of the discriminator's batch
        return jnp.stack(of_both, axis=1).reshape(-1, *of_both[0].shape[1:])

    both = jax.tree.map(joined, *halves)
    batches = []
    for i in range(2):
        noise = joined(*(jnp.asarray(data[f'in/z_{2 * i + part}'], dtype) for part in range(2)))
        batches.append({'inputs': both[0], 'targets': both[1], 'row': noise})
    scalars, gradients, found = two_steps(network, batches, data, dtype)
    expected = under(data, f'{out}/init/')
    generator = under(data, 'out/g_step1/grad/')
    discriminator = {f'model_d/{key}': x for key, x in under(data, 'out/d_step1/grad/').items()}
    return {
        'outputs, discriminator': compare((real[:, 0], expected['d_real']), (penalty, expected['grad2'])),
        'loss of real pictures': compare(
            (adversarial.generator_loss(real).mean(), expected['loss_real']),
            (texture_field.PENALTY_WEIGHT * penalty.mean(), expected['R1']),
        ),
        # The official code logs them in float32 alone.
        'rendered, training losses': compare(
            ([s['loss'] for s in scalars], data['out/losses_g']),
            ([s['discriminator'] for s in scalars], data['out/losses_d']),
        ),
        'gradients': compare_by_name(gradients, generator | discriminator),
        **found,
        'round trip': compare_by_name(
            network.named(variables), {key.replace('discriminator.', 'model_d/'): x for key, x in state.items()}
        ),
    }
