from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_configs import make_two_updates, small_config, small_data, tiny_method
from untrained import untrained

from onet_jax import models
from onet_jax.errors import InputError
from onet_jax.networks.fast_gradients import reverse_mode
from onet_jax.parallel import make_parallel
from onet_jax.training.state import chosen_variables, create_state
from onet_jax.training.step import make_train_step


def add_noise(key, raw):
    """A transform that draws for every row from its own key, as the real ones do."""
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(raw['row'])
    noise = jax.vmap(lambda k: jax.random.normal(k, raw['inputs']['cloud'].shape[1:]))(keys)
    return {**raw, 'inputs': {'cloud': raw['inputs']['cloud'] + 0.01 * noise}}


def make_batch(rng, batch_size=8):
    return {
        'inputs': {'cloud': rng.uniform(-0.5, 0.5, (batch_size, 30, 3)).astype(np.float32)},
        'targets': {
            'points': rng.uniform(-0.5, 0.5, (batch_size, 40, 3)).astype(np.float32),
            'occ': rng.integers(0, 2, (batch_size, 40)).astype(np.float32),
        },
        'row': np.arange(batch_size, dtype=np.int32),
    }


TINY = tiny_method(small_config())


def run(method, backend, devices, ema_decay=0.0, make_step=make_train_step):
    """Three steps: the states after each of them, and the scalars."""
    tx, rng = optax.sgd(1e-3), np.random.default_rng(0)
    batches = [make_batch(rng) for _ in range(3)]
    parallel = make_parallel(backend, 8, devices)
    step = parallel.compile(make_step(method, tx, add_noise, parallel.axis_name, ema_decay))
    state = parallel.replicate(create_state(jax.random.key(0), method, tx, batches[0], ema_decay))
    states, scalars = [], []
    for batch in batches:
        state, of_step = step(state, parallel.shard(batch), parallel.replicate(jax.random.key(1)))
        states.append(jax.device_get(state))
        scalars.append(jax.device_get(of_step))
    return states, scalars


@pytest.fixture(scope='module')
def on_one_device():
    """(method, make_step) -> what `run` returns on one device, once for each of them."""
    return cache(lambda method, make_step=make_train_step: run(method, 'jit', jax.devices()[:1], make_step=make_step))


@pytest.fixture(scope='module')
def latent_method():
    """A network with everything: batch normalisation, and a latent code that each row draws."""
    config = small_config()
    with config.unlocked():
        config.model.latent_size = 3
    method, variables = untrained(config)
    return method._replace(init=lambda key, batch: jax.tree.map(jnp.asarray, variables))


@pytest.mark.parametrize('backend', ['pmap', pytest.param('jit', marks=pytest.mark.slow)])
def test_two_devices_equal_one_on_the_whole_batch(latent_method, on_one_device, backend):
    """Loss, its terms, parameters and running statistics: gradients are averaged once, the batch is normalised as a whole, and
    every row draws its own latent code."""
    assert len(jax.devices()) == 2
    expected, expected_scalars = on_one_device(latent_method)
    states, scalars = run(latent_method, backend, jax.devices())
    assert scalars[0].keys() == {'loss', 'reconstruction', 'kl'}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), scalars, expected_scalars)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), states, expected)
    assert set(states[0].variables) == {'params', 'batch_stats'}


@pytest.mark.slow
@pytest.mark.parametrize(
    'backend, make_step', [('pmap', make_train_step), ('jit', make_train_step), ('pmap', make_two_updates)]
)
def test_any_collections_go_through_a_step_of_any_method(on_one_device, backend, make_step):
    """One that changes, one that does not, and a step that a method brings along; on two devices as on one."""
    expected, _ = on_one_device(TINY, make_step)
    states, scalars = run(TINY, backend, jax.devices(), make_step=make_step)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), states, expected)
    num_updates = 1 if make_step is make_train_step else 2
    assert [int(state.variables['counter']['steps']) for state in states] == [num_updates * n for n in (1, 2, 3)]
    assert states[-1].variables['constants'] == {'scale': 2}
    assert num_updates == 2 or scalars[-1].keys() == {'loss', 'scale'}


def test_a_state_averages_all_its_collections_over_the_steps():
    """With a decay of 1/2 the last three steps count 1/4, 1/2 and 1; a count is the newest."""
    states, _ = run(TINY, 'pmap', jax.devices(), ema_decay=0.5)
    seen, average = [state.variables for state in states], states[-1].average
    expected = jax.tree.map(lambda a, b, c: (0.25 * a + 0.5 * b + c) / 1.75, *seen) | {'counter': {'steps': 3}}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), average, expected)
    assert jax.tree.map(jnp.result_type, average) == jax.tree.map(jnp.result_type, seen[-1])
    assert chosen_variables(states[-1]) is average
    last = jax.tree.leaves(seen[-1]['params'])[0]
    assert not np.allclose(jax.tree.leaves(average['params'])[0], last, rtol=1e-5)


def test_gradients_of_a_step_are_the_fast_ones():
    modes, batch, tx = [], make_batch(np.random.default_rng(0)), optax.sgd(1e-3)

    def loss(*args):
        modes.append(reverse_mode.value)
        return TINY.loss(*args)

    step = make_train_step(TINY._replace(loss=loss), tx, add_noise)
    state = create_state(jax.random.key(0), TINY, tx, batch)
    jax.eval_shape(step, state, batch, jax.random.key(1))
    assert modes == [True]
    assert not reverse_mode.value


@pytest.mark.slow
@pytest.mark.parametrize(
    'encoder, field, shape',
    [
        ('pointnet_simple', 'cloud', (30, 3)),
        pytest.param('resnet18', 'image', (32, 32, 3), marks=pytest.mark.slow),
        pytest.param('voxel_simple', 'voxels', (32, 32, 32), marks=pytest.mark.slow),
    ],
)
def test_bfloat16_changes_the_products_and_not_what_is_learned(encoder, field, shape):
    """Loss and gradient stay close to those of float32, are not the same, and parameters and statistics stay float32."""
    rng, config = np.random.default_rng(0), small_config()
    with config.unlocked():
        config.model.encoder, config.data = encoder, small_data(inputs=(field,), image_size=32)
    batch = {**make_batch(rng), 'inputs': {field: rng.uniform(0, 1, (8, *shape)).astype(np.float32)}}
    losses, gradients = [], []
    for dtype in ('float32', 'bfloat16'):
        with config.unlocked():
            config.train.dtype = dtype
        method, variables = untrained(config)
        if encoder == 'resnet18':  # in whose depth drawn weights let rounding grow
            variables = method.init(jax.random.key(0), batch)

        def loss_of(params, method=method, others=variables):
            return method.loss({**others, 'params': params}, batch, jax.random.key(1), None)

        (loss, aux), grads = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables['params'])
        assert {x.dtype for x in jax.tree.leaves((loss, grads, aux))} == {np.dtype(np.float32)}
        losses.append(float(loss))
        gradients.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)]))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    exact, rough = gradients
    assert np.linalg.norm(rough - exact) < 0.1 * np.linalg.norm(exact)


def test_another_precision_is_refused():
    message = r"config.train.dtype: expected one of \('float32', 'bfloat16'\), found 'float16'"
    with pytest.raises(InputError, match=message):
        models.build(small_config(dtype='float16'))
