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
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app
from ml_collections import ConfigDict

from benchmarks import report
from benchmarks.conv_parity import conv_deviations
from benchmarks.golden import find_golden, golden_names, read_golden
from benchmarks.module_parity import (
    ZERO_GRADIENT,
    Deviations,
    compare,
    compare_by_name,
    decoder_deviations,
    encoder_deviations,
    gradient_deviations,
    layer_deviations,
    mesh_deviations,
    trained_deviations,
    under,
)
from configs import onet_points
from onet_jax import models
from onet_jax.convert import official
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.models import occupancy, onet
from onet_jax.training.state import TrainState
from onet_jax.training.step import make_train_step


def model_config(encoder: str | None, decoder: str, **sizes) -> ConfigDict:
    """A config of a small network, from the official names."""
    config = onet_points.get_config()
    with config.unlocked():
        del config.model.encoder_hidden_size  # of the encoder of points; others have a default
        config.model.update(encoder=encoder or 'none', decoder=decoder, **sizes)
        config.data.input = onet.ENCODERS[config.model.encoder].input
    return config


def golden_model_config(data: dict) -> ConfigDict:
    """The network of a file of onet/, from the settings and the weights in it."""
    cfg, embedding = ast.literal_eval(str(data['meta/cfg'])), data.get('param/encoder.weight', np.zeros((0, 0)))
    hidden_size = cfg.get('encoder_kwargs', {}).get('hidden_dim')
    config = model_config(
        cfg['encoder'],
        cfg['decoder'],
        **({} if hidden_size is None else {'encoder_hidden_size': hidden_size}),
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
    original, occupancy.sample_prior = occupancy.sample_prior, lambda key, rows, latent_size: rows
    try:
        yield
    finally:
        occupancy.sample_prior = original


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
    module, model = onet.build_module(config.model), models.occupancy_network(config.model)
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

    method = models.build(config)
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
    step = jax.jit(make_train_step(models.build(config), tx, lambda key, raw: raw))
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


def checkpoint_deviations(name: str, data: dict, dtype) -> Deviations:
    """checkpoints/*: condition and logits of a converted file, and its next step of Adam where it has an optimiser."""
    stored = read_checkpoint(name)
    state = stored['model']
    config = checkpoint_config(name, state)
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), official.from_state_dict(state, config))
    model, inputs = models.occupancy_network(config.model), jnp.asarray(data['in/inputs'], dtype)
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
        step = jax.jit(make_train_step(models.build(config), tx, lambda key, raw: raw))
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
    'conv': conv_deviations,
}
OLD_FORMAT = '_legacyformat'
PATTERNS = (
    'layers/*',
    'decoders/*',
    'encoders/*',
    'onet/*',
    'mesh/estimate*',
    'mesh/refine*',
    'trained/*',
    'checkpoints/*',
    *(f'conv/conv_onet/{kind}_*' for kind in ('unet', 'unet3d', 'enc', 'dec', 'model')),
)


def compared_files() -> list[str]:
    """The files that are compared, such as 'decoders/simple_z.npz'."""
    names = [name for pattern in PATTERNS for name in golden_names(f'{pattern}.npz')]
    # The same content in the older format: its results are those of the other file.
    return names + [name.replace('.pt', '.npz') for name in golden_names(f'checkpoints/*{OLD_FORMAT}.pt')]


def deviations_of(file: str, dtype: type) -> Deviations:
    """Of one golden file, with weights and inputs in float32 or float64."""
    with jax.enable_x64(dtype == np.float64):
        return FOLDERS[Path(file).parts[0]](Path(file).stem, read_golden(file.replace(OLD_FORMAT, '')), dtype)


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
