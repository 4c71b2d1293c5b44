"""Single modules beside the official ones: layers, decoders, encoders, decoders of trained networks."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from onet_jax import losses
from onet_jax.convert import names, official
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder
from onet_jax.networks.encoders.image import ConvEncoder, ResNet
from onet_jax.networks.encoders.latent import LatentEncoder
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.voxels import VoxelEncoder
from onet_jax.networks.layers import ConditionalBatchNorm, ResnetBlock
from parity.deviation import ZERO_GRADIENT, Deviations, compare, compare_by_name
from parity.golden import under

DECODER_LAYOUTS = names.FAMILIES['onet'].decoders


class Bare(NamedTuple):
    """A module of its own (a decoder, a layer) with the weights of a golden file."""

    module: nn.Module
    layout: names.Layout
    variables: dict

    def run(self, *inputs, cond: dict | None = None, **mode: bool) -> tuple:
        """Outputs, and the updated statistics; `cond` is a keyword with an array, for layers that take one."""
        apply = partial(self.module.apply, mutable=['batch_stats'], **mode)
        return jax.jit(apply)(self.variables, *inputs, **(cond or {}))

    def by_name(self, collection: str, tree) -> dict[str, np.ndarray]:
        """Official names and arrays of the variables of a collection, or of their gradients."""
        state = official.write_weights({collection: {'module': tree}}, {'module': self.layout})
        return {name.removeprefix('module.'): array for name, array in state.items()}


def load_bare(module: nn.Module, layout: names.Layout, state: dict, dtype, *inputs, **kwargs) -> Bare:
    """`module` with official weights; inputs and kwargs are those of a call."""
    shapes = jax.eval_shape(partial(module.init, **kwargs), jax.random.key(0), *inputs)
    read = official.read_weights(
        {f'module.{name}': array for name, array in state.items()},
        {collection: {'module': tree} for collection, tree in shapes.items()},
        {'module': layout},
    )
    variables = {collection: tree['module'] for collection, tree in read.items()}
    return Bare(module, layout, jax.tree.map(lambda x: jnp.asarray(x, dtype), variables))


def load_decoder(name: str, data: dict, dtype, cond_size: int, latent_size: int, num_dims: int = 3) -> Bare:
    """The decoder of a golden file; `name` says which, as 'cbatchnorm_legacy_cz_leaky' does."""
    words, state = name.split('_'), under(data, 'param/')
    kind = 'cbatchnorm_noresnet' if 'noresnet' in words else words[0]
    layout = DECODER_LAYOUTS.get(kind, names.PLAIN)
    if 'legacy' in words:
        layout = names.legacy_layout(layout)
    hidden_size = state['conv_p.bias' if kind == 'cbatchnorm2' else 'fc_p.bias'].size
    num_blocks = 1 + max((int(key.split('.')[1]) for key in state if key.startswith('blocks.')), default=4)
    decoder = Decoder(hidden_size, latent_size, leaky='leaky' in words, num_blocks=num_blocks, **DECODER_OPTIONS[kind])
    return load_bare(decoder, layout, state, dtype, jnp.zeros((1, 2, num_dims)), jnp.zeros((1, cond_size)))


def decoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """decoders/*: logits, loss, gradients and statistics."""
    out = 'out64' if dtype == np.float64 else 'out'
    points, cond, latent, occ = (jnp.asarray(data[f'in/{key}'], dtype) for key in ('p', 'c', 'z', 'occ'))
    decoder = load_decoder(name, data, dtype, cond.shape[1], latent.shape[1])

    def loss(trainable, inputs, train):
        logits, updated = decoder.module.apply(
            {**decoder.variables, 'params': trainable}, *inputs, train=train, mutable=['batch_stats']
        )
        return losses.occupancy_bce(logits, occ).sum(axis=1).mean(), (logits, updated)

    # Operation by operation: the blocks of a decoder, and all decoders, share most of what that compiles.
    deviations, gradients_of = {}, jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    for mode in ('eval', 'train'):
        (value, (logits, updated)), (by_weights, by_inputs) = gradients_of(
            decoder.variables['params'], (points, cond, latent), mode == 'train'
        )
        expected = under(data, f'{out}/{mode}/')
        deviations[f'logits, {mode}'] = compare((logits, expected['logits']))
        deviations[f'loss, {mode}'] = compare((value, expected['loss']))
        inputs = dict(zip('pcz', by_inputs, strict=True))
        pairs = [(inputs[key], gradient) for key, gradient in under(expected, 'grad_in/').items()]
        if pairs:
            deviations[f'input gradients, {mode}'] = compare(*pairs)
    deviations |= gradient_deviations(decoder.by_name('params', by_weights), data, 'train')
    if updated:
        statistics = decoder.by_name('batch_stats', updated['batch_stats'])
        deviations['statistics'] = compare_by_name(statistics, under(data, 'out/train/buffers/'))
    return deviations


def gradient_deviations(found: dict, data: dict, run: str) -> Deviations:
    """Gradients by the weights: each value against float32, the largest of each weight against float64."""
    largest = under(data, f'out64/{run}/gradmaxabs/')
    zero = {name for name, value in largest.items() if value < ZERO_GRADIENT}
    return {
        'gradients': compare_by_name(found, under(data, f'out/{run}/grad/'), zero),
        'largest gradients (float64)': compare_by_name(
            {name: np.abs(gradient).max() for name, gradient in found.items()}, largest, zero
        ),
    }


def layer_deviations(name: str, data: dict, dtype) -> Deviations:
    """layers/*: outputs and statistics in both modes. Where channels come second there, they come last here."""
    inputs = [jnp.asarray(data[key], dtype) for key in ('in/0', 'in/1') if key in data]
    conditional = len(inputs) == 2
    if conditional:
        inputs = [jnp.moveaxis(x, 1, -1) for x in inputs]
    if name.startswith('cbn1d'):
        module = ConditionalBatchNorm()
    else:
        sizes = {'features': data['param/fc_1.bias'].size, 'hidden_size': data['param/fc_0.bias'].size}
        module = ResnetBlock(norm=ConditionalBatchNorm if conditional else None, **sizes)
    layout = DECODER_LAYOUTS['cbatchnorm'] if conditional else names.PLAIN
    keywords = {'cond': inputs[1]} if conditional else {}
    layer = load_bare(module, layout, under(data, 'param/'), dtype, inputs[0], train=False, **keywords)
    deviations = {}
    for mode in ('eval', 'train'):
        y, updated = layer.run(inputs[0], cond=keywords, train=mode == 'train')
        expected = data[f'out/{mode}/y']
        deviations[f'outputs, {mode}'] = compare((y, np.moveaxis(expected, 1, -1) if conditional else expected))
        if updated:
            statistics = layer.by_name('batch_stats', updated['batch_stats'])
            deviations[f'statistics, {mode}'] = compare_by_name(statistics, under(data, f'out/{mode}/buffers/'))
    return deviations


def encoder_deviations(name: str, data: dict, dtype) -> Deviations:
    """encoders/*: outputs in both modes, for the ResNet also its statistics. Images are [B, 3, H, W] there."""
    out = 'out64' if dtype == np.float64 else 'out'
    state = under(data, 'param/')
    layout = names.RESNET if name == 'resnet18' else names.PLAIN
    if name.startswith('encoder_latent'):
        inputs = [jnp.asarray(data[f'in/pxc/{i}'], dtype) for i in range(3)]
        module = LatentEncoder(state['fc_mean.bias'].size, leaky=name.endswith('leaky'))
        encoder = load_bare(module, layout, state, dtype, *inputs)
        (found, _), expected = encoder.run(*inputs), under(data, f'{out}/eval/pxc/')
        return {'outputs, eval': compare((found[0], expected['mean']), (found[1], expected['logstd']))}
    modules: dict[str, Callable[[], nn.Module]] = {
        'conv_encoder': lambda: ConvEncoder(state['fc_out.bias'].size),
        'resnet18': lambda: ResNet(state['fc.bias'].size, 18),
        'voxel_encoder': lambda: VoxelEncoder(state['fc.bias'].size),
        'pointnet_resnet': lambda: Pointnet(*state['fc_c.weight'].shape),
        'pointnet_simple': lambda: Pointnet(*state['fc_c.weight'].shape, residual=False),
    }
    module, deviations, encoder = modules[name](), {}, None
    for key, expected in under(data, f'{out}/').items():
        mode, kind, *rest = key.split('/')
        if rest:
            continue  # statistics, below
        x = jnp.asarray(data[f'in/{kind}'], dtype)
        x = jnp.moveaxis(x, 1, -1) if kind.startswith('img') else x
        encoder = encoder or load_bare(module, layout, state, dtype, x)
        y, updated = encoder.run(x, train=mode == 'train')
        deviations[f'{kind}, {mode}'] = compare((y, expected))
        if mode == 'train':
            statistics = encoder.by_name('batch_stats', updated['batch_stats'])
            deviations[f'statistics, {kind}'] = compare_by_name(statistics, under(data, f'out/train/{kind}/buffers/'))
    return deviations


def trained_deviations(name: str, data: dict, dtype) -> Deviations:
    """trained/*: logits of trained decoders."""
    out = 'out64' if dtype == np.float64 else 'out'
    cond, points = (jnp.asarray(data[f'in/{key}'], dtype) for key in ('c', 'p'))
    decoder = load_decoder('cbatchnorm', data, dtype, cond.shape[1], 0)
    return {'logits, eval': compare((decoder.run(points, cond)[0], data[f'{out}/logits']))}


def load_field(data: dict, dtype, cond: np.ndarray, latent: np.ndarray | None = None) -> Partial:
    """The field [T, 3] -> logits [T] of the decoder in a file, for one condition [C] and latent code [Z]."""
    latent_size = 0 if latent is None else latent.size
    decoder = load_decoder('cbatchnorm', data, dtype, cond.size, latent_size)
    codes = [None if code is None else jnp.asarray(code, dtype).reshape(1, -1) for code in (cond, latent)]
    return Partial(partial(_logits, decoder.module), decoder.variables, *codes)


def _logits(decoder, variables, cond, latent, points):
    return decoder.apply(variables, points[None], cond, latent)[0]
