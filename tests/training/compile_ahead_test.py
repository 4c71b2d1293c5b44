"""Programs of a config for slices of TPUs: their arithmetic, and the compiler itself where it is installed."""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec

import jax
import pytest
from entry_points import ROOT
from model_configs import small_config

from onet_jax import configs
from onet_jax.errors import InputError
from onet_jax.training.chips import CHIPS, all_reduce_seconds, slice_shape
from onet_jax.training.compile_ahead import Figures, Slice, list_programs, open_slice, times, with_batch
from onet_jax.training.hlo import Collective, Work


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


def test_times_are_those_of_the_peak_the_bandwidth_the_links_and_the_cycles():
    collectives = Collective('all-reduce', 1_000_000, 2), Collective('all-gather', 500_000, 1)
    figures, chip = Figures(1.0, 0, 0, Work(197e9, 819e6, 1.5e6, collectives, 0)), CHIPS['v5e']
    expected = {'matrix': 1e-3, 'memory': 1e-3, 'cycles': 1e-3}
    found = times(figures, chip, (4, 4))
    assert math.isclose(found.pop('links'), all_reduce_seconds(chip, (4, 4), 2_500_000, 3))
    assert found == pytest.approx(expected)


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
    assert names[:3] == ['initial weights', 'training step', 'validation']
    assert expected <= set(names)


@pytest.mark.slow
@pytest.mark.skipif(find_spec('libtpu') is None, reason="libtpu is not installed: pip install 'onet_jax[tpu]'")
def test_a_small_config_is_compiled_for_tpus():
    """In a process of its own: libtpu stays in the one that has loaded it."""
    program = """
import json, sys
sys.path.insert(0, 'tests')
from model_configs import small_config
from onet_jax.training.compile_ahead import *
slice_ = open_slice('v5e:2x2')
config = with_batch(small_config(), 4)
found = {}
for program in list_programs(config, slice_):
    if program.name in ('training step', 'occupancy', 'marching cubes'):
        figures = measure(program.lower())
        found[program.name] = [figures.held + figures.temporaries, figures.work.flops, figures.work.cycles]
        if program.name == 'training step':
            found['exchanged'] = figures.work.exchanged()
print(json.dumps(found))
"""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    exchanged = found.pop('exchanged')
    assert list(exchanged) == ['all-reduce']
    assert all(0 < memory < CHIPS['v5e'].memory and cycles > 0 for memory, _, cycles in found.values())
    assert found['training step'][1] > found['occupancy'][1] > 0
