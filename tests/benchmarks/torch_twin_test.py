"""The twin is a yardstick only while it is the same network: needs PyTorch, which nothing else does."""

import jax
import numpy as np
import pytest

from onet_jax import models
from onet_jax.configs import onet_image, onet_points, onet_voxels
from onet_jax.convert import official

torch = pytest.importorskip('torch')
INPUTS = {'points': (30, 3), 'image': (64, 64, 3), 'voxels': (32, 32, 32)}


def small_config(name):
    config = {'points': onet_points, 'image': onet_image, 'voxels': onet_voxels}[name]()
    with config.unlocked():
        config.model.update(cond_size=12, decoder_hidden_size=16)
        if name != 'image':
            config.model.encoder_hidden_size = 8
    return config


@pytest.mark.parametrize('name', INPUTS)
def test_the_twin_has_the_same_weights_logits_and_losses(name):
    from benchmarks.torch_twin import load_twin, make_step
    from onet_jax.training.optim import make_optimizer
    from onet_jax.training.state import create_state
    from onet_jax.training.step import make_train_step

    config, rng = small_config(name), np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (4, 40, 3)).astype(np.float32)
    occ = rng.integers(0, 2, (4, 40)).astype(np.float32)
    inputs = rng.uniform(0, 1, (4, *INPUTS[name])).astype(np.float32)
    (field,), row = config.data.inputs, np.arange(4, dtype=np.int32)
    batch = {'inputs': {field: inputs}, 'targets': {'points': points, 'occ': occ}, 'row': row}
    method, tx = models.build(config), make_optimizer(config, 10)
    state = create_state(jax.random.key(0), method, tx, batch)
    # Layers that start at zero would hide what comes before them.
    noise = iter(jax.random.split(jax.random.key(1), 200))
    trainable = jax.tree.map(lambda x: x + 0.02 * jax.random.normal(next(noise), x.shape), state.variables['params'])
    state = state._replace(variables={**state.variables, 'params': trainable})

    weights = official.to_state_dict(state.variables, config)
    twin = load_twin(config, weights)
    assert sum(p.numel() for p in twin.parameters()) == sum(x.size for x in jax.tree.leaves(trainable))
    model = method.model
    logits = model.occupancy(state.variables, points, model.encode(state.variables, inputs))
    with torch.no_grad():
        np.testing.assert_allclose(twin.eval()(torch.from_numpy(points), torch.from_numpy(inputs)), logits, atol=1e-4)

    step = jax.jit(make_train_step(method, tx, lambda key, raw: raw))
    twin_step = make_step(config, weights, batch, 'cpu', compiled=False)
    for _ in range(3):
        state, scalars = step(state, batch, jax.random.key(2))
        assert twin_step() == pytest.approx(float(scalars['loss']), rel=1e-4)
