"""What one GPU does, in at most ten minutes: decoding, training steps, meshes, the feed, memory and compile times.

    python -m benchmarks.gpu --output=FOLDER [--seconds=570] [--only=TEXT] [--small]

FOLDER/gpu.json and FOLDER/gpu.md have a row for each measurement, those that are worth most first, and are written after each.
A row that fails has its error, and the others go on. At the end of the seconds the program ends, whatever it is doing, and the
rows that it did not reach say so. --small measures next to nothing in a minute or two on a CPU: it shows that each row works.
"""

import importlib.util
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.tree_util import Partial

from benchmarks import measure_rows, time_alternately, train
from onet_jax import models
from onet_jax.configs import load_config
from onet_jax.data.fields import example_batch, find_need
from onet_jax.data.resident import resident_feed
from onet_jax.geometry.batched_extraction import extract_meshes
from onet_jax.launch import run_command
from onet_jax.models import onet
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

BEGAN = time.monotonic()
OUTPUT = flags.DEFINE_string('output', None, 'Folder for gpu.json and gpu.md.', required=True)
SECONDS = flags.DEFINE_float('seconds', 570, 'When the program ends.', lower_bound=1)
ONLY = flags.DEFINE_string('only', '', 'Rows whose titles have this text, such as decode.')
SMALL = flags.DEFINE_bool('small', False, 'Small networks and batches, for a CPU.')
# Title -> precision of products, dtype of a bound decoder.
PRECISIONS = {
    'float32': ('highest', jnp.float32),
    'TF32': ('tensorfloat32', jnp.float32),
    'bfloat16': ('default', jnp.bfloat16),
}
DTYPES = ('bfloat16', 'float32')
FIRST = ('points', 'image', 'voxels')  # of `train.CONFIGS`
OTHERS = ('conv_onet', 'occupancy_flow', 'onet4d', 'psgn4d', 'psgn', 'r2n2', 'dmc', 'texture_field', 'nerf')
MESH_BATCHES = (64, 1, 256, 16, 4)
REPEATS = 5


def make_network() -> tuple:
    """The paper's decoder at full size, with initial weights."""
    size = 16 if SMALL.value else 256
    model = onet.make_model(cond_size=size, decoder_hidden_size=size)
    return model, model.init(jax.random.key(0), jnp.zeros((1, 300, 3))), size


def decode(precision: str) -> dict:
    """Points a second of a bound decoder, as a share of large products in the same precision."""
    model, params, size = make_network()
    num_points = 2_000 if SMALL.value else 1 << 19
    points = jax.random.uniform(jax.random.key(1), (num_points, 3), minval=-0.55, maxval=0.55)
    products, dtype = PRECISIONS[precision]
    with jax.default_matmul_precision(products):
        field = model.bind(params, jnp.zeros((1, size)), None, dtype)
        compiled = jax.jit(lambda field, points: field(points))
        start = time.perf_counter()
        jax.block_until_ready(compiled(field, points))
        compile_seconds = time.perf_counter() - start
        product, operations = train.make_product(dtype, (256, 256, 2) if SMALL.value else None)
        seconds = time_alternately({'decode': lambda: compiled(field, points), 'product': product}, REPEATS)
    done, peak = num_points * 10 * 2 * size**2 / seconds['decode'], operations / seconds['product']
    return {
        'million points a second': float(np.median(num_points / seconds['decode'])) / 1e6,
        'TFLOP/s': float(np.median(done)) / 1e12,
        'product TFLOP/s': float(np.median(peak)) / 1e12,
        'share of product': float(np.median(done / peak)),
        'compile s': compile_seconds,
    }


def step_with_twin(name: str, dtype: str, data_dir: str, torch: bool) -> dict:
    """A training step with its feed, as `benchmarks.train` measures it, and beside the same network in PyTorch."""
    if torch and importlib.util.find_spec('torch') is None:
        return {'PyTorch': 'not installed'}
    small = {'variant': 'tiny', 'batch_size': 2, 'num_points': 256, 'steps': 1, 'torch_compile': False}
    for key, value in (small if SMALL.value else {'batch_size': 64, 'steps': REPEATS}).items():
        setattr(flags.FLAGS, key, value)
    flags.FLAGS.dtype, flags.FLAGS.torch, flags.FLAGS.backend = dtype, torch, 'jit'
    figures, _ = train.measure(name, data_dir)
    return {key.removeprefix(f'{name}_'): value for key, value in figures.items()}


def step_alone(name: str, dtype: str) -> dict:
    """A training step on a batch of random numbers of the right shapes."""
    config = load_config(f'{name}:tiny' if SMALL.value else name)
    with config.unlocked():
        config.train.dtype = dtype
    rows = 2 if SMALL.value else config.train.batch_size
    rng = np.random.default_rng(0)

    def draw(like):
        whole = jnp.issubdtype(like.dtype, jnp.integer)
        values = np.zeros((rows, *like.shape[1:])) if whole else rng.uniform(size=(rows, *like.shape[1:]))
        return jnp.asarray(values, like.dtype)

    batch = {**jax.tree.map(draw, example_batch(config.data)), 'row': jnp.arange(rows)}
    method, tx, key = models.build(config), make_optimizer(config, 1000), jax.random.key(0)
    state = create_state(key, method, tx, batch)
    step = (method.make_step or make_train_step)(method, tx, lambda key, raw: raw, None, 0.0)
    start = time.perf_counter()
    compiled = jax.jit(step).lower(state, batch, key).compile()
    compile_seconds = time.perf_counter() - start
    seconds = time_alternately({'step': lambda: compiled(state, batch, key)}, 1 if SMALL.value else REPEATS)['step']
    memory = compiled.memory_analysis()
    needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    return {'batch': rows, 'ms': 1e3 * float(np.median(seconds)), 'GB': needed / 1e9, 'compile s': compile_seconds}


def _near_a_ball(field: Callable, points: jax.Array) -> jax.Array:
    """Costs what the network costs, and has a surface, which an untrained network need not have."""
    return 20 * (0.35 - jnp.linalg.norm(points, axis=-1)) + 1e-3 * field(points).astype(jnp.float32)


def meshes(batch: int, dtype: str) -> dict:
    """Meshes a second, extracted at once by MISE and marching cubes on the device, 32 -> 128."""
    model, params, size = make_network()
    conds = jax.random.normal(jax.random.key(2), (batch, size))
    fields = jax.vmap(lambda cond: model.bind(params, cond[None], None, jnp.dtype(dtype)))(conds)
    resolution = 4 if SMALL.value else 32

    def extract():
        return extract_meshes(
            Partial(_near_a_ball, fields), batch, resolution=resolution, upsampling_steps=2, threshold=0.5
        )

    start = time.perf_counter()
    made = extract()
    first = time.perf_counter() - start
    if not all(mesh.is_watertight for mesh in made[:4]):
        raise AssertionError('expected closed meshes, found others')
    seconds = []
    for _ in range(1 if SMALL.value else 3):
        start = time.perf_counter()
        extract()
        seconds.append(time.perf_counter() - start)
    return {
        'meshes a second': batch / float(np.median(seconds)),
        'faces of one': len(made[0].faces),
        'first call s': first,
    }


def feed(data_dir: str) -> dict:
    """Batches a second of the resident feed, without a network."""
    size, count = (4, 3) if SMALL.value else (64, 200)
    config = load_config('onet_points')
    batches = resident_feed(data_dir, find_need(config.data), batch_size=size, seed=0)(0)
    jax.block_until_ready(list(islice(batches, 2)))
    start = time.perf_counter()
    for raw in islice(batches, count):
        jax.block_until_ready(raw)
    seconds = time.perf_counter() - start
    batches.close()
    return {'batch': size, 'batches a second': count / seconds}


def list_rows(data_dir: str, small: bool) -> dict[str, Callable[[], dict]]:
    """The measurements by their titles, those that are worth most first."""
    first = FIRST[:1] if small else FIRST
    dtypes, batches = (DTYPES[:1], (2,)) if small else (DTYPES, MESH_BATCHES)
    rows: dict[str, Callable[[], dict]] = {f'decode, {name}': partial(decode, name) for name in PRECISIONS}
    for torch in (False, True):
        for name in first:
            for dtype in dtypes:
                title = f'step of {name}, {dtype}' + (', beside PyTorch' if torch else '')
                rows[title] = partial(step_with_twin, name, dtype, data_dir, torch)
        if not torch:
            rows |= {
                f'meshes, {batch} at once, {dtype}': partial(meshes, batch, dtype)
                for dtype in dtypes
                for batch in batches
            }
            rows['resident feed'] = partial(feed, data_dir)
    for dtype in dtypes:
        rows |= {
            f'step of {name}, {dtype}': partial(step_alone, name, dtype) for name in OTHERS[: 1 if small else None]
        }
    if not small:
        for torch in (False, True):
            for name in ('atlasnet', 'pixel2mesh'):
                title = f'step of {name}, bfloat16' + (', beside PyTorch' if torch else '')
                rows[title] = partial(step_with_twin, name, 'bfloat16', data_dir, torch)
    return rows


def main(_):
    seconds = SECONDS.value - (time.monotonic() - BEGAN)
    end = threading.Timer(seconds, os._exit, (0,))  # also out of a compilation that does not end
    end.daemon = True
    end.start()
    if not SMALL.value:
        train.load_torch_compiler()
    jax.config.update('jax_enable_compilation_cache', False)  # compile times are those of a first run
    device = jax.devices()[0]
    machine = {
        'device': f'{device.device_kind} ({device.platform})',
        'jax': jax.__version__,
        'seconds': SECONDS.value,
        'small': SMALL.value,
    }
    with tempfile.TemporaryDirectory() as data_dir:
        train.build_dataset(data_dir, 4 if SMALL.value else 12)
        rows = {title: measure for title, measure in list_rows(data_dir, SMALL.value).items() if ONLY.value in title}
        found = measure_rows(rows, Path(OUTPUT.value), machine, time.monotonic() + seconds)
    print(json.dumps({'machine': machine, 'rows': found}), flush=True)


if __name__ == '__main__':
    run_command(main)
