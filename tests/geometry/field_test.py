import numpy as np
import pytest

from onet_jax.geometry.field import evaluate


@pytest.mark.parametrize('num_points', [0, 1, 63, 64, 65, 1000])
def test_the_field_sees_one_size_only(num_points):
    sizes, points = set(), np.random.default_rng(0).normal(size=(num_points, 3)).astype(np.float32)

    def field(p):
        sizes.add(p.shape)
        return p[:, 0] + 2 * p[:, 1]

    values = evaluate(field, points, chunk_size=64)
    np.testing.assert_array_equal(values, points[:, 0] + 2 * points[:, 1])
    assert sizes <= {(64, 3)}
