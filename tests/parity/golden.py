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


def parameters(data: dict) -> dict[str, np.ndarray]:
    """The weights of a file; large ones are hashes of their places there."""
    made = {}
    for name, (seed, *shape) in under(data, 'gen/').items():
        bits = np.arange(np.prod(shape), dtype=np.uint32) + np.uint32(int(seed) * 0x9E3779B9 & 0xFFFFFFFF)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            bits = (bits ^ bits >> np.uint32(shift)) * np.uint32(factor)
        values = ((bits >> np.uint32(24)).astype(np.float32) - np.float32(127.5)) * data[f'genscale/{name}']
        made[name] = values.reshape(shape)
    return {**under(data, 'param/'), **made}
