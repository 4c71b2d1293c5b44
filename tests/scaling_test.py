import math
from itertools import pairwise

import jax
import pytest
from model_configs import small_config

from benchmarks.scaling import CHIPS, NUM_CHIPS, efficiency, measure_traffic, read_collectives

HLO = """
  %all-reduce.1 = f32[512,256]{1,0} all-reduce(f32[512,256]{1,0} %x), channel_id=1, to_apply=%add
  %all-reduce-start = (f32[8]{0}, bf16[2,3]{1,0}, f32[]) all-reduce-start(%a, %b, %c), to_apply=%add
  %all-reduce-done = (f32[8]{0}, bf16[2,3]{1,0}, f32[]) all-reduce-done(%all-reduce-start)
  ROOT %all-gather = u32[16]{0} all-gather(u32[2]{0} %k), dimensions={0}
  %sum = f32[8]{0} fusion(f32[8]{0} %all-reduce.1), kind=kLoop
"""


def test_collectives_are_read_with_their_bytes():
    assert read_collectives(HLO) == [
        ('all-reduce', 512 * 256 * 4),
        ('all-reduce', 8 * 4 + 6 * 2 + 4),
        ('all-gather', 16 * 4),
    ]


@pytest.fixture(scope='module')
def traffic():
    return measure_traffic(small_config(), 'pmap', jax.devices())


def test_the_compiled_step_reduces_what_is_expected_and_nothing_else(traffic):
    assert set(traffic.moved) == {'all-reduce'}
    assert traffic.moved['all-reduce'] == traffic.expected
    assert traffic.gradients > traffic.statistics > traffic.scalars > 0


@pytest.mark.parametrize('chip', CHIPS.values(), ids=CHIPS)
def test_efficiency_falls_with_the_chips_and_overlap_helps(traffic, chip):
    large = traffic._replace(gradients=50_000_000)
    for overlap in (False, True):
        shares = [efficiency(chip, n, 1e-3, large, overlap=overlap) for n in NUM_CHIPS]
        assert shares[0] == 1
        assert all(a > b > 0 for a, b in pairwise(shares))
    assert efficiency(chip, 64, 1e-3, large, overlap=True) > efficiency(chip, 64, 1e-3, large, overlap=False)


def test_the_ring_formula_by_hand(traffic):
    chip = next(iter(CHIPS.values()))._replace(fast=1e9, latency=0.0)
    bare = traffic._replace(gradients=1_000_000, statistics=0, scalars=0)
    seconds = 2 * 3 / 4 * 1e6 / 1e9
    assert math.isclose(efficiency(chip, 4, 0.01, bare, overlap=False), 0.01 / (0.01 + seconds))
    assert efficiency(chip, 4, 0.01, bare, overlap=True) == 1
