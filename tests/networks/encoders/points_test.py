import jax
import numpy as np
import pytest

from onet_jax.networks.encoders.points import Pointnet


@pytest.mark.parametrize('residual', [True, False])
def test_the_order_of_the_points_does_not_matter(residual):
    points = jax.random.normal(jax.random.key(0), (2, 20, 3))
    encoder = Pointnet(8, 16, residual=residual)
    variables = encoder.init(jax.random.key(1), points)
    shuffled = points[:, np.random.default_rng(0).permutation(20)]
    np.testing.assert_allclose(encoder.apply(variables, points), encoder.apply(variables, shuffled), atol=1e-5)
