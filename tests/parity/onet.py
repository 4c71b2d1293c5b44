"""Whole Occupancy Networks beside the official ones: evidence lower bound, validation step, steps of Adam, checkpoints."""

import ast
import lzma
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from onet_jax.convert import official
from onet_jax.convert.names import is_legacy, layouts_of
from onet_jax.convert.torch_file import read_torch_file
from onet_jax.models import occupancy
from onet_jax.training.state import TrainState
from onet_jax.training.step import make_train_step
from parity.deviation import ZERO_GRADIENT, Deviations, compare, compare_by_name
from parity.golden import find_golden, under
from parity.modules import gradient_deviations
from parity.settings import load_weights, make_config
from parity.steps import last_gradients, start_training


@contextmanager
def noise_for_rows() -> Iterator[None]:
    """Within it a batch carries the noise of the latent codes [B, Z] where it has the positions of its rows."""
    original, occupancy._prior = occupancy._prior, lambda latent_size, key, rows: rows
    try:
        yield
    finally:
        occupancy._prior = original


def model_batch(data: dict, prefix: str, field: str, dtype) -> dict:
    """The batch of a file of onet/ under a prefix, for use in `noise_for_rows`; field: of the inputs."""
    points = jnp.asarray(data[f'{prefix}points'], dtype)
    inputs = data.get(f'{prefix}inputs', np.zeros((len(points), 0)))  # none in unconditional models
    return {
        'inputs': {field: jnp.asarray(inputs, dtype if inputs.dtype.kind == 'f' else np.int32)},
        'targets': {
            'points': points,
            'occ': jnp.asarray(data[f'{prefix}points.occ'], dtype),
            'subset': jnp.broadcast_to(jnp.arange(points.shape[1]), points.shape[:2]),
        },
        'row': jnp.asarray(data.get(f'{prefix}eps', np.zeros((len(points), 0))), dtype),
    }


@noise_for_rows()
def model_deviations(name: str, data: dict, dtype) -> Deviations:
    """onet/*: the whole model, its bound, its validation step, and three steps of Adam."""
    out = 'out64' if dtype == np.float64 else 'out'
    state = under(data, 'param/')
    num_shapes = len(state.get('encoder.weight', ()))  # of an embedding
    config = make_config('onet', ast.literal_eval(str(data['meta/cfg'])), num_shapes=num_shapes)
    method, params = load_weights(state, config, dtype)
    model, layouts, (field,) = method.model, layouts_of(config, is_legacy(state)), config.data.inputs
    batch = model_batch(data, 'in/', field, dtype)
    voxels = {'voxels': jnp.asarray(data['in/eval_step/voxels'], dtype)}

    @jax.jit  # one program: its parts have most in common
    def evaluate(params, batch):
        inputs, noise, targets = batch['inputs'][field], batch['row'], batch['targets']
        points, occ = targets['points'], targets['occ']
        cond = model.encode(params, inputs)
        logits = model.occupancy(params, points, cond)
        terms = model.elbo_terms(params, points, occ, inputs, noise)
        posterior = model.posterior(params, points, occ, cond) if model.latent_size else None
        return cond, logits, terms, posterior, method.metrics(params, {**batch, 'targets': targets | voxels})

    cond, logits, (reconstruction, divergence), posterior, values = evaluate(params, batch)
    deviations = {
        'logits, eval': compare(
            (logits, data[f'{out}/forward_eval/logits']), (jax.nn.sigmoid(logits), data[f'{out}/forward_eval/probs'])
        ),
        'condition': compare((cond, data[f'{out}/encode_inputs_eval'])),
        'evidence lower bound': compare(
            (reconstruction, data[f'{out}/elbo_eval/rec_error']),
            (divergence, data[f'{out}/elbo_eval/kl']),
            (-reconstruction - divergence, data[f'{out}/elbo_eval/elbo']),
        ),
    }
    if model.latent_size:
        mean, log_std = posterior
        expected = under(data, f'{out}/infer_z_eval/')
        deviations['posterior'] = compare(
            (mean, expected['mean']),
            (jnp.exp(log_std), expected['std']),
            (mean + jnp.exp(log_std) * batch['row'], expected['z']),
        )

    names = {'loss': 'loss', 'reconstruction': 'rec_error', 'kl': 'kl', 'iou': 'iou', 'iou_voxels': 'iou_voxels'}
    expected = under(data, 'out/eval_step/')
    deviations['validation step'] = compare(*((v.mean(), expected[names[k]]) for k, v in values.items()))

    start, step = start_training(method, params)
    state, scalars = step(start, batch, jax.random.key(0))
    deviations['loss, train'] = compare((scalars['loss'], data[f'{out}/compute_loss_train/loss']))
    gradients = official.write_weights({'params': last_gradients(state)}, layouts)
    deviations |= gradient_deviations(gradients, data, 'compute_loss_train')
    if 'batch_stats' in params:
        statistics = official.write_weights({'batch_stats': state.variables['batch_stats']}, layouts)
        deviations['statistics'] = compare_by_name(statistics, under(data, 'out/compute_loss_train/buffers/'))

    # Three steps of Adam, always against the float64 run.
    state, values = start, []
    for i in range(3):
        state, scalars = step(state, model_batch(data, f'in/step{i}/', field, dtype), jax.random.key(0))
        values.append(scalars['loss'])
    largest = under(data, 'out64/compute_loss_train/gradmaxabs/')
    noisy = {name for name, value in largest.items() if value < ZERO_GRADIENT} if dtype == np.float32 else set()
    found = official.write_weights(state.variables, layouts)
    return {
        **deviations,
        'losses of 3 Adam steps': compare((jnp.stack(values), data['out64/adam/losses'])),
        'weights after 3 Adam steps': compare_by_name(found, under(data, 'out64/adam/after_step3/'), noisy),
    }


@noise_for_rows()
def checkpoint_deviations(name: str, data: dict, dtype) -> Deviations:
    """checkpoints/*: condition and logits of a converted file, and its next step of Adam where it has an optimiser."""
    stored = read_checkpoint(name)
    state = stored['model']
    config = checkpoint_config(name, state)
    method, params = load_weights(state, config, dtype)
    inputs = jnp.asarray(data['in/inputs'], dtype)
    cond = method.model.encode(params, jnp.moveaxis(inputs, 1, -1) if inputs.ndim == 4 else inputs)
    logits = method.model.occupancy(params, jnp.asarray(data['in/points'], dtype), cond)
    deviations = {
        'logits, eval': compare((logits, data['out/logits_eval'])),
        'condition': compare((cond, data['out/c_eval'])),
        'round trip': compare_by_name(official.to_state_dict(params, config, legacy=is_legacy(state)), state),
    }
    if 'out/next/loss' in data:
        tx = optax.adam(config.optim.learning_rate)
        fresh = tx.init(params['params'])
        opt_state = official.from_adam(stored['optimizer'], state, fresh, params, config)
        opt_state = jax.tree.map(lambda x: jnp.asarray(x, dtype) if x.dtype == np.float32 else x, opt_state)
        step = jax.jit(make_train_step(method, tx, lambda key, raw: raw))
        train_state = TrainState(jnp.int32(stored['it']), params, opt_state)
        batch = model_batch(data, 'in/next/', *config.data.inputs, dtype)
        train_state, scalars = step(train_state, batch, jax.random.key(0))
        expected = under(data, 'out/next/')
        found = official.to_state_dict(train_state.variables, config)
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
    settings = {'decoder': 'cbatchnorm', 'decoder_kwargs': {'hidden_size': len(state['decoder.fc_p.bias'])}}
    if name.startswith('pointcloud'):
        cond_size, hidden_size = state['encoder.fc_c.weight'].shape
        settings |= {'encoder': 'pointnet_resnet', 'encoder_kwargs': {'hidden_dim': hidden_size}}
    else:
        encoder, layer = ('resnet18', 'fc') if 'resnet18' in name else ('simple_conv', 'fc_out')
        cond_size = len(state[f'encoder.{layer}.bias'])
        settings |= {'encoder': encoder}
    return make_config('onet', {**settings, 'c_dim': cond_size, 'z_dim': 0})
