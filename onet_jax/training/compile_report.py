"""Reports of ahead-of-time compilation: what each program of a config costs on a slice of TPUs, and the largest batch.

The compiler of TPUs ends its process where it finds a mistake of its own, and may take hours. So it runs in a process apart,
which is started again after either: a program that cannot be compiled costs one line.
"""

import math
import pickle
import threading
from collections.abc import Iterator
from functools import lru_cache

import jax
from ml_collections import ConfigDict

from onet_jax.errors import InputError
from onet_jax.geometry.field import compiled_for
from onet_jax.parallel import make_parallel
from onet_jax.prepare.runners import Worker
from onet_jax.progress import working
from onet_jax.training.chips import GIB, Chip, all_reduce_seconds
from onet_jax.training.compile_ahead import (
    STEP,
    Figures,
    Program,
    Slice,
    TooLargeError,
    list_programs,
    lower_step,
    measure,
    open_slice,
    read_topology,
    with_batch,
)
from onet_jax.training.hlo import Work

TIME_LIMIT = 1200.0  # s, of one program


class Compiler:
    """The compiler of TPUs in a process apart, for one slice."""

    def __init__(self, topology: str, time_limit: float = TIME_LIMIT) -> None:
        """topology: as of `open_slice`. time_limit: s, of one program. Raises InputError as `read_topology`."""
        self.chip, self.shape = read_topology(topology)
        self.num_chips = math.prod(self.shape)
        self._worker = Worker(threading.Event(), 1, time_limit, 'as the compiler says on stderr', 'allow it more time')
        self._topology = topology

    def list_programs(self, config: ConfigDict) -> list[tuple[str, tuple[int, ...]]]:
        """Names and chips of `compile_ahead.list_programs`.

        Raises InputError as `open_slice`, and for a batch that does not divide evenly.
        """
        return self._worker.do(_list, (self._topology, pickle.dumps(config)))

    def measure(self, config: ConfigDict, name: str) -> Figures:
        """The figures of a program.

        Raises TooLargeError where it does not fit into the memory, and InputError where the compiler refuses it, dies over
        it or takes too long.
        """
        with working(f'compiling {name} for {self._topology}'):
            return self._worker.do(_measure, (self._topology, pickle.dumps(config), name))


@lru_cache(maxsize=1)
def _open(topology: str) -> Slice:
    jax.config.update('jax_enable_compilation_cache', False)  # seconds are those of the compiler
    return open_slice(topology)


@lru_cache(maxsize=1)
def _programs(topology: str, pickled: bytes) -> dict[str, Program]:
    return {program.name: program for program in list_programs(pickle.loads(pickled), _open(topology))}


def _list(topology: str, pickled: bytes) -> list[tuple[str, tuple[int, ...]]]:
    train = pickle.loads(pickled).train
    make_parallel(
        train.backend, train.batch_size, _open(topology).devices
    )  # wrong input is found before the first program
    return [(program.name, program.shape) for program in _programs(topology, pickled).values()]


def _measure(topology: str, pickled: bytes, name: str) -> Figures:
    with compiled_for('tpu'):
        if name == STEP:  # without the others: the search for the largest batch compiles many
            return measure(lower_step(pickle.loads(pickled), _open(topology).devices))
        return measure(_programs(topology, pickled)[name].lower())


def times(figures: Figures, chip: Chip, shape: tuple[int, ...]) -> dict[str, float]:
    """Seconds of a program by what takes them.

    matrix, memory    at the peak of the chip and at the bandwidth of its memory; the longer of both is the roofline
    links             of its all-reduces, which XLA does not overlap with anything (see `chips.all_reduce_seconds`)
    cycles            as the compiler expects, without links
    """
    work, exchanged = figures.work, figures.work.exchanged()
    count, num_bytes = (sum(values) for values in zip(*exchanged.values(), strict=True)) if exchanged else (0, 0)
    return {
        'matrix': work.flops / chip.flops,
        'memory': work.traffic / chip.bandwidth,
        'links': all_reduce_seconds(chip, shape, num_bytes, count),
        'cycles': work.cycles / chip.clock if chip.clock else 0.0,
    }


def find_largest_batch(config: ConfigDict, compiler: Compiler, figures: Figures) -> int:
    """The largest batch whose training step fits into the memory: it is compiled, and so is twice that, which does not fit.

    figures: of the step with the batch of the config, from which the search begins; it tries powers of two of examples on each
    chip that are larger.
    """
    num_chips, memory = compiler.num_chips, compiler.chip.memory
    own = config.train.batch_size // num_chips

    def estimate(figures, share):
        """A power of two, by temporaries in proportion to the batch."""
        return 1 << max(int(share * (memory - figures.held) / max(figures.temporaries, 1)), 1).bit_length() - 1

    fits, too_large, share = own, None, max(estimate(figures, own), 2 * own)
    while fits < share:
        try:
            figures = compiler.measure(with_batch(config, num_chips, share * num_chips), STEP)
        except TooLargeError:
            too_large, share = share, share // 2
        else:
            fits, share = share, max(estimate(figures, share), 2 * share)
            if too_large:
                share = min(share, too_large // 2)
    return fits * num_chips


def report(
    config: ConfigDict, topology: str, batch_size: int | None = None, time_limit: float = TIME_LIMIT
) -> Iterator[str]:
    """Lines that say what each program of a config costs on a slice of TPUs, as they are compiled.

    batch_size: of training, over all chips; by default that of the config, rounded up to a multiple of the chips. time_limit:
    s, of one program. Raises InputError as `open_slice`, and for a batch that does not divide evenly.
    """
    compiler = Compiler(topology, time_limit)
    chip, num_chips = compiler.chip, compiler.num_chips
    config = with_batch(config, num_chips, batch_size)
    size = config.train.batch_size
    programs = compiler.list_programs(config)
    yield (
        f'{topology}: {num_chips} chips, each {chip.flops / 1e12:.0f} TFLOP/s, {chip.memory / GIB:.2f} GiB at '
        f'{chip.bandwidth / 1e9:.0f} GB/s, links of {chip.link / 1e9:.0f} GB/s; {size} examples in a step, '
        f'{size // num_chips} on each chip'
    )
    yield ROW.format(*HEAD)
    step = None
    for name, shape in programs:
        try:
            figures = compiler.measure(config, name)
        except InputError as error:
            yield f'{name:20} not compiled: {error}'
            continue
        yield ROW.format(name, *cells(figures, chip, shape))
        if name == STEP:
            step = figures
            for kind, (count, num_bytes) in figures.work.exchanged().items():
                yield f'{"":20} {count} x {kind}, {num_bytes:,} bytes: ' + _sizes(figures.work, kind)
    if step is not None:
        with working(f'looking for the largest batch of {topology}'):
            largest = find_largest_batch(config, compiler, step)
        yield f'the largest batch that fits: {largest:,}, {largest // num_chips:,} on each chip'


ROW = '{:20} {:>9} {:>9} {:>9} {:>16} {:>9} {:>9} {:>9} {:>10} {:>10} {:>9} {:>10}'
HEAD = (
    'program', 'compiled', 'HLO', 'held', 'temporaries', 'GFLOP', 'GB moved', 'FLOP/byte', 'matrix', 'memory', 'links',
    'expected',
)  # fmt: skip


def cells(figures: Figures, chip: Chip, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The columns of `HEAD` but the first. The share is that of all its memory in what a chip allows."""
    memory, work = figures.held + figures.temporaries, figures.work
    seconds = times(figures, chip, shape)
    expected = seconds['cycles'] + seconds['links']
    bound = '>' if work.open_loops else ''
    return (
        f'{figures.compile_seconds:.0f} s',
        f'{figures.hlo_bytes / 1e6:.2f} MB',
        f'{figures.held / 1e9:.3f} GB',
        f'{figures.temporaries / 1e9:.3f} GB {100 * memory / chip.memory:3.0f} %',
        f'{bound}{work.flops / 1e9:.2f}',
        f'{bound}{work.traffic / 1e9:.3f}',
        f'{work.flops / work.traffic:.1f}' if work.traffic else '',
        *(f'{bound}{1000 * seconds[key]:.2f} ms' for key in ('matrix', 'memory')),
        f'{1000 * seconds["links"]:.2f} ms' if seconds['links'] else '',
        f'{bound}{1000 * expected:.2f} ms',
    )


def _sizes(work: Work, kind: str) -> str:
    """Sizes of the collectives of a kind, the largest first, with how many have each."""
    counts: dict[int, int] = {}
    for each in work.collectives:
        if each.kind == kind:
            counts[each.num_bytes] = counts.get(each.num_bytes, 0) + each.times
    return ', '.join(f'{count} x {size:,}' for size, count in sorted(counts.items(), reverse=True))
