import jax
import numpy as np

from onet_jax.convert.official import from_state_dict
from onet_jax.networks.encoders.points import ResnetPointnet


def test_encoder_equals_the_official_one(golden):
    data = golden('encoders/pointnet_resnet.npz')
    variables = from_state_dict({k.removeprefix('param/'): v for k, v in data.items() if k.startswith('param/')})
    cond_size = variables['params']['fc_c']['bias'].size
    encoder = ResnetPointnet(cond_size, hidden_size=variables['params']['fc_c']['kernel'].shape[0])
    points, expected = data['in/points'], data['out/eval/points']
    np.testing.assert_allclose(encoder.apply(variables, points), expected, atol=1e-4)


def test_the_order_of_the_points_does_not_matter():
    points = jax.random.normal(jax.random.key(0), (2, 20, 3))
    encoder = ResnetPointnet(8, 16)
    variables = encoder.init(jax.random.key(1), points)
    shuffled = points[:, np.random.default_rng(0).permutation(20)]
    np.testing.assert_allclose(encoder.apply(variables, points), encoder.apply(variables, shuffled), atol=1e-5)
