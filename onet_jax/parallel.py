"""pmap and jit over all devices of all processes: the one place that knows how many there are.

Both run the same step and give the same numbers as one device on the whole batch. The state is never stacked: every
device holds the same copy, and so does the caller. B rows of the global batch, P processes, D devices in all.
"""

import atexit
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from onet_jax.errors import InputError

AXIS = 'data'
BACKENDS = ('pmap', 'jit')


class Parallel(NamedTuple):
    """How a step is run on the devices at hand."""

    num_devices: int  # of all processes
    axis_name: str | None  # to build the step with
    rows: range  # of the global batch, those that this process feeds
    compile: Callable[[Callable], Callable]  # step(state, raw, key) -> the same, on all devices
    replicate: Callable[[Any], Any]  # a tree, the same in every process -> a copy of it on every device
    shard: Callable[[dict], dict]  # the rows [B / P, ...] of this process -> all rows, spread over the devices
    local: Callable[[Any], Any]  # a replicated tree -> what this process can compute with on its own


def start_processes(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    detect: bool = False,
) -> None:
    """Connect this process to the others of the run; does nothing without arguments. Before any computation.

    coordinator_address: HOST:PORT that process 0 listens on; process_id: 0 to num_processes - 1. With `detect` they are
    those of the cluster, which JAX knows of: a TPU slice, SLURM, Open MPI, Kubernetes. Raises InputError for values that
    are incomplete or contradict each other, and where no cluster is found.
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
        return
    if not known:
        return
    if len(known) < len(given):
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


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """A process that fails in this block ends when its error has been told, without waiting for the others.

    JAX would keep it until all have finished, while they wait for its part of a sum. They fail when its connections close,
    or when it has sent no sign of life for 100 seconds.
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
    """Whether this is the process that writes and tells, of however many there are."""
    return jax.process_index() == 0


def tell(message: str) -> None:
    """Print a line; of several processes the first one does."""
    if is_first_process():
        print(message, flush=True)


def wait_for_all(what: str) -> None:
    """Go on when all processes have come to the same place; `what` names it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def any_process(flag: bool) -> bool:
    """Whether it is set in any process. Every process calls it, and waits for all."""
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def from_first_process(value: Any) -> Any:
    """What the first process gives, in all of them: None, or anything else that JSON holds. Every process calls it."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    content = content if is_first_process() else np.zeros(length, np.uint8)
    return json.loads(multihost_utils.broadcast_one_to_all(content).tobytes())


def gather_rows(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows [B / P, ...] of each process -> all rows [B, ...], on every host. Every process calls it."""
    if jax.process_count() == 1:
        return raw
    spread, replicated = _shardings(_in_order(jax.devices()))
    rows = jax.make_array_from_process_local_data(spread, raw)
    return jax.tree.map(np.asarray, jax.jit(lambda tree: tree, out_shardings=replicated)(rows))


def make_vote() -> Callable[[bool], bool]:
    """vote(flag) -> whether the flag of any process is set: the same answer in all of them, which vote equally often.

    Of several processes it is the answer to the vote before, so that nobody waits for it: it comes while a step is computed.
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
    """backend: 'pmap' or 'jit' (shardings over a one-dimensional mesh); devices: those of all processes by default.

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

        return Parallel(num_devices, None, range(start, start + share), compile_jit, replicate, shard, local)
    if backend == 'pmap':

        def compile_pmap(step):
            mapped = jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=None, devices=devices)
            return mapped if len(counts) == 1 else lambda *args: _join_processes(mapped(*args), replicated)

        def split(raw):
            return jax.tree.map(lambda x: x.reshape(num_devices // len(counts), -1, *x.shape[1:]), raw)

        return Parallel(
            num_devices,
            AXIS,
            range(start, start + share),
            compile_pmap,
            replicate,
            lambda raw: shard(split(raw)),
            local,
        )
    raise InputError(f'config.train.backend: expected one of {BACKENDS}, found {backend!r}')


def _in_order(devices: list) -> list:
    """By process, which on a TPU is not the order of their numbers: each process feeds contiguous rows."""
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def _shardings(devices: list) -> tuple[NamedSharding, NamedSharding]:
    """Rows spread over the devices, and a copy on each of them."""
    mesh = Mesh(np.asarray(devices), (AXIS,))
    return NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())


def _place(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array, or keys, which `device_put` does not take to devices of other processes."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_place(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x))
    return jax.device_put(x, sharding)


def _join_processes(tree: Any, sharding: NamedSharding) -> Any:
    """The copies that pmap leaves on the devices of each process as arrays of all processes, without moving anything.

    pmap takes such arrays as they are, and checkpoints can be written of no other.
    """
    return jax.tree.map(
        lambda x: jax.make_array_from_single_device_arrays(
            x.shape, sharding, [piece.data for piece in x.addressable_shards]
        ),
        tree,
    )
