"""Two networks of a few weights that learn against each other; `parity_test.py` has the real ones beside the official code."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from onet_jax.errors import InputError
from onet_jax.models.adversarial import (
    discriminator_loss,
    generator_loss,
    make_adversarial_step,
    with_penalty,
)
from onet_jax.models.method import Aux, Method
from onet_jax.parallel import make_parallel
from onet_jax.training.state import create_state

NUM_ROWS, NUM_STEPS = 8, 3
RANDOM = np.random.default_rng(0)
BATCHES = [
    {'real': RANDOM.normal(size=(NUM_ROWS, 3)).astype(np.float32), 'row': np.arange(NUM_ROWS)} for _ in range(NUM_STEPS)
]
KEY = jax.random.key(1)


def transform(key, raw):
    noise = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (3,)))(raw['row'])
    return {'real': raw['real'] + 0.1 * noise, 'row': raw['row']}


def judge(params, pictures):
    return jnp.tanh(pictures * params['discriminator']['scale']).sum(axis=1)


def generate(params, batch, key):
    latents = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (3,)))(batch['row'])
    return latents * params['decoder']['scale'] + params['decoder']['bias']


def init(key, batch):
    scale, bias = jax.random.normal(key, (2, 3))
    return {'params': {'decoder': {'scale': scale, 'bias': bias}, 'discriminator': {'scale': 2 * bias}}}


def loss_of_generator(variables, batch, key, axis_name):
    params = variables['params']
    return generator_loss(judge(params, generate(params, batch, key))).mean(), Aux({}, {})


def loss_of_discriminator(variables, batch, key, axis_name):
    params = variables['params']
    real, penalty = with_penalty(lambda pictures: judge(params, pictures), batch['real'])
    loss = discriminator_loss(real, judge(params, generate(params, batch, key))).mean()
    return loss + penalty.mean(), Aux({}, {'discriminator': loss})


def make_tx():
    return optax.chain(optax.clip_by_global_norm(0.3), optax.adam(0.1))


METHOD = Method(init, loss_of_generator, None, None, None)


def run(backend, devices, batches=BATCHES):
    """The states after each step, and the scalars."""
    tx, parallel = make_tx(), make_parallel(backend, len(batches[0]['row']), devices)
    step = make_adversarial_step(loss_of_discriminator, METHOD, tx, transform, parallel.axis_name, 0.5)
    state = parallel.replicate(jax.jit(create_state, static_argnums=(1, 2, 4))(KEY, METHOD, tx, batches[0], 0.5))
    step, states, scalars = parallel.compile(step), [], []
    for batch in batches:
        state, of_step = step(state, parallel.shard(batch), parallel.replicate(KEY))
        states.append(jax.device_get(state))
        scalars.append(jax.device_get(of_step))
    return states, scalars


def learn_by_hand():
    """The weights after each step, with an optimiser for each network, and the losses."""
    params, tx, found, losses = init(KEY, None)['params'], make_tx(), [], []
    parts = ('decoder', 'discriminator')
    opt_states, update = {part: tx.init(params[part]) for part in parts}, jax.jit(tx.update)

    @partial(jax.jit, static_argnums=(0, 1))
    def differentiate(loss_of, part, params, batch, key):
        def loss(own):
            return loss_of({'params': {**params, part: own}}, batch, key, None)[0]

        return jax.value_and_grad(loss)(params[part])

    for number, batch in enumerate(BATCHES):
        for i, (part, loss_of) in enumerate(zip(parts, (loss_of_generator, loss_of_discriminator), strict=True)):
            data_key, loss_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(KEY, number), i))
            drawn = jax.jit(transform)(data_key, jax.tree.map(lambda rows, i=i: rows[i::2], batch))
            value, grads = differentiate(loss_of, part, params, drawn, loss_key)
            updates, opt_states[part] = update(grads, opt_states[part], params[part])
            params = {**params, part: optax.apply_updates(params[part], updates)}
            losses.append(value)
        found.append(params)
    return found, losses


def assert_close(a, b):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.slow
def test_each_network_has_an_optimiser_of_its_own():
    states, scalars = run('jit', jax.devices()[:1])
    expected, losses = learn_by_hand()
    assert_close([state.variables['params'] for state in states], expected)
    assert_close([of_step['loss'] for of_step in scalars], losses[::2])
    assert [int(state.step) for state in states] == [1, 2, 3]
    average = jax.tree.map(lambda a, b, c: (0.25 * a + 0.5 * b + c) / 1.75, *expected)
    assert_close(states[-1].average['params'], average)


@pytest.mark.parametrize('backend', ['pmap', 'jit'])
def test_two_devices_equal_one_on_the_whole_batch(backend):
    expected, expected_scalars = run('jit', jax.devices()[:1])
    states, scalars = run(backend, jax.devices())
    assert_close(scalars, expected_scalars)
    assert_close(states, expected)


def test_a_row_without_a_partner_is_refused():
    odd = [jax.tree.map(lambda rows: rows[:6], batch) for batch in BATCHES]
    with pytest.raises(InputError, match=r'config.train.batch_size: expected an even number of rows .*found 3'):
        run('pmap', jax.devices(), odd)


def test_the_penalty_is_of_each_picture_alone():
    params, pictures = init(KEY, None)['params'], BATCHES[0]['real']
    _, penalty = with_penalty(lambda pictures: judge(params, pictures), pictures)
    for picture, found in zip(pictures, penalty, strict=True):
        gradient = jax.grad(lambda x: judge(params, x[None])[0])(picture)
        assert float(found) == pytest.approx(float((gradient**2).sum()), rel=1e-5)
