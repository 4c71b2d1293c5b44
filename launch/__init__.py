"""Entry points, run from the root of the repository as `python -m launch.NAME`: flags in, one function called."""

import ctypes
import os
import platform
import sys
from pathlib import Path

from onet_jax.errors import InputError
from onet_jax.files import cache_folder

if platform.libc_ver()[0] == 'glibc':
    # XLA allocates its temporaries anew in every step, and by default glibc returns each large block to the system: the page
    # faults take a fifth of a small network's training time. Works only before a library that allocates is loaded, hence above
    # the imports. M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of <malloc.h>.
    for option, value in ((-8, 1), (-3, 2_000_000_000), (-1, 2_000_000_000)):
        ctypes.CDLL(None).mallopt(option, value)

from absl import app, flags, logging

# Compiled programs of earlier runs; JAX reads this when it is imported.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache_folder() / 'compiled'))

TRACEBACK = flags.DEFINE_bool('traceback', False, 'Show the full traceback of an error.')

# What wrong input raises; anything else, such as a ValueError of JAX, is a bug and keeps its traceback.
INPUT_ERRORS = (InputError, OSError, FloatingPointError, ModuleNotFoundError)


def run(main) -> None:
    """app.run, with errors of the input reported as one message and exit code 1."""
    logging.set_verbosity(logging.WARNING)  # libraries report every backend that they did not find
    try:
        app.run(main, flags_parser=_parse_flags)
    except INPUT_ERRORS as error:
        if flags.FLAGS.is_parsed() and TRACEBACK.value:
            raise
        print(f'error: {error}', file=sys.stderr)
        sys.exit(1)


def _parse_flags(argv: list[str]) -> list[str]:
    """Parse the flags into flags.FLAGS; returns what is left of argv. Raises InputError with one clear message."""
    try:
        rest = flags.FLAGS(argv)
        if 'config' in flags.FLAGS:
            flags.FLAGS.config.lock()  # a config that failed to load raises only when it is touched
        return rest
    except OSError as error:
        found = ', '.join(sorted(map(str, Path('configs').glob('[!_]*.py'))))
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f'--config: expected the file of a config, such as {found}; {reason}') from error
    except (AttributeError, KeyError) as error:
        reason = error.args[0].args[0] if isinstance(error.args[0], Exception) else error.args[0]
        reason = '. '.join(reason.splitlines())
        raise InputError(f'--config: expected keys of the config, found another: {reason}') from error
    except flags.Error as error:
        # ml_collections puts the traceback of a failing config file into the message; its last line says what is wrong.
        reason = str(error).strip()
        if 'Traceback' in reason:
            reason = reason.splitlines()[-1].strip()
            reason = reason.partition('InputError: ')[2] or reason
        raise InputError(f'{reason} (--help lists the flags)') from error
