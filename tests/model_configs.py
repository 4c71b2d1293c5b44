"""Small networks for the tests."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import onet_points
from onet_jax.models import Aux, Method


def small_config(**train) -> ConfigDict:
    """configs/onet_points.py:tiny with widths and numbers of points that run in milliseconds."""
    config = onet_points.get_config('tiny')
    with config.unlocked():
        config.model.update(encoder_hidden_size=8, cond_size=12, decoder_hidden_size=16)
        config.data.update(num_input_points=30, num_points_per_step=64, num_near_points=32)
        config.mesh.update(resolution=8, upsampling_steps=1)
        config.optim.update(name='adam', schedule='constant', learning_rate=1e-3, warmup_steps=0)
        config.train.update(num_steps=4, batch_size=4, log_every_steps=1, eval_every_steps=2, checkpoint_every_steps=2)
        config.train.update(train)
        config.eval.batch_size = 2
    return config


def tiny_method(config: ConfigDict) -> Method:
    """No network of anything, and next to nothing to compile: arrays that depend on all batches and on all random numbers."""

    def init(key, batch):
        return {'params': {name: jax.random.normal(key, (100, config.model.cond_size)) for name in 'abcdefgh'}}

    def values(variables, points):
        return sum((points @ array[:3, :1])[..., 0] + array.mean() for array in variables['params'].values())

    def loss(variables, batch, key, axis_name):
        targets = batch['targets']
        noise = jax.random.normal(key, targets['occ'].shape) * batch['inputs']['cloud'].mean()
        return jnp.square(values(variables, targets['points']) - targets['occ'] + noise).mean(), Aux({}, {})

    def metrics(variables, batch):
        return {'iou': jnp.square(values(variables, batch['targets']['points']) - batch['targets']['occ']).mean(-1)}

    return Method(init, loss, metrics, None, None)
