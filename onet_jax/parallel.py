"""Data-parallel training on all devices of all processes, by pmap or by jit with shardings; inference on those of a process.

Both run the same step and give the same numbers as one device on the whole batch. The state is replicated and never stacked:
it has no axis of devices. No other file depends on how many devices there are. B rows of the global batch.
"""

import atexit
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from onet_jax.errors import InputError
from onet_jax.progress import mute, say

AXIS = 'data'
BACKENDS = ('pmap', 'jit')
QUEUED = 2  # items for each worker: what it does next waits for it, and no more is held in memory
Item = TypeVar('Item')
Done = TypeVar('Done')


class Parallel(NamedTuple):
    """How a step is run on the devices at hand."""

    num_devices: int  # of all processes
    axis_name: str | None  # of the collectives in the step; None under jit, which inserts them
    rows: range  # of the global batch that this process feeds
    compile: Callable[[Callable], Callable]  # step(state, raw, key) of a part of the batch -> the compiled one of all
    replicate: Callable[[Any], Any]  # a tree, the same in every process -> a copy of it on every device
    shard: Callable[[dict], dict]  # the rows of this process -> all B rows, sharded over the devices
    local: Callable[[Any], Any]  # a replicated tree -> a copy that this process can use without the others
    # (step, state, raw [B, ...], key), the last three as shapes -> `jax.stages.Lowered`, for devices that need not be there
    lower: Callable[..., jax.stages.Lowered]


def start_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    detect: bool = False,
) -> None:
    """Connect the processes of a run (`jax.distributed.initialize`), before any computation; without arguments do nothing.

    coordinator_address: HOST:PORT that process 0 listens on; process_id: 0 to num_processes - 1. With `detect` JAX takes them
    from the cluster: a TPU slice, SLURM, Open MPI, Kubernetes. Raises InputError for values that are incomplete or contradict
    each other, and where no cluster is found.
    """
    given = {
        '--coordinator_address': coordinator_address,
        '--num_processes': num_processes,
        '--process_id': process_id,
    }
    known = [name for name, value in given.items() if value is not None]
    if detect and known:
        raise InputError(
            f'--distributed: expected it alone, found {", ".join(known)} as well; '
            'leave them out on a cluster that JAX knows, or --distributed elsewhere'
        )
    if detect:
        try:
            jax.distributed.initialize()
        except ValueError as error:
            raise InputError(
                '--distributed: expected a TPU slice, or a job of SLURM (started by srun), Open MPI or Kubernetes, found '
                f'none ({error}); give {", ".join(given)}'
            ) from error
        mute(not is_first_process())
        return
    if not known:
        return
    if coordinator_address is None or num_processes is None or process_id is None:
        missing = [name for name in given if name not in known]
        raise InputError(
            f'{", ".join(missing)}: expected together with {", ".join(known)}, found nothing; each process of a run is '
            'given all three, or --distributed on a cluster that JAX knows'
        )
    host, _, port = coordinator_address.rpartition(':')
    if not host or not port.isdigit():
        raise InputError(
            f'--coordinator_address: expected HOST:PORT, such as 10.0.0.1:1234, found {coordinator_address!r}'
        )
    if not 0 <= process_id < num_processes:
        raise InputError(f'--process_id: expected 0 to --num_processes - 1 = {num_processes - 1}, found {process_id}')
    jax.distributed.initialize(coordinator_address, num_processes, process_id, cluster_detection_method='deactivate')
    mute(not is_first_process())


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """A process that raises in this block prints its error and exits at once, without waiting for the others.

    JAX would hold it in the shutdown barrier while the others wait for it in a collective. They fail when its connections
    close, or after 100 seconds without a heartbeat.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        if jax.process_count() > 1:
            atexit.register(_leave)  # runs before what JAX has registered
        raise


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def is_first_process() -> bool:
    """Whether this is process 0, which writes the files and prints."""
    return jax.process_index() == 0


def tell(message: str) -> None:
    """Print a line, in process 0 only."""
    if is_first_process():
        say(message, sys.stdout)


def wait_for_all(what: str) -> None:
    """A barrier: returns when all processes have called it; `what` names it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def any_process(flag: bool) -> bool:
    """Whether `flag` is set in any process. A collective: every process calls it."""
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def from_first_process(value: Any) -> Any:
    """Broadcast the value of process 0, None or anything that JSON holds. A collective: every process calls it."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = content if is_first_process() else np.zeros(length, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(content).tobytes())


def gather_rows(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All-gather: the rows of each process -> all rows [B, ...] on every host. A collective: every process calls it."""
    if jax.process_count() == 1:
        return raw
    spread, replicated = _shardings(_in_order(jax.devices()))
    rows = jax.make_array_from_process_local_data(spread, raw)
    return jax.tree.map(np.asarray, jax.jit(lambda tree: tree, out_shardings=replicated)(rows))


def make_vote() -> Callable[[bool], bool]:
    """vote(flag) -> whether any process has set its flag. A collective: all processes vote equally often, with one answer.

    With several processes the answer is that to the previous vote, which the devices computed during the step in between, so
    that no process waits for it.
    """
    if jax.process_count() == 1:
        return bool
    spread, replicated = _shardings(_in_order(jax.devices()))
    any_of = jax.jit(jax.numpy.any, out_shardings=replicated)
    before = None

    def vote(flag: bool) -> bool:
        nonlocal before
        flags = np.full(jax.local_device_count(), flag)
        before, answer = any_of(jax.make_array_from_process_local_data(spread, flags)), before
        return answer is not None and bool(answer)

    return vote


def make_parallel(backend: str, batch_size: int, devices: list | None = None) -> Parallel:
    """How to run a training step on all devices.

    backend: 'pmap' or 'jit' (shardings over a one-dimensional mesh). devices: those of all processes by default.

    Raises InputError for an unknown backend, when the global batch does not divide evenly, or when the processes have
    different numbers of devices.
    """
    devices = _in_order(devices or jax.devices())
    num_devices, processes = len(devices), [device.process_index for device in devices]
    if batch_size % num_devices:
        raise InputError(
            f'config.train.batch_size: expected a multiple of the {num_devices} devices, found {batch_size}; '
            f'use {batch_size // num_devices * num_devices or num_devices}'
        )
    counts = {process: processes.count(process) for process in processes}
    if len(set(counts.values())) > 1:
        raise InputError(f'devices: expected as many in each process, found {counts} (process: devices)')
    share = batch_size // len(counts)
    start = sorted(counts).index(jax.process_index()) * share
    rows, replicated = _shardings(devices)

    def replicate(tree):
        return jax.tree.map(lambda x: _place(x, replicated), tree)

    def shard(raw):
        return jax.make_array_from_process_local_data(rows, raw)

    def local(tree):
        return jax.tree.map(lambda x: x.addressable_data(0), tree) if len(counts) > 1 else tree

    if backend == 'jit':

        def compile_jit(step):
            return jax.jit(
                step, in_shardings=(replicated, rows, replicated), out_shardings=replicated, donate_argnums=0
            )

        def lower_jit(step, *shapes):
            return compile_jit(step).lower(*shapes)

        return Parallel(num_devices, None, range(start, start + share), compile_jit, replicate, shard, local, lower_jit)
    if backend == 'pmap':

        def map_step(step):
            return jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices)

        def compile_pmap(step):
            mapped = map_step(step)
            return mapped if len(counts) == 1 else lambda *args: _join_processes(mapped(*args), replicated)

        def split(raw, num_parts):
            return jax.tree.map(lambda x: x.reshape(num_parts, -1, *x.shape[1:]), raw)

        def lower_pmap(step, state, raw, key):
            return map_step(step).lower(state, jax.eval_shape(partial(split, num_parts=num_devices), raw), key)

        return Parallel(
            num_devices,
            AXIS,
            range(start, start + share),
            compile_pmap,
            replicate,
            lambda raw: shard(split(raw, num_devices // len(counts))),
            local,
            lower_pmap,
        )
    raise InputError(f'config.train.backend: expected one of {BACKENDS}, found {backend!r}')


def spread(work: Callable[[Any, Item], Done], tree: Any, items: Iterable[Item], on_each: int = 1) -> Iterator[Done]:
    """work(tree, item) of each of the items, in their order, on all devices of this process at once (data-parallel inference).

    An item is the work of one device, whichever is free, with a copy of the tree on it; each device has `on_each` threads. A
    single device with one thread does an item when it is asked for, in the thread of the caller, which control-C therefore
    interrupts at once.
    """
    devices = jax.local_devices()
    num_workers = on_each * len(devices)
    if num_workers == 1:
        yield from (work(tree, item) for item in items)
        return
    free: SimpleQueue = SimpleQueue()
    for place in on_each * [(device, jax.device_put(tree, device)) for device in devices]:
        free.put(place)

    def do(item):
        device, copy = free.get()
        try:
            # Programs of another default device are compiled anew, so that a single one is not named.
            with jax.default_device(device) if len(devices) > 1 else nullcontext():
                return work(copy, item)
        finally:
            free.put((device, copy))

    with ThreadPoolExecutor(num_workers) as threads:
        yield from overlap(threads, num_workers, do, items)


def overlap(pool: Executor, num_workers: int, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
    """work(item) of each of the items, in their order, by the workers of a pool, while the next items are made.

    A few items wait for each worker. Where the caller stops, those that have not begun are left out.
    """
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            while waiting and (waiting[0].done() or len(waiting) > QUEUED * num_workers):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _in_order(devices: list) -> list:
    """Sorted by process, so that each process feeds contiguous rows. On a TPU the ids of devices are in another order."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def _shardings(devices: list) -> tuple[NamedSharding, NamedSharding]:
    """Sharded by rows over the devices, and replicated on all of them."""
    mesh = Mesh(np.asarray(devices), (AXIS,))
    return NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())


def _place(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """`device_put`, also of PRNG keys, which it does not put on the devices of other processes."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_place(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    return jax.device_put(x, sharding)


def _join_processes(tree: Any, sharding: NamedSharding) -> Any:
    """The replicated results of pmap in each process -> global arrays of all processes, without a copy.

    pmap takes global arrays as inputs, and orbax writes no others.
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_single_device_arrays(
            x.shape, sharding, [piece.data for piece in x.addressable_shards]
        ),
        tree,
    )
