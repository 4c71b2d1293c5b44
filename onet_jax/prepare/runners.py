"""Runners: the same work on many shapes, in worker processes of this machine or as an Apache Beam pipeline. Imports no JAX.

A task is (category, name, *arguments); work(*task) stores the shape and returns something small. A task that raises InputError
or MemoryError is rejected, with the reason, and so is one whose process dies or takes longer than `TIME_LIMIT`; the others go
on. Any other error, such as a full disk, stops the run.
"""

import faulthandler
import importlib.util
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from onet_jax.errors import InputError
from onet_jax.progress import track, working

# Not forked: a fork of a process in which JAX has started threads can hang.
SPAWN = multiprocessing.get_context('spawn')
TIME_LIMIT = 600.0  # s, of one task
REJECTED = (InputError, MemoryError)
GUARD = "prepare data under `if __name__ == '__main__':` only"

T = TypeVar('T')


class Outcome(NamedTuple):
    """The outcome of all tasks, by 'category/name'."""

    results: dict[str, Any]
    rejected: dict[str, str]  # why


Runner = Callable[[Callable, Sequence[tuple], str], Outcome]  # (work, tasks, description)


def in_this_process(work: Callable, tasks: Sequence[tuple], description: str) -> Outcome:
    """Run one task after the other in this process: without start-up costs, and without protection from crashes."""
    outcome = Outcome({}, {})
    for task in track(tasks, description, 'shapes'):
        _note(outcome, task, partial(work, *task))
    return outcome


def _note(outcome: Outcome, task: tuple, get_result: Callable[[], object]) -> None:
    name = f'{task[0]}/{task[1]}'
    try:
        outcome.results[name] = get_result()
    except REJECTED as error:
        outcome.rejected[name] = _reason(error)


def _reason(error: Exception) -> str:
    return f'expected to find enough memory ({error})' if isinstance(error, MemoryError) else str(error)


def processes(num_workers: int | None = None) -> Runner:
    """The runner with `num_workers` worker processes, by default one for each core."""
    return partial(_run_in_processes, num_workers or os.cpu_count() or 1)


def _run_in_processes(num_workers: int, work: Callable, tasks: Sequence[tuple], description: str) -> Outcome:
    outcome, stopping = Outcome({}, {}), threading.Event()
    with ThreadPoolExecutor(num_workers, initializer=_begin, initargs=(stopping,)) as threads:
        try:
            task_of = {threads.submit(_do_apart, work, task): task for task in tasks}
            finished = as_completed(task_of)
            for future in track(finished, description, 'shapes', len(tasks)):
                _note(outcome, task_of[future], future.result)
        except KeyboardInterrupt:
            stopping.set()  # at once: a task may take minutes, and what it has written is whole
            for process in multiprocessing.active_children():
                process.kill()
            raise
        finally:
            threads.shutdown(cancel_futures=True)
    return outcome


_own = threading.local()  # of each thread: its worker, which ends with it


def _begin(stopping: threading.Event) -> None:
    """Prepare a thread. Its process inherits what it blocks: control-C is for the parent alone, also while others start."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    _own.worker = Worker(stopping)


def _do_apart(work: Callable, task: tuple) -> object:
    """work(*task) in the worker process of this thread."""
    if not hasattr(_own, 'worker'):  # in a thread of Beam
        _own.worker = Worker(threading.Event())
    return _own.worker.do(work, task)


class Worker:
    """A process for tasks that may crash, hang or run out of memory; it is started on demand and ends with its owner."""

    def __init__(
        self,
        stopping: threading.Event,
        num_attempts: int = 2,  # large meshes at the same time may run out of memory where one alone does not
        time_limit: float | None = None,
        cause: str = 'perhaps for want of memory',
        advice: str = 'simplify the shape',
    ) -> None:
        """stopping: once it is set, no process is started any more. cause: of the death of a process. advice: what to do with a
        task that takes longer than `time_limit` seconds, by default `TIME_LIMIT`."""
        self._process: ProcessPoolExecutor | None = None
        self._stopping = stopping
        self._num_attempts, self._time_limit, self._cause, self._advice = num_attempts, time_limit, cause, advice

    def do(self, work: Callable[..., T], task: tuple) -> T:
        """work(*task). Raises what it raises, or InputError when the process dies in every attempt or takes too long."""
        limit = self._time_limit or TIME_LIMIT
        for _ in range(self._num_attempts):
            if self._stopping.is_set():
                raise InputError('expected to be done, found that the run was stopped')
            if self._process is None:
                self._process = _start()
            start = time.monotonic()
            try:
                return self._process.submit(_do_in_time, limit, work, task).result()
            except BrokenProcessPool:
                self._process.shutdown()  # waits until nothing of it is left
                self._process = None
            if time.monotonic() - start >= limit:
                raise InputError(f'expected to be done within {limit:g} s, found that it takes longer; {self._advice}')
        raise InputError(f'the process that worked on it died, {self._cause}')


def _start() -> ProcessPoolExecutor:
    """Start a process and wait until it has imported the main script, as every spawned process does first."""
    # Each process has one core: threads of OpenBLAS would wait busily for those of the others: a task takes twice as long.
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
    process = ProcessPoolExecutor(1, mp_context=SPAWN, initializer=_end_with_parent)
    try:
        process.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            'expected a process that starts, found one that ended at once, for the reason above; it reads the running '
            f'script again, which therefore has to be a file and to {GUARD}'
        ) from error
    return process


def refuse_second_reading() -> None:
    """Raises RuntimeError in a spawned process that still imports the main script: it would wait for a lock of its parent.

    Python itself refuses to start processes there.
    """
    script = sys.modules.get('__mp_main__')  # the main script in a spawned process; once imported, it is __main__ too
    if script is not None and script is not sys.modules['__main__']:
        raise RuntimeError(f'expected the script to {GUARD}, found that it prepares data wherever it is read')


def _end_with_parent() -> None:
    """End this process when its parent is killed. Control-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    parent = multiprocessing.parent_process()
    assert parent is not None  # in a spawned process

    def watch():
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _do_in_time(limit: float, work: Callable[..., T], task: tuple) -> T:
    # A watchdog thread that does not need the GIL: it also ends native code that never returns.
    faulthandler.dump_traceback_later(limit, exit=True)
    try:
        return work(*task)
    finally:
        faulthandler.cancel_dump_traceback_later()


def beam(folder: str | Path, options: Sequence[str]) -> Runner:
    """The runner that executes the tasks as an Apache Beam pipeline, on a cluster; needs the extra `beam`.

    folder: for the outcome of each task, on a file system that all workers share, as the dataset. options: of the pipeline,
    such as '--runner=FlinkRunner'; without any, this machine executes one task after the other. Raises ModuleNotFoundError
    without Apache Beam.
    """
    if importlib.util.find_spec('apache_beam') is None:
        raise ModuleNotFoundError(
            "--runner=beam: expected the package apache_beam, found none; install it with `pip install -e '.[beam]'` or use "
            '--runner=processes'
        )
    return partial(_run_with_beam, Path(folder), tuple(options))


def _run_with_beam(
    folder: Path, options: Sequence[str], work: Callable, tasks: Sequence[tuple], description: str
) -> Outcome:
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    folder = folder / description.replace(' ', '_')
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # The last --runner counts. Beam's default runner would download a program and start it.
    options = PipelineOptions(['--runner=FnApiRunner', *options])
    with working(f'{description}, as a pipeline of Beam'), apache_beam.Pipeline(options=options) as pipeline:
        (
            pipeline
            | apache_beam.Create(list(tasks))
            | apache_beam.Reshuffle()
            | apache_beam.Map(partial(_attempt, work))
            | apache_beam.io.WriteToText(str(folder / 'part'))
        )
    outcome = Outcome({}, {})
    for path in sorted(folder.glob('part*')):
        for line in path.read_text().splitlines():
            name, result, reason = json.loads(line)
            if reason is None:
                outcome.results[name] = result
            else:
                outcome.rejected[name] = reason
    return outcome


def _attempt(work: Callable, task: tuple) -> str:
    """[name, result, reason of the rejection] of one task, as a line of JSON."""
    try:
        return json.dumps([f'{task[0]}/{task[1]}', _do_apart(work, task), None])
    except REJECTED as error:
        return json.dumps([f'{task[0]}/{task[1]}', None, _reason(error)])
