"""`onet NAME` in this process, where JAX is imported and programs are compiled already; or its flags, parsed alone."""

import contextlib
import importlib
import io
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from absl import app, flags

from onet_jax.launch import run_command

ROOT = Path(__file__).resolve().parents[1]


class Done(NamedTuple):
    """What a user sees of a command."""

    returncode: int
    stdout: str
    stderr: str


def launch(name: str, *arguments: object, folder: Path = ROOT, run: bool = True) -> Done:
    """Run an entry point. What it raises beside errors of the input is raised here: on a command line it is a traceback.

    run: False parses the flags alone.
    """
    known, stdout, stderr = set(flags.FLAGS), io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        warnings.catch_warnings(),
    ):
        # ml_collections loads the files of configs in an old way.
        warnings.filterwarnings('ignore', r'the load_module\(\) method is deprecated', DeprecationWarning)
        patch.setattr(sys, 'argv', [name, *map(str, arguments)])
        # absl.app also sets up the process, once.
        patch.setattr(app, 'run', lambda main, flags_parser: sys.exit(main(flags_parser(sys.argv))))
        patch.delitem(sys.modules, f'onet_jax.launch.{name}', raising=False)
        try:
            module = importlib.import_module(f'onet_jax.launch.{name}')
            run_command(
                module.main if run else lambda _: None, takes_arguments=name in ('reproduce', 'reconstruct', 'view')
            )
        except SystemExit as done:
            return Done(done.code or 0, stdout.getvalue(), stderr.getvalue())
        finally:
            for flag in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, flag)
            flags.FLAGS.unparse_flags()
