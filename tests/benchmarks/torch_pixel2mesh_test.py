"""The twin is a yardstick only while it is the same network: needs PyTorch, which nothing else does."""

import jax
import numpy as np
import pytest

from onet_jax import models
from onet_jax.configs import pixel2mesh
from onet_jax.convert import official
from onet_jax.geometry.cameras import r2n2_camera

torch = pytest.importorskip('torch')


@pytest.mark.filterwarnings('ignore:Sparse CSR tensor support is in beta:UserWarning')
def test_the_twin_has_the_same_weights_and_loss():
    from benchmarks.torch_pixel2mesh import Twin, make_step

    config, rng = pixel2mesh(), np.random.default_rng(0)
    with config.unlocked():
        config.model.update(encoder_hidden_size=1, decoder_hidden_size=4)
        config.data.update(image_size=32, num_target_points=50)
    camera = r2n2_camera(np.float64([30, 200]), 20.0, 0.8)
    batch = {
        'inputs': {
            'image': rng.uniform(0, 1, (2, 32, 32, 3)).astype(np.float32),
            'world_mat': camera.world_mat.astype(np.float32),
            'camera_mat': np.broadcast_to(camera.camera_mat, (2, 3, 3)).astype(np.float32),
        },
        'targets': {name: rng.normal(size=(2, 50, 3)).astype(np.float32) for name in ('surface', 'normals')},
    }
    method = models.build(config)
    variables = method.init(jax.random.key(0), batch)
    twin = Twin(config.model, 'cpu')
    assert sum(p.numel() for p in twin.parameters()) == sum(x.size for x in jax.tree.leaves(variables['params']))
    loss, _ = jax.jit(lambda variables, batch: method.loss(variables, batch, None, None))(variables, batch)
    step = make_step(config, official.to_state_dict(variables, config), batch, 'cpu', compiled=False)
    assert step() == pytest.approx(float(loss), rel=1e-4)
