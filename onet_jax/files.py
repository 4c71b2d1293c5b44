"""Files and memory of this machine: the cache folder, atomic writes, file locks."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict) -> None:
    """Write an indented JSON file atomically."""
    write_atomically(path, (json.dumps(content, indent=1) + '\n').encode())


@contextmanager
def one_at_a_time(path: str | Path) -> Iterator[None]:
    """Hold a file lock: of the processes that share a file system one at a time is in the block. Makes the file `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed, also by a process that is killed
        yield
