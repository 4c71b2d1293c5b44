"""What a training step costs on many chips: memory, time and collectives as XLA compiled it, beside a model.

    python -m benchmarks.scaling [--configs=onet_points,onet_image,onet_voxels] [--step_seconds=0.05]
    python -m benchmarks.scaling --configs=all --topologies=v5e:4x4,v5e:16x16 [--all_programs] [--per_chip=8]

Nothing is run. The first command compiles for eight devices that XLA makes of this machine's CPU and counts the collectives in
the HLO; the second one compiles for slices of TPUs, which need not be there, by their own compiler
(`pip install 'onet_jax[tpu]'`), and prints the rows of the tables in docs/tpu_pod.md. A row says what cannot be compiled.

The model: the gradients in one all-reduce, the statistics of each normalisation in one forward and in one backward, and nothing
that overlaps with them (`onet_jax.training.chips`). The batch grows with the chips. A step on one chip takes --step_seconds or,
without it, its matrix products at SHARE_OF_PEAK of the chip's peak.
"""

import math
from typing import NamedTuple

import jax
from absl import flags
from ml_collections import ConfigDict

from benchmarks import report
from onet_jax import models
from onet_jax.configs import FILES, load_config
from onet_jax.errors import InputError
from onet_jax.launch import run_command
from onet_jax.parallel import BACKENDS
from onet_jax.training.chips import CHIPS, Chip, all_reduce_seconds, slice_shape
from onet_jax.training.compile_ahead import STEP, Figures, describe_state, lower_step, with_batch
from onet_jax.training.compile_report import TIME_LIMIT, Compiler, times
from onet_jax.training.hlo import Work, read_work
from onet_jax.training.state import is_in, path_of

CONFIGS = flags.DEFINE_list(
    'configs', ['onet_points', 'onet_image', 'onet_voxels'], 'Names of files in configs/, or all.'
)
TOPOLOGIES = flags.DEFINE_list('topologies', [], 'Slices of TPUs to compile for, such as v5e:16x16.')
PER_CHIP = flags.DEFINE_integer(
    'per_chip', None, 'Shapes on each chip; by default as many as the batch of a config needs.'
)
ALL_PROGRAMS = flags.DEFINE_bool('all_programs', False, 'For slices: every program of a config, not the step alone.')
TIME_LIMIT_S = flags.DEFINE_float('time_limit_s', TIME_LIMIT, 'For slices: of the compilation of one program.')
BACKEND = flags.DEFINE_enum('backend', 'pmap', BACKENDS, 'As config.train.backend.')
STEP_SECONDS = flags.DEFINE_float('step_seconds', None, 'Of one chip on 8 shapes, where it was measured.')

NUM_DEVICES = 8  # of the step that is compiled on a CPU; its bytes do not depend on it
SHAPES_PER_CHIP = (8, 64)
NUM_CHIPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARE_OF_PEAK = 0.15  # of onet_points as the compiler of TPUs expects; not measured
FLOAT32 = 4  # bytes


class Traffic(NamedTuple):
    """Bytes that the chips are expected to all-reduce in a step, and in how many all-reduces."""

    gradients: int  # the weights in float32
    statistics: int  # means and variances of the normalised layers, forward and back
    scalars: int  # the loss and its terms
    count: int

    @property
    def bytes(self) -> int:
        return self.gradients + self.statistics + self.scalars


def expect_traffic(config: ConfigDict) -> Traffic:
    """What the weights that learn and the statistics of a config say. Under jit the mean is reduced before the variance."""
    variables = describe_state(config, models.build(config)).variables
    weights = [
        x
        for keys, x in jax.tree_util.tree_leaves_with_path({'params': variables['params']})
        if not is_in(path_of(keys), config.train.frozen)
    ]
    statistics = jax.tree.leaves(variables.get('batch_stats', {}))
    of_a_layer = 2 if config.train.backend == 'pmap' else 3
    return Traffic(
        FLOAT32 * sum(x.size for x in weights),
        2 * FLOAT32 * sum(x.size for x in statistics),
        FLOAT32,
        of_a_layer * len(statistics) // 2 + 1,
    )


def compile_on_cpu(config: ConfigDict) -> Work:
    """The work of one device, of all that this process has, in a step of a config."""
    # The machine code is never run, and takes most of the time where it is made to be fast.
    compiled = lower_step(config, jax.devices()).compile({'xla_backend_optimization_level': 0})
    return read_work(compiled.as_text())


def efficiency(chip: Chip, shape: tuple[int, ...], seconds: float, num_bytes: float, count: int) -> float:
    """Share of n times one chip's speed, 0 to 1, for steps of `seconds` on one chip, over a slice of this shape."""
    return seconds / (seconds + all_reduce_seconds(chip, shape, num_bytes, count))


def get_config(name: str) -> ConfigDict:
    config = load_config(name)
    with config.unlocked():
        config.train.backend = BACKEND.value
    return config


def model_scaling(name: str) -> None:
    """Print the collectives of a config and the efficiency to expect of 1 to 256 chips."""
    config = get_config(name)
    work, traffic, batch_size = compile_on_cpu(config), expect_traffic(config), config.train.batch_size
    parts = f'{traffic.gradients:,} + {traffic.statistics:,} + {traffic.scalars:,}'
    rows = [('gradients + statistics + scalars, expected', f'{parts} = {traffic.bytes:,} bytes in {traffic.count}')]
    for kind, (count, size) in work.exchanged().items():
        rows.append((f'{kind}, {count} in the HLO', f'{size:,} bytes'))
    rows.append(('operations of a device', f'{work.flops:.3g}'))
    rows.append(('share of the ideal speed on', '  '.join(f'{n:4d}' for n in NUM_CHIPS)))
    figures = traffic._asdict() | {'exchanged': work.exchanged(), 'num_chips': NUM_CHIPS}
    for label, chip in CHIPS.items():
        for shapes in SHAPES_PER_CHIP:
            compiled = batch_size // NUM_DEVICES
            seconds = (STEP_SECONDS.value or work.flops / (SHARE_OF_PEAK * chip.flops)) * shapes / compiled
            slices = [slice_shape(chip, n) for n in NUM_CHIPS]
            shares = [efficiency(chip, shape, seconds, traffic.bytes, traffic.count) for shape in slices]
            line = f'{label}, {shapes} shapes in {1000 * seconds:.1f} ms'
            figures[line] = shares
            rows.append((line, '  '.join(f'{share:.2f}' for share in shares)))
    settings = {'backend': BACKEND.value, 'devices': NUM_DEVICES, 'batch_size': batch_size}
    report(f'configs/{name}.py: one step, compiled and not run', settings, rows, figures)


HEAD = (
    '| config | slice | a chip | program | compiled, s | HLO, MB | held, GB | temporaries, GB | GFLOP | GB moved | matrix, ms '
    '| memory, ms | expected, ms | all-reduces | MB | links, ms | efficiency | modelled |'
)


def compile_for_slices(name: str) -> None:
    """Print the rows of the table of one config: its step on every slice, other programs on a chip of the first one."""
    for i, topology in enumerate(TOPOLOGIES.value):
        compiler = Compiler(topology, TIME_LIMIT_S.value)
        num_chips = compiler.num_chips
        config = with_batch(get_config(name), num_chips, PER_CHIP.value and PER_CHIP.value * num_chips)
        share = config.train.batch_size // num_chips
        traffic = expect_traffic(config)
        for program, shape in compiler.list_programs(config):
            if program != STEP and (i or not ALL_PROGRAMS.value):
                continue
            try:
                cells = describe_program(compiler.measure(config, program), compiler.chip, shape, traffic)
            except InputError as error:
                cells = (f'not compiled: {str(error).splitlines()[0]}',)
            print(f'| {" | ".join((name, topology, str(share), program, *cells))} |', flush=True)


def describe_program(figures: Figures, chip: Chip, shape: tuple[int, ...], traffic: Traffic) -> tuple[str, ...]:
    """The columns of `HEAD` from the fifth on. traffic: as expected of the training step."""
    seconds, exchanged, work = times(figures, chip, shape), figures.work.exchanged(), figures.work
    count, num_bytes = exchanged.get('all-reduce', (0, 0))
    others = ''.join(f', {n} x {kind}' for kind, (n, _) in exchanged.items() if kind != 'all-reduce')
    bound = '>' if work.open_loops else ''
    all_bytes = figures.held + figures.temporaries
    cells = (
        f'{figures.compile_seconds:.0f}',
        f'{figures.hlo_bytes / 1e6:.2f}',
        f'{figures.held / 1e9:.2f}',
        f'{figures.temporaries / 1e9:.2f} ({100 * all_bytes / chip.memory:.0f} %)',
        f'{bound}{work.flops / 1e9:.1f}',
        f'{bound}{work.traffic / 1e9:.2f}',
        *(f'{bound}{1000 * seconds[key]:.2f}' for key in ('matrix', 'memory', 'cycles')),
    )
    if math.prod(shape) == 1:
        return cells
    modelled = work.flops / (SHARE_OF_PEAK * chip.flops)
    return (
        *cells,
        f'{count} ({traffic.count}){others}',
        f'{num_bytes / 1e6:.2f} ({traffic.bytes / 1e6:.2f})',
        f'{1000 * seconds["links"]:.2f}',
        f'{seconds["cycles"] / (seconds["cycles"] + seconds["links"]):.2f}',
        f'{efficiency(chip, shape, modelled, traffic.bytes, traffic.count):.2f}',
    )


def main(_):
    jax.config.update('jax_platforms', 'cpu')
    names = list(FILES) if CONFIGS.value == ['all'] else CONFIGS.value
    if TOPOLOGIES.value:
        print(f'{HEAD}\n|{"---|" * HEAD.count(" | ")}---|', flush=True)
        for name in names:
            compile_for_slices(name)
        return
    jax.config.update('jax_num_cpu_devices', NUM_DEVICES)
    for name in names:
        model_scaling(name)


if __name__ == '__main__':
    run_command(main)
