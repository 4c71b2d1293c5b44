"""Reading PyTorch files (pickle and safetensors) without torch, and without running code in them. Needs numpy only.

Three formats, told apart by their first bytes:
zip          torch >= 1.6: NAME/data.pkl is the object, NAME/data/KEY a storage, NAME/byteorder 'little'
legacy       before: pickles of magic number, version, system, object and storage keys, then count and bytes of each storage
safetensors  length of the header, the header in JSON, then the bytes of all tensors

A pickle is a program. The few functions that a checkpoint of tensors calls are replaced by those at the end of this file; all
others are refused. A storage is a flat array [n]; a tensor is a view of one, with offset and strides in elements.
"""

import io
import json
import math
import pickle
import reprlib
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FunctionType
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from onet_jax.errors import InputError

MAGIC_NUMBER, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
MAX_PICKLE = 2**24  # bytes; 421 tensors take 42 kB
MAX_REPEATED = 2**24  # elements of a tensor that is larger than its storage, as after torch's `expand`
MAX_RATIO = 100  # of all storages to their file, against zip bombs: zeros compress 1000 : 1, weights hardly at all

# Type, its name in the module torch (of its storage if there is one), its name in safetensors.
DTYPES = tuple(
    (np.dtype(dtype), name, short)
    for dtype, name, short in (
        (np.float32, 'FloatStorage', 'F32'), (np.float64, 'DoubleStorage', 'F64'), (np.float16, 'HalfStorage', 'F16'),
        (ml_dtypes.bfloat16, 'BFloat16Storage', 'BF16'), (np.bool, 'BoolStorage', 'BOOL'),
        (np.int64, 'LongStorage', 'I64'), (np.int32, 'IntStorage', 'I32'), (np.int16, 'ShortStorage', 'I16'),
        (np.int8, 'CharStorage', 'I8'), (np.uint8, 'ByteStorage', 'U8'),
        (np.uint16, 'uint16', 'U16'), (np.uint32, 'uint32', 'U32'), (np.uint64, 'uint64', 'U64'),
    )
)  # fmt: skip
SAFETENSORS = {short: dtype for dtype, _, short in DTYPES}
SCALARS = ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'b1')
# The opcodes that a pickle of tensors needs; those that instantiate a class are not among them.
OPCODES = (
    'PROTO FRAME MARK STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINBYTES '
    'SHORT_BINBYTES EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT BINGET LONG_BINGET BINPUT '
    'LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID'
)


def read_torch_file(path: str | Path) -> Any:
    """The object in a file of `torch.save` or safetensors, each tensor a read-only array, each OrderedDict a dict.

    Arrays have the shape and dtype of their tensor (bfloat16 is that of ml_dtypes) and share memory where tensors did.

    Raises FileNotFoundError; InputError, with the path, for a file that is damaged, is of another kind, was written on a
    big-endian machine, or holds a pickle of anything but tensors, containers, numbers and strings.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a PyTorch checkpoint, found no such file')
    content = path.read_bytes()
    try:
        if content[8:9] == b'{':
            return _read_safetensors(content)
        if content[:4] == b'PK\x03\x04':
            return _read_zip(content)
        if content[:1] == pickle.PROTO:
            return _read_legacy(content)
        found = f'{len(content)} bytes that begin with {content[:8]!r}'
        raise _RefusedError('a file of torch.save or safetensors', found, 'unpack it or download it again')
    except _RefusedError as error:
        expected, found, advice = error.args
        raise InputError(f'{path}: expected {expected}, found {found}; {advice}') from error
    except Exception as error:  # of a damaged file anything may be missing
        raise InputError(
            f'{path}: expected a readable PyTorch checkpoint, found {len(content)} bytes that are cut off or damaged '
            f'({type(error).__name__}: {str(error)[:300]}); download it again'
        ) from error


class _RefusedError(ValueError):
    """(expected, found, what to do) of a file whose path is not known here."""


def _expect(right: bool, expected: str, found: Any, advice: str = 'download it again') -> None:
    if not right:
        # A nested list can have 2^50 elements in a few bytes: no value of a pickle is printed in full.
        raise _RefusedError(expected[:300], (found if type(found) is str else reprlib.repr(found))[:300], advice)


def _read_zip(content: bytes) -> Any:
    archive = zipfile.ZipFile(io.BytesIO(content))
    names = archive.namelist()
    pickles = [name for name in names if name.split('/')[-1] == 'data.pkl']
    right = len(pickles) == 1 and len(set(names)) == len(names)
    _expect(right, 'an archive with one data.pkl and no name twice', names)
    root = pickles[0].removesuffix('data.pkl')
    room = MAX_RATIO * len(content)

    def read(name: str, num_bytes: int | None = None) -> bytes:
        """A member of `num_bytes` bytes, or of at most `MAX_PICKLE`. The declared sizes are checked before it is read."""
        nonlocal room
        info = archive.getinfo(name)
        size, stored = info.file_size, info.compress_type == zipfile.ZIP_STORED
        right = stored or info.compress_type == zipfile.ZIP_DEFLATED
        _expect(right, f'{name!a} stored or deflated', f'compression {info.compress_type}')
        _expect(num_bytes in (None, size), f'{num_bytes} bytes in {name!a}', size)
        limit = min(room, len(content) if stored else room, MAX_PICKLE if num_bytes is None else room)
        _expect(size <= limit, f'at most {limit} bytes in {name!a}', size)
        room -= size
        with archive.open(info) as file:
            return file.read(size)  # no more is inflated; at the last byte the CRC is checked

    if root + 'byteorder' in names:
        order = read(root + 'byteorder')
        _expect(order == b'little', 'little-endian numbers', order, 'save it again on another machine')
    return _Unpickler(io.BytesIO(read(pickles[0])), lambda key, size: read(f'{root}data/{key}', size)).load()


def _read_legacy(content: bytes) -> Any:
    file = io.BytesIO(content[:MAX_PICKLE])
    buffers: dict[str, memoryview] = {}
    room = len(content)

    def reserve(key: str, num_bytes: int) -> memoryview:
        """A buffer for a storage, whose bytes come after the object."""
        nonlocal room
        _expect(num_bytes <= room, f'at most {room} bytes in storage {key!a}', num_bytes)
        room -= num_bytes
        buffers[key] = memoryview(bytearray(num_bytes))  # a bytearray alone could change its size under the array
        return buffers[key].toreadonly()

    magic = _Unpickler(file).load()
    _expect(magic == MAGIC_NUMBER, 'the magic number of torch.save', f'a pickled {type(magic).__name__}')
    version, system = _Unpickler(file).load(), _Unpickler(file).load()
    _expect(version == LEGACY_VERSION, f'format {LEGACY_VERSION}', version, 'save it again with torch >= 1.6')
    _expect(system['little_endian'] is True, 'little-endian numbers', system, 'save it again on another machine')
    unpickler = _Unpickler(file, reserve)
    result = unpickler.load()
    keys, start = _Unpickler(file).load(), file.tell()
    _expect(keys == sorted(buffers), f'the keys of {len(buffers)} storages', 'others')
    for key in keys:
        storage = unpickler.storages[key]
        (count,) = struct.unpack_from('<q', content, start)
        left = len(content) - start - 8
        _expect(count == storage.size, f'{storage.size} elements in storage {key!a}', count)
        _expect(left >= storage.nbytes, f'{storage.nbytes} bytes in storage {key!a}', left)
        start += 8 + storage.nbytes
        buffers[key][:] = content[start - storage.nbytes : start]
    _expect(start == len(content), f'{start} bytes', len(content))
    return result


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    (length,) = struct.unpack_from('<Q', content)
    limit = min(MAX_PICKLE, len(content) - 8)
    _expect(length <= limit, f'a header of at most {limit} bytes', length)
    header, data = json.loads(content[8 : 8 + length].decode()), content[8 + length :]
    header.pop('__metadata__', None)
    tensors: dict[str, Any] = dict.fromkeys(header)
    end = 0
    # The tensors follow one another: a hole or an overlap is a damaged header.
    for name, entry in sorted(header.items(), key=lambda item: item[1]['data_offsets']):
        (start, stop), shape = entry['data_offsets'], tuple(entry['shape'])
        _expect(entry['dtype'] in SAFETENSORS, '|'.join(SAFETENSORS), entry['dtype'], f'convert tensor {name!a}')
        dtype = SAFETENSORS[entry['dtype']]
        _check_naturals(start, stop, *shape)
        right = start == end and stop - start == math.prod(shape) * dtype.itemsize and stop <= len(data)
        _expect(right, f'{dtype} {list(shape)} from byte {end} of {len(data)} in {name[:80]!a}', f'{start} to {stop}')
        tensors[name] = np.ndarray(shape, dtype, data[start:stop])  # a slice is a copy, and so aligned
        end = stop
    _expect(end == len(data), f'{end} bytes of tensors', len(data))
    return tensors


class _Unpickler(pickle._Unpickler):
    """A restricted unpickler: few opcodes, few globals.

    It extends the one in Python, because that in C sizes its memo by the index it reads (a flipped bit: 34 GB), overflows
    the stack when it hashes a deep tuple, and lets BUILD set attributes of whatever object or function it meets.
    """

    # Of the class in Python, which its stub in mypy leaves out.
    stack: list
    pop_mark: Callable[[], list]

    def __init__(self, file: io.BytesIO, load_bytes: Callable[[str, int], bytes | memoryview] | None = None):
        """load_bytes: (key of a storage, number of bytes) -> bytes; without it the pickle may not name a storage."""
        super().__init__(file)
        self.storages: dict[str, np.ndarray] = {}
        self._load_bytes = load_bytes

    def find_class(self, module: str, name: str) -> Any:
        key = f'{module}.{name}'
        advice = 'refused: loading it would run code of its author; save tensors only, such as a state_dict'
        _expect(key in GLOBALS, 'a checkpoint of tensors', f'a pickle that calls {ascii(key)[1:-1]}', advice)
        return GLOBALS[key]

    def persistent_load(self, pid: Any) -> np.ndarray:
        """('storage', dtype, key, device, number of elements[, None]) -> [n]."""
        kind, dtype, key, _, count, *view = pid
        right = kind == 'storage' and isinstance(dtype, np.dtype) and type(key) is str and view in ([], [None])
        if not right or self._load_bytes is None:
            raise _RefusedError('a storage of tensors', f'a reference to {reprlib.repr(kind)}', 'download it again')
        _check_naturals(count)
        if key not in self.storages:
            self.storages[key] = np.ndarray((count,), dtype, self._load_bytes(key, count * dtype.itemsize))
        storage = self.storages[key]
        right = storage.dtype == dtype and storage.size == count
        _expect(right, f'{storage.size} {storage.dtype} in storage {key!a}', f'{count} {dtype}')
        return storage

    def load_build(self) -> None:
        """BUILD: the attributes of a dict (`_metadata` of a state_dict) are dropped, those of a dtype checked."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            _expect(state[1] in ('<', '|'), 'little-endian numbers', state[1], 'save it again on another machine')
        else:
            _expect(type(target) is dict, 'a checkpoint of tensors', 'a pickle that changes objects', 'refused')

    def load_reduce(self) -> None:
        args, function = self.stack.pop(), self.stack[-1]
        right = isinstance(function, FunctionType) and type(args) is tuple
        _expect(right, 'a function and arguments', f'{type(function).__name__} and {type(args).__name__}')
        self.stack[-1] = function(*args)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([(key, value)])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_items(zip(items[::2], items[1::2], strict=True))

    def _set_items(self, items: Iterable[tuple]) -> None:
        target = self.stack[-1]
        for key, value in items:
            _expect(type(target) is dict, 'a dict', type(target).__name__)
            _expect(type(key) in (str, int), 'keys str or int', type(key).__name__)
            target[key] = value

    def _refuse(self) -> None:
        _expect(False, 'a pickle of torch.save', 'an instruction that torch.save does not write', 'refused')

    dispatch: ClassVar[dict[int, Any]] = (
        dict.fromkeys(range(256), _refuse)
        | {opcode[0]: pickle._Unpickler.dispatch[opcode[0]] for opcode in (getattr(pickle, n) for n in OPCODES.split())}
        | {pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build}
        | {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems}
    )


def _check_naturals(*numbers: Any) -> None:
    right = len(numbers) < 200 and all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    _expect(right, 'sizes, strides and offsets from 0 to 2^63 and at most 64 axes', numbers[:9])


# The functions that a pickle may call. Each checks its arguments, keeps no state, and makes nothing larger than them, so that a
# short pickle with a million calls cannot fill the memory.


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, dtype: np.dtype | None = None) -> np.ndarray:
    right = type(storage) is np.ndarray and storage.ndim == 1 and storage.flags.c_contiguous
    _expect(right, 'a tensor of a storage', f'one of {type(storage).__name__}')
    dtype = storage.dtype if dtype is None else dtype
    _expect(isinstance(dtype, np.dtype), 'a tensor of numbers', f'one of {type(dtype).__name__}')
    _check_naturals(offset, *size, *stride)
    count, capacity = math.prod(size), storage.nbytes // dtype.itemsize
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count == 0:
        return np.zeros(size, dtype)
    right = end <= capacity and count <= max(capacity, MAX_REPEATED)
    _expect(right, f'a tensor within {capacity} elements', f'offset {offset}, size {size}, strides {stride}')
    # The stride of an axis of length 1 means nothing; it may be too large for a number of bytes.
    steps = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
    return np.ndarray(size, dtype, storage.view(np.uint8), offset * dtype.itemsize, steps)


def _tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata=None):
    _expect(not metadata, 'a plain tensor', 'a conjugated or negated view', 'save its clone()')
    return _tensor(storage, offset, size, stride)


def _tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None):
    """A tensor of a dtype that has no storage class: its storage is of bytes."""
    _expect(not metadata, 'a plain tensor', 'a conjugated or negated view', 'save its clone()')
    return _tensor(storage, offset, size, stride, dtype)


def _parameter(tensor, requires_grad, hooks):
    return tensor


def _ordered_dict() -> dict:
    return {}


def _size(numbers: tuple) -> tuple:
    _check_naturals(*numbers)
    return numbers


def _scalar(dtype: np.dtype, content: bytes) -> np.generic:
    right = isinstance(dtype, np.dtype) and type(content) is bytes and len(content) == dtype.itemsize
    _expect(right, 'the bytes of a number', f'{type(content).__name__} for {reprlib.repr(dtype)}')
    return np.frombuffer(content, dtype)[0]


def _dtype(name: str, align: bool, copy: bool) -> np.dtype:
    _expect(name in SCALARS, f'numbers ({"|".join(SCALARS)})', f'dtype {reprlib.repr(name)}', 'save it without them')
    return np.dtype(name)


def _encode(text: str, encoding: str) -> bytes:
    """How pickle writes bytes in its old protocols."""
    _expect(
        encoding == 'latin1' and len(text) <= 16,
        'the bytes of a number in latin1',
        f'{len(text)} in {reprlib.repr(encoding)}',
    )
    return text.encode('latin1')


GLOBALS = {
    'collections.OrderedDict': _ordered_dict,
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor_v2,
    'torch._utils._rebuild_tensor_v3': _tensor_v3,
    'torch._utils._rebuild_parameter': _parameter,
    'torch.Size': _size,
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray.scalar': _scalar,
    'numpy.dtype': _dtype,
    '_codecs.encode': _encode,
    'torch.storage.UntypedStorage': np.dtype(np.uint8),
    **{f'torch.{name}': dtype for dtype, name, _ in DTYPES},
}
