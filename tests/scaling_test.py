from itertools import pairwise

import jax
import pytest
from model_configs import small_config

from benchmarks.scaling import NUM_CHIPS, compile_on_cpu, efficiency, expect_traffic
from onet_jax.training.chips import CHIPS, slice_shape


def test_the_compiled_step_reduces_what_is_expected_and_nothing_else():
    assert len(jax.devices()) == 2
    exchanged, traffic = compile_on_cpu(small_config()).exchanged(), expect_traffic(small_config())
    assert exchanged == {'all-reduce': (traffic.count, traffic.bytes)}
    assert traffic.gradients > traffic.statistics > traffic.scalars > 0


def test_frozen_weights_are_not_reduced():
    config = small_config()
    with config.unlocked():
        config.train.frozen = ('decoder',)
    assert 0 < expect_traffic(config).gradients < expect_traffic(small_config()).gradients


@pytest.mark.parametrize('chip', CHIPS.values(), ids=CHIPS)
def test_more_bytes_and_more_all_reduces_cost_efficiency(chip):
    for n in NUM_CHIPS:
        shape = slice_shape(chip, n)
        shares = [efficiency(chip, shape, 1e-3, *traffic) for traffic in ((0, 0), (1e6, 1), (1e8, 1), (1e8, 50))]
        assert shares[0] == 1
        assert all(a > b > 0 for a, b in pairwise(shares)) if n > 1 else shares == [1] * 4
