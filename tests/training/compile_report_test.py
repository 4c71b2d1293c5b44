"""Reports of ahead-of-time compilation: arithmetic with a compiler of the test, and that of TPUs where it is installed."""

import json
import math
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import pytest
from entry_points import ROOT
from model_configs import small_config

from onet_jax.errors import InputError
from onet_jax.training import compile_report
from onet_jax.training.chips import CHIPS, all_reduce_seconds
from onet_jax.training.compile_ahead import STEP, Figures, TooLargeError
from onet_jax.training.compile_report import Compiler, find_largest_batch, report, times
from onet_jax.training.hlo import Collective, Work

COLLECTIVES = Collective('all-reduce', 1_000_000, 2), Collective('all-gather', 500_000, 1)
WORK = Work(197e9, 819e6, 1.5e6, COLLECTIVES, 0)


class Planner(Compiler):
    """A compiler that plans `held` bytes, and so many more for each example on a chip, up to a knee and from it on."""

    held, before, after, knee = 1e9, 1e9, 1e9, 4

    def list_programs(self, config):
        return [('encode', (1,)), (STEP, self.shape), ('marching cubes', (1,))]

    def measure(self, config, name):
        if name == 'marching cubes':
            raise InputError('expected to be done within 9 s, found that it takes longer')
        share = config.train.batch_size / self.num_chips
        temporaries = self.before * min(share, self.knee) + self.after * max(share - self.knee, 0)
        if self.held + temporaries > self.chip.memory:
            raise TooLargeError('out of memory')
        return Figures(1.0, 2_000_000, self.held, temporaries, WORK)


def test_times_are_those_of_the_peak_the_bandwidth_the_links_and_the_cycles():
    chip = CHIPS['v5e']
    found = times(Figures(1.0, 0, 0, 0, WORK), chip, (4, 4))
    assert math.isclose(found.pop('links'), all_reduce_seconds(chip, (4, 4), 2_500_000, 3))
    assert found == pytest.approx({'matrix': 1e-3, 'memory': 1e-3, 'cycles': 1e-3})


@pytest.mark.parametrize(
    'before, after, expected',
    [(1e9, 1e9, 8), (1e9, 4e9, 4), (3.5e9, 0.1e9, 16), (0.4e9, 0.1e9, 128), (9e9, 9e9, 1)],
)
def test_the_largest_batch_is_found_where_memory_does_not_grow_in_proportion(before, after, expected):
    """A chip has 16.9 GB; the config begins with one example on each."""
    planner, config = Planner('v5e:2x2'), small_config(batch_size=4)
    planner.before, planner.after = before, after
    assert find_largest_batch(config, planner, planner.measure(config, STEP)) == 4 * expected


def test_a_program_that_cannot_be_compiled_is_one_line(monkeypatch):
    monkeypatch.setattr(compile_report, 'Compiler', Planner)
    lines = list(report(small_config(batch_size=4), 'v5e:2x2', batch_size=8))
    assert lines[0].startswith('v5e:2x2: 4 chips, each 197 TFLOP/s')
    assert lines[0].endswith('2 on each chip')
    assert re.search(r'encode .* 2.00 MB  1.000 GB   2.000 GB  18 %    197.00     0.819     240.5    1.00 ms', lines[2])
    assert lines[4].strip().startswith('2 x all-reduce, 2,000,000 bytes: 2 x 1,000,000')
    assert lines[-2] == 'marching cubes       not compiled: expected to be done within 9 s, found that it takes longer'
    assert lines[-1] == 'the largest batch that fits: 32, 8 on each chip'


def test_the_compiler_reports_wrong_input():
    with pytest.raises(InputError, match='--topology: expected one of'):
        next(report(small_config(), 'A100:8'))


@pytest.mark.slow
@pytest.mark.skipif(find_spec('libtpu') is None, reason="libtpu is not installed: pip install 'onet_jax[tpu]'")
def test_a_small_config_is_compiled_for_tpus(tmp_path):
    """By a script, which the process of the compiler reads again."""
    script = tmp_path / 'compile.py'
    script.write_text(f"""
import json, sys
sys.path.insert(0, {str(ROOT / 'tests')!r})
from model_configs import small_config
from onet_jax.training.compile_report import STEP, Compiler

if __name__ == '__main__':
    compiler, config = Compiler('v5e:2x2'), small_config(batch_size=4)
    names = dict(compiler.list_programs(config))
    figures = {{name: compiler.measure(config, name) for name in (STEP, 'occupancy', 'marching cubes')}}
    print(json.dumps([names, figures]))
""")
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run([sys.executable, script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, found = json.loads(done.stdout.splitlines()[-1])
    assert names[STEP] == [2, 2]
    assert {'initial weights', 'validation', 'encode', 'MISE of 2 shapes'} < names.keys()
    figures = {name: Figures(*values[:-1], Work(*values[-1])) for name, values in found.items()}
    assert all(each.work.cycles > 0 for each in figures.values())
    assert all(0 < each.held + each.temporaries < CHIPS['v5e'].memory for each in figures.values())
    assert figures[STEP].work.flops > figures['occupancy'].work.flops / 1000 > 0
    assert {kind for kind, *_ in figures[STEP].work.collectives} == {'all-reduce'}
