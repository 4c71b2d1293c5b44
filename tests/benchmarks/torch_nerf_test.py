"""The twin of NeRF in PyTorch renders the same colours."""

import jax
import numpy as np
import pytest

from onet_jax.convert import official
from onet_jax.convert.names import NERF
from onet_jax.models import nerf

torch = pytest.importorskip('torch')


def test_the_twin_renders_the_same_colours():
    from benchmarks import torch_nerf
    from benchmarks.nerf import make_rays

    keywords = {
        'width': 16, 'depth': 3, 'skips': (1,), 'bottleneck_size': 8, 'num_frequencies': 3,
        'num_direction_frequencies': 2, 'num_samples': 8, 'num_fine_samples': 8,
    }  # fmt: skip
    model, rays = nerf.make_model(**keywords), make_rays(20)
    params = model.init(jax.random.key(0), rays)
    weights = official.write_weights({'params': params['params']}, {'coarse': NERF, 'fine': NERF})
    even = torch.linspace(0, 1, 8).expand(20, -1)
    with torch.no_grad():
        _, fine = torch_nerf.render(
            torch_nerf.load_fields(keywords, weights), keywords, tuple(map(torch.from_numpy, rays)), None, even
        )
    np.testing.assert_allclose(fine.numpy(), model.render(params, rays).rgb, atol=1e-4)
