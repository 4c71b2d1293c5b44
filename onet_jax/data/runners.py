"""Running the same work on many shapes: in processes of this machine, or as a Beam pipeline. Imports no JAX.

A task is (category, name, *arguments) and work(*task) stores the shape and returns something small. A task that raises
ValueError is rejected with the reason and never stops the others; any other error, such as a full disk, stops the run.
"""

import importlib.util
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

# Not forked: a fork of a process in which JAX runs its threads can hang.
SPAWN = multiprocessing.get_context('spawn')


class Outcome(NamedTuple):
    """What became of the tasks, under 'category/name'."""

    results: dict[str, object]
    rejected: dict[str, str]


Runner = Callable[[Callable, Sequence[tuple], str], Outcome]  # (work, tasks, description)


def processes(num_workers: int | None = None) -> Runner:
    """num_workers: processes, as many as there are cores by default; 1 works in this process.

    A task whose process dies is run once more alone, and rejected when it dies again.
    """
    return partial(_run_in_processes, num_workers or os.cpu_count() or 1)


def _run_in_processes(num_workers: int, work: Callable, tasks: Sequence[tuple], description: str) -> Outcome:
    outcome, waiting, running = Outcome({}, {}), list(reversed(tasks)), {}
    pool = _open_pool(num_workers)
    with tqdm(total=len(tasks), desc=description, unit='shape', mininterval=1) as bar:
        try:
            while waiting or running:
                broken = False
                # Few at a time: a process that dies takes all that were handed out with it.
                while waiting and len(running) < 2 * num_workers and not broken:
                    try:
                        running[pool.submit(work, *waiting[-1])] = waiting[-1]
                        waiting.pop()
                    except BrokenProcessPool:  # one died since the last look
                        broken = True
                for future in () if broken else wait(running, return_when=FIRST_COMPLETED).done:
                    if isinstance(future.exception(), BrokenProcessPool):
                        broken = True
                        break
                    _note(outcome, running.pop(future), future)
                    bar.update()
                if not broken:
                    continue
                pool.shutdown(cancel_futures=True)
                for future, task in running.items():
                    if future.cancelled() or isinstance(future.exception(), BrokenProcessPool):
                        with ProcessPoolExecutor(1, mp_context=SPAWN) as alone:
                            future = alone.submit(work, *task)
                    _note(outcome, task, future)
                    bar.update()
                running, pool = {}, _open_pool(num_workers)
        finally:
            pool.shutdown(cancel_futures=True)
    return outcome


def _note(outcome: Outcome, task: tuple, future: Future) -> None:
    name, error = f'{task[0]}/{task[1]}', future.exception()
    if isinstance(error, BrokenProcessPool):
        outcome.rejected[name] = 'the process that worked on it died, perhaps for want of memory'
    elif isinstance(error, ValueError):
        outcome.rejected[name] = str(error)
    elif error is not None:
        raise error  # of the machine or of this program, not of the shape
    else:
        outcome.results[name] = future.result()


def _open_pool(num_workers: int) -> Executor:
    return ThreadPoolExecutor(1) if num_workers == 1 else ProcessPoolExecutor(num_workers, mp_context=SPAWN)


def beam(folder: str | Path, options: Sequence[str]) -> Runner:
    """An Apache Beam pipeline for collections of any size; needs the extra `beam`.

    folder: where workers note what became of each task; like the dataset it must be seen by all of them. options: of the
    pipeline, such as '--runner=FlinkRunner'; none runs in this process. Raises ModuleNotFoundError without Apache Beam.
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
    # The last --runner counts. Beam's own default would fetch a program from the internet and start it.
    with apache_beam.Pipeline(options=PipelineOptions(['--runner=FnApiRunner', *options])) as pipeline:
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
    """[name, result, why it was rejected] of one task, as a line of JSON."""
    try:
        return json.dumps([f'{task[0]}/{task[1]}', work(*task), None])
    except ValueError as error:
        return json.dumps([f'{task[0]}/{task[1]}', None, str(error)])
