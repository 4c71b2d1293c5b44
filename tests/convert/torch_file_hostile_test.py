"""What is refused: pickles that run something, tensors outside their storage, bombs, and damage anywhere."""

import io
import lzma
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from torch_writers import (
    FLOATS,
    FORMATS,
    MAGIC,
    STORAGES,
    SYSTEM,
    VERSION,
    WRITERS,
    Call,
    Global,
    Raw,
    Reference,
    assemble,
    assert_same,
    number,
    program,
    reference,
    some_tensors,
    tensor,
    write_legacy,
    write_small,
    write_zip,
)

from onet_jax.convert.torch_file import GLOBALS, read_torch_file
from onet_jax.errors import InputError


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
    with pytest.raises(InputError, match=f'evil.pt: expected a checkpoint of tensors, found .* calls {shown}; refused'):
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
        with pytest.raises(InputError, match=f'evil.pt: expected .*{found}') as caught:
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
            with pytest.raises(InputError, match=rf'{kind}\.pt: expected') as caught:
                read_torch_file(tmp_path / f'{kind}.pt')
            assert len(str(caught.value)) < 1000
    write_legacy(tmp_path / 'a.pt', {}, {}, version=[nested, again])
    with pytest.raises(InputError, match=r'a\.pt: expected format 1001, found \['):
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
    with pytest.raises(InputError, match=r'a\.pt: expected'):
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
        with pytest.raises(InputError, match=r'a\.pt: expected .* (bytes|elements) in'):
            read_torch_file(path)
    write(path, tensor(reference('1', 'FloatStorage', 12), 0, (1,), (1,)), {'0': FLOATS})
    with pytest.raises(InputError, match=r'a\.pt: expected'):
        read_torch_file(path)
    write(path, [STORAGE, reference('0', 'IntStorage', 12)], {'0': FLOATS})
    with pytest.raises(InputError, match=r"a\.pt: expected 12 float32 in storage '0', found 12 int32"):
        read_torch_file(path)


def test_two_members_of_one_name_are_refused(tmp_path):
    write_zip(tmp_path / 'a.pt', tensor(STORAGE, 0, (1,), (1,)), {'0': FLOATS, '1': -FLOATS})
    content = (tmp_path / 'a.pt').read_bytes()
    (tmp_path / 'a.pt').write_bytes(content.replace(b'archive/data/1', b'archive/data/0'))
    with pytest.raises(InputError, match=r'a\.pt: expected an archive with one data.pkl'):
        read_torch_file(tmp_path / 'a.pt')


def declare(content: bytes, name: str, size: int, packed: int | None = None) -> bytes:
    """The archive whose central directory claims another size of a member."""
    start = content.rindex(name.encode()) - 46
    assert content[start : start + 4] == b'PK\x01\x02'
    sizes = content[start + 20 : start + 24] if packed is None else struct.pack('<I', packed)
    return content[: start + 20] + sizes + struct.pack('<I', size) + content[start + 28 :]


@pytest.mark.slow
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
        with pytest.raises(InputError, match=r'a\.pt: expected'):
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
        with pytest.raises(InputError, match=r'cut\.pt: expected .*, found .*; '):
            read_torch_file(path)


@pytest.mark.parametrize('kind', [*FORMATS, 'deflated'])
def test_flipped_bytes_are_refused_or_harmless(tmp_path, kind):
    """Only a zip archive carries checksums; in the other formats a wrong number cannot be told from a right one."""
    path = tmp_path / 'flipped.pt'
    write_small(path, kind)
    content, right = path.read_bytes(), read_torch_file(path)
    rng = np.random.default_rng(0)
    refusals = []
    for _ in range(600):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        try:
            found = read_torch_file(path)
        except InputError as error:
            refusals.append(str(error))
        else:
            if kind in ('zip', 'deflated'):
                assert_same(found, right)
    assert len(refusals) > 200
    assert all(refusal.startswith(f'{path}: expected') for refusal in refusals)


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
        with pytest.raises(InputError, match=rf'a\.pt: expected .*{found}'):
            read_torch_file(path)
    with path.open('wb') as file:
        np.savez(file, points=FLOATS)
    with pytest.raises(InputError, match=r"a\.pt: expected an archive with one data.pkl .*, found \['points.npy'\]"):
        read_torch_file(path)
    with pytest.raises(FileNotFoundError, match=r'missing\.pt: expected a PyTorch checkpoint, found no such file'):
        read_torch_file(tmp_path / 'missing.pt')
    with pytest.raises(FileNotFoundError, match='expected'):
        read_torch_file(tmp_path)


def test_big_endian_files_are_refused(tmp_path):
    write_zip(tmp_path / 'a.pt', some_tensors(), STORAGES, order=b'big')
    write_legacy(tmp_path / 'b.pt', some_tensors(), STORAGES, system=SYSTEM | {'little_endian': False})
    for name in ('a.pt', 'b.pt'):
        with pytest.raises(InputError, match=f'{name}: expected little-endian numbers'):
            read_torch_file(tmp_path / name)


def test_pickles_are_of_moderate_size(tmp_path):
    for write in (write_zip, write_legacy):
        write(tmp_path / 'a.pt', 'x' * 2**24, {})
        with pytest.raises(InputError, match=r'a\.pt: expected'):
            read_torch_file(tmp_path / 'a.pt')


def test_a_legacy_file_names_all_its_storages(tmp_path):
    path = tmp_path / 'a.pt'
    write_legacy(path, some_tensors(), {})
    with pytest.raises(InputError, match=r'a\.pt: expected the keys of 5 storages'):
        read_torch_file(path)


def test_a_legacy_file_ends_after_its_last_storage(tmp_path):
    path = tmp_path / 'a.pt'
    write_legacy(path, some_tensors(), STORAGES)
    path.write_bytes(path.read_bytes() + b'\0')
    with pytest.raises(InputError, match=r'a\.pt: expected \d+ bytes, found'):
        read_torch_file(path)
