import jax
import numpy as np
import pytest

from onet_jax.networks.encoders.points import Pointnet


@pytest.mark.parametrize('residual', [True, False])
def test_the_order_of_the_points_does_not_matter(residual):
    points = np.random.default_rng(0).normal(size=(2, 20, 3)).astype(np.float32)
    encoder = Pointnet(8, 16, residual=residual)
    encode = jax.jit(lambda points: encoder.init_with_output(jax.random.key(1), points)[0])
    shuffled = points[:, np.random.default_rng(0).permutation(20)]
    np.testing.assert_allclose(encode(points), encode(shuffled), atol=1e-5)
