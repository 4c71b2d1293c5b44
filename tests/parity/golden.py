"""Where the outputs of the official implementation lie: a few beside the tests, the rest in a folder that may be absent."""

import os
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get('ONET_JAX_SHARED', TESTS.parents[1] / 'shared'))
FOLDERS = (TESTS / 'golden', SHARED / 'golden')


def find_golden(file: str) -> Path | None:
    """The path of a file such as 'decoders/simple_z.npz', None where it is absent."""
    return next((folder / file for folder in FOLDERS if (folder / file).exists()), None)


def golden_names(pattern: str) -> list[str]:
    """Sorted names of the files that match, such as 'decoders/simple_z.npz' for 'decoders/*.npz'."""
    return sorted({str(p.relative_to(folder)) for folder in FOLDERS for p in folder.glob(pattern)})


def read_golden(file: str) -> dict[str, np.ndarray]:
    """All arrays of a file. Raises FileNotFoundError where it is absent."""
    path = find_golden(file)
    if path is None:
        raise FileNotFoundError(f'{file}: expected it under one of {[str(f) for f in FOLDERS]} (set ONET_JAX_SHARED)')
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def under(data: dict, prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose key starts with `prefix`, without it."""
    return {key.removeprefix(prefix): value for key, value in data.items() if key.startswith(prefix)}
