"""What a run tells: the banner, the progress line, JSON lines and TensorBoard scalars."""

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
from tensorboardX import SummaryWriter

from onet_jax import __version__


def banner() -> str:
    """Devices, versions and precision; a loud warning where a GPU of the machine stays unused."""
    devices = jax.devices()
    processes = f' in {jax.process_count()} processes' if jax.process_count() > 1 else ''
    lines = [
        f'onet_jax {__version__}, jax {jax.__version__}, flax {version("flax")}, Python {platform.python_version()}',
        f'devices: {len(devices)} x {devices[0].device_kind} ({devices[0].platform}){processes}, '
        f'float32, matrix products in {jax.config.jax_default_matmul_precision or "the default"} precision',
    ]
    if devices[0].platform == 'cpu' and gpu_present():
        lines += [
            '*' * 80,
            'WARNING: this machine has an NVIDIA GPU, but JAX runs on the CPU.',
            'Install the CUDA build: pip install -U "jax[cuda13]"',
            '*' * 80,
        ]
    return '\n'.join(lines)


def gpu_present() -> bool:
    """True where an NVIDIA driver is installed, whatever JAX makes of it."""
    return shutil.which('nvidia-smi') is not None or Path('/proc/driver/nvidia/version').exists()


class RunLog:
    """Appends scalars to WORKDIR/log.jsonl and WORKDIR/tensorboard, and prints one line for each record."""

    def __init__(self, workdir: Path, num_steps: int):
        path = workdir / 'log.jsonl'
        if path.exists():
            # A run that was killed may have left half a line.
            os.truncate(path, path.read_bytes().rfind(b'\n') + 1)
        self._file = path.open('a', buffering=1)
        self._board = SummaryWriter(str(workdir / 'tensorboard'))
        self._num_steps, self._iou = num_steps, None
        self.start(0)

    def start(self, step: int) -> None:
        """Start the clock of the speed at `step`."""
        self._last_step, self._last_time, self._waited = step, time.monotonic(), 0.0

    def waited(self, seconds: float) -> None:
        """Count time that the loop spent waiting for data."""
        self._waited += seconds

    def train(self, step: int, scalars: dict[str, float]) -> None:
        """Record training scalars at `step`, with the speed since the last record; print the progress line."""
        now = time.monotonic()
        elapsed, steps = max(now - self._last_time, 1e-9), step - self._last_step
        speed, waiting = steps / elapsed, self._waited / elapsed
        self._last_step, self._last_time, self._waited = step, now, 0.0
        self._write(step, {f'train/{k}': v for k, v in scalars.items()})
        clock = {'train/steps_per_second': speed, 'train/waiting_for_data': waiting, 'train/seconds': elapsed}
        self._write(step, clock)
        iou = '-' if self._iou is None else f'{self._iou:.3f}'  # of the last validation
        minutes, seconds = divmod(int((self._num_steps - step) / max(speed, 1e-9)), 60)
        print(
            f'step {step}/{self._num_steps}  loss {scalars["loss"]:.2f}  IoU {iou}  {speed:.1f} steps/s  '
            f'waiting for data {waiting:.0%}  ETA {minutes}:{seconds:02d}',
            file=sys.stderr,
            flush=True,
        )

    def validation(self, step: int, scalars: dict[str, float]) -> None:
        """Record the means over the validation split at `step`; the time it took does not count as training."""
        self._iou = scalars['iou']
        self._write(step, {f'val/{k}': v for k, v in scalars.items()})

    def resume_clock(self, seconds: float) -> None:
        """Take `seconds` (validation, saving) out of the measured speed."""
        self._last_time += seconds

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        self._file.write(json.dumps({'step': step, **scalars}) + '\n')
        for name, value in scalars.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


class NoLog:
    """The log of processes other than the first: takes what a `RunLog` takes and keeps nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args: None


def read_log(workdir: Path, name: str) -> list[tuple[int, float]]:
    """All (step, value) of one scalar, such as 'train/loss'; a resumed run's repeated steps keep the newest value."""
    found = {}
    whole_lines, _, _ = (workdir / 'log.jsonl').read_text().rpartition('\n')
    for line in whole_lines.splitlines():
        record = json.loads(line)
        if name in record:
            found[record['step']] = record[name]
    return sorted(found.items())
