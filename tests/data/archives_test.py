import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from onet_jax.data import archives
from onet_jax.data.archives import read_arrays
from onet_jax.errors import InputError

ANY = {'a': ('f', (None, 3))}


def npy(array=None, header=None, data=b'') -> bytes:
    """The bytes of an array, or of a header that says what it likes."""
    stream = io.BytesIO()
    if header is None:
        np.lib.format.write_array(stream, np.asarray(array))
    else:
        np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + data


def write_zip(path, members: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('dtype', ['<f2', '<f4', '>f4', '<f8'])
def test_arrays_come_back_in_native_order(tmp_path, save, dtype):
    a = np.random.default_rng(0).normal(size=(5, 3)).astype(dtype)
    save(tmp_path / 'a.npz', a=a, flipped=a.T, bits=np.arange(4, dtype=np.uint8), one=np.float64(2), name='x')
    expected = {'a': ('f', (None, 3)), 'flipped': ('f', (3, 5)), 'bits': ('bu', (None,)), 'one': ('f', ())}
    found = read_arrays(tmp_path / 'a.npz', expected)
    np.testing.assert_array_equal(found['a'], a)
    np.testing.assert_array_equal(found['flipped'], a.T)
    np.testing.assert_array_equal(found['bits'], [0, 1, 2, 3])
    assert found['one'] == 2
    assert found['one'].shape == ()
    assert found['a'].dtype.isnative
    assert found['a'].flags.writeable


HUGE = {'descr': '<f4', 'fortran_order': False, 'shape': (2**40, 3)}


@pytest.mark.parametrize(
    ('members', 'message'),
    [
        ({'b.npy': npy(np.ones((2, 3)))}, r"key 'a': expected an array of this name, found only \['b'\]"),
        ({'a.npy': npy(np.ones((2, 4)))}, r'expected float \[any, 3\], found float64 \[2, 4\]'),
        ({'a.npy': npy(np.ones(3))}, r'expected float \[any, 3\], found float64 \[3\]'),
        ({'a.npy': npy(np.ones((2, 3), int))}, r'found int64 \[2, 3\]'),
        ({'a.npy': npy(np.full((2, 3), 'x'))}, r'found <U1 \[2, 3\]'),
        ({'a.npy': npy(np.full((2, 3), {}))}, r'found pickled objects \[2, 3\]'),
        ({'a.npy': npy(np.array([[1, 2, np.nan], [np.inf, 0, 0]]))}, 'finite numbers, found NaN or infinity in 2 of 6'),
        ({'a.npy': npy(header=HUGE, data=bytes(24))}, r'expected 13194139533312 bytes for float32 .*, found 24'),
        ({'a.npy': npy(header={**HUGE, 'shape': (-1, 3)}, data=bytes(24))}, r'expected -12 bytes .*, found 24'),
        ({'a.npy': npy(np.ones((2, 3)))[:-1]}, r'expected 48 bytes for float64 \[2, 3\], found 47'),
        ({'a.npy': npy(np.ones((2, 3))) + b'x'}, 'found 49'),
        ({'a.npy': b''}, 'expected the header of an array'),
        ({'a.npy': b'\x93NUMPY\x01\x00\x08\x00' + b'(' * 8}, 'expected the header of an array'),
        ({'a.npy': b'\x93NUMPY\x09\x00' + bytes(20)}, 'expected the header of an array'),
        ({'a.npy': npy(np.ones((2, 3))), '../../b.npy': npy(1)}, "a member named '../../b.npy'"),
        ({'a.npy': npy(np.ones((2, 3))), '..\\b': b'x'}, 'a member named'),
        ({'/tmp/b.npy': npy(1)}, "a member named '/tmp/b.npy'"),
    ],
)
def test_hostile_archives_are_named_with_their_fault(tmp_path, members, message):
    write_zip(tmp_path / 'a.npz', members)
    tracemalloc.start()
    with pytest.raises(InputError, match=rf'a\.npz.*{message}'):
        read_arrays(tmp_path / 'a.npz', ANY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert [path.name for path in tmp_path.iterdir()] == ['a.npz'], 'nothing is extracted'


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    write_zip(tmp_path / 'a.npz', {'a.npy': npy(np.zeros((100_000, 3)))}, zipfile.ZIP_DEFLATED)
    assert (tmp_path / 'a.npz').stat().st_size < 10_000
    monkeypatch.setattr(archives, 'MAX_BYTES', 1_000_000)
    with pytest.raises(InputError, match=r'a\.npz: .*2400128 bytes when unpacked, 1000000 at most'):
        read_arrays(tmp_path / 'a.npz', ANY)
    write_zip(tmp_path / 'b.npz', {'a.npy': npy(np.zeros((2, 3)))}, zipfile.ZIP_LZMA)
    with pytest.raises(InputError, match=r"b\.npz: .*member 'a.npy' with compression 14"):
        read_arrays(tmp_path / 'b.npz', ANY)


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_damage_anywhere_is_an_error_that_names_the_file(tmp_path, save):
    path = tmp_path / 'a.npz'
    rng = np.random.default_rng(0)
    save(path, a=rng.normal(size=(20, 3)), b=np.arange(5))
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=r'a\.npz.*expected'):
            read_arrays(path, ANY)
    refusals = []
    for _ in range(300):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_arrays(path, ANY)
        except InputError as error:
            refusals.append(str(error))
    assert len(refusals) > 150
    assert all('a.npz' in refusal for refusal in refusals)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'a\.npz: expected an \.npz archive, found no such file'):
        read_arrays(tmp_path / 'a.npz', ANY)
