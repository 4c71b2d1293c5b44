"""Seconds of a training step and of a mesh of Deep Marching Cubes at full size, and the memory of the step.

    python -m benchmarks.dmc [--batch_size=4] [--steps=5]

Steps, meshes and large matrix products alternate, so that a busy machine slows them alike.
"""

import resource

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from benchmarks import report, time_alternately
from onet_jax import models
from onet_jax.configs import dmc
from onet_jax.launch import run_command
from onet_jax.networks.fast_gradients import reverse_mode
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

BATCH_SIZE = flags.DEFINE_integer('batch_size', 4, 'Shapes in a batch.', lower_bound=1)
STEPS = flags.DEFINE_integer('steps', 5, 'Steps to take the median of.', lower_bound=1)
ROWS, WIDTH, PRODUCTS = 4096, 512, 20


def make_batch(config) -> dict:
    """Points of spheres around the origin."""
    sizes = BATCH_SIZE.value, config.data.num_target_points, 3
    surface = np.random.default_rng(0).normal(size=sizes).astype(np.float32)
    surface *= 0.45 / np.linalg.norm(surface, axis=-1, keepdims=True)
    cloud = surface[:, : config.data.num_input_points]
    return {'inputs': {'cloud': cloud}, 'targets': {'surface': surface}, 'row': np.arange(BATCH_SIZE.value)}


def main(_):
    config = dmc()
    method, tx, key = models.build(config), make_optimizer(config, 1000), jax.random.key(0)
    batch = jax.tree.map(jnp.asarray, make_batch(config))
    state = create_state(key, method, tx, batch)
    variables, cloud = state.variables, {'cloud': batch['inputs']['cloud'][:1]}
    step = jax.jit(make_train_step(method, tx, lambda key, raw: raw)).lower(state, batch, key).compile()
    left, right = jnp.ones((ROWS, WIDTH)), jnp.ones((WIDTH, WIDTH))
    product = jax.jit(lambda a, b: a @ b)
    seconds = time_alternately(
        {
            'step': lambda: step(state, batch, key),
            'mesh': lambda: method.predict(variables, cloud, key)[0].vertices,
            'product': lambda: [product(left, right) for _ in range(PRODUCTS)],
        },
        STEPS.value,
    )

    def forward(params):
        return method.loss({**variables, 'params': params}, batch, key, None)[0]

    with reverse_mode(True):
        operations = 3 * jax.jit(forward).lower(variables['params']).cost_analysis()['flops']
    peak = PRODUCTS * 2 * ROWS * WIDTH**2 / float(np.median(seconds['product']))
    figures = {f'{name}_seconds': float(np.median(values)) for name, values in seconds.items()}
    figures |= {
        'gflop': operations / 1e9,
        'product_gflops': peak / 1e9,
        'share_of_product': operations / figures['step_seconds'] / peak,
        'step_gigabytes': step.memory_analysis().temp_size_in_bytes / 2**30,
        'process_gigabytes': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    report(
        'Deep Marching Cubes, 32^3 cells',
        {'batch': BATCH_SIZE.value, 'target points': config.data.num_target_points, 'steps': STEPS.value},
        [
            ('a training step', f'{figures["step_seconds"]:.2f} s (least {seconds["step"].min():.2f})'),
            ('  GFLOP, share of a matrix product', f'{operations / 1e9:.0f}, {figures["share_of_product"]:.2f}'),
            ('a matrix product', f'{peak / 1e9:.0f} GFLOP/s'),
            ('  working memory of the step', f'{figures["step_gigabytes"]:.2f} GiB'),
            ('  of the process', f'{figures["process_gigabytes"]:.2f} GiB'),
            ('a mesh, from its cloud', f'{figures["mesh_seconds"]:.2f} s'),
        ],
        figures,
    )


if __name__ == '__main__':
    run_command(main)
