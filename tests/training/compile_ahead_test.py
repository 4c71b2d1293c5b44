"""The programs of a config that are compiled for slices of TPUs, and the times of links."""

import math

import jax
import pytest
from model_configs import small_config

from onet_jax import configs
from onet_jax.errors import InputError
from onet_jax.training.chips import CHIPS, all_reduce_seconds, slice_shape
from onet_jax.training.compile_ahead import STEP, Slice, list_programs, open_slice, with_batch


def test_an_all_reduce_goes_over_all_links_of_a_torus_and_half_of_those_of_a_mesh():
    chip = CHIPS['v5e']._replace(latency=0)
    assert math.isclose(all_reduce_seconds(chip, (16, 16), 1e9), 2 * 255 / 256 * 1e9 / 200e9)
    assert math.isclose(all_reduce_seconds(chip, (4, 4), 1e9), 2 * 15 / 16 * 1e9 / 100e9)
    assert math.isclose(all_reduce_seconds(chip, (1, 2), 1e9), 1e9 / 50e9)
    assert all_reduce_seconds(CHIPS['v5e'], (1, 1), 1e9) == 0
    assert math.isclose(all_reduce_seconds(CHIPS['v5e'], (16, 4), 0, 5), 5 * (8 + 3) * 1e-6)
    assert math.isclose(all_reduce_seconds(CHIPS['A100'], (16,), 200e9, 1), 2 * 15 / 16 + 8 * 3e-6)


def test_slices_have_axes_of_powers_of_two():
    assert [slice_shape(CHIPS['v5e'], n) for n in (1, 2, 8, 256)] == [(1, 1), (1, 2), (2, 4), (16, 16)]
    assert [slice_shape(CHIPS['v4'], n) for n in (1, 2, 16, 256)] == [(1, 1, 1), (1, 1, 2), (2, 2, 4), (4, 8, 8)]
    assert slice_shape(CHIPS['H100'], 32) == (32,)


def test_a_batch_is_rounded_up_to_the_chips():
    config = small_config(batch_size=5)
    assert with_batch(config, 4).train.batch_size == 8
    assert with_batch(config, 4, 4).train.batch_size == 4
    assert config.train.batch_size == 5


@pytest.mark.parametrize('topology', ['v5e', 'v3:2x2', 'A100:8', 'v5e:4x'])
def test_names_of_no_slice_are_refused(topology):
    with pytest.raises(InputError, match='--topology: expected one of v4, v5e, v5p, v6e and the chips'):
        open_slice(topology)


def test_a_missing_compiler_is_named(monkeypatch):
    monkeypatch.setattr('onet_jax.training.compile_ahead.find_spec', lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'onet_jax\[tpu\]'"):
        open_slice('v5e:4x4')


@pytest.mark.parametrize(
    'name, expected',
    [
        ('occupancy_flow:tiny', {'encode', 'occupancy', 'field of one shape', 'MISE of 8 shapes', 'marching cubes'}),
        ('nerf:tiny', set()),
        ('r2n2:tiny', {'encode', 'voxels', 'occupancy'}),
    ],
)
def test_the_programs_of_a_method_are_found_without_knowing_it(name, expected):
    config = configs.load_config(name)
    slice_ = Slice('', CHIPS['v5e'], (1, 2), jax.devices())
    names = [program.name for program in list_programs(with_batch(config, 2), slice_)]
    assert names[:3] == ['initial weights', STEP, 'validation']
    assert expected <= set(names)
