"""Files and memory of this machine: the cache folder, atomic writes, the state of a file, file locks."""

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from onet_jax.errors import InputError

TEMPORARY = '.{}.{}.unfinished'  # digest of the name that the file will have, process


def cache_folder() -> Path:
    """Where embedded datasets are kept: $ONET_JAX_CACHE or ~/.cache/onet_jax."""
    return Path(os.environ.get('ONET_JAX_CACHE') or Path.home() / '.cache' / 'onet_jax')


def machine_memory() -> int:
    """Physical memory of this machine, in bytes."""
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write a temporary file, then rename it: a reader finds the old content or the new one. Makes the folder.

    Raises OSError that names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name itself may be as long as the file system allows.
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    temporary = path.with_name(TEMPORARY.format(digest, os.getpid()))
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        # The error of a full disk names no file, others name the temporary one.
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict) -> None:
    """Write an indented JSON file atomically."""
    write_atomically(path, (json.dumps(content, indent=1) + '\n').encode())


def claim_folder(folder: str | Path) -> Path:
    """A folder that this makes, or that is empty. Raises InputError for one that has files."""
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f'{folder}: expected a new or empty folder, found files in it; choose another --output')
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `write_atomically` in a folder whose processes were killed.

    Call it when a run begins: a file of this process is of an earlier one of the same number, as in a container.
    """
    for path in folder.glob('.*.unfinished'):
        match = re.fullmatch(TEMPORARY.format('[0-9a-f]{16}', r'(\d+)').replace('.', r'\.'), path.name)
        if match and (int(match[1]) == os.getpid() or not _is_alive(int(match[1]))):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # of another user
        pass
    return True


def file_state(path: str | Path) -> list[int] | None:
    """Size in bytes and time of modification in ns; None where there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def refuse_replacing(inputs: Iterable[Path], targets: Iterable[Path]) -> None:
    """Raises InputError where a target is an input, under whatever name: a link, or in other case where case is ignored."""
    known = {_identity(path): path for path in inputs}
    for target in targets:
        if (found := known.get(_identity(target))) is not None:
            raise InputError(f'{target}: expected a new file, found the input {found}; choose another --output')


def refuse_existing(targets: Iterable[Path]) -> None:
    """Raises InputError for a target that is there: nothing says that a command has written it."""
    for target in filter(os.path.lexists, targets):
        raise InputError(f'{target}: expected a new file, found one; delete it, or choose another --output')


def ignores_case(path: Path) -> bool:
    """Whether the file system finds the existing file `path` under its name in other case, too."""
    return _identity(path.with_name(path.name.swapcase())) == _identity(path)


def _identity(path: Path) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


@contextmanager
def one_at_a_time(path: str | Path, busy: str = '') -> Iterator[None]:
    """Hold a file lock: of the processes that share a file system one at a time is in the block.

    The file `path`, and its folder where that stays empty, are there meanwhile; the system releases the lock however the
    process ends. Waits for another process or, with `busy`, raises InputError that names `path` and the process and ends with
    this text. Raises OSError where nothing can be written.
    """
    path = Path(path)
    is_new = not path.parent.exists()
    while (file := _lock(path, busy)) is None:
        pass
    with file:
        try:
            try:
                file.truncate(0)
                file.write(f'process {os.getpid()} on {platform.node()}'.encode())
            except OSError as error:
                error.filename = str(path)
                raise
            yield
        finally:
            path.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # it is not empty
                    path.parent.rmdir()


def _lock(path: Path, busy: str) -> FileIO | None:
    """The locked file; None where whoever held it has removed it, or its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = path.open('a+b', buffering=0)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        found = os.fstat(file.fileno())
        if _identity(path) == (found.st_dev, found.st_ino):
            return file
    except OSError as error:
        with file:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise OSError(f'{path}: expected a file that can be locked, found: {error.strerror}') from error
            file.seek(0)
            raise InputError(f'{path}: {busy.format(file.read().decode())}') from None
    file.close()
    return None
