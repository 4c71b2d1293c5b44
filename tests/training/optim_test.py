import jax.numpy as jnp
import numpy as np
import pytest
from model_configs import small_config

from onet_jax.training.optim import make_optimizer


def first_update(step, **optim):
    """The size of an update by a constant gradient, which Adam makes the learning rate."""
    config = small_config()
    with config.unlocked():
        config.optim.update(optim)
    tx = make_optimizer(config, 100)
    params = {'w': jnp.ones(3)}
    state = tx.init(params)
    for _ in range(step):
        updates, state = tx.update({'w': jnp.ones(3)}, state, params)
    return -float(updates['w'][0])


def test_schedules():
    assert first_update(1, schedule='constant', learning_rate=1e-4) == pytest.approx(1e-4, rel=1e-3)
    cosine = {'schedule': 'cosine', 'learning_rate': 1e-2, 'warmup_steps': 10}
    sizes = [first_update(step, **cosine) for step in (1, 6, 11, 56, 101)]
    np.testing.assert_allclose(sizes, [0, 5e-3, 1e-2, 5e-3, 0], rtol=1e-2, atol=1e-7)


def make_muon():
    config = small_config()
    with config.unlocked():
        config.optim.update(name='muon', schedule='constant', learning_rate=1e-2)
    return make_optimizer(config, 100)


def rotations():
    """Two random orthogonal matrices, of which a matrix with given singular values is made."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=(16, 16)))
    return u, v


def test_muon_moves_all_directions_of_a_matrix_alike():
    tx, (u, v) = make_muon(), rotations()
    params = {'kernel': jnp.zeros((16, 16)), 'bias': jnp.zeros(16)}
    grads = {'kernel': jnp.asarray(u * np.geomspace(1, 0.1, 16) @ v), 'bias': jnp.full(16, 3.0)}
    updates, _ = tx.update(grads, tx.init(params), params)
    moved = np.linalg.svd(updates['kernel'], compute_uv=False)
    assert moved.max() < 2 * moved.min()
    assert np.sum(np.asarray(updates['kernel']) * grads['kernel']) < 0
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(updates['kernel']))), 0.2e-2, rtol=0.3)
    assert -1.5e-2 < updates['bias'][0] < -0.99e-2, 'Adam with the momentum of Nesterov'


def test_muon_reads_a_convolution_as_a_matrix_of_its_patches_and_leaves_codes_to_adam():
    tx, (u, v) = make_muon(), rotations()
    grad = jnp.asarray(u * np.geomspace(1, 0.1, 16) @ v, jnp.float32)
    params = {'conv': jnp.zeros((2, 2, 4, 16)), 'embedding': jnp.zeros((16, 16))}
    grads = {'conv': grad.reshape(2, 2, 4, 16), 'embedding': grad.at[3].set(0)}
    updates, _ = tx.update(grads, tx.init(params), params)
    moved = np.linalg.svd(updates['conv'].reshape(16, 16), compute_uv=False)
    assert moved.max() < 2 * moved.min()
    assert (updates['embedding'][3] == 0).all(), 'a code of a shape that was not in the batch'
    np.testing.assert_array_equal(np.sign(updates['embedding']), -np.sign(grads['embedding']))


def test_settings_that_make_no_schedule_are_refused():
    with pytest.raises(ValueError, match=r"config.optim.schedule: expected 'constant' or 'cosine', found 'linear'"):
        first_update(1, schedule='linear')
    with pytest.raises(ValueError, match=r"config.optim.name: expected 'adam' or 'muon', found 'sgd'"):
        first_update(1, name='sgd', schedule='constant')
    with pytest.raises(ValueError, match=r'config.optim.warmup_steps: expected fewer .* = 100, found 100'):
        first_update(1, schedule='cosine', warmup_steps=100)
