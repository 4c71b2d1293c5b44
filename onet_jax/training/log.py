"""Logging of a run: the banner, the progress line, JSON lines, and scalars and pictures for TensorBoard."""

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from onet_jax import __version__
from onet_jax.json_files import COUNT, NUMBER, parse_json
from onet_jax.progress import say
from onet_jax.training.machine import describe_precision, gpu_present


def banner(dtype: str = 'float32') -> str:
    """Devices, versions and precision; a warning where a GPU of the machine is not used."""
    devices = jax.devices()
    processes = f' in {jax.process_count()} processes' if jax.process_count() > 1 else ''
    lines = [
        f'onet_jax {__version__}, jax {jax.__version__}, flax {version("flax")}, Python {platform.python_version()}',
        f'devices: {len(devices)} x {devices[0].device_kind} ({devices[0].platform}){processes}, {describe_precision(dtype)}',
    ]
    if devices[0].platform == 'cpu' and gpu_present():
        lines += [
            '*' * 80,
            'WARNING: this machine has an NVIDIA GPU, but JAX runs on the CPU.',
            '`onet doctor` says why, and what to do.',
            '*' * 80,
        ]
    return '\n'.join(lines)


WHAT_TO_DO = 'the checkpoints are intact. Make room there and give the same command again.'


class RunLog:
    """Appends scalars to WORKDIR/log.jsonl and WORKDIR/tensorboard, and prints one line for each record."""

    def __init__(self, workdir: Path, num_steps: int):
        path = workdir / 'log.jsonl'
        if path.exists():
            # A run that was killed may have left half a line.
            os.truncate(path, path.read_bytes().rfind(b'\n') + 1)
        self._file = path.open('ab', buffering=0)
        # An unbounded queue: when the disk is full its reader has died, and a bounded queue would block for ever.
        self._board = SummaryWriter(str(workdir / 'tensorboard'), max_queue=0)
        self._num_steps, self._validated = num_steps, ''
        self.start(0)

    def start(self, step: int) -> None:
        """Start the clock of the speed at `step`."""
        self._last_step, self._last_time, self._waited, self._compiled = step, time.monotonic(), 0.0, 0.0

    def waited(self, seconds: float) -> None:
        """Count time that the loop spent waiting for data."""
        self._waited += seconds

    def compiled(self, seconds: float) -> None:
        """Leave the first step, in which the program is compiled, out of the measured speed."""
        self._compiled, self._last_step = seconds, self._last_step + 1

    def train(self, step: int, scalars: dict[str, float], eta: str = '') -> None:
        """Record training scalars at `step`, with the speed since the last record; print the progress line."""
        now = time.monotonic()
        elapsed, steps = max(now - self._last_time, 1e-9), step - self._last_step
        measured = max(elapsed - self._compiled, 1e-9)
        clock = {'train/waiting_for_data': self._waited / elapsed, 'train/seconds': elapsed}
        line = f'step {step}/{self._num_steps}  loss {scalars["loss"]:.2f}  {self._validated}'
        if steps:
            clock['train/steps_per_second'] = steps / measured
            line += f'{steps / measured:.1f} steps/s  waiting for data {self._waited / measured:.0%}  {eta}'
        else:
            line += f'compiled and run in {elapsed:.0f} s'
        self.start(step)
        self._write(step, {f'train/{k}': v for k, v in scalars.items()})
        self._write(step, clock)
        say(line.rstrip())

    def validation(self, step: int, scalars: dict[str, float], selected: str) -> None:
        """Record the means over the validation split at `step`; `selected` is the one that the progress line repeats."""
        self._validated = f'{selected} {scalars[selected]:.3f}  '
        self._write(step, {f'val/{k}': v for k, v in scalars.items()})

    def picture(self, step: int, path: Path) -> None:
        """Show a picture file of the shapes at `step` in TensorBoard."""
        self._board.add_image('val/shapes', np.asarray(Image.open(path).convert('RGB')), step, dataformats='HWC')

    def resume_clock(self, seconds: float) -> None:
        """Exclude `seconds` (of validation, saving, pictures) from the measured speed."""
        self._last_time += seconds

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        line = (json.dumps({'step': step, **scalars}) + '\n').encode()
        try:
            written = self._file.write(line)
        except OSError as error:
            raise OSError(
                f'{self._file.name}: expected to write the log, found: {error.strerror}; {WHAT_TO_DO}'
            ) from error
        if written < len(line):
            raise OSError(f'{self._file.name}: expected to write the log, found room for a part of it; {WHAT_TO_DO}')
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        try:
            self._board.close()
        except OSError as error:
            # Not fatal, and it must not hide the error that ended the run.
            print(f'WARNING: {self._board.logdir}: the curves are incomplete: {error}', flush=True)


class NoLog:
    """The log of all processes but process 0: has the methods of `RunLog`, and writes nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def read_log(workdir: Path, name: str) -> list[tuple[int, float]]:
    """All (step, value) of one scalar, such as 'train/loss'; of a step that a resumed run repeated, the newest value.

    Raises FileNotFoundError without a log, InputError for a damaged one.
    """
    found, path = {}, workdir / 'log.jsonl'
    *whole_lines, _ = path.read_bytes().split(b'\n')
    for number, line in enumerate(whole_lines, start=1):
        record = parse_json(line, {'step': COUNT, '': NUMBER}, f'{path}, line {number}', 'delete the line')
        if name in record:
            found[record['step']] = record[name]
    return sorted(found.items())
