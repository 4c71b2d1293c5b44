"""The twin is a yardstick only while it is the same network: needs PyTorch, which nothing else does."""

import jax
import numpy as np
import pytest

from onet_jax import models
from onet_jax.configs import atlasnet
from onet_jax.convert import official
from onet_jax.data.fields import example_batch

torch = pytest.importorskip('torch')


@pytest.mark.parametrize('arg', ['points', 'points,sphere'])
def test_the_twin_has_the_same_weights_points_and_losses(arg):
    from benchmarks.torch_atlasnet import chamfer_distance, load_twin, make_step

    config = atlasnet(arg)
    with config.unlocked():
        config.model.update(cond_size=12, encoder_hidden_size=8, decoder_hidden_size=10, num_predicted_points=50)
        config.data.update(num_input_points=30, num_target_points=40)
    method, rng = models.build(config), np.random.default_rng(0)
    batch = jax.tree.map(
        lambda x: rng.uniform(-0.5, 0.5, (4, *x.shape[1:])).astype(x.dtype), example_batch(config.data)
    )
    variables = method.init(jax.random.key(0), batch)
    weights, template = official.to_state_dict(variables, config), np.array(method.model.draw(jax.random.key(1)))
    twin, (inputs,), surface = load_twin(config, weights), batch['inputs'].values(), batch['targets']['surface']
    assert sum(p.numel() for p in twin.parameters()) == sum(x.size for x in jax.tree.leaves(variables['params']))
    points = twin.train()(torch.from_numpy(inputs), torch.from_numpy(template.swapaxes(1, 2).copy()))
    loss, _ = method.model.loss(variables, surface, inputs, template)
    assert chamfer_distance(points, torch.from_numpy(surface)).item() == pytest.approx(float(loss), rel=1e-4)
    step = make_step(config, weights, batch, 'cpu', compiled=False)
    assert np.isfinite([step(), step()]).all()
