"""How far the networks are from the official implementation, by golden file: outputs, gradients, statistics, Adam steps.

    python -m benchmarks.parity

A deviation is the largest absolute difference of an array and, relative to the largest value of the expected array, the
largest over all arrays of a kind. Weights whose gradient is exactly zero (biases before a batch normalisation) have
rounding noise for a gradient, and in float32 Adam makes steps of up to its rate of such noise: they count in the
absolute difference only.
"""

import ast
import lzma
import re
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app
from jax.tree_util import Partial
from ml_collections import ConfigDict

from benchmarks import report
from benchmarks.golden import find_golden, golden_names, read_golden
from configs import onet_points
from onet_jax import losses
from onet_jax.convert import official
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.geometry.field import field_normals
from onet_jax.geometry.refine import loss_and_gradient, pad, refine_vertices
from onet_jax.models import onet
from onet_jax.networks.decoders import DECODERS, Decoder
from onet_jax.networks.encoders.image import ConvEncoder, ResNet
from onet_jax.networks.encoders.latent import LatentEncoder
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.voxels import VoxelEncoder
from onet_jax.networks.layers import ConditionalBatchNorm, ResnetBlock
from onet_jax.training.state import TrainState
from onet_jax.training.step import make_train_step

ZERO_GRADIENT = 1e-9  # of a weight, in float64: what is below is rounding noise


class Deviation(NamedTuple):
    """Largest differences of one kind of quantity."""

    absolute: float = 0.0
    relative: float = 0.0

    def merge(self, found, expected, *, absolute_only: bool = False) -> 'Deviation':
        """With one more array. Raises ValueError for arrays of different shapes."""
        found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
        if found.shape != expected.shape:
            raise ValueError(f'expected shape {expected.shape}, found {found.shape}')
        if not expected.size:
            return self
        difference = float(np.abs(found - expected).max())
        relative = 0.0 if absolute_only or difference == 0 else difference / float(np.abs(expected).max())
        return Deviation(max(self.absolute, difference), max(self.relative, relative))


Deviations = dict[str, Deviation]  # kind of quantity -> how far


def compare(*pairs) -> Deviation:
    """Of pairs (found, expected)."""
    deviation = Deviation()
    for found, expected in pairs:
        deviation = deviation.merge(found, expected)
    return deviation


def compare_by_name(found: dict, expected: dict, absolute_only: set[str] = frozenset()) -> Deviation:
    """Of weights under their official names. Counters of batches are no weights. Raises KeyError for a missing one."""
    deviation = Deviation()
    for name, array in expected.items():
        if not name.endswith('num_batches_tracked'):
            deviation = deviation.merge(found[name], array, absolute_only=name in absolute_only)
    return deviation


def under(data: dict, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose key starts with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}


class Bare(NamedTuple):
    """A module of its own (a decoder, a layer) with the weights of a golden file."""

    module: nn.Module
    layout: official.Layout
    variables: dict

    def run(self, *inputs, cond: dict | None = None, **mode: bool) -> tuple:
        """Outputs, and the updated statistics; `cond` is a keyword with an array, for layers that take one."""
        apply = partial(self.module.apply, mutable=['batch_stats'], **mode)
        return jax.jit(apply)(self.variables, *inputs, **(cond or {}))

    def by_name(self, collection: str, tree) -> dict[str, np.ndarray]:
        """Official names and arrays of the variables of a collection, or of their gradients."""
        state = official.write_weights({collection: {'module': tree}}, {'module': self.layout})
        return {name.removeprefix('module.'): array for name, array in state.items()}


def load_bare(module: nn.Module, layout: official.Layout, state: dict, dtype, *inputs, **kwargs) -> Bare:
    """`module` with official weights; inputs and kwargs are those of a call."""
    shapes = jax.eval_shape(partial(module.init, **kwargs), jax.random.key(0), *inputs)
    read = official.read_weights(
        {f'module.{name}': array for name, array in state.items()},
        {collection: {'module': tree} for collection, tree in shapes.items()},
        {'module': layout},
    )
    variables = {collection: tree['module'] for collection, tree in read.items()}
    return Bare(module, layout, jax.tree.map(lambda x: jnp.asarray(x, dtype), variables))


def load_decoder(name: str, data: dict, dtype, cond_size: int, latent_size: int) -> Bare:
    """The decoder of a golden file; `name` says which, as 'cbatchnorm_legacy_cz_leaky' does."""
    words, state = name.split('_'), under(data, 'param/')
    kind = 'cbatchnorm_noresnet' if 'noresnet' in words else words[0]
    layout = official.DECODERS[kind]
    if 'legacy' in words:
        layout = official.legacy_layout(layout)
    hidden_size = state['conv_p.bias' if kind == 'cbatchnorm2' else 'fc_p.bias'].size
    num_blocks = 1 + max((int(key.split('.')[1]) for key in state if key.startswith('blocks.')), default=4)
    decoder = Decoder(hidden_size, latent_size, leaky='leaky' in words, num_blocks=num_blocks, **DECODERS[kind])
    return load_bare(decoder, layout, state, dtype, jnp.zeros((1, 2, 3)), jnp.zeros((1, cond_size)))


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

    deviations, gradients_of = {}, jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True), static_argnums=2)
    for mode in ('eval', 'train'):
        (value, (logits, updated)), (by_weights, by_inputs) = gradients_of(
            decoder.variables['params'], (points, cond, latent), mode == 'train'
        )
        expected = under(data, f'{out}/{mode}/')
        deviations[f'logits, {mode}'] = compare((logits, expected['logits']), (value, expected['loss']))
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
    layout = official.DECODERS['cbatchnorm' if conditional else 'simple']
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
    layout = official.RESNET if name == 'resnet18' else official.Layout()
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


def model_config(encoder: str | None, decoder: str, **sizes) -> ConfigDict:
    """A config of a small network, from the official names."""
    config = onet_points.get_config()
    with config.unlocked():
        config.model.update(encoder=encoder or 'none', decoder=decoder, **sizes)
        config.data.input = onet.ENCODERS[config.model.encoder].input
    return config


def golden_model_config(data: dict) -> ConfigDict:
    """The network of a file of onet/, from the settings and the weights in it."""
    cfg, embedding = ast.literal_eval(str(data['meta/cfg'])), data.get('param/encoder.weight', np.zeros((0, 0)))
    config = model_config(
        cfg['encoder'],
        cfg['decoder'],
        encoder_hidden_size=cfg.get('encoder_kwargs', {}).get('hidden_dim', 0),
        cond_size=cfg['c_dim'],
        latent_size=cfg['z_dim'],
        decoder_hidden_size=cfg['decoder_kwargs']['hidden_size'],
    )
    with config.unlocked():
        config.model.num_shapes = len(embedding)
    return config


@contextmanager
def noise_for_rows():
    """Within it a batch carries the noise of the latent codes [B, Z] where it has the positions of its rows."""
    original, onet.sample_prior = onet.sample_prior, lambda key, rows, latent_size: rows
    try:
        yield
    finally:
        onet.sample_prior = original


def model_batch(data: dict, prefix: str, dtype) -> dict:
    """The batch of a file of onet/ under a prefix, for use in `noise_for_rows`."""
    points = jnp.asarray(data[f'{prefix}points'], dtype)
    inputs = data.get(f'{prefix}inputs', np.zeros((len(points), 0)))  # none in unconditional models
    return {
        'points': points,
        'occ': jnp.asarray(data[f'{prefix}points.occ'], dtype),
        'inputs': jnp.asarray(inputs, dtype if inputs.dtype.kind == 'f' else np.int32),
        'row': jnp.asarray(data.get(f'{prefix}eps', np.zeros((len(points), 0))), dtype),
        'subset': jnp.broadcast_to(jnp.arange(points.shape[1]), points.shape[:2]),
    }


def model_deviations(name: str, data: dict, dtype) -> Deviations:
    """onet/*: the whole model, its bound, its validation step, and three steps of Adam."""
    out = 'out64' if dtype == np.float64 else 'out'
    config, state = golden_model_config(data), under(data, 'param/')
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), official.from_state_dict(state, config))
    layouts = official.layouts_of(config, official.is_legacy(state))
    module, model = onet.build_module(config.model), onet.occupancy_network(config.model)
    batch = model_batch(data, 'in/', dtype)
    noise = batch['row']
    cond = model.encode(params, batch['inputs'])
    logits = model.occupancy(params, batch['points'], cond)
    bound = jax.jit(module.apply)(params, batch['points'], batch['occ'], batch['inputs'], noise)
    deviations = {
        'logits, eval': compare(
            (logits, data[f'{out}/forward_eval/logits']), (jax.nn.sigmoid(logits), data[f'{out}/forward_eval/probs'])
        ),
        'condition': compare((cond, data[f'{out}/encode_inputs_eval'])),
        'evidence lower bound': compare(
            (bound[0], data[f'{out}/elbo_eval/rec_error']),
            (bound[1], data[f'{out}/elbo_eval/kl']),
            (-bound[0] - bound[1], data[f'{out}/elbo_eval/elbo']),
        ),
    }
    if config.model.latent_size:
        mean, log_std = model.posterior(params, batch['points'], batch['occ'], cond)
        expected = under(data, f'{out}/infer_z_eval/')
        deviations['posterior'] = compare(
            (mean, expected['mean']),
            (jnp.exp(log_std), expected['std']),
            (mean + jnp.exp(log_std) * noise, expected['z']),
        )

    method = onet.method(config)
    voxels = {'voxels': jnp.asarray(data['in/eval_step/voxels'], dtype)}
    with noise_for_rows():
        values = jax.jit(method.metrics)(params, {**batch, **voxels})
    names = {'loss': 'loss', 'reconstruction': 'rec_error', 'kl': 'kl', 'iou': 'iou', 'iou_voxels': 'iou_voxels'}
    expected = under(data, 'out/eval_step/')
    deviations['validation step'] = compare(*((v.mean(), expected[names[k]]) for k, v in values.items()))

    def loss(trainable):
        return method.loss({**params, 'params': trainable}, batch, jax.random.key(0), None)

    with noise_for_rows():
        (value, aux), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params['params'])
    deviations['loss, train'] = compare((value, data[f'{out}/compute_loss_train/loss']))
    gradients = official.write_weights({'params': gradients}, layouts)
    deviations |= gradient_deviations(gradients, data, 'compute_loss_train')
    if aux.batch_stats:
        statistics = official.write_weights({'batch_stats': aux.batch_stats}, layouts)
        deviations['statistics'] = compare_by_name(statistics, under(data, 'out/compute_loss_train/buffers/'))
    return deviations | adam_deviations(data, config, params, layouts, dtype)


def adam_deviations(data: dict, config: ConfigDict, params: dict, layouts: dict, dtype) -> Deviations:
    """Losses of three steps of Adam, and the weights and statistics after them; always against the float64 run."""
    tx = optax.adam(1e-4)
    train_state, values = TrainState(jnp.int32(0), params, tx.init(params['params'])), []
    step = jax.jit(make_train_step(onet.method(config), tx, lambda key, raw: raw))
    for i in range(3):
        with noise_for_rows():
            train_state, scalars = step(train_state, model_batch(data, f'in/step{i}/', dtype), jax.random.key(0))
        values.append(scalars['loss'])
    largest = under(data, 'out64/compute_loss_train/gradmaxabs/')
    noisy = {name for name, value in largest.items() if value < ZERO_GRADIENT} if dtype == np.float32 else set()
    found = official.write_weights(train_state.params, layouts)
    return {
        'losses of 3 Adam steps': compare((jnp.stack(values), data['out64/adam/losses'])),
        'weights after 3 Adam steps': compare_by_name(found, under(data, 'out64/adam/after_step3/'), noisy),
    }


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


def mesh_deviations(name: str, data: dict, dtype) -> Deviations:
    """mesh/estimate_normals and mesh/refine_*: normals, loss before each step, first gradient, vertices."""
    trained = read_golden('trained/torus_h32_c16.npz')
    if name == 'estimate_normals':
        points = data['in/vertices'].astype(dtype)
        fields = {
            'trained': load_field(trained, dtype, data['in/c_trained']),
            'random': load_field(data, dtype, data['in/c_random'], data['in/z_random']),
        }
        return {
            f'normals, {kind} network': compare((field_normals(field, points), data[f'out/normals_{kind}']))
            for kind, field in fields.items()
        }
    if name == 'refine_trained_torus':
        field = load_field(trained, dtype, data['in/c'])
    else:
        field = load_field(data, dtype, data['in/c'], data['in/z'])
    vertices, weights = (data[key].astype(dtype) for key in ('in/vertices', 'in/dirichlet'))
    faces = data['in/faces']
    threshold = float(data['in/threshold_prob'])
    padded = [jnp.asarray(pad(x)) for x in (vertices, faces, weights[0])]
    _, gradient = jax.jit(loss_and_gradient)(*padded[:2], field, padded[2], threshold, len(faces))
    first, _ = refine_vertices(vertices, faces, field, weights[:1], threshold)
    last, losses = refine_vertices(vertices, faces, field, weights, threshold)
    return {
        'losses of 30 steps': compare((losses, data['out/loss'])),
        'first gradient': compare((gradient[: len(vertices)], data['out/grad_step1'])),
        'vertices after 1 step': compare((first, data['out/vertices_after_step1'])),
        'vertices after 30 steps': compare((last, data['out/vertices'])),
    }


def checkpoint_deviations(name: str, data: dict, dtype) -> Deviations:
    """checkpoints/*: condition and logits of a converted file, and its next step of Adam where it has an optimiser."""
    stored = read_checkpoint(name)
    state = stored['model']
    config = checkpoint_config(name, state)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), official.from_state_dict(state, config))
    model, inputs = onet.occupancy_network(config.model), jnp.asarray(data['in/inputs'], dtype)
    cond = model.encode(params, jnp.moveaxis(inputs, 1, -1) if inputs.ndim == 4 else inputs)
    logits = model.occupancy(params, jnp.asarray(data['in/points'], dtype), cond)
    deviations = {
        'logits, eval': compare((logits, data['out/logits_eval'])),
        'condition': compare((cond, data['out/c_eval'])),
        'round trip': compare_by_name(official.to_state_dict(params, config, legacy=official.is_legacy(state)), state),
    }
    if 'out/next/loss' in data:
        tx = optax.adam(config.optim.learning_rate)
        opt_state = official.from_adam(stored['optimizer'], state, tx.init(params['params']), config)
        opt_state = jax.tree.map(lambda x: jnp.asarray(x, dtype) if x.dtype == np.float32 else x, opt_state)
        step = jax.jit(make_train_step(onet.method(config), tx, lambda key, raw: raw))
        train_state = TrainState(jnp.int32(stored['it']), params, opt_state)
        with noise_for_rows():
            train_state, scalars = step(train_state, model_batch(data, 'in/next/', dtype), jax.random.key(0))
        expected = under(data, 'out/next/')
        found = official.to_state_dict(train_state.params, config)
        deviations['loss of the next step'] = compare((scalars['loss'], expected.pop('loss')))
        cancelled = {name for name in expected if re.fullmatch(r'decoder\.(fc_p|fc_z|block\d\.fc_[01])\.bias', name)}
        deviations['weights after the next step'] = compare_by_name(found, expected, cancelled)
    return deviations


def read_checkpoint(name: str) -> dict:
    """The object in checkpoints/NAME.pt or, compressed, NAME.pt.xz."""
    path = find_golden(f'checkpoints/{name}.pt')
    if path is not None:
        return read_torch_file(path)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / f'{name}.pt'
        plain.write_bytes(lzma.decompress(find_golden(f'checkpoints/{name}.pt.xz').read_bytes()))
        return read_torch_file(plain)


def checkpoint_config(name: str, state: dict) -> ConfigDict:
    """The config of the network in a checkpoint of the golden files, from its name and the shapes of its weights."""
    sizes = {'decoder_hidden_size': len(state['decoder.fc_p.bias']), 'latent_size': 0}
    if name.startswith('pointcloud'):
        cond_size, hidden_size = state['encoder.fc_c.weight'].shape
        return model_config(
            'pointnet_resnet', 'cbatchnorm', cond_size=cond_size, encoder_hidden_size=hidden_size, **sizes
        )
    encoder, layer = ('resnet18', 'fc') if 'resnet18' in name else ('simple_conv', 'fc_out')
    return model_config(encoder, 'cbatchnorm', cond_size=len(state[f'encoder.{layer}.bias']), **sizes)


FOLDERS: dict[str, Callable[[str, dict, type], Deviations]] = {
    'layers': layer_deviations,
    'decoders': decoder_deviations,
    'encoders': encoder_deviations,
    'onet': model_deviations,
    'mesh': mesh_deviations,
    'trained': trained_deviations,
    'checkpoints': checkpoint_deviations,
}
PATTERNS = (
    'layers/*',
    'decoders/*',
    'encoders/*',
    'onet/*',
    'mesh/estimate*',
    'mesh/refine*',
    'trained/*',
    'checkpoints/*',
)


def compared_files() -> list[str]:
    """The files that are compared, such as 'decoders/simple_z.npz'."""
    return [name for pattern in PATTERNS for name in golden_names(f'{pattern}.npz')]


def deviations_of(file: str, dtype: type) -> Deviations:
    """Of one golden file, with weights and inputs in float32 or float64."""
    with jax.enable_x64(dtype == np.float64):
        return FOLDERS[Path(file).parts[0]](Path(file).stem, read_golden(file), dtype)


def main(_):
    files = compared_files()
    rows, figures = [], {}
    for file in files:
        for dtype in (np.float32, np.float64):
            name = f'{file.removesuffix(".npz")}, {np.dtype(dtype)}'
            found = deviations_of(file, dtype)
            figures[name] = {kind: [float(f'{x:.1e}') for x in deviation] for kind, deviation in found.items()}
            rows.append((name, '; '.join(f'{kind} {d.absolute:.1e} ({d.relative:.1e})' for kind, d in found.items())))
    report(
        'largest deviation from the official implementation, absolute (relative)', {'files': len(files)}, rows, figures
    )


if __name__ == '__main__':
    app.run(main)
