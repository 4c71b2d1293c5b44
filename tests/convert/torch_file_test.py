"""What is read, exactly: golden checkpoints of real torch, and files assembled by `torch_writers`."""

import pickle
import struct
import zipfile

import numpy as np
import pytest
from parity.golden import SHARED, golden_names
from parity.onet import read_checkpoint
from torch_writers import (
    BFLOATS,
    BOOLS,
    EXPECTED,
    FLOATS,
    STORAGES,
    Call,
    Global,
    Raw,
    Reference,
    assemble,
    assert_same,
    number,
    reference,
    some_tensors,
    tensor,
    write_legacy,
    write_safetensors,
    write_zip,
)

from onet_jax.convert.torch_file import read_torch_file
from onet_jax.errors import InputError


def read_golden(name):
    if not golden_names(f'checkpoints/{name}.pt*'):
        pytest.skip(f'golden file checkpoints/{name}.pt not found under {SHARED} (set ONET_JAX_SHARED)')
    return read_checkpoint(name)


@pytest.mark.parametrize('name', ['pointcloud_model', 'pointcloud_model_legacyformat'])
def test_an_official_checkpoint_is_read(golden, name):
    found = read_golden(name)
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


def test_both_formats_of_torch_hold_the_same():
    new, old = (read_golden(f'pointcloud_model{suffix}') for suffix in ('', '_legacyformat'))
    assert_same(old, new)


@pytest.mark.parametrize(
    'name, num_arrays, key, shape',
    [
        ('pointcloud_legacydecoder_modelonly', 130, 'decoder.block0.bn_0.fc_gamma.weight', (16, 16)),
        ('img_simple_conv_model', 113, 'encoder.conv0.weight', (32, 3, 3, 3)),
        ('img_resnet18_model', 223, 'encoder.features.conv1.weight', (64, 3, 7, 7)),
    ],
)
def test_other_official_checkpoints_are_read(name, num_arrays, key, shape):
    model = read_golden(name)['model']
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
    with pytest.raises(InputError, match=f'a.safetensors: expected .*{found}'):
        read_torch_file(tmp_path / 'a.safetensors')


def test_a_header_of_safetensors_that_is_none(tmp_path):
    path = tmp_path / 'a.safetensors'
    for length in (2, 1000, 2**63):
        write_safetensors(path, safetensors_with(), bytes(8), length=length)
        with pytest.raises(InputError, match=r'a\.safetensors: expected'):
            read_torch_file(path)
    deep = b'{"a":' * 100_000
    path.write_bytes(struct.pack('<Q', len(deep)) + deep)
    with pytest.raises(InputError, match=r'damaged \(RecursionError'):
        read_torch_file(path)
