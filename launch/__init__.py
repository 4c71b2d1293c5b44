"""Entry points, run from the root of the repository as `python -m launch.NAME`: flags in, one function called."""

import ctypes
import platform
import sys

if platform.libc_ver()[0] == 'glibc':
    # XLA allocates its temporaries anew at every step, and glibc by default returns each large block to the system and
    # takes it back page by page: a fifth of a small network's training time. Works only before the first library that
    # allocates is loaded, hence above the imports. M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of <malloc.h>.
    for option, value in ((-8, 1), (-3, 2_000_000_000), (-1, 2_000_000_000)):
        ctypes.CDLL(None).mallopt(option, value)

from absl import app, flags, logging

TRACEBACK = flags.DEFINE_bool('traceback', False, 'Show the full traceback of an error.')

# What wrong input raises; anything else is a defect of the program and keeps its traceback.
INPUT_ERRORS = (ValueError, FileNotFoundError, FloatingPointError, AttributeError, KeyError, PermissionError)


def run(main) -> None:
    """app.run, with errors of the input reported as one message and exit code 1."""
    logging.set_verbosity(logging.WARNING)  # libraries report every backend that they did not find
    try:
        app.run(main)
    except INPUT_ERRORS as error:
        if flags.FLAGS.is_parsed() and TRACEBACK.value:
            raise
        print(f'error: {error.args[0] if error.args else error!r}', file=sys.stderr)
        sys.exit(1)
