"""Entry points, run from the root of the repository as `python -m launch.NAME`: flags in, one function called."""

import sys

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
