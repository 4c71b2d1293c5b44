"""Transfer learning: which weights a run starts from, and which of them learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_configs import small_config
from untrained import untrained

from onet_jax import models
from onet_jax.errors import InputError
from onet_jax.training.checkpoints import load_best, open_checkpoints
from onet_jax.training.initial_weights import read_initial_weights, start_from
from onet_jax.training.loop import train
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import TrainState


def with_initial_weights(source, **values):
    config = small_config()
    with config.unlocked():
        config.train.update(init_from=str(source), **values)
    return config


@pytest.fixture(scope='module')
def donor(tmp_path_factory):
    """A workdir of the small network with random weights, and its variables."""
    workdir, (_, variables) = tmp_path_factory.mktemp('donor'), untrained(small_config())
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda x: rng.uniform(0.1, 0.5, x.shape).astype(np.float32), variables)
    with open_checkpoints(workdir) as checkpointer:
        checkpointer.save(1, TrainState(jnp.int32(1), jax.tree.map(jnp.asarray, variables), ()))
    return workdir, variables


def read(config):
    return read_initial_weights(config, models.build(config))


def test_all_weights_or_those_of_the_modules_are_read(donor):
    workdir, variables = donor
    _, fresh = untrained(small_config())
    jax.tree.map(np.testing.assert_array_equal, start_from(fresh, read(with_initial_weights(workdir))), variables)
    some = start_from(fresh, read(with_initial_weights(workdir, init_modules=('decoder.block0', 'encoder'))))
    for collection in variables:
        for module, tree in some[collection].items():
            for name, found in tree.items():
                source = variables if module == 'encoder' or name == 'block0' else fresh
                jax.tree.map(np.testing.assert_array_equal, found, source[collection][module][name])


def test_weights_that_do_not_fit_are_named(donor, tmp_path, capsys):
    workdir, _ = donor
    wider = with_initial_weights(workdir, init_modules=('decoder',))
    with wider.unlocked():
        wider.model.decoder_hidden_size += 1
    with pytest.raises(InputError, match=r'(?s)init_from: .*donor.*decoder\..*expected the shape \[.*\], found \['):
        read(wider)
    with pytest.raises(
        InputError, match=r"(?s)its modules are \['decoder', 'encoder'\].*no weight in the modules \('decoders',\)"
    ):
        read(with_initial_weights(workdir, init_modules=('decoders',)))
    deeper = with_initial_weights(workdir, init_modules=('encoder_latent',))
    with deeper.unlocked():
        deeper.model.latent_size = 2
    with pytest.raises(InputError, match=r'encoder_latent\..*: expected in it'):
        read(deeper)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        read(with_initial_weights(tmp_path / 'nowhere'))
    for source, modules in (('', ()), (workdir, ('encoder',))):
        with pytest.raises(
            InputError, match=r"(?s)weights of all frozen modules, \('decoder',\).*none of \['decoder\."
        ):
            read(with_initial_weights(source, init_modules=modules, frozen=('decoder',)))
    capsys.readouterr()
    assert read(with_initial_weights('')) is None
    assert capsys.readouterr().out == ''
    assert read(with_initial_weights('', init_modules=('decoder',))) is None
    assert 'decoder, but there is no config.train.init_from' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['adam', 'muon'])
def test_frozen_modules_do_not_learn(name):
    config = with_initial_weights('', frozen=('decoder.fc_p', 'encoder'))
    with config.unlocked():
        config.optim.update(name=name, clip_norm=1.0, accumulate_steps=2)
    _, variables = untrained(config)
    params, tx = variables['params'], make_optimizer(config, 10)
    state, gradients = tx.init(params), jax.tree.map(np.ones_like, params)
    for _ in range(2):
        updates, state = tx.update(gradients, state, params)
    for module, tree in updates.items():
        for layer, update in tree.items():
            moved = {bool(np.any(np.asarray(x))) for x in jax.tree.leaves(update)}
            assert moved == {module == 'decoder' and layer != 'fc_p'}, (module, layer)
    with config.unlocked():
        config.train.frozen = ('decoder', 'encoders')
    with pytest.raises(
        InputError, match=r"frozen: expected modules of the network, \['decoder', 'encoder'\] .*found \['encoders'\]"
    ):
        make_optimizer(config, 10).init(params)


@pytest.mark.slow
def test_a_run_starts_from_a_workdir_and_resumes_without_it(donor, dataset, tmp_path):
    workdir, variables = donor
    config = with_initial_weights(workdir, init_modules=('decoder',), frozen=('decoder',))
    with config.unlocked():
        config.train.num_steps = 2
    state = train(config, tmp_path / 'run', dataset)
    jax.tree.map(np.testing.assert_array_equal, state.variables['params']['decoder'], variables['params']['decoder'])
    statistics = jax.tree.leaves(
        jax.tree.map(np.array_equal, state.variables['batch_stats']['decoder'], variables['batch_stats']['decoder'])
    )
    assert not any(statistics), 'the running statistics move'
    with config.unlocked():
        config.train.num_steps = 3
    (workdir / 'checkpoints').rename(workdir / 'gone')
    train(config, tmp_path / 'run', dataset)
    assert load_best(tmp_path / 'run')[1]['step'] == 3
    (workdir / 'gone').rename(workdir / 'checkpoints')
