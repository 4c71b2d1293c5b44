"""Safe reading of untrusted `.npz` archives: numeric arrays only, never unpickled, by default at most `MAX_BYTES` in memory.

`np.load` allocates whatever size an array's header claims, and may unpickle. Here a header that does not describe exactly the
bytes that the archive holds is an error (`arrays.py`). Nothing is extracted to disk.
"""

import zipfile
from pathlib import Path

import numpy as np

from onet_jax.arrays import read_array, read_header
from onet_jax.errors import InputError

MAX_BYTES = 1 << 28  # of all arrays of an archive, uncompressed
KINDS = {'b': 'bool', 'u': 'unsigned', 'i': 'integer', 'f': 'float'}  # of np.dtype.kind
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what np.savez and np.savez_compressed use


def read_arrays(path: str | Path, expected: dict[str, tuple[str, tuple]]) -> dict[str, np.ndarray]:
    """Read the arrays that `expected` names: key -> (allowed kinds, letters of KINDS; shape, None for any length).

    Other arrays are ignored. Raises FileNotFoundError without the file; InputError, naming path and key, when the archive is
    damaged or an array is missing, of another kind or shape, or not finite.
    """
    members = read_members(path)
    return {key: parse_array(path, key, members, *kinds_and_dims) for key, kinds_and_dims in expected.items()}


def read_members(path: str | Path, max_bytes: int | None = None) -> dict[str, bytes]:
    """The undecoded arrays of an archive: key -> bytes of an `.npy` file. Errors as of `read_arrays`."""
    path, max_bytes = Path(path), max_bytes or MAX_BYTES
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected an .npz archive, found no such file')
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            for info in infos:
                if '..' in info.filename.replace('\\', '/').split('/') or info.filename.startswith('/'):
                    raise InputError(f'a member named {info.filename!r}')
                if info.compress_type not in COMPRESSIONS:
                    raise InputError(f'member {info.filename!r} with compression {info.compress_type}')
            total = sum(info.file_size for info in infos)
            if total > max_bytes:
                raise InputError(f'{total} bytes when unpacked, {max_bytes} at most')
            return {info.filename.removesuffix('.npy'): archive.read(info) for info in infos}
    except Exception as error:  # a damaged archive makes zipfile raise whatever it likes
        raise InputError(
            f'{path}: expected an archive as np.savez writes it, found {path.stat().st_size} bytes that are cut off, '
            f'damaged or something else ({error})'
        ) from error


def parse_array(path: str | Path, key: str, members: dict[str, bytes], kinds: str, dims: tuple) -> np.ndarray:
    """Decode one array of `read_members` to native byte order. Arguments and errors as of `read_arrays`."""
    if key not in members:
        reject(path, key, 'an array of this name', f'only {sorted(members)}')
    content = members[key]
    try:
        header = read_header(content)
        shape, dtype = header.shape, header.dtype
        fits = len(shape) == len(dims) and all(d in (None, n) for d, n in zip(dims, shape, strict=True))
        if dtype.kind not in kinds or not fits:
            shown = ', '.join('any' if d is None else str(d) for d in dims)
            found = 'pickled objects' if dtype.hasobject else dtype
            raise InputError(
                f'expected {" or ".join(KINDS[kind] for kind in kinds)} [{shown}], found {found} {list(shape)}'
            )
        array = read_array(content, header)
    except InputError as error:
        raise InputError(f"{path}, key '{key}': {error}") from error
    finite = np.isfinite(array)
    if not finite.all():
        reject(path, key, 'finite numbers', f'NaN or infinity in {array.size - finite.sum()} of {array.size}')
    return np.array(array, array.dtype.newbyteorder('='), order='C')


def reject(path: str | Path, key: str, expected: str, found: str) -> None:
    """Raise InputError that names the path and the key of an array."""
    raise InputError(f"{path}, key '{key}': expected {expected}, found {found}")
