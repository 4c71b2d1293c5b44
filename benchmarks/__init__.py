"""Measurements, each run as `python -m benchmarks.NAME`: a table, then one JSON object as the last line."""

import json
import platform
import time
from collections.abc import Callable

import jax
import numpy as np


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
