import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from model_configs import small_config

from onet_jax.errors import InputError
from onet_jax.files import one_at_a_time
from onet_jax.parallel import make_parallel, overlap, spread, start_processes
from onet_jax.training import checkpoints, faults


@pytest.mark.parametrize(
    'arguments, message',
    [
        (
            {'process_id': 1},
            r'--coordinator_address, --num_processes: expected together with --process_id, found nothing',
        ),
        ({'coordinator_address': 'a:1', 'num_processes': 2}, '--process_id: expected together with'),
        ({'num_processes': 2, 'detect': True}, '--distributed: expected it alone, found --num_processes as well'),
        ({'coordinator_address': 'host', 'num_processes': 2, 'process_id': 0}, "expected HOST:PORT.*found 'host'"),
        (
            {'coordinator_address': 'a:1', 'num_processes': 2, 'process_id': 2},
            '--process_id: expected 0 to .* = 1, found 2',
        ),
        ({'detect': True}, '--distributed: expected a TPU slice, or a job of SLURM.*found none'),
    ],
)
def test_flags_that_make_no_run_are_refused(arguments, message, monkeypatch):
    # JAX looks at the environment only where nothing has been computed yet.
    monkeypatch.setattr(jax.distributed, 'initialize', refuse)
    with pytest.raises(InputError, match=message):
        start_processes(**arguments)


def refuse(*args, **kwargs):
    """As JAX does where there is no cluster."""
    assert not args, 'connected on the strength of flags that are wrong'
    raise ValueError('coordinator_address should be defined.')


def test_complete_flags_are_used_and_none_are_one_process(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.distributed, 'initialize', lambda *args, **kwargs: calls.append((args, kwargs)))
    start_processes()
    assert not calls
    start_processes('10.0.0.1:1234', 4, 3)
    assert calls == [(('10.0.0.1:1234', 4, 3), {'cluster_detection_method': 'deactivate'})]
    start_processes(detect=True)
    assert calls[1] == ((), {})


@pytest.mark.parametrize('backend', ['pmap', 'jit'])
def test_one_process_feeds_all_rows_and_keeps_their_order(backend):
    parallel = make_parallel(backend, 8, jax.devices()[::-1])
    assert parallel.rows == range(8)
    rows = parallel.shard({'x': np.arange(8)})['x']
    np.testing.assert_array_equal(np.asarray(rows).ravel(), np.arange(8))
    assert [shard.device.id for shard in rows.addressable_shards] == [0, 1]
    state = parallel.replicate({'w': np.arange(3.0), 'key': jax.random.key(5)})
    assert state['w'].sharding.num_devices == state['key'].sharding.num_devices == 2
    assert parallel.local(state) is state


def test_batches_backends_and_processes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match='multiple of the 2 devices, found 7; use 6'):
        make_parallel('pmap', 7)
    with pytest.raises(InputError, match=r"backend.*'pmap', 'jit'.*shard_map"):
        make_parallel('shard_map', 8)
    devices = [SimpleNamespace(process_index=p, id=i) for i, p in enumerate([0, 0, 1])]
    with pytest.raises(InputError, match=r'expected as many in each process, found \{0: 2, 1: 1\}'):
        make_parallel('pmap', 6, devices)


@pytest.mark.slow
def test_a_process_that_fails_does_not_wait_for_the_others():
    program = """
import atexit
import jax
from onet_jax.parallel import leaving_at_once
atexit.register(print, 'waited')
jax.process_count = lambda: COUNT
with leaving_at_once():
    raise ValueError('a bad file')
"""
    for count, waited in ((2, ''), (1, 'waited\n')):
        command = [sys.executable, '-c', program.replace('COUNT', str(count))]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        assert done.returncode == 1
        assert done.stdout == waited
        assert 'ValueError: a bad file' in done.stderr


def test_a_workdir_that_is_not_shared_is_refused(tmp_path, monkeypatch):
    """As a process sees it that is not the one that writes."""
    monkeypatch.setattr(faults, 'is_first_process', lambda: False)
    with (
        pytest.raises(FileNotFoundError, match='give a --workdir on a file system that all hosts share'),
        faults.locked(tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_processes_that_leave_out_other_shapes_are_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, 'from_first_process', lambda value: [value[0], ['chair/0']])
    with pytest.raises(
        InputError, match=r"without \['chair/0'\], found in process 0 .* without \[\]; give all hosts the same"
    ):
        checkpoints.claim_workdir(tmp_path, small_config(), dataset)
    assert not list(tmp_path.iterdir())


def test_a_lock_lets_one_in_at_a_time(tmp_path):
    order = []

    def second():
        with one_at_a_time(tmp_path / 'folder' / 'lock'):
            order.append('second')

    thread = Thread(target=second)
    with one_at_a_time(tmp_path / 'folder' / 'lock'):
        thread.start()
        thread.join(0.2)
        order.append('first')
    thread.join(60)
    assert order == ['first', 'second']


def test_items_are_spread_over_the_devices_in_their_order(monkeypatch):
    together, begun = Barrier(2, timeout=60), []

    def work(tree, item):
        begun.append(item)
        if len(jax.local_devices()) == 2:
            together.wait()  # two at a time, or never
        return item * int(tree) * int(jax.numpy.ones(1).sum()), tree.devices()

    both, tree = jax.local_devices(), jax.numpy.int32(10)
    found = list(spread(work, tree, iter(range(8))))
    assert [value for value, _ in found] == [10 * i for i in range(8)]
    assert {frozenset(devices) for _, devices in found} == {frozenset({device}) for device in both}
    monkeypatch.setattr(jax, 'local_devices', lambda: both[:1])
    begun.clear()
    assert next(spread(work, tree, iter(range(8))))[0] == 0
    assert begun == [0], 'a single device works on what is asked for'


def test_what_is_overlapped_stays_in_order_and_is_not_made_far_ahead():
    made, done = [], []

    def items():
        for i in range(20):
            made.append(i)
            yield i

    with ThreadPoolExecutor(2) as pool:
        for value in overlap(pool, 2, lambda i: i, items()):
            done.append(value)
            assert len(made) - len(done) <= 5
        assert done == list(range(20))
        with pytest.raises(ZeroDivisionError):
            list(overlap(pool, 2, lambda i: 1 // i, items()))
