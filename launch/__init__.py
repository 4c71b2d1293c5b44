"""Entry points: flags in, one function called. `onet NAME`, or `python -m launch.NAME` in the root of the repository."""

import ctypes
import gc
import io
import os
import platform
import re
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import pairwise
from typing import Any

if platform.libc_ver()[0] == 'glibc':
    # XLA allocates its temporaries anew in every step, and by default glibc returns each large block to the system: the page
    # faults take a fifth of a small network's training time. Works only before a library that allocates is loaded, hence above
    # the imports. M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of <malloc.h>.
    for option, value in ((-8, 1), (-3, 2_000_000_000), (-1, 2_000_000_000)):
        ctypes.CDLL(None).mallopt(option, value)

from absl import app, flags, logging
from ml_collections import ConfigDict

from onet_jax.configs import FILES, describe, find_file, list_configs, load_config
from onet_jax.errors import InputError
from onet_jax.progress import working

TRACEBACK = flags.DEFINE_bool('traceback', False, 'Show the full traceback of an error.')

# What wrong input raises; anything else, such as a ValueError of JAX, is a bug and keeps its traceback.
INPUT_ERRORS = (InputError, OSError, FloatingPointError, ModuleNotFoundError)
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)  # control-C, and what a system sends before it kills
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as of a program that the first of them ends
STOPPED = b'\nstopped by a signal; what was finished is kept\n'
HINT = b'the program stops as soon as it can; control-C again ends it at once\n'
PATIENCE = 3.0  # s


def run_command(main: Callable[[list[str]], None], takes_arguments: bool = False) -> None:
    """app.run, with errors of the input reported as one message and exit code 1. takes_arguments: beside the flags."""
    logging.set_verbosity(logging.WARNING)  # libraries report every backend that they did not find
    warnings.showwarning = lambda message, *_, **__: print(f'warning: {message}', file=sys.stderr)  # no line of ours
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        with _watching_interrupts():
            app.run(_reported(main), flags_parser=partial(_parse_flags, takes_arguments))
    except INPUT_ERRORS as error:
        if flags.FLAGS.is_parsed() and TRACEBACK.value:
            raise
        print(f'error: {_explain(error)}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        traceback.clear_frames(interrupt.__traceback__)
        gc.collect()  # removes the semaphores of worker processes, which the frames knew
        with suppress(OSError):  # of a reader that has gone
            sys.stdout.flush()
        _leave()  # not by the usual way out, where threads of XLA may crash


def _reported(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """main, which says what it does wherever it takes long: the title of its file, until there is more to say."""
    title = (main.__globals__['__doc__'] or '').partition('\n')[0].partition(':')[0].rstrip('.')

    def run(argv):
        with working(title) if title else nullcontext():
            main(argv)

    return run


def tell_next(done: str, *command: object) -> None:
    """Print the last line of a command: what was done and written, and the command to type next."""
    print(f'{done}; next: {shlex.join(map(str, command))}', flush=True)


def making_shapes(config: ConfigDict, workdir: str) -> list[str]:
    """The command with which the network of a workdir makes shapes, colours them, or renders its scene."""
    from onet_jax.data.fields import has_input, input_names, sees_rays

    if sees_rays(config.data):
        return ['onet', 'render', f'--workdir={workdir}', '--output=FOLDER']
    if 'oriented_cloud' in input_names(config.data):
        photo = ['--photo=FILE'] if 'image' in input_names(config.data) else []
        return ['onet', 'colorize', f'--workdir={workdir}', '--mesh=FILE', *photo, '--output=coloured.glb']
    verb = ('reconstruct', '--input=FILE') if has_input(config.data) else ('sample',)
    return ['onet', *verb, f'--workdir={workdir}', '--output=FOLDER']


def refining(run: Any, workdir: str | None, source: str, mesh: object) -> list[str]:
    """The command that refines a mesh made from a file; its flags where there are several, or no field of an object."""
    from onet_jax.data.fields import sees_clips, shows_objects

    if sees_clips(run.config.data):
        return ['onet', 'evaluate', f'--workdir={workdir or run.workdir.name}']
    if os.path.isdir(source) or not (hasattr(run.method.model, 'bind') and shows_objects(run.config.data)):
        return ['onet', 'refine', '--help']
    data = run.config.data
    same = [f'--up={data.up}'] if 'up' in data else []
    if data.get('keep_outliers'):
        same.append('--keep_outliers')
    if data.get('remove_outliers'):
        same.append('--remove_outliers')
    if run.threshold_from.startswith('the flag'):
        same.append(f'--threshold={run.config.eval.threshold}')
    where = f'--workdir={workdir or run.workdir.name}'
    return ['onet', 'refine', where, f'--mesh={mesh}', f'--input={source}', *same, '--output=refined.ply']


def _explain(error: Exception) -> str:
    """What is wrong, in one line that names the file where the system does."""
    if isinstance(error, FileExistsError | NotADirectoryError) and error.filename:
        return f'{os.fsdecode(error.filename)}: expected a folder, found a file on the way to it or in its place'
    if isinstance(error, OSError) and error.errno and not error.filename:
        return f'{error.strerror}, in a file that the system does not name; --traceback shows where'
    return str(error)


@contextmanager
def _watching_interrupts() -> Iterator[None]:
    """Let INTERRUPTS end the process, also where Python acts upon none: while XLA compiles, or where something catches them."""
    previous_handler = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it stops what control-C stops
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # It gets a signal at once, whatever this thread does.
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True).start()
    previous_hook = sys.unraisablehook
    sys.unraisablehook = partial(_leave_where_it_is_ignored, previous_hook)
    try:
        yield
    finally:
        sys.unraisablehook = previous_hook
        signal.set_wakeup_fd(previous)
        signal.signal(signal.SIGTERM, previous_handler)
        os.close(writer)


def _watch(reader: int) -> None:
    """Wait for interrupts among the signals in a pipe, until it is closed: the second one ends the process.

    So does the first one after a while, unless it is handled by a function that stops the work in its own time.
    """
    with open(reader, 'rb', buffering=0) as pipe:
        interrupts = (byte[0] for byte in iter(lambda: pipe.read(1), b'') if byte[0] in INTERRUPTS)
        for count, number in enumerate(interrupts, start=1):
            handled = signal.getsignal(number) is not signal.default_int_handler
            if count == 2:
                _leave()
            timer = threading.Timer(PATIENCE, os.write if handled else _leave, (2, HINT) if handled else ())
            timer.daemon = True
            timer.start()


def _leave_where_it_is_ignored(previous_hook: Callable[[Any], None], unraisable: Any) -> None:
    """sys.unraisablehook: an interrupt in a callback of the garbage collector, such as JAX has, would print a traceback."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        _leave()
    previous_hook(unraisable)


def _leave() -> None:
    """End the process at once: its worker processes end with it, and files are written atomically."""
    os.write(2, STOPPED)
    os._exit(EXIT_INTERRUPTED)


def _parse_flags(takes_arguments: bool, argv: list[str]) -> list[str]:
    """Parse the flags into flags.FLAGS; returns what is left of argv. Raises InputError with one clear message."""
    asked = [word for word in argv[1:] if re.fullmatch('--?(h|help|helpshort|helpfull)', word)]
    if asked:
        _print_help(argv, full=asked[0].endswith('full'))
        sys.exit(0)
    try:
        rest = flags.FLAGS(list(_name_files(argv)))
        _expand_paths()
        if 'config' in flags.FLAGS:
            flags.FLAGS.config.lock()  # a config that failed to load raises only when it is touched
            _split_names(flags.FLAGS.config)
    except OSError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f'--config: expected one of {", ".join(FILES)}, or a file of your own; {reason}') from error
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
    if rest[1:] and not takes_arguments:
        raise InputError(
            f'expected flags, as in --name=value, found {" ".join(map(repr, rest[1:]))} beside them; '
            'several files are given as their folder, and a flag that is true or false as --name or --noname'
        )
    return rest


def _expand_paths() -> None:
    """Replace ~ by the home folder, as a shell does not after an equals sign. Raises InputError for an empty text."""
    for name in flags.FLAGS:
        flag = flags.FLAGS[name]
        if (
            flag.present and isinstance(flag.value, str) and '.' not in name
        ):  # those with a dot are values of the config
            if not flag.value.strip():
                raise InputError(f'--{name}: expected a path or a word, found nothing')
            flag.value = os.path.expanduser(flag.value)


def _split_names(config: ConfigDict) -> None:
    """Make two names of 'chair,mug', which ml_collections takes for one."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            _split_names(value)
        elif isinstance(value, tuple) and any(isinstance(name, str) and ',' in name for name in value):
            config[key] = tuple(part.strip() for name in value for part in name.split(',') if part.strip())


def _name_files(argv: list[str]) -> Iterator[str]:
    """The arguments with the file of a config in place of its name. `--config=list` prints the names and exits."""
    if 'config' not in flags.FLAGS:
        yield from argv
        return
    for before, word in pairwise(['', *argv]):
        flag, name = re.fullmatch('(--?config=)?(.*)', word, re.DOTALL).groups('')
        if not flag and before not in ('--config', '-config'):
            yield word
        elif name == 'list':
            print(list_configs())
            sys.exit(0)
        else:
            file = find_file(os.path.expanduser(name))
            if file == os.path.expanduser(name):
                load_config(file)  # says what is wrong with a file of the user
            yield flag + file


def _print_help(argv: list[str], full: bool) -> None:
    """The flags of the command; in full those of all libraries too, and the values of the config."""
    app.usage(shorthelp=not full, writeto_stdout=True)
    if full and 'config' in flags.FLAGS:
        given = [word.partition('=')[2] for word in argv if word.startswith(('--config=', '-config='))]
        name = given[-1] if given else next(iter(FILES))
        print(f'--config={name}, each value a flag as in --config.optim.learning_rate=3e-4:\n')
        print(describe(load_config(name), find_file(name).partition(':')[0]))
