"""Measurements, each run as `python -m benchmarks.NAME`: a table, then one JSON object as the last line."""

import json
import platform
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from onet_jax.files import write_atomically


def time_alternately(works: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each work, `repeats` times in alternation after one warm-up, so that a busy machine slows all alike."""
    for work in works.values():
        jax.block_until_ready(work())
    seconds = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            start = time.perf_counter()
            jax.block_until_ready(work())
            seconds[name].append(time.perf_counter() - start)
    return {name: np.asarray(values) for name, values in seconds.items()}


def start_each(makers: dict[str, Callable[[], Callable]]) -> tuple[dict[str, Callable], dict[str, str]]:
    """Works that are made and have run once, and for those that fail the error in a line.

    Every row of a benchmark stands for itself: where somebody else's compiler fails, the others are measured.
    """
    works, errors = {}, {}
    for name, make in makers.items():
        try:
            work = make()
            jax.block_until_ready(work())
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), '')
            errors[name] = f'failed: {type(error).__name__}: {first}'[:160]
        else:
            works[name] = work
    return works, errors


def report(title: str, settings: dict, rows: list[tuple[str, str]], figures: dict) -> None:
    """Print the machine, the settings and a table; the figures as one JSON object in the last line."""
    device = jax.devices()[0]
    machine = f'{len(jax.devices())} x {device.device_kind} ({device.platform}), jax {jax.__version__}'
    print(f'{title}\nmachine: {machine}, {platform.machine()}, Python {platform.python_version()}')
    print('settings: ' + ', '.join(f'{k} {v}' for k, v in settings.items()))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f'  {name.ljust(width)}  {value}')
    print(json.dumps({'machine': machine, **settings, **figures}), flush=True)


def measure_rows(rows: dict[str, Callable[[], dict]], output: Path, machine: dict, deadline: float) -> dict[str, dict]:
    """Measure the rows until the deadline (of `time.monotonic`), and write both files after each."""
    found: dict[str, dict] = {name: {'not measured': 'not reached in time'} for name in rows}
    _write(output, machine, found)
    for name, measure in rows.items():
        if time.monotonic() >= deadline:
            break
        found[name] = {'not measured': 'stopped at the end of the time'}
        _write(output, machine, found)
        start = time.monotonic()
        try:
            figures = measure()
        except Exception as error:  # a row stands for itself: its error is its figure
            traceback.print_exc()
            figures = {'error': f'{type(error).__name__}: {str(error).partition(chr(10))[0]}'}
        memory = jax.devices()[0].memory_stats() or {}
        peak = {'peak GB so far': memory['peak_bytes_in_use'] / 1e9} if 'peak_bytes_in_use' in memory else {}
        found[name] = figures | peak | {'seconds of the row': time.monotonic() - start}
        _write(output, machine, found)
        print(f'{name}: {_describe(found[name])}', flush=True)
    return found


def _describe(figures: dict) -> str:
    return ', '.join(
        f'{key} {value:.4g}' if isinstance(value, float) else f'{key} {value}' for key, value in figures.items()
    )


def _write(output: Path, machine: dict, found: dict[str, dict]) -> None:
    """FOLDER/gpu.json and the same as a table, FOLDER/gpu.md."""
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / 'gpu.json', json.dumps({'machine': machine, 'rows': found}, indent=1).encode())
    lines = [_describe(machine), '', '| row | figures |', '|---|---|']
    lines += [f'| {name} | {_describe(figures).replace("|", "/")} |' for name, figures in found.items()]
    write_atomically(output / 'gpu.md', ('\n'.join(lines) + '\n').encode())
