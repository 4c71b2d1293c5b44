"""Fault handling of a run: the lock of its workdir, SIGTERM and control-C, a loss that is not finite."""

import fcntl
import io
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from onet_jax.data.datasets import Shapes
from onet_jax.data.records import Feed
from onet_jax.errors import InputError
from onet_jax.files import remove_leftovers, write_atomically
from onet_jax.parallel import gather_rows, is_first_process, make_vote, wait_for_all
from onet_jax.training.state import TrainState
from onet_jax.training.storage import Checkpointer

EXIT_STOPPED = 75  # EX_TEMPFAIL of <sysexits.h>: stopped by a signal and saved; the same command resumes
NUM_NAMED = 8  # examples of a batch that a message names


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the file lock WORKDIR/lock, which the system releases however the process ends. Makes the workdir, and tidies it.

    Process 0 holds it for all, and the others wait until it does. Raises InputError where another run holds it, with its
    process; OSError where nothing can be written; FileNotFoundError where the processes do not share the workdir.
    """
    path = workdir / 'lock'
    with _held(path) if is_first_process() else nullcontext():
        wait_for_all('the workdir is locked')
        # Looked up here for the first time: a network file system may cache for a while that a file does not exist.
        if not path.exists():
            raise FileNotFoundError(
                f'{path}: expected what process 0 has just made, found nothing in process {jax.process_index()}; '
                'give a --workdir on a file system that all hosts share'
            )
        if is_first_process():
            for folder in workdir.glob('**/'):
                remove_leftovers(folder)
        yield


@contextmanager
def _held(path: Path) -> Iterator[None]:
    workdir = path.parent
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open('a+b', buffering=0)
    except OSError as error:
        raise OSError(
            f'{workdir}: expected a folder that can be written to, found: {error.strerror} ({error.filename}); make it '
            'writable or use another --workdir'
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f'process {os.getpid()} on {platform.node()}'.encode())
        except BlockingIOError:
            file.seek(0)
            raise InputError(
                f'{path}: expected a workdir in which no run is training, found {file.read().decode()}; wait for that run, '
                'stop it, or use another --workdir'
            ) from None
        except OSError as error:
            raise OSError(f'{path}: expected to lock the workdir, found: {error.strerror}; make room there') from error
        yield


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Handle SIGTERM and SIGINT (control-C): yields a function that says whether one has come. A second one acts as usual.

    Call it once after every step. Several processes all stop after the same step, the one after that in which any of them got
    a signal. Python delivers signals to the main thread only: another thread notices none.
    """
    received, vote = [], make_vote()
    if threading.current_thread() is not threading.main_thread():
        yield lambda: vote(False)
        return

    def notice(number: int, _: FrameType | None) -> None:
        if number in received:
            signal.signal(number, previous[number])
            signal.raise_signal(number)
        received.append(number)
        os.write(2, f'{signal.Signals(number).name}: the run saves after this step and stops\n'.encode())

    previous: dict[int, Any] = {number: signal.signal(number, notice) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: vote(bool(received))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def check_finite(
    losses: list[jax.Array],
    state: TrainState,
    step: int,
    checkpointer: Checkpointer,
    workdir: Path,
    feed: Feed,
    dataset: Shapes,
) -> None:
    """Check the losses since the last check, and the weights: a run that diverged must not replace a good checkpoint.

    Raises FloatingPointError with the first bad step and the examples of its batch, which is written to
    WORKDIR/bad_batch_STEP.npz as the feed delivered it. A collective: all processes call it and raise, and process 0 writes
    the rows of all.
    """
    finite = np.isfinite(jax.device_get(losses))
    if finite.all() and _all_finite(state.variables):
        return
    bad, what = step, f'the weights of step {step} are'
    if not finite.all():
        bad = step - len(losses) + 1 + int(np.argmin(finite))
        what = f'the loss of step {bad} is'
    good = checkpointer.latest
    place = (
        f'the last good checkpoint is step {good.step} in {workdir}' if good else f'{workdir} holds no checkpoint yet'
    )
    raise FloatingPointError(
        f'{what} not finite; {place}. {_dump_batch(feed, bad, dataset, workdir)} Try a lower config.optim.learning_rate '
        'in another workdir.'
    )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jax.tree.reduce(lambda ok, x: ok & jax.numpy.isfinite(x).all(), tree, jax.numpy.array(True))


def _dump_batch(feed: Feed, step: int, dataset: Shapes, workdir: Path) -> str:
    """Write the batch of a step, which the feed makes again, with the names of its examples; returns a message about it."""
    raw: dict[str, Any] = gather_rows(jax.tree.map(np.asarray, next(feed(step - 1))))
    examples = dataset.names('train')
    names = ['/'.join(examples[i]) for i in raw['index']]
    path, stream = workdir / f'bad_batch_{step}.npz', io.BytesIO()
    if is_first_process():
        np.savez(stream, **raw, name=np.array(names))
        write_atomically(path, stream.getvalue())
    wait_for_all('the batch is written')  # before process 0 fails, and with it the others

    rest = f' and {len(names) - NUM_NAMED} more' if len(names) > NUM_NAMED else ''
    spoilt = [
        f'{key} of row {row} ({names[row]})'
        for key, value in raw.items()
        if value.dtype.kind == 'f'
        for row in np.flatnonzero(~np.isfinite(value).reshape(len(value), -1).all(1))
    ]
    stored = f'not finite in it: {", ".join(spoilt[:NUM_NAMED])}' if spoilt else 'all of it is finite'
    return f'Its batch, rows {", ".join(names[:NUM_NAMED])}{rest}, is in {path}; {stored}.'
