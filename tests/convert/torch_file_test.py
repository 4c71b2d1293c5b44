"""Checkpoints of real torch are golden files; all others are assembled here, opcode by opcode, so torch is not needed."""

import io
import json
import lzma
import os
import pickle
import struct
import tracemalloc
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
from conftest import SHARED

from benchmarks.golden import find_golden
from onet_jax.convert.torch_file import GLOBALS, read_torch_file

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


def read_golden(tmp_path, name):
    path = find_golden(f'checkpoints/{name}')
    if path is None:
        pytest.skip(f'golden file checkpoints/{name} not found under {SHARED} (set ONET_JAX_SHARED)')
    if path.suffix == '.xz':
        unpacked = tmp_path / path.stem
        unpacked.write_bytes(lzma.decompress(path.read_bytes()))
        path = unpacked
    return read_torch_file(path)


@pytest.mark.parametrize('name', ['pointcloud_model.pt', 'pointcloud_model_legacyformat.pt'])
def test_an_official_checkpoint_is_read(tmp_path, golden, name):
    found = read_golden(tmp_path, name)
    expected = golden('checkpoints/pointcloud_model.npz')
    assert list(found) == ['epoch_it', 'it', 'loss_val_best', 'model', 'optimizer']
    for key in ('epoch_it', 'it', 'loss_val_best'):
        assert found[key] == expected[f'scalars/{key}'], key
    assert type(found['loss_val_best']) is np.float64
    after = {key.removeprefix('out/next/'): value for key, value in expected.items() if key.startswith('out/next/')}
    del after['loss']
    assert set(after) == set(found['model'])
    for key, value in found['model'].items():
        assert value.shape == after[key].shape, key
        if key.endswith('num_batches_tracked'):
            assert after[key] == value + 1
        elif 'running' not in key:
            np.testing.assert_allclose(value, after[key], rtol=0, atol=4e-4, err_msg='an Adam step of lr 1e-4 apart')
    moments = found['optimizer']['state']
    for key, value in expected.items():
        if key.startswith('optim/index/'):
            shape = found['model'][key.removeprefix('optim/index/')].shape
            assert moments[int(value)]['exp_avg'].shape == moments[int(value)]['exp_avg_sq'].shape == shape
            assert moments[int(value)]['step'] == 2
    assert found['optimizer']['param_groups'][0]['betas'] == (0.9, 0.999)


def test_both_formats_of_torch_hold_the_same(tmp_path):
    new, old = (read_golden(tmp_path, f'pointcloud_model{suffix}.pt') for suffix in ('', '_legacyformat'))
    assert_same(old, new)


@pytest.mark.parametrize(
    'name, num_arrays, key, shape',
    [
        ('pointcloud_legacydecoder_modelonly.pt', 130, 'decoder.block0.bn_0.fc_gamma.weight', (16, 16)),
        ('img_simple_conv_model.pt.xz', 113, 'encoder.conv0.weight', (32, 3, 3, 3)),
        ('img_resnet18_model.pt.xz', 223, 'encoder.features.conv1.weight', (64, 3, 7, 7)),
    ],
)
def test_other_official_checkpoints_are_read(tmp_path, name, num_arrays, key, shape):
    model = read_golden(tmp_path, name)['model']
    assert len(model) == num_arrays
    assert model[key].shape == shape
    assert all(np.isfinite(value).all() for value in model.values())


@pytest.mark.parametrize('write', [write_zip, write_legacy])
def test_tensors_are_exact_views(tmp_path, write):
    write(tmp_path / 'a.pt', some_tensors(), STORAGES)
    found = read_torch_file(tmp_path / 'a.pt')
    assert_same(found, EXPECTED)
    for name, array in found.items():
        if array.size:
            assert not array.flags.writeable, 'a change would show in other tensors'
            assert array.flags.aligned, name
    assert np.shares_memory(found['plain'], found['strided'])
    assert found['transposed'].strides == (4, 16)
    assert found['repeated'].strides == (0, 4)


def test_prefixes_compression_and_names_do_not_matter(tmp_path):
    for name, options in {
        'a': {'prefix': ''},
        'b.tar': {'prefix': 'what ever/'},
        'c.safetensors': {'compression': zipfile.ZIP_DEFLATED},
        'd': {'order': None},  # torch < 2.1 writes none
    }.items():
        write_zip(tmp_path / name, some_tensors(), STORAGES, **options)
        assert_same(read_torch_file(tmp_path / name), EXPECTED)
    write_legacy(tmp_path / 'e.safetensors', some_tensors(), STORAGES)
    assert_same(read_torch_file(str(tmp_path / 'e.safetensors')), EXPECTED)


@pytest.mark.parametrize('write', [write_zip, write_legacy])
def test_whatever_else_a_checkpoint_holds(tmp_path, write):
    weight = tensor(reference('0', 'FloatStorage', 12), 0, (12,), (1,))
    ordered = Call('collections.OrderedDict', ())
    parameter = Call('torch._utils._rebuild_parameter', (weight, True, ordered))
    state = Raw(
        assemble(ordered)
        + pickle.MARK + assemble('w') + assemble(parameter) + assemble('b') + assemble(weight) + pickle.SETITEMS
        + assemble({'_metadata': {'': {'version': 1}}}) + pickle.BUILD
    )  # fmt: skip
    value = {
        'it': 2**40,
        'big': -(2**70),
        'lr': 1e-4,
        'list': [1, None, True, (2, 'é')],
        'best': number(np.float64(0.7346).tobytes(), 'f8'),
        'old': number(np.float32(1e30).tobytes(), 'f4', module='numpy.core.multiarray'),
        'flag': number(b'\x01', 'b1', '|'),
        'size': Call('torch.Size', ((3, 4),)),
        'model': state,
        'first': Call('torch._utils._rebuild_tensor', (reference('0', 'FloatStorage', 12), 1, (2,), (3,))),
        3: {},
    }
    expected = {
        'it': 2**40,
        'big': -(2**70),
        'lr': 1e-4,
        'list': [1, None, True, (2, 'é')],
        'best': np.float64(0.7346),
        'old': np.float32(1e30),
        'flag': np.True_,
        'size': (3, 4),
        'model': {'w': FLOATS, 'b': FLOATS},
        'first': FLOATS[1:5:3],
        3: {},
    }
    write(tmp_path / 'a.pt', value, {'0': FLOATS})
    assert_same(read_torch_file(tmp_path / 'a.pt'), expected)


def test_dtypes_without_a_storage_class(tmp_path):
    numbers = np.array([1, 65535], np.uint16)
    storage = Reference(('storage', Global('torch.storage.UntypedStorage'), '0', 'cpu', 4))
    args = (storage, 1, (1,), (1,), False, Call('collections.OrderedDict', ()), Global('torch.uint16'))
    write_zip(tmp_path / 'a.pt', [Call('torch._utils._rebuild_tensor_v3', args)], {'0': numbers})
    assert_same(read_torch_file(tmp_path / 'a.pt'), [numbers[1:]])


def test_safetensors(tmp_path):
    arrays = {
        'b': np.arange(6, dtype=np.int64).reshape(2, 3),
        'a': FLOATS,
        'c': BFLOATS,
        'd': np.array(2.5, np.float16),
        'e': BOOLS,
        'f': np.zeros((0, 4), np.float32),
    }
    names = {'int64': 'I64', 'float32': 'F32', 'bfloat16': 'BF16', 'float16': 'F16', 'bool': 'BOOL'}
    entries, data = {'__metadata__': {'format': 'pt'}}, b''
    for name, array in arrays.items():
        span = [len(data), len(data) + array.nbytes]
        entries[name] = {'dtype': names[str(array.dtype)], 'shape': list(array.shape), 'data_offsets': span}
        data += array.tobytes()
    write_safetensors(tmp_path / 'a.bin', entries, data)
    assert_same(read_torch_file(tmp_path / 'a.bin'), arrays)


def safetensors_with(**changes) -> dict:
    return {'a': {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]} | changes}


@pytest.mark.parametrize(
    'entries, data, found',
    [
        (safetensors_with(dtype='F4'), bytes(8), r"F32\|.*found F4; convert tensor 'a'"),
        (safetensors_with(shape=[3]), bytes(8), r'float32 \[3\] from byte 0 of 8'),
        (safetensors_with(shape=[-1, -2]), bytes(8), 'from 0 to'),
        (safetensors_with(shape=[2] * 500), bytes(8), 'at most 64 axes'),
        (safetensors_with(shape=[True, 2]), bytes(8), 'from 0 to'),
        (safetensors_with(data_offsets=[4, 12]), bytes(12), 'found 4 to 12'),
        (safetensors_with(data_offsets=[0, 8.0]), bytes(8), 'from 0 to'),
        (safetensors_with(), bytes(7), 'of 7 in'),
        (safetensors_with(), bytes(9), '8 bytes of tensors, found 9'),
        (safetensors_with() | {'b': safetensors_with()['a']}, bytes(8), "from byte 8 of 8 in 'b', found 0 to 8"),
        ({'a': {'dtype': 'F32'}}, bytes(8), 'damaged'),
        ({'a': 3}, bytes(8), 'damaged'),
    ],
)
def test_safetensors_that_do_not_add_up(tmp_path, entries, data, found):
    write_safetensors(tmp_path / 'a.safetensors', entries, data)
    with pytest.raises(ValueError, match=f'a.safetensors: expected .*{found}'):
        read_torch_file(tmp_path / 'a.safetensors')


def test_a_header_of_safetensors_that_is_none(tmp_path):
    path = tmp_path / 'a.safetensors'
    for length in (2, 1000, 2**63):
        write_safetensors(path, safetensors_with(), bytes(8), length=length)
        with pytest.raises(ValueError, match=r'a\.safetensors: expected'):
            read_torch_file(path)
    deep = b'{"a":' * 100_000
    path.write_bytes(struct.pack('<Q', len(deep)) + deep)
    with pytest.raises(ValueError, match=r'damaged \(RecursionError'):
        read_torch_file(path)


class Malicious:
    """An object that runs a function of its author when it is unpickled."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


@pytest.mark.parametrize('kind', ['plain', 'zip', 'legacy', 'legacy magic', 'legacy keys'])
@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('name', ['os.system', 'builtins.eval', '__builtin__.eval', 'nt.system'])
def test_a_malicious_pickle_does_not_run(tmp_path, kind, protocol, name):
    canary = tmp_path / 'ran'
    function, args = (
        (os.system, (f'touch {canary}',)) if 'system' in name else (eval, (f'open({str(canary)!r}, "w").close()',))
    )
    evil = pickle.dumps({'model': Malicious(function, *args)}, protocol)
    pickle.loads(evil)
    assert canary.exists(), 'it would have run'
    canary.unlink()
    shown = f'{function.__module__}.{function.__name__}'
    if name in ('__builtin__.eval', 'nt.system'):
        shown = name
        evil = program({'model': Call(name, args)})
    elif protocol == 2 and name == 'builtins.eval':
        shown = '__builtin__.eval'  # the name that Python 2 knows

    path = tmp_path / 'evil.pt'
    good = program(MAGIC) + program(VERSION) + program(SYSTEM)
    if kind == 'zip':
        write_zip(path, evil, {})
    else:
        content = {'plain': b'', 'legacy': good, 'legacy magic': b'', 'legacy keys': good + program({})}[kind]
        path.write_bytes(content + evil)
    with pytest.raises(ValueError, match=f'evil.pt: expected a checkpoint of tensors, found .* calls {shown}; refused'):
        read_torch_file(path)
    assert not canary.exists()


FLOAT = Call('numpy.dtype', ('f8', False, True))
STORAGE = reference('0', 'FloatStorage', 12)


@pytest.mark.parametrize(
    'value, found',
    [
        (Call('numpy.core.multiarray._reconstruct', (Global('numpy.ndarray'), (0,), 'b')), 'calls numpy.core'),
        (Call('numpy.dtype', ('O', False, True)), "found dtype 'O'"),
        (Call('numpy.dtype', ('O8', False, True)), "found dtype 'O8'"),
        (Call('numpy.dtype', ('f8,O', False, True)), "found dtype 'f8,O'"),
        (Call('numpy.dtype', ('(1000000000,)f8', False, True)), 'found dtype'),
        (number(bytes(8), 'f8', '>'), 'little-endian numbers, found >'),
        (number(bytes(7), 'f8'), 'the bytes of a number'),
        (Call('numpy.core.multiarray.scalar', (Call('numpy.dtype', ('f8', False, True)), [1])), 'found list'),
        (Call('numpy.core.multiarray.scalar', ('O', 'text')), 'found str'),
        (Call('_codecs.encode', ('x' * 8, 'rot13')), 'found 8 in .rot13'),
        (Call('_codecs.encode', ('x' * 1000, 'latin1')), 'found 1000'),
        (Call('torch._utils._rebuild_tensor_v2', ([1.0], 0, (1,), (1,), False, None)), 'found one of list'),
        (Call('torch._utils._rebuild_tensor_v2', (STORAGE, 0, (1,), (1,), False, None, {'neg': True})), 'negated'),
        (Call('torch._utils._rebuild_tensor', (STORAGE, 0, (1,), (1,), 'O')), 'found one of str'),
        (Call('collections.OrderedDict', ([('a', 1)],)), 'damaged'),
        (Call('collections.OrderedDict', (), ({}, {'keys': 1})), None),
        (Call('torch._utils._rebuild_tensor', (STORAGE, 0, (1,), (1,)), (1, (2**40,), 'O', False, '')), 'changes'),
        (Raw(assemble(Global('torch.Size')) + assemble(({}, {'__defaults__': ()})) + pickle.BUILD), 'changes objects'),
        (Raw(assemble(Global('torch.FloatStorage')) + assemble({'x': 1}) + pickle.BUILD), 'damaged'),
        (Raw(assemble(Global('torch.Size')) + pickle.EMPTY_TUPLE + pickle.NEWOBJ), 'torch.save does not write'),
        (Raw(pickle.MARK + assemble(Global('torch.Size')) + pickle.OBJ), 'torch.save does not write'),
        (Raw(pickle.EXT1 + b'\x01'), 'torch.save does not write'),
        (Raw(pickle.INST + b'os\nsystem\n'), 'torch.save does not write'),
        (Raw(assemble([]) + pickle.DUP), 'torch.save does not write'),
        ({(): 1}, 'found tuple'),
        (Raw(assemble([1]) + assemble(0) + assemble(2) + pickle.SETITEM), 'a dict, found list'),
        (Reference(('module', 'a', 'b', 'c', 'd')), "a reference to 'module'"),
        (Reference(('storage', 'FloatStorage', '0', 'cpu', 12)), "a reference to 'storage'"),
        (Reference(('storage', Global('torch.FloatStorage'), '0', 'cpu', 12, ('1', 0, 2))), "a reference to 'storage'"),
        (reference('0', 'FloatStorage', -1), 'from 0 to'),
        (reference('0', 'ComplexFloatStorage', 6), 'torch.ComplexFloatStorage'),
        (Global('x' * 10_000 + '.y'), 'xxxxx'),
        (Global('os.\x1b[31m'), r'os.\\x1b'),
    ],
)
@pytest.mark.parametrize('kind', WRITERS)
def test_abuse_of_what_is_allowed_is_refused(tmp_path, kind, value, found):
    path = tmp_path / 'evil.pt'
    defaults = {name: getattr(function, '__defaults__', None) for name, function in GLOBALS.items()}
    WRITERS[kind](path, [value, tensor(STORAGE, 0, (12,), (1,))], {'0': FLOATS})
    if found is None:
        assert read_torch_file(path)[0] == {}, 'attributes are dropped'
    else:
        with pytest.raises(ValueError, match=f'evil.pt: expected .*{found}') as caught:
            read_torch_file(path)
        assert len(str(caught.value)) < 1000
    assert defaults == {name: getattr(function, '__defaults__', None) for name, function in GLOBALS.items()}


def test_values_that_would_print_without_end_are_not_printed(tmp_path):
    levels = [pickle.EMPTY_LIST + pickle.BINPUT + b'\0']
    for i in range(60):
        twice = pickle.MARK + (pickle.BINGET + bytes([i])) * 2 + pickle.APPENDS
        levels.append(pickle.EMPTY_LIST + twice + pickle.BINPUT + bytes([i + 1]))
    nested = Raw(pickle.MARK + b''.join(levels) + pickle.TUPLE)
    again = Raw(pickle.BINGET + bytes([60]))
    for value in [
        Call('numpy.dtype', (again, False, True)),
        Call('numpy.dtype', ('f8', False, True), (3, again)),
        Call('_codecs.encode', ('x', again)),
        Call('torch.Size', ((again,),)),
        Call('numpy.core.multiarray.scalar', (again, 'x')),
        tensor(again, 0, (1,), (1,)),
        tensor(STORAGE, again, (1,), (1,)),
        tensor(STORAGE, 0, (again,), again),
        Reference((again, 0, 0, 0, 0)),
        Reference(('storage', Global('torch.FloatStorage'), '0', 'cpu', again)),
        Raw(again.opcodes + assemble(3) + pickle.REDUCE),
        {again: 1},
    ]:
        for kind, write in WRITERS.items():
            write(tmp_path / f'{kind}.pt', [nested, value], {'0': FLOATS})
            with pytest.raises(ValueError, match=rf'{kind}\.pt: expected') as caught:
                read_torch_file(tmp_path / f'{kind}.pt')
            assert len(str(caught.value)) < 1000
    write_legacy(tmp_path / 'a.pt', {}, {}, version=[nested, again])
    with pytest.raises(ValueError, match=r'a\.pt: expected format 1001, found \['):
        read_torch_file(tmp_path / 'a.pt')


@pytest.mark.parametrize(
    'offset, size, stride',
    [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (12, (), ()),
        (-1, (2,), (1,)),
        (11, (2,), (-1,)),
        (0, (-3, -4), (4, 1)),
        (0, (3, 4), (5, 1)),
        (0, (3, 4), (4,)),
        (0, (3,), (4, 1)),
        (2**62, (1,), (1,)),
        (0, (2,), (2**62,)),
        (0, (2**61, 2**61), (0, 0)),
        (0, (2**24 + 1,), (0,)),
        (0, (1,) * 65, (1,) * 65),
        (0, (1,) * 1000, (1,) * 1000),
        (0, (0, 2**62), (1, 1)),
        (0.0, (1,), (1,)),
        (0, (True,), (1,)),
        (0, 'ab', (1, 1)),
        (0, None, None),
    ],
)
@pytest.mark.parametrize('kind', WRITERS)
def test_tensors_outside_their_storage_are_refused(tmp_path, kind, offset, size, stride):
    WRITERS[kind](tmp_path / 'a.pt', tensor(STORAGE, offset, size, stride), {'0': FLOATS})
    with pytest.raises(ValueError, match=r'a\.pt: expected'):
        read_torch_file(tmp_path / 'a.pt')


def test_layouts_at_the_edge_are_accepted(tmp_path):
    layouts = [(11, (1,), (2**62,)), (0, (2, 2), (1, 10)), (3, (0,), (1,)), (0, (1,) * 64, (1,) * 64)]
    for offset, size, stride in layouts:
        write_zip(tmp_path / 'a.pt', tensor(STORAGE, offset, size, stride), {'0': FLOATS})
        found = read_torch_file(tmp_path / 'a.pt')
        assert found.shape == size
        if found.size:
            flat = [offset + sum(i * s for i, s in zip(index, stride, strict=True)) for index in np.ndindex(size)]
            np.testing.assert_array_equal(found.ravel(), FLOATS[flat])


@pytest.mark.parametrize('write', [write_zip, write_legacy])
def test_storages_that_do_not_fit_are_refused(tmp_path, write):
    path = tmp_path / 'a.pt'
    for count in (11, 13, 2**40, 2**62):
        write(path, tensor(reference('0', 'FloatStorage', count), 0, (1,), (1,)), {'0': FLOATS})
        with pytest.raises(ValueError, match=r'a\.pt: expected .* (bytes|elements) in'):
            read_torch_file(path)
    write(path, tensor(reference('1', 'FloatStorage', 12), 0, (1,), (1,)), {'0': FLOATS})
    with pytest.raises(ValueError, match=r'a\.pt: expected'):
        read_torch_file(path)
    write(path, [STORAGE, reference('0', 'IntStorage', 12)], {'0': FLOATS})
    with pytest.raises(ValueError, match=r"a\.pt: expected 12 float32 in storage '0', found 12 int32"):
        read_torch_file(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    write_zip(tmp_path / 'a.pt', tensor(STORAGE, 0, (1,), (1,)), {'0': FLOATS, '1': -FLOATS})
    content = (tmp_path / 'a.pt').read_bytes()
    (tmp_path / 'a.pt').write_bytes(content.replace(b'archive/data/1', b'archive/data/0'))
    with pytest.raises(ValueError, match=r'a\.pt: expected an archive with one data.pkl'):
        read_torch_file(tmp_path / 'a.pt')


def declare(content: bytes, name: str, size: int, packed: int | None = None) -> bytes:
    """The archive whose central directory claims another size of a member."""
    start = content.rindex(name.encode()) - 46
    assert content[start : start + 4] == b'PK\x01\x02'
    sizes = content[start + 20 : start + 24] if packed is None else struct.pack('<I', packed)
    return content[: start + 20] + sizes + struct.pack('<I', size) + content[start + 28 :]


def test_bombs_do_not_fill_the_memory(tmp_path):
    path = tmp_path / 'a.pt'
    zeros, few = (tensor(reference('0', 'ByteStorage', size), 0, (size,), (1,)) for size in (2**27, 2**10))

    def fold(value) -> bytes:
        folded = io.BytesIO()
        with zipfile.ZipFile(folded, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr('a/data.pkl', program(value))
            with archive.open('a/data/0', 'w') as file:
                for _ in range(2**7):
                    file.write(bytes(2**20))
        return folded.getvalue()

    long_key = Raw(assemble('x') + pickle.LONG_BINPUT + struct.pack('<I', 2**32 - 1))
    deep = Raw(pickle.EMPTY_DICT + pickle.EMPTY_TUPLE + pickle.TUPLE1 * 500_000 + pickle.NONE + pickle.SETITEM)
    text = Raw(pickle.BINUNICODE + struct.pack('<I', 2**32 - 1))
    bombs = {'deflated': fold(zeros), 'hidden': declare(fold(few), 'a/data/0', 2**10)}
    for name, value in {'deep': deep, 'text': text}.items():
        write_zip(path, value, {})
        bombs[name] = path.read_bytes()
    # Eight storages of which each alone would do.
    many = [tensor(reference(key, 'ByteStorage', 2**16), 0, (2**16,), (1,)) for key in 'abcdefgh']
    write_zip(path, many, dict.fromkeys('abcdefgh', np.zeros(2**16, np.uint8)), compression=zipfile.ZIP_DEFLATED)
    bombs['many'] = path.read_bytes()
    # A pickle, and a storage, of 4 GB that are not there.
    write_zip(path, tensor(reference('0', 'ByteStorage', 2**32 - 2), 0, (1,), (1,)), {'0': FLOATS})
    bombs['pickle'] = declare(path.read_bytes(), 'archive/data.pkl', 2**32 - 2, 2**32 - 2)
    bombs['storage'] = declare(path.read_bytes(), 'archive/data/0', 2**32 - 2, 2**32 - 2)
    tracemalloc.start()
    for name, content in bombs.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'a\.pt: expected'):
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2**27, name
    write_legacy(path, long_key, {})
    assert read_torch_file(path) == 'x'
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()


@pytest.mark.parametrize('kind', [*FORMATS, 'deflated'])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, kind):
    path = tmp_path / 'cut.pt'
    write_small(path, kind)
    content = path.read_bytes()
    assert_same(read_torch_file(path)['w'], FLOATS[:4].reshape(2, 2).T)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r'cut\.pt: expected .*, found .*; '):
            read_torch_file(path)


@pytest.mark.parametrize('kind', [*FORMATS, 'deflated'])
def test_flipped_bytes_are_refused_or_harmless(tmp_path, kind):
    """Only a zip archive carries checksums; in the other formats a wrong number cannot be told from a right one."""
    path = tmp_path / 'flipped.pt'
    write_small(path, kind)
    content, right = path.read_bytes(), read_torch_file(path)
    rng = np.random.default_rng(0)
    num_refused = 0
    for _ in range(600):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        try:
            found = read_torch_file(path)
        except ValueError as error:
            assert str(error).startswith(f'{path}: expected')  # noqa: PT017
            num_refused += 1
        else:
            if kind in ('zip', 'deflated'):
                assert_same(found, right)
    assert num_refused > 200


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / 'a.pt'
    for content, found in {
        b'': 'found 0 bytes',
        b'hello, this is text': r"found 19 bytes that begin with b'hello, t'",
        lzma.compress(b'x'): 'unpack it',
        b'cos\nsystem\n(S"true"\ntR.': 'begin with',
        pickle.dumps({'a': 1}): 'the magic number of torch.save, found a pickled dict',
        pickle.dumps(MAGIC) + pickle.dumps(1000): 'damaged',
        pickle.dumps(MAGIC) + pickle.dumps(1000) + pickle.dumps(SYSTEM): 'format 1001, found 1000',
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf'a\.pt: expected .*{found}'):
            read_torch_file(path)
    with path.open('wb') as file:
        np.savez(file, points=FLOATS)
    with pytest.raises(ValueError, match=r"a\.pt: expected an archive with one data.pkl .*, found \['points.npy'\]"):
        read_torch_file(path)
    with pytest.raises(FileNotFoundError, match=r'missing\.pt: expected a PyTorch checkpoint, found no such file'):
        read_torch_file(tmp_path / 'missing.pt')
    with pytest.raises(FileNotFoundError, match='expected'):
        read_torch_file(tmp_path)


def test_big_endian_files_are_refused(tmp_path):
    write_zip(tmp_path / 'a.pt', some_tensors(), STORAGES, order=b'big')
    write_legacy(tmp_path / 'b.pt', some_tensors(), STORAGES, system=SYSTEM | {'little_endian': False})
    for name in ('a.pt', 'b.pt'):
        with pytest.raises(ValueError, match=f'{name}: expected little-endian numbers'):
            read_torch_file(tmp_path / name)


def test_pickles_are_of_moderate_size(tmp_path):
    for write in (write_zip, write_legacy):
        write(tmp_path / 'a.pt', 'x' * 2**24, {})
        with pytest.raises(ValueError, match=r'a\.pt: expected'):
            read_torch_file(tmp_path / 'a.pt')


def test_a_legacy_file_names_all_its_storages(tmp_path):
    path = tmp_path / 'a.pt'
    write_legacy(path, some_tensors(), {})
    with pytest.raises(ValueError, match=r'a\.pt: expected the keys of 5 storages'):
        read_torch_file(path)


def test_a_legacy_file_ends_after_its_last_storage(tmp_path):
    path = tmp_path / 'a.pt'
    write_legacy(path, some_tensors(), STORAGES)
    path.write_bytes(path.read_bytes() + b'\0')
    with pytest.raises(ValueError, match=r'a\.pt: expected \d+ bytes, found'):
        read_torch_file(path)
