"""Milliseconds of a training step of the full-size networks, beside a twin in plain PyTorch where that is installed.

    python -m benchmarks.train [--batch_size=8] [--dtype=float32] [--networks=points,image,voxels]

The step is the one of `onet train`, on a batch of a small dataset that is built for it; the share of time spent waiting for
data is that of a loop over the streaming feed where TensorFlow is installed, else over the resident one. The steps of all
implementations alternate, so that a busy machine slows them alike; a twin that fails has its error as its row. For a GPU:
--batch_size=64 --dtype=bfloat16.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from benchmarks import report, start_each, time_alternately
from onet_jax import models
from onet_jax.configs import atlasnet, onet_image, onet_points, onet_voxels, pixel2mesh
from onet_jax.convert import official
from onet_jax.data.fields import find_need, make_transform
from onet_jax.data.resident import resident_feed
from onet_jax.data.streamed import tfds_feed
from onet_jax.errors import InputError
from onet_jax.launch import run_command
from onet_jax.models.method import TRAIN_DTYPES
from onet_jax.parallel import make_parallel
from onet_jax.prepare.embedded import prepare_procedural
from onet_jax.prepare.runners import in_this_process
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

CONFIGS = {
    'points': onet_points,
    'image': onet_image,
    'voxels': onet_voxels,
    'atlasnet': atlasnet,
    'pixel2mesh': pixel2mesh,
}
# The file here with the same network in PyTorch: make_step(config, weights by official names, batch, device, compiled) -> step.
TWINS = dict.fromkeys(CONFIGS, 'torch_twin') | {name: f'torch_{name}' for name in ('atlasnet', 'pixel2mesh')}
NETWORKS = flags.DEFINE_list('networks', list(CONFIGS), 'Which of the networks.')
VARIANT = flags.DEFINE_string('variant', '', 'Of the configs, such as tiny.')
BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Shapes in a batch.', lower_bound=1)
NUM_POINTS = flags.DEFINE_integer('num_points', 2048, 'Points of a shape.', lower_bound=1, upper_bound=2048)
DTYPE = flags.DEFINE_enum('dtype', 'float32', list(TRAIN_DTYPES), 'config.train.dtype.')
BACKEND = flags.DEFINE_enum('backend', 'pmap', ['pmap', 'jit'], 'config.train.backend.')
STEPS = flags.DEFINE_integer('steps', 12, 'Steps to take the median of.', lower_bound=1)
TORCH = flags.DEFINE_bool('torch', True, 'Also time the twin, where PyTorch is installed.')
TORCH_COMPILE = flags.DEFINE_bool('torch_compile', True, 'And the twin compiled by PyTorch.')


def get_config(name: str) -> ConfigDict:
    config = CONFIGS[name](VARIANT.value)
    with config.unlocked():
        config.data.num_points_per_step = NUM_POINTS.value
        config.train.update(batch_size=BATCH_SIZE.value, dtype=DTYPE.value, backend=BACKEND.value)
    return config


def build_dataset(data_dir: str, num_shapes_per_family: int = 12) -> None:
    """By default thirty shapes with four chunks of points and four views: enough for any feed to be itself."""
    prepare_procedural(
        data_dir,
        families=('chair', 'mug', 'table'),
        num_shapes_per_family=num_shapes_per_family,
        num_points=8192,
        num_views=4,
        seed=0,
        val_fraction=0.1,
        test_fraction=0.1,
        run=in_this_process,
    )


def make_product(dtype: Any, sizes: tuple[int, int, int] | None = None) -> tuple[Callable[[], list], float]:
    """Large matrix products, the most that a step can hope for, and their floating-point operations.

    sizes: rows, columns and number of the products, by default some that suit the processor.
    """
    rows, size, repeats = sizes or ((4096, 512, 20) if jax.default_backend() == 'cpu' else (8192, 8192, 5))
    left, right = jnp.ones((rows, size), dtype), jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    return lambda: [product(left, right) for _ in range(repeats)], repeats * 2 * rows * size * size


def count_operations(method, state, batch) -> float:
    """Floating-point operations of a step: three times those of its forward pass, as XLA counts them before it optimises."""

    def forward(trainable):
        return method.loss({**state.variables, 'params': trainable}, batch, jax.random.key(0), None)[0]

    return 3 * jax.jit(forward).lower(state.variables['params']).cost_analysis()['flops']


def measure_wait(step: Callable, state, parallel, feed, key) -> float:
    """The share of time for which the training loop waits for the next batch and its transfer."""
    batches, waited, losses = feed(0), 0.0, []
    for i in range(STEPS.value + 2):
        if i == 2:  # the pipeline is filled
            start, waited = time.perf_counter(), 0.0
        if len(losses) > 1:
            losses[-2].block_until_ready()
        began = time.perf_counter()
        raw = parallel.shard(next(batches))
        waited += time.perf_counter() - began
        state, scalars = step(state, raw, key)
        losses.append(scalars['loss'])
    jax.block_until_ready(state)
    return waited / (time.perf_counter() - start)


def measure(name: str, data_dir: str) -> tuple[dict, list]:
    config = get_config(name)
    method, transform, tx = models.build(config), make_transform(config.data), make_optimizer(config, 1000)
    parallel, need = make_parallel(config.train.backend, config.train.batch_size), find_need(config.data)
    streams = importlib.util.find_spec('tensorflow') is not None
    feed = (tfds_feed if streams else resident_feed)(data_dir, need, batch_size=config.train.batch_size, seed=0)
    raw, key = next(feed(0)), jax.random.key(0)
    batch = jax.jit(transform)(key, raw)
    state = create_state(key, method, tx, batch)
    operations, weights = count_operations(method, state, batch), jax.device_get(state.variables)

    state, raw, key = parallel.replicate(state), parallel.shard(raw), parallel.replicate(key)
    compiled = (
        parallel.compile(make_train_step(method, tx, transform, parallel.axis_name)).lower(state, raw, key).compile()
    )
    memory = compiled.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    last = [state]

    def step():
        last[0], scalars = compiled(last[0], raw, key)
        jax.block_until_ready(last[0])
        return scalars

    product, product_operations = make_product(config.train.dtype)
    works, errors = {'product': product, 'onet_jax': step}, {}
    if TORCH.value and importlib.util.find_spec('torch') is not None:
        torch, twin = importlib.import_module('torch'), importlib.import_module(f'benchmarks.{TWINS[name]}')
        torch.set_float32_matmul_precision('high')  # as JAX does on a GPU by default
        device, state_dict = (
            'cuda' if jax.default_backend() == 'gpu' else 'cpu',
            official.to_state_dict(weights, config),
        )
        make = partial(twin.make_step, config, state_dict, batch, device)
        makers = {'torch': partial(make, False)}
        if TORCH_COMPILE.value:
            makers['torch_compile'] = partial(make, True)
        twins, errors = start_each(makers)
        works |= twins
    seconds = time_alternately(works, STEPS.value)
    peak = product_operations / float(np.median(seconds.pop('product')))
    ours = float(np.median(seconds['onet_jax']))
    waiting = measure_wait(compiled, last[0], parallel, feed, key)
    figures = {
        'gflop': operations / 1e9,
        'product_gflops': peak / 1e9,
        'share_of_product': operations / ours / peak,
        'waiting_for_data': waiting,
        'memory_gigabytes': (needed - memory.alias_size_in_bytes) / 1e9,
    }
    rows = []
    for title, values in seconds.items():
        figures |= {f'{title}_ms': 1e3 * float(np.median(values)), f'{title}_min_ms': 1e3 * float(values.min())}
        ratio = '' if title == 'onet_jax' else f', {np.median(values / seconds["onet_jax"]):.2f} times ours'
        rows.append(
            (f'{name}: ms a step, {title}', f'{figures[f"{title}_ms"]:.1f} (least {1e3 * values.min():.1f}){ratio}')
        )
    rows += [(f'{name}: ms a step, {title}', error) for title, error in errors.items()]
    rows += [
        ('  GFLOP a step', f'{operations / 1e9:.0f}'),
        ('  share of a matrix product', f'{figures["share_of_product"]:.2f} of {peak / 1e9:.0f} GFLOP/s'),
        (f'  waiting for data ({"streaming" if streams else "resident"})', f'{waiting:.1%}'),
        ('  memory of the step (GB)', f'{figures["memory_gigabytes"]:.2f}'),
    ]
    return {f'{name}_{key}': value for key, value in figures.items()}, rows


def load_torch_compiler() -> None:
    """PyTorch's compiler brings an LLVM that refuses to be loaded after that of TensorFlow."""
    if TORCH.value and TORCH_COMPILE.value and importlib.util.find_spec('torch') is not None:
        importlib.import_module('torch._dynamo')


def main(_):
    unknown = set(NETWORKS.value) - set(CONFIGS)
    if unknown:
        raise InputError(f'--networks: expected some of {list(CONFIGS)}, found {sorted(unknown)}')
    load_torch_compiler()
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as data_dir:
        build_dataset(data_dir)
        for name in NETWORKS.value:
            more, more_rows = measure(name, data_dir)
            figures, rows = figures | more, rows + more_rows
            print(f'{name}: {more[f"{name}_onet_jax_ms"]:.0f} ms a step', flush=True)
    settings = {'batch': BATCH_SIZE.value, 'points': NUM_POINTS.value, 'dtype': DTYPE.value, 'backend': BACKEND.value}
    report('a training step', {**settings, 'steps': STEPS.value}, rows, figures)


if __name__ == '__main__':
    run_command(main)
