import jax
import jax.numpy as jnp
import numpy as np
import optax.contrib
import pytest
from model_configs import small_config

from onet_jax.errors import InputError
from onet_jax.training.optim import learning_rate_of, make_optimizer


def make_config(**optim):
    config = small_config(num_steps=100)
    with config.unlocked(), config.ignore_type():  # one number of steps, or several
        config.optim.update(optim)
    return config


def updates_by(gradients, **optim):
    """The updates of a weight [2] by the gradients, one after the other, in learning rates of 1e-3."""
    tx = make_optimizer(make_config(learning_rate=1e-3, **optim), 100)
    params, found = {'w': jnp.zeros(2)}, []
    state = tx.init(params)
    for gradient in gradients:
        updates, state = tx.update({'w': jnp.asarray(gradient, jnp.float32)}, state, params)
        found.append(np.asarray(updates['w']) / 1e-3)
    return found


def first_update(step, **optim):
    """The size of an update by a constant gradient, which Adam makes the learning rate."""
    tx = make_optimizer(make_config(**optim), 100)
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
    warm = {'schedule': 'constant', 'learning_rate': 1e-2, 'warmup_steps': 10}
    np.testing.assert_allclose(
        [first_update(step, **warm) for step in (1, 6, 11, 50)], [0, 5e-3, 1e-2, 1e-2], rtol=1e-3
    )


@pytest.mark.parametrize('schedule, halfway', [('step', 1e-2), ('exponential', 1e-2 * 0.25**0.5)])
def test_a_learning_rate_that_decays(schedule, halfway):
    """By a quarter in every 20 steps after the warm-up."""
    config = make_config(schedule=schedule, learning_rate=1e-2, warmup_steps=4, decay_steps=20, decay_factor=0.25)
    rates = [learning_rate_of(config, step) for step in (1, 3, 5, 15, 25, 45)]
    np.testing.assert_allclose(rates, [0, 5e-3, 1e-2, halfway, 0.25e-2, 0.25**2 * 1e-2], rtol=1e-5)
    assert first_update(25, **config.optim.to_dict()) == pytest.approx(0.25e-2, rel=1e-3)


def test_a_learning_rate_that_decays_at_steps():
    config = make_config(schedule='step', learning_rate=1.0, warmup_steps=2, decay_steps=(3, 5), decay_factor=0.1)
    rates = [learning_rate_of(config, step) for step in range(1, 10)]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5)


def test_a_gradient_is_clipped_by_its_norm():
    """[3, 4] to [0.6, 0.8], while [0.3, 0.4] stays: Adam's second update, from its moments of 0.6 and 0.3."""
    _, update = updates_by([[3, 4], [0.3, 0.4]], clip_norm=1.0)
    first, second = (0.9 * 0.1 * 0.6 + 0.1 * 0.3) / (1 - 0.9**2), (0.999 * 0.36 + 0.09) * 1e-3 / (1 - 0.999**2)
    np.testing.assert_allclose(update, -first / second**0.5, rtol=1e-4)
    assert -update[0] == pytest.approx(0.9322, rel=1e-3)
    _, unclipped = updates_by([[3, 4], [0.3, 0.4]])
    assert -unclipped[0] == pytest.approx(0.7408, rel=1e-3)


def test_gradients_of_several_batches_make_one_update():
    """The mean of [1, -3] and [3, 1] is [2, -1], that of the next two, clipped as one, [0.6, 0.8]."""
    found = updates_by([[1, -3], [3, 1], [9, 8], [-3, 0]], accumulate_steps=2, clip_norm=1.0)
    mean = np.array([2, -1]) / 5**0.5
    first = (0.9 * 0.1 * mean + 0.1 * np.array([0.6, 0.8])) / (1 - 0.9**2)
    second = (0.999 * mean**2 + np.array([0.36, 0.64])) * 1e-3 / (1 - 0.999**2)
    np.testing.assert_allclose(found, [[0, 0], [-1, 1], [0, 0], -first / second**0.5], rtol=1e-4, atol=1e-7)


def test_a_schedule_counts_steps_whatever_number_of_them_makes_an_update():
    decay = {'schedule': 'step', 'decay_steps': 4, 'decay_factor': 0.5, 'accumulate_steps': 2}
    np.testing.assert_allclose(
        updates_by([[1, 1]] * 10, **decay)[1::2], [[-r] * 2 for r in (1, 1, 0.5, 0.5, 0.25)], rtol=1e-3
    )
    config = make_config(learning_rate=1.0, **decay)
    assert [learning_rate_of(config, step) for step in range(1, 8)] == [1, 1, 1, 1, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    'optim, message',
    [
        ({'learning_rate': 0.0}, 'learning_rate: expected a positive number, found 0.0'),
        ({'learning_rate': -1e-3}, 'learning_rate: expected a positive number, found -0.001'),
        ({'learning_rate': float('nan')}, 'learning_rate: expected a positive number, found nan'),
        ({'learning_rate': float('inf')}, 'learning_rate: expected a positive number, found inf'),
        ({'clip_norm': -1.0}, 'clip_norm: expected a norm, or 0 for none, found -1.0'),
        ({'accumulate_steps': 0}, 'accumulate_steps: expected at least 1, found 0'),
        ({'ema_decay': 1.0}, 'ema_decay: expected 0 for none, or more and less than 1, found 1.0'),
        ({'schedule': 'step', 'decay_steps': ()}, r'decay_steps of at least 1, .* found \(\) and 0.3'),
        ({'schedule': 'step', 'decay_steps': (4, 4)}, r'several in ascending order, .* found \(4, 4\) and 0.3'),
        ({'schedule': 'exponential', 'decay_steps': (4, 6)}, r"one number with 'exponential', found \(4, 6\)"),
        ({'schedule': 'step', 'decay_steps': 0}, 'decay_steps of at least 1, .* found 0 and 0.3'),
        ({'schedule': 'exponential', 'decay_factor': 1.0}, 'a decay_factor between 0 and 1, found 100000 and 1.0'),
    ],
)
def test_numbers_that_make_no_optimiser_are_refused(optim, message):
    with pytest.raises(InputError, match=rf'config\.optim.*{message}'):
        first_update(1, **optim)


def test_rmsprop_divides_by_the_root_of_the_mean_square():
    """With the epsilon outside of the root, and a mean that begins at 0, as PyTorch has it."""
    config, gradients = small_config(), np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    with config.unlocked():
        config.optim.update(name='rmsprop', schedule='constant', learning_rate=1e-2)
    tx, square = make_optimizer(config, 10), 0.0
    state = tx.init(jnp.zeros(5))
    for gradient in gradients:
        update, state = tx.update(jnp.asarray(gradient), state)
        square = 0.99 * square + 0.01 * gradient**2
        np.testing.assert_allclose(update, -1e-2 * gradient / (np.sqrt(square) + 1e-8), rtol=1e-5)


def make_muon():
    config = small_config()
    with config.unlocked():
        config.optim.update(name='muon', schedule='constant', learning_rate=1e-2)
    return make_optimizer(config, 100)


def rotations():
    """Two random orthogonal matrices, of which a matrix with given singular values is made."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).normal(size=(16, 16)))
    return u, v


@pytest.mark.slow
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


def test_muon_is_that_of_optax_with_its_state():
    params = {'kernel': jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32), 'bias': jnp.ones(6)}
    plain = optax.contrib.muon(
        1e-2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers={'kernel': optax.contrib.MuonDimensionNumbers(), 'bias': None},
    )
    found, expected = (tx.update(params, tx.init(params), params) for tx in (make_muon(), plain))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, expected)


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


@pytest.mark.slow
def test_muon_moves_the_matrices_of_a_stack_one_by_one():
    """As it would move each alone; stacked biases and gammas are no matrices."""
    tx, rng = make_muon(), np.random.default_rng(0)
    grads = {name: jnp.asarray(rng.normal(size=(3, 4, 8)), jnp.float32) for name in ('kernel', 'bias', 'scale')}

    def update(grads):
        return tx.update(grads, tx.init(grads), grads)[0]

    stacked, one_by_one = update(grads), [update(jax.tree.map(lambda x, i=i: x[i], grads)) for i in range(3)]
    for name, array in stacked.items():
        np.testing.assert_allclose(array, np.stack([each[name] for each in one_by_one]), rtol=1e-4, atol=1e-7)
    assert np.ptp(np.abs(stacked['kernel'])) > 1e-3
    for name in ('bias', 'scale'):
        np.testing.assert_array_equal(np.sign(stacked[name]), -np.sign(grads[name]))


def test_settings_that_make_no_schedule_are_refused():
    with pytest.raises(InputError, match=r"config.optim.schedule: expected 'constant', 'cosine', .* found 'linear'"):
        first_update(1, schedule='linear')
    with pytest.raises(
        InputError, match=r"config.optim.name: expected 'adam', 'muon', 'rmsprop' or 'keras_adam', found 'sgd'"
    ):
        first_update(1, name='sgd', schedule='constant')
    with pytest.raises(InputError, match=r'config.optim.warmup_steps: expected fewer .* = 100, found 100'):
        first_update(1, schedule='cosine', warmup_steps=100)
