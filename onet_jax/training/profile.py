"""Profiling: a trace of a few training steps (`jax.profiler`)."""

from collections.abc import Callable
from pathlib import Path

import jax

NUM_SKIPPED, NUM_TRACED = 10, 5  # the first steps compile and fill queues


def traced(step_fn: Callable, folder: Path, num_steps: int) -> Callable:
    """`step_fn`, with a trace of calls 11 to 15 written to `folder`; of fewer than 15 `num_steps`, the last calls.

    The trace covers the time between the calls too, such as the wait for data. Python's own calls are not traced: they would be
    most of it, and slow the steps down. Needs no internet.
    """
    first = max(1, min(NUM_SKIPPED, num_steps - NUM_TRACED) + 1)
    last, count = min(first + NUM_TRACED - 1, num_steps), 0

    def call(state, raw, key):
        nonlocal count
        count += 1
        if count == first:
            jax.block_until_ready(state)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)
        with jax.profiler.StepTraceAnnotation('train', step_num=count):
            result = step_fn(state, raw, key)
        if count == last:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            (found,) = {path.parent for path in folder.rglob('*.xplane.pb')} - before
            print(describe_trace(found, last - first + 1), flush=True)
        return result

    before = {path.parent for path in folder.rglob('*.xplane.pb')}
    return call


def describe_trace(folder: Path, num_steps: int) -> str:
    """A message: where the trace is, and what opens it."""
    return (
        f'{folder}: a trace of {num_steps} steps. Drag perfetto_trace.json.gz onto https://ui.perfetto.dev, or '
        f'`pip install xprof` and run `xprof --logdir={folder.parents[2]}`'
    )
