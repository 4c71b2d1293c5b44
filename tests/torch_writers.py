"""Files of torch assembled opcode by opcode, so that the tests of their reader need no torch."""

import json
import pickle
import struct
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {'protocol_version': VERSION, 'little_endian': True, 'type_sizes': {'short': 2, 'int': 4, 'long': 4}}
FORMATS = ('zip', 'legacy', 'safetensors')


class Call(NamedTuple):
    """function(*args), and then its state set if there is one."""

    function: str
    args: tuple
    state: Any = None


class Global(NamedTuple):
    name: str


class Reference(NamedTuple):
    """A persistent id."""

    pid: tuple


class Raw(NamedTuple):
    opcodes: bytes


def assemble(value) -> bytes:
    """A value as protocol 2 writes it, without PROTO and STOP."""
    match value:
        case None:
            return pickle.NONE
        case bool():
            return pickle.NEWTRUE if value else pickle.NEWFALSE
        case int() if -(2**31) <= value < 2**31:
            return pickle.BININT + struct.pack('<i', value)
        case int():
            data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
            return pickle.LONG1 + bytes([len(data)]) + data
        case float():
            return pickle.BINFLOAT + struct.pack('>d', value)
        case str():
            return pickle.BINUNICODE + struct.pack('<I', len(value.encode())) + value.encode()
        case Global(name):
            return pickle.GLOBAL + '{}\n{}\n'.format(*name.rsplit('.', 1)).encode()
        case Reference(pid):
            return assemble(pid) + pickle.BINPERSID
        case Call(function, args, state):
            called = assemble(Global(function)) + assemble(args) + pickle.REDUCE
            return called if state is None else called + assemble(state) + pickle.BUILD
        case Raw(opcodes):
            return opcodes
        case tuple():
            return pickle.MARK + b''.join(map(assemble, value)) + pickle.TUPLE
        case list():
            return pickle.EMPTY_LIST + pickle.MARK + b''.join(map(assemble, value)) + pickle.APPENDS
        case dict():
            items = b''.join(assemble(key) + assemble(item) for key, item in value.items())
            return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS
    raise TypeError(value)


def program(value) -> bytes:
    return pickle.PROTO + b'\x02' + assemble(value) + pickle.STOP


def reference(key: str, kind: str, count: int) -> Reference:
    return Reference(('storage', Global(f'torch.{kind}'), key, 'cpu', count))


def tensor(storage: Reference, offset: Any, size: Any, stride: Any) -> Call:
    hooks = Call('collections.OrderedDict', ())
    return Call('torch._utils._rebuild_tensor_v2', (storage, offset, size, stride, False, hooks))


def number(content: bytes, dtype: str, order: str = '<', module: str = 'numpy._core.multiarray') -> Call:
    """A numpy scalar."""
    kind = Call('numpy.dtype', (dtype, False, True), (3, order, None, None, None, -1, -1, 0))
    return Call(f'{module}.scalar', (kind, Call('_codecs.encode', (content.decode('latin1'), 'latin1'))))


def write_zip(path, value, storages, prefix='archive/', compression=zipfile.ZIP_STORED, order=b'little'):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr(prefix + 'data.pkl', value if isinstance(value, bytes) else program(value))
        if order is not None:
            archive.writestr(prefix + 'byteorder', order)
        for key, array in storages.items():
            archive.writestr(f'{prefix}data/{key}', array.tobytes())


def write_legacy(path, value, storages, system=SYSTEM, version=VERSION):
    content = program(MAGIC) + program(version) + program(system)
    content += value if isinstance(value, bytes) else program(value)
    content += program(sorted(storages))
    for key in sorted(storages):
        content += struct.pack('<q', storages[key].size) + storages[key].tobytes()
    path.write_bytes(content)


def write_safetensors(path, entries, data, length=None):
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack('<Q', len(header) if length is None else length) + header + data)


WRITERS = {'zip': write_zip, 'legacy': write_legacy}
FLOATS = np.arange(12, dtype=np.float32) * np.float32(0.1)
LONGS = np.array([7, -(2**62)])
BOOLS = np.array([True, False, True])
BFLOATS = np.array([1.5, -2, 3e38], ml_dtypes.bfloat16)
STORAGES = {'0': FLOATS, '1': LONGS, '2': BOOLS, '3': BFLOATS, '4': np.zeros(0, np.float64)}
EXPECTED = {
    'plain': FLOATS.reshape(3, 4),
    'transposed': FLOATS.reshape(3, 4).T,
    'shifted': FLOATS[5:11:2],
    'strided': FLOATS.reshape(3, 4)[1:, 1::2],
    'point': np.array(FLOATS[3]),
    'repeated': np.broadcast_to(FLOATS[2:5], (2, 3)),
    'longs': LONGS,
    'tracked': np.array(LONGS[0]),
    'bools': BOOLS,
    'bfloats': BFLOATS,
    'empty': np.zeros((0, 3)),
}


def some_tensors() -> dict:
    floats, longs = reference('0', 'FloatStorage', 12), reference('1', 'LongStorage', 2)
    return {
        'plain': tensor(floats, 0, (3, 4), (4, 1)),
        'transposed': tensor(floats, 0, (4, 3), (1, 4)),
        'shifted': tensor(floats, 5, (3,), (2,)),
        'strided': tensor(floats, 5, (2, 2), (4, 2)),
        'point': tensor(floats, 3, (), ()),
        'repeated': tensor(floats, 2, (2, 3), (0, 1)),
        'longs': tensor(longs, 0, (2,), (1,)),
        'tracked': tensor(longs, 0, (), ()),
        'bools': tensor(reference('2', 'BoolStorage', 3), 0, (3,), (1,)),
        'bfloats': tensor(reference('3', 'BFloat16Storage', 3), 0, (3,), (1,)),
        'empty': tensor(reference('4', 'DoubleStorage', 0), 0, (0, 3), (3, 1)),
    }


def write_small(path, kind):
    """A small file of each format."""
    small = {'0': FLOATS[:4], '1': LONGS[:1]}
    value = {
        'w': tensor(reference('0', 'FloatStorage', 4), 0, (2, 2), (1, 2)),
        'n': tensor(reference('1', 'LongStorage', 1), 0, (), ()),
    }
    if kind == 'safetensors':
        entries = {
            'w': {'dtype': 'F32', 'shape': [2, 2], 'data_offsets': [8, 24]},
            'n': {'dtype': 'I64', 'shape': [], 'data_offsets': [0, 8]},
        }
        write_safetensors(path, entries, small['1'].tobytes() + small['0'].reshape(2, 2).T.tobytes())
    elif kind == 'deflated':
        write_zip(path, value, small, compression=zipfile.ZIP_DEFLATED)
    else:
        WRITERS[kind](path, value, small)


def assert_same(found, expected):
    """Same types, order, dtypes, shapes and bits."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    elif isinstance(expected, np.ndarray | np.generic):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    else:
        assert found == expected
