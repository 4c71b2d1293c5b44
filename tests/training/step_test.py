import jax
import numpy as np
import optax
import pytest
from model_configs import small_config

from onet_jax import models
from onet_jax.parallel import make_parallel
from onet_jax.training.state import chosen_params, create_state
from onet_jax.training.step import make_train_step


def add_noise(key, raw):
    """A transform that draws for every row from its own key, as the real ones do."""
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(raw['row'])
    noise = jax.vmap(lambda k: jax.random.normal(k, raw['inputs'].shape[1:]))(keys)
    return {**raw, 'inputs': raw['inputs'] + 0.01 * noise}


def make_batch(rng, batch_size=8):
    return {
        'points': rng.uniform(-0.5, 0.5, (batch_size, 40, 3)).astype(np.float32),
        'occ': rng.integers(0, 2, (batch_size, 40)).astype(np.float32),
        'inputs': rng.uniform(-0.5, 0.5, (batch_size, 30, 3)).astype(np.float32),
        'row': np.arange(batch_size, dtype=np.int32),
    }


def run(backend, devices, latent_size=0, num_steps=3):
    config = small_config()
    with config.unlocked():
        config.model.latent_size = latent_size
    method, tx = models.build(config), optax.sgd(1e-3)
    rng = np.random.default_rng(0)
    batches = [make_batch(rng) for _ in range(num_steps)]
    parallel = make_parallel(backend, 8, devices)
    step = parallel.compile(make_train_step(method, tx, add_noise, parallel.axis_name))
    state = parallel.replicate(create_state(jax.random.key(0), method, tx, batches[0]))
    losses = []
    for batch in batches:
        state, scalars = step(state, parallel.shard(batch), parallel.replicate(jax.random.key(1)))
        losses.append(float(scalars['loss']))
    return state, losses


@pytest.mark.parametrize('backend, latent_size', [('pmap', 0), ('jit', 0), ('pmap', 3)])
def test_two_devices_equal_one_on_the_whole_batch(backend, latent_size):
    """Loss, parameters and running statistics: gradients are averaged once, the batch is normalised as a whole, and every
    row draws its own latent code."""
    assert len(jax.devices()) == 2
    expected, expected_losses = run('jit', jax.devices()[:1], latent_size)
    state, losses = run(backend, jax.devices(), latent_size)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state, expected)
    assert all(x.shape == y.shape for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True))


def test_a_state_averages_its_weights_and_statistics_over_the_steps():
    """With a decay of 1/2 the last three steps count 1/4, 1/2 and 1."""
    method, tx, rng = models.build(small_config()), optax.sgd(1e-3), np.random.default_rng(0)
    parallel, batch = make_parallel('pmap', 8), make_batch(rng)
    step = parallel.compile(make_train_step(method, tx, add_noise, parallel.axis_name, 0.5))
    state, seen = parallel.replicate(create_state(jax.random.key(0), method, tx, batch, 0.5)), []
    for _ in range(3):
        state, _ = step(state, parallel.shard(batch), parallel.replicate(jax.random.key(1)))
        seen.append(jax.device_get(state.params))
    expected = jax.tree.map(lambda a, b, c: (0.25 * a + 0.5 * b + c) / 1.75, *seen)
    assert set(expected) == {'params', 'batch_stats'}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.average, expected)
    assert chosen_params(state) is state.average
    last = seen[-1]['params']['decoder']['fc_out']['bias']
    assert not np.allclose(state.average['params']['decoder']['fc_out']['bias'], last, rtol=1e-5)


def test_an_uneven_batch_and_an_unknown_backend_are_refused():
    with pytest.raises(ValueError, match='multiple of the 2 devices, found 7; use 6'):
        make_parallel('pmap', 7)
    with pytest.raises(ValueError, match=r"backend.*'pmap', 'jit'.*shard_map"):
        make_parallel('shard_map', 8)


@pytest.mark.parametrize(
    ('encoder', 'shape'), [('pointnet_resnet', (30, 3)), ('resnet18', (32, 32, 3)), ('voxel_simple', (32, 32, 32))]
)
def test_bfloat16_changes_the_products_and_not_what_is_learned(encoder, shape):
    """Loss and gradient stay close to those of float32, are not the same, and parameters and statistics stay float32."""
    rng, config = np.random.default_rng(0), small_config()
    seen = {'pointnet_resnet': 'points', 'resnet18': 'image', 'voxel_simple': 'voxels'}[encoder]
    batch = {**make_batch(rng), 'inputs': rng.uniform(0, 1, (8, *shape)).astype(np.float32)}
    losses, gradients = [], []
    for dtype in ('float32', 'bfloat16'):
        with config.unlocked():
            config.model.encoder, config.data.input, config.train.dtype = encoder, seen, dtype
        method = models.build(config)
        params = method.init(jax.random.key(0), batch)

        def loss_of(weights, method=method, stats=params['batch_stats']):
            return method.loss({'params': weights, 'batch_stats': stats}, batch, jax.random.key(1), None)

        (loss, aux), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params['params'])
        assert {x.dtype for x in jax.tree.leaves((loss, grads, aux, params))} == {np.dtype(np.float32)}
        losses.append(float(loss))
        gradients.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)]))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    exact, rough = gradients
    assert np.linalg.norm(rough - exact) < 0.1 * np.linalg.norm(exact)


def test_another_precision_is_refused():
    config = small_config(dtype='float16')
    with pytest.raises(
        ValueError, match=r"config.train.dtype: expected one of \('float32', 'bfloat16'\), found 'float16'"
    ):
        models.build(config)
