import jax
import numpy as np
import optax
import pytest
from model_configs import small_config
from parity.settings import make_config

from onet_jax import configs, models
from onet_jax.convert import names, official
from onet_jax.errors import InputError
from onet_jax.models import onet
from onet_jax.networks.decoders import DECODER_OPTIONS


def shapes_of(config):
    return official.variable_shapes(models.build(config), config)


def draw(shapes):
    """Variables of these shapes, every one of them random."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)


def random_params(config):
    return draw(shapes_of(config))


def config_of(encoder, decoder, **sizes):
    """A small network, by its official names."""
    sizes = {'cond_size': 12, 'encoder_hidden_size': 8, 'decoder_hidden_size': 16, 'num_shapes': 5, **sizes}
    return make_config('onet', {'encoder': encoder, 'decoder': decoder}, **sizes)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# ResNet-34 has the blocks of ResNet-18, ResNet-101 those of ResNet-50.
LEFT_OUT = 'none', 'resnet34', 'resnet101'
CASES = [(encoder, 'cbatchnorm') for encoder in onet.ENCODERS if encoder not in LEFT_OUT]
CASES += [('pointnet_simple', decoder) for decoder in DECODER_OPTIONS]


@pytest.mark.slow
@pytest.mark.parametrize('encoder, decoder', CASES)
def test_there_and_back_is_exact(encoder, decoder):
    """For every family, with a latent code; and in the layout of the first checkpoints."""
    config = config_of(encoder, decoder, latent_size=3)
    params = draw(shapes := shapes_of(config))
    for legacy in (False, True):
        state = official.to_state_dict(params, config, legacy=legacy, num_batches=9)
        assert_same(official.from_state_dict(state, shapes, config), params)
        assert names.is_legacy(state) == (legacy and decoder not in ('simple', 'batchnorm'))
    assert len(set(state)) == len(state)


def test_names_and_shapes_are_the_official_ones():
    config = config_of('resnet18', 'cbatchnorm', cond_size=6, decoder_hidden_size=8, latent_size=2)
    params = random_params(config)
    state = official.to_state_dict(params, config, num_batches=3)
    for name, shape in {
        'encoder.features.conv1.weight': (64, 3, 7, 7),
        'encoder.features.layer2.0.downsample.1.running_var': (128,),
        'encoder.features.layer4.1.bn2.num_batches_tracked': (),
        'encoder.fc.weight': (6, 512),
        'decoder.fc_p.weight': (8, 3, 1),
        'decoder.fc_z.weight': (8, 2),
        'decoder.block4.bn_1.conv_gamma.weight': (8, 6, 1),
        'decoder.fc_out.weight': (1, 8, 1),
        'encoder_latent.fc_2.weight': (128, 256),
    }.items():
        assert state[name].shape == shape, name
    legacy = official.to_state_dict(params, config, legacy=True)
    assert legacy['decoder.block4.bn_1.fc_gamma.weight'].shape == (8, 6)


# Networks of sequences: config, the children of the official network, and the shapes of some weights.
FIELD = {'vector_field.fc_p.weight': (128, 4), 'vector_field.blocks.0.fc_0.weight': (128, 128)}
POSTERIOR = {'encoder_latent.fc_pos.weight': (256, 3), 'encoder_latent_temporal.fc_pos.weight': (256, 51)}
ENDS = {'encoder_temporal.resnet_pointnet.fc_c.weight': (256, 512), 'vector_field.fc_c.4.weight': (512, 512)}
VIDEO, LAST = {'encoder_temporal.conv1.weight': (64, 32, 3, 3, 3)}, {'decoder.fc_out.weight': (3 * 1024 * 17, 512)}
SEQUENCES = {
    ('occupancy_flow', ''): {'encoder.fc_pos.weight': (256, 3), 'encoder_temporal.fc_pos.weight': (256, 51), **FIELD},
    ('occupancy_flow', 'correspondence'): {'encoder.fc_c.weight': (512, 512), 'vector_field.fc_out.bias': (3,)},
    ('occupancy_flow', 'images'): {'encoder.features.layer1.0.conv1.weight': (64, 64, 3, 3), **VIDEO},
    ('occupancy_flow', 'interpolation'): ENDS,
    ('occupancy_flow', 'matching'): ENDS,
    ('occupancy_flow', 'generative'): {'vector_field.fc_z.2.weight': (128, 128), **POSTERIOR, **FIELD},
    ('onet4d', ''): {'decoder.fc_p.weight': (256, 4, 1), 'encoder_temporal.fc_pos.weight': (1024, 51)},
    ('onet4d', 'images'): {'decoder.bn.fc_gamma.weight': (256, 256), **VIDEO},
    ('psgn4d', ''): {'encoder.fc_pos.weight': (1024, 51), **LAST},
}


@pytest.mark.parametrize('name, variant', SEQUENCES)
def test_networks_of_sequences_have_the_official_names_there_and_back(name, variant):
    config, expected = getattr(configs, name)(variant), SEQUENCES[name, variant]
    shapes = shapes_of(config)
    params = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    state = official.to_state_dict(
        params, config, legacy=variant == 'images'
    )  # as the official configs of images have it
    assert {weight: state[weight].shape for weight in expected} == expected
    assert jax.tree.structure(official.from_state_dict(state, shapes, config)) == jax.tree.structure(shapes)


# Texture Fields: the shapes of some weights of the networks whose weights were published.
TEXTURES = {
    '': {
        'encoder.features.layer4.1.conv2.weight': (512, 512, 3, 3),
        'geometry_encoder.block_4.fc_0.weight': (128, 256, 1),
        'geometry_encoder.fc_c.weight': (512, 128),
        'decoder.fc_cz_6.weight': (128, 1024),
    },
    'vae': {
        'vae_encoder.resnet.10.shortcut.weight': (1024, 512, 1, 1),
        'vae_encoder.fc_inject_c.weight': (32, 512),
        'vae_encoder.fc_logstd.weight': (512, 16_384),
        'geometry_encoder.conv_p.weight': (256, 6, 1),
    },
    'gan': {
        'decoder.conv_p.weight': (128, 3, 1),
        'decoder.block4.conv_1.weight': (128, 128, 1),
        'decoder.fc_cz_4.weight': (128, 576),
        'discriminator.conv_img.weight': (64, 4, 3, 3),
        'discriminator.fc.weight': (1, 16_384),
    },
}


@pytest.mark.parametrize('variant', TEXTURES)
def test_texture_fields_have_the_official_names_there_and_back(variant):
    """Published files hold two networks; the discriminator is left out where the network has none."""
    config = configs.texture_field(variant)
    empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes_of(config))
    state = official.to_state_dict(empty, config)
    assert {weight: state[weight].shape for weight in TEXTURES[variant]} == TEXTURES[variant]

    config = configs.texture_field(f'tiny,{variant}')
    params = draw(shapes := shapes_of(config))
    state = official.to_state_dict(params, config)
    of_discriminator = {k.removeprefix('discriminator.'): x for k, x in state.items() if k.startswith('discriminator.')}
    generator = {f'module.{k}': x for k, x in state.items() if not k.startswith('discriminator.')}
    stored = {'model_g': generator, 'model_d': of_discriminator or {'fc.bias': np.ones(1)}, 'model_g_ma': {}, 'it': 7}
    found, rest = official.split_checkpoint(stored)
    assert_same(official.from_state_dict(found, shapes, config), params)
    assert rest == {'model_g_ma': {}, 'it': 7}


def test_every_problem_is_listed():
    config = small_config()
    state = official.to_state_dict(random_params(config), config)
    del state['decoder.fc_p.bias']
    state['encoder.fc_c.bias'] = np.zeros(3, np.float32)
    state['decoder.fc_c.weight'] = np.zeros((2, 2), np.float32)
    with pytest.raises(InputError, match='expected those of the network that the config describes') as error:
        official.from_state_dict(state, shapes_of(config), config)
    for line in (
        'decoder.fc_p.bias: missing, expected shape [16]',
        'encoder.fc_c.bias: expected shape [12], found [3]',
        'decoder.fc_c.weight: not part of this network, found shape [2, 2]',
    ):
        assert line in str(error.value)


def adam_dict(state, steps, keys=None, **settings):
    """state_dict() of torch.optim.Adam after some steps, with moments that tell where they come from."""
    names = [n for n in state if 'running' not in n and 'num_batches' not in n]
    keys = keys or list(range(len(names)))
    moments = {
        key: {'step': steps, 'exp_avg': state[name] + 1, 'exp_avg_sq': np.abs(state[name])}
        for key, name in zip(keys, names, strict=True)
    }
    group = {'lr': 1e-3, 'betas': (0.9, 0.999), 'eps': 1e-8, 'weight_decay': 0, 'amsgrad': False, **settings}
    return {'state': dict(sorted(moments.items())), 'param_groups': [{**group, 'params': keys}]}


def test_the_state_of_adam_finds_its_weights():
    config = small_config()
    params = random_params(config)
    state, where = official.to_state_dict(params, config), (params, config)
    fresh = optax.adam(1e-3).init(params['params'])
    found = official.from_adam(adam_dict(state, 17), state, fresh, *where)
    assert int(found[0].count) == 17
    assert_same(found[0].mu, jax.tree.map(lambda x: x + np.float32(1), params['params']))
    assert_same(found[0].nu, jax.tree.map(np.abs, params['params']))
    # torch before 1.5 numbered weights by their addresses.
    addresses = [
        int(x) for x in np.random.default_rng(0).permutation(len(jax.tree.leaves(params['params']))) * 72 + 10**14
    ]
    assert_same(official.from_adam(adam_dict(state, 17, addresses), state, fresh, *where), found)
    assert official.from_adam({**adam_dict(state, 1), 'state': {}}, state, fresh, *where) is fresh
    with pytest.raises(InputError, match=r'lr 0.01, not 0.001; .*--config.optim.learning_rate=0.01'):
        official.from_adam(adam_dict(state, 17, lr=0.01), state, fresh, *where)
    with pytest.raises(InputError, match='amsgrad True, not False'):
        official.from_adam(adam_dict(state, 17, amsgrad=True), state, fresh, *where)


def test_a_trunk_of_torchvision_starts_the_encoder():
    config = config_of('resnet18', 'cbatchnorm', cond_size=4, decoder_hidden_size=4)
    random = random_params(config)
    params, donor = jax.tree.map(np.zeros_like, random), official.to_state_dict(random, config)
    prefix = 'encoder.features.'
    state = {name.removeprefix(prefix): array for name, array in donor.items() if name.startswith(prefix)}
    state |= {'fc.weight': np.zeros((1000, 512)), 'fc.bias': np.zeros(1000)}
    read = official.write_weights(official.read_trunk(state, params, config), {'encoder': names.RESNET})
    assert read.keys() == {name for name in donor if name.startswith(prefix) and 'num_batches' not in name}
    for name, array in read.items():
        np.testing.assert_array_equal(array, donor[name], err_msg=name)
    with pytest.raises(InputError, match=r'encoder.features.conv1.weight: missing'):
        official.read_trunk({k: v for k, v in state.items() if k != 'conv1.weight'}, params, config)
    with pytest.raises(InputError, match=r"expected the encoder of the config to be a ResNet, found 'pointnet"):
        official.read_trunk(state, random_params(small_config()), small_config())


def test_what_is_no_checkpoint_is_named():
    weights = {'a': np.zeros(2)}
    assert official.split_checkpoint({'model': weights, 'it': 3}) == (weights, {'it': 3})
    assert official.split_checkpoint(weights) == (weights, {})
    for stored in ({}, {'it': 3}, [1, 2], {'model': {'a': 'text'}}):
        with pytest.raises(InputError, match="expected weights by name, or a checkpoint with the key 'model'"):
            official.split_checkpoint(stored)


def test_another_optimiser_is_named():
    config = small_config()
    params = random_params(config)
    state, where = official.to_state_dict(params, config), (params, config)
    good, fresh = adam_dict(state, 3), optax.adam(1e-3).init(params['params'])
    sgd = {'state': {}, 'param_groups': [{'lr': 0.1, 'momentum': 0.9, 'params': [0]}]}
    for bad in ({}, None, {'state': {}, 'param_groups': []}, sgd):
        with pytest.raises(InputError, match=r"expected one group of Adam's, found something else .*--nooptimizer"):
            official.from_adam(bad, state, fresh, *where)
    lost = {**good, 'state': {k: v for k, v in good['state'].items() if k != 5}}
    uneven = {**good, 'state': {k: {**v, 'step': k} for k, v in good['state'].items()}}
    for bad in (lost, uneven):
        with pytest.raises(InputError, match=r'expected moments of .* weights after one number of steps'):
            official.from_adam(bad, state, fresh, *where)


def test_wrapped_and_damaged_weights():
    weights = {'module.a': np.zeros(2), 'module.b': np.ones(1)}
    found, rest = official.split_checkpoint({'state_dict': weights, 'epoch': 3})
    assert list(found) == ['a', 'b']
    assert rest == {'epoch': 3}
    with pytest.raises(InputError, match=r"expected finite weights, found NaN or infinity in \['b'\]"):
        official.split_checkpoint({'a': np.zeros(2), 'b': np.array([np.nan])})
