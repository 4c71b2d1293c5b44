"""Bytes that a training step all-reduces, read from what XLA compiled, and the efficiency to expect of 1 to 256 chips.

python -m benchmarks.scaling [--configs=onet_points,onet_image,onet_voxels] [--backend=pmap] [--step_seconds=0.05]

Nothing is run: the step of each config at full size is compiled for eight devices that XLA makes of this machine's CPU, and
the collectives are counted in its HLO. The efficiency is a model: the batch grows with the chips (8 or 64 shapes each), a ring
moves 2 (n - 1) / n of the bytes over the links of a chip, and every collective costs 2 ceil(log2 n) latencies. A step on
one chip takes --step_seconds or, without it, the operations that XLA counts at SHARE_OF_PEAK of the chip's peak.
"""

import itertools
import math
import re
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags

from benchmarks import report
from onet_jax import models
from onet_jax.configs import load_config
from onet_jax.data.fields import find_need, make_transform
from onet_jax.data.records import CHUNK_POINTS, COLUMNS, Need
from onet_jax.parallel import BACKENDS, make_parallel
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

CONFIGS = flags.DEFINE_list('configs', ['onet_points', 'onet_image', 'onet_voxels'], 'Names of files in configs/.')
BACKEND = flags.DEFINE_enum('backend', 'pmap', BACKENDS, 'As config.train.backend.')
STEP_SECONDS = flags.DEFINE_float('step_seconds', None, 'Of one chip on 8 shapes, where it was measured.')

NUM_DEVICES = 8  # of the compiled step; its bytes do not depend on it
SHAPES_PER_CHIP = (8, 64)
NUM_CHIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARE_OF_PEAK = 0.3  # what a network of products of 256 columns may reach; assumed, not measured
BACKWARD = 2 / 3  # of a step: the time behind which gradients can be reduced

FLOAT32 = 4  # bytes
WIDTHS = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8}
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast')


class Chip(NamedTuple):
    """Public figures of the vendors (docs/tpu_pod.md says where from)."""

    flops: float  # a second, of matrix products as JAX runs them on float32 arrays by default
    group: int  # chips that the fast links join
    fast: float  # bytes a second, one way, that the rings through a chip have together within a group
    slow: float  # and between groups
    latency: float  # s, of one message


CHIPS = {
    'TPU v4, one axis of the torus': Chip(275e12, 4096, 100e9, 100e9, 1e-6),
    'TPU v5e, one axis of the torus': Chip(197e12, 256, 100e9, 100e9, 1e-6),
    'A100, NVLink 3 and 8 x HDR InfiniBand': Chip(156e12, 8, 300e9, 200e9, 3e-6),
    'H100, NVLink 4 and 8 x NDR InfiniBand': Chip(495e12, 8, 450e9, 400e9, 3e-6),
}


class Traffic(NamedTuple):
    """What one step moves between devices."""

    counts: dict[str, int]  # collectives in the compiled step, by kind
    moved: dict[str, int]  # their bytes, by kind
    gradients: int  # bytes to expect: the weights in float32
    statistics: int  # means and variances of the normalised layers, forward and back
    scalars: int  # the loss and its terms
    flops: float  # of one device's share, counted by XLA; 0 where it does not say

    @property
    def expected(self) -> int:
        return self.gradients + self.statistics + self.scalars


def read_collectives(hlo: str) -> list[tuple[str, int]]:
    """(kind, bytes of its result) of every collective in the text of a compiled module."""
    pattern = re.compile(rf'= (.+?) ({"|".join(COLLECTIVES)})(?:-start)?\(')
    found = []
    for line in hlo.splitlines():
        if match := pattern.search(line):
            arrays = re.findall(r'(\w+)\[([\d,]*)\]', match[1])
            sizes = [WIDTHS[kind] * math.prod(int(n) for n in shape.split(',') if n) for kind, shape in arrays]
            found.append((match[2], sum(sizes)))
    return found


def measure_traffic(config, backend: str, devices: list) -> Traffic:
    """Compile the step of a config for `devices`, without running it or making weights, and count."""
    method, transform = models.build(config), make_transform(config.data)
    tx = make_optimizer(config, config.train.num_steps)
    parallel = make_parallel(backend, config.train.batch_size, devices)
    need, num_rows = find_need(config.data), config.train.batch_size
    rows = (len(devices), num_rows // len(devices)) if backend == 'pmap' else (num_rows,)
    key, raw = jax.eval_shape(partial(jax.random.key, 0)), abstract_batch((num_rows,), need)
    state = jax.eval_shape(lambda key, raw: create_state(key, method, tx, transform(key, raw)), key, raw)
    _, scalars = jax.eval_shape(make_train_step(method, tx, transform), state, raw, key)
    step = parallel.compile(make_train_step(method, tx, transform, parallel.axis_name))
    # The machine code is never run, and takes most of the time where it is made to be fast.
    options = {'xla_backend_optimization_level': 0}
    compiled = step.lower(state, abstract_batch(rows, need), key).compile(options)
    counts, moved = {}, {}
    for kind, size in read_collectives(compiled.as_text()):
        counts[kind] = counts.get(kind, 0) + 1
        moved[kind] = moved.get(kind, 0) + size
    num_weights, num_statistics = (
        sum(x.size for x in jax.tree.leaves(state.variables.get(group, {}))) for group in ('params', 'batch_stats')
    )
    return Traffic(
        counts,
        moved,
        FLOAT32 * num_weights,
        2 * FLOAT32 * num_statistics,
        FLOAT32 * len(scalars),
        float((compiled.cost_analysis() or {}).get('flops', 0)),
    )


def abstract_batch(rows: tuple[int, ...], need: Need) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a raw batch (`data.records.Feed`) with these leading axes."""
    shapes = {'index': ((), np.int32), 'row': ((), np.int32)}
    for name in need.columns:
        column = COLUMNS[name]
        dims = column.dims
        if column.per in need.chunks:
            dims = (need.chunks[column.per] * CHUNK_POINTS, *dims)
        shapes[name] = ((math.prod(dims) // 8,), np.uint8) if column.dtype is bool else (dims, column.dtype)
    return {name: jax.ShapeDtypeStruct((*rows, *shape), dtype) for name, (shape, dtype) in shapes.items()}


def efficiency(chip: Chip, num_chips: int, seconds: float, traffic: Traffic, *, overlap: bool) -> float:
    """Share of `num_chips` times one chip's speed, 0 to 1, for steps of `seconds` on one chip.

    With `overlap` the gradients of one layer are reduced while those of the layers before it are computed; statistics
    are needed at once and never hidden.
    """
    bandwidth = chip.fast if num_chips <= chip.group else chip.slow
    ring = 2 * (num_chips - 1) / num_chips / bandwidth
    waits = sum(traffic.counts.values()) * 2 * math.ceil(math.log2(num_chips)) * chip.latency
    gradients = ring * traffic.gradients
    if overlap:
        gradients = max(0.0, gradients - BACKWARD * seconds)
    return seconds / (seconds + gradients + ring * (traffic.expected - traffic.gradients) + waits)


def main(_):
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_num_cpu_devices', NUM_DEVICES)
    for name in CONFIGS.value:
        config = load_config(name)
        traffic = measure_traffic(config, BACKEND.value, jax.devices())
        parts = f'{traffic.gradients:,} + {traffic.statistics:,} + {traffic.scalars:,}'
        rows = [('gradients + statistics + scalars, expected', f'{parts} = {traffic.expected:,} bytes')]
        for kind, size in traffic.moved.items():
            rows.append((f'{kind}, {traffic.counts[kind]} in the HLO', f'{size:,} bytes'))
        rows.append(('operations of a device', f'{traffic.flops:.3g}'))
        rows.append(('share of the ideal speed on', '  '.join(f'{n:4d}' for n in NUM_CHIPS)))
        figures = traffic._asdict() | {'num_chips': NUM_CHIPS}
        for (label, chip), shapes, overlap in itertools.product(CHIPS.items(), SHAPES_PER_CHIP, (False, True)):
            compiled = config.train.batch_size // NUM_DEVICES
            seconds = (STEP_SECONDS.value or traffic.flops / (SHARE_OF_PEAK * chip.flops)) * shapes / compiled
            shares = [efficiency(chip, n, seconds, traffic, overlap=overlap) for n in NUM_CHIPS]
            line = f'{label}, {shapes} shapes in {1000 * seconds:.1f} ms, {"" if overlap else "no "}overlap'
            figures[line] = shares
            rows.append((line, '  '.join(f'{share:.2f}' for share in shares)))
        settings = {'backend': BACKEND.value, 'devices': NUM_DEVICES, 'batch_size': config.train.batch_size}
        report(f'configs/{name}.py: one step, compiled and not run', settings, rows, figures)


if __name__ == '__main__':
    app.run(main)
