import jax
import numpy as np
import pytest
from untrained import draw_weights

from onet_jax.networks.encoders.points import Pointnet


@pytest.mark.parametrize('residual', [True, False])
def test_the_order_of_the_points_does_not_matter(residual):
    points = np.random.default_rng(0).normal(size=(2, 20, 3)).astype(np.float32)
    encoder = Pointnet(8, 16, residual=residual)
    weights = draw_weights(jax.eval_shape(encoder.init, jax.random.key(0), points))
    encode = jax.jit(lambda points: encoder.apply(weights, points))
    code, shuffled = encode(points), encode(points[:, np.random.default_rng(0).permutation(20)])
    np.testing.assert_allclose(code, shuffled, atol=1e-5)
    assert np.abs(encode(-points) - code).max() > 1e-3, 'but the points do'
