"""Where files lie, and writing them so that a reader finds the old content or the new one, never a part."""

import json
import os
from pathlib import Path


def cache_folder() -> Path:
    """Where embedded datasets are kept: $ONET_JAX_CACHE or ~/.cache/onet_jax."""
    return Path(os.environ.get('ONET_JAX_CACHE') or Path.home() / '.cache' / 'onet_jax')


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, which is made where it is missing, then rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk does not say whose
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict) -> None:
    """Write a JSON file, readable by people, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=1) + '\n').encode())
