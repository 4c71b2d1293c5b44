"""Every config and every variant trains one step at its full width, on two examples."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from onet_jax import models
from onet_jax.data.fields import make_transform
from onet_jax.data.resident import resident_feed
from onet_jax.parallel import make_parallel
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

FILES = sorted(p.stem for p in (Path(__file__).parents[1] / 'configs').glob('*.py') if p.stem != '__init__')
CONFIGS = [(name, variant) for name in FILES for variant in importlib.import_module(f'configs.{name}').VARIANTS]
ABLATIONS = ('tiny,sampling=uniform64,noresnet', 'tiny,sampling=surface,nocbn')
TINY = [*((name, 'tiny') for name in FILES), *(('onet_points', variant) for variant in ABLATIONS)]


def build(name, variant):
    """Config, method, optimiser and transform, for two examples."""
    config = importlib.import_module(f'configs.{name}').get_config(variant)
    assert config.is_locked
    assert set(config) == {'seed', 'model', 'data', 'optim', 'train', 'eval', 'mesh'}
    with config.unlocked():
        config.train.batch_size = 2
        config.data.num_points_per_step = min(config.data.num_points_per_step, 512)
        config.data.num_near_points = min(config.data.num_near_points, 208)
    return config, models.build(config), make_optimizer(config, config.train.num_steps), make_transform(config.data)


@pytest.fixture(scope='module')
def raw(dataset):
    """Two examples."""
    return next(resident_feed(dataset, batch_size=2, seed=0).batches(0))


@pytest.mark.parametrize('name, variant', CONFIGS)
def test_a_config_fits_together_at_full_size(raw, name, variant):
    _, method, tx, transform = build(name, variant)
    key = jax.random.key(0)
    batch = jax.eval_shape(transform, key, raw)
    params = jax.eval_shape(method.init, key, batch)
    loss, aux = jax.eval_shape(lambda params, batch: method.loss(params, batch, key, None), params, batch)
    assert loss.shape == ()
    assert jax.tree.structure(aux.batch_stats) == jax.tree.structure(params.get('batch_stats', {}))
    jax.eval_shape(tx.init, params['params'])


@pytest.mark.parametrize('name, variant', TINY)
@pytest.mark.slow
def test_a_config_trains_one_step_at_tiny_size(raw, name, variant):
    config, method, tx, transform = build(name, variant)
    parallel, key = make_parallel(config.train.backend, 2), jax.random.key(0)
    step = parallel.compile(make_train_step(method, tx, transform, parallel.axis_name))
    state = parallel.replicate(create_state(key, method, tx, transform(key, raw)))
    before = jax.device_get(state.params)
    state, scalars = step(state, parallel.shard(raw), parallel.replicate(key))
    assert int(state.step) == 1
    assert 0 < float(scalars['loss']) < np.log(2) * config.data.num_points_per_step * 1.5
    assert jax.tree.structure(state.params) == jax.tree.structure(before)
    assert jax.tree.all(jax.tree.map(lambda x: bool(np.isfinite(x).all()), jax.device_get(state.params)))


def test_an_unknown_variant_is_named():
    for name in FILES:
        with pytest.raises(ValueError, match=rf"configs/{name}.py: expected a variant of .*found 'huge'"):
            importlib.import_module(f'configs.{name}').get_config('huge')
