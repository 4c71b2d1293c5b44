"""Arrays in the bytes of `.npy` files: never unpickled, never larger than the bytes. Imports no JAX."""

import io
import math
from typing import NamedTuple

import numpy as np

from onet_jax.errors import InputError


class Header(NamedTuple):
    """What an `.npy` file says of its array."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype
    size: int  # of the header, in bytes


def read_header(content: bytes) -> Header:
    """The header of an array. Raises InputError for another."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        return Header(*read[version](stream), stream.tell())
    except Exception as error:  # the header is a Python expression and fails in as many ways
        raise InputError(f'expected the header of an array, found another ({error!r})') from error


def read_array(content: bytes, header: Header) -> np.ndarray:
    """The array itself, a view of its bytes. Raises InputError for pickled objects, and unless there are just its bytes."""
    shape, fortran_order, dtype, start = header
    if dtype.hasobject:
        raise InputError(f'expected numbers, found pickled objects {list(shape)}')
    num_bytes, num_found = math.prod(shape) * dtype.itemsize, len(content) - start
    if num_bytes != num_found or min(shape, default=0) < 0:
        raise InputError(f'expected {num_bytes} bytes for {dtype} {list(shape)}, found {num_found}')
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order='F' if fortran_order else 'C')
