"""Small networks for the tests."""

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from onet_jax.configs import onet_points
from onet_jax.models import Aux, Method
from onet_jax.networks.decoders import DECODER_OPTIONS

# The paper's decoder with one of its five ResNet blocks, which compiles faster.
DECODER_OPTIONS['shallow'] = {'num_blocks': 1}


def small_config(**train) -> ConfigDict:
    """configs/onet_points.py:tiny, shallow enough to compile in seconds, with widths and numbers of points to run at once."""
    config = onet_points('tiny')
    with config.unlocked():
        config.model.update(encoder='pointnet_simple', decoder='shallow')
        config.model.update(encoder_hidden_size=8, cond_size=12, decoder_hidden_size=16)
        config.data.update(num_input_points=30, num_points_per_step=64, num_near_points=32)
        config.mesh.update(resolution=8, upsampling_steps=1)
        config.optim.update(name='adam', schedule='constant', learning_rate=1e-3, warmup_steps=0)
        config.train.update(num_steps=4, batch_size=4, log_every_steps=1, eval_every_steps=2, checkpoint_every_steps=2)
        config.train.update(train)
        config.eval.batch_size = 2
    return config


def small_data(**changes) -> ConfigDict:
    """The group `data` of a config with every key that a field reads."""
    data = onet_points('tiny').data
    with data.unlocked():
        data.update(num_input_points=30, num_points_per_step=64, num_near_points=32, noise_std=0.0)
        data.update(
            num_target_points=50, image_size=24, augment=False, cell_size=0.1, scan_cell=0.0, keep_outliers=False
        )
        data.update(changes)
    return data


def tiny_method(config: ConfigDict) -> Method:
    """No network of anything, and next to nothing to compile: arrays that depend on all batches and on all random numbers.

    Of its collections besides 'params' one counts steps and one never changes.
    """

    def init(key, batch):
        params = {name: jax.random.normal(key, (100, config.model.cond_size)) for name in 'abcd'}
        return {'params': params, 'counter': {'steps': jnp.int32(0)}, 'constants': {'scale': jnp.float32(2)}}

    def values(variables, points):
        return sum((points @ array[:3, :1])[..., 0] + array.mean() for array in variables['params'].values())

    def loss(variables, batch, key, axis_name):
        targets, scale = batch['targets'], variables['constants']['scale']
        noise = jax.random.normal(key, targets['occ'].shape) * jax.tree.leaves(batch['inputs'])[0].mean()
        value = scale * jnp.square(values(variables, targets['points']) - targets['occ'] + noise).mean()
        return value, Aux({'counter': {'steps': variables['counter']['steps'] + 1}}, {'scale': scale})

    def metrics(variables, batch):
        error = jnp.square(values(variables, batch['targets']['points']) - batch['targets']['occ']).mean(-1)
        return {'iou': error, 'chamfer': error}

    return Method(init, loss, metrics, None, None)


def make_two_updates(method, tx, transform, axis_name=None, ema_decay=0.0):
    """A `Method.make_step` of its own, as of a GAN: each batch makes two updates, the second of half of the arrays."""

    def step(state, raw, key):
        batch = transform(jax.random.fold_in(key, state.step), raw)
        variables, opt_state = state.variables, state.opt_state
        for names in ('abcd', 'ab'):
            (loss, aux), grads = jax.value_and_grad(
                lambda params, others=variables: method.loss({**others, 'params': params}, batch, key, axis_name),
                has_aux=True,
            )(variables['params'])
            if axis_name is not None:
                loss, grads = jax.lax.pmean((loss, grads), axis_name)
            grads = {name: grad * (name in names) for name, grad in grads.items()}
            updates, opt_state = tx.update(grads, opt_state, variables['params'])
            params = optax.apply_updates(variables['params'], updates)
            variables = {**variables, **aux.mutated, 'params': params}
        return state._replace(step=state.step + 1, variables=variables, opt_state=opt_state), {'loss': loss}

    return step
