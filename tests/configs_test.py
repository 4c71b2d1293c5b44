"""Every variant of every config: what it changes, its keys, that it fits together at full size; the loss of tiny ones."""

import importlib
import inspect
import re
import runpy

import jax
import numpy as np
import pytest

from onet_jax import configs, models
from onet_jax.configs import FILES
from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import example_batch, make_transform
from onet_jax.errors import InputError
from onet_jax.prepare.embedded import prepare_moving
from onet_jax.prepare.runners import in_this_process
from onet_jax.training.optim import make_optimizer
from onet_jax.training.state import create_state
from onet_jax.training.step import make_train_step

VARIANTS = [(name, v) for name in FILES for v in runpy.run_path(str(FILES[name]))['VARIANTS']]

# Variant -> what it changes, of the tiny network where it begins with `tiny`; a whole group, or None where a key goes.
AS_DRAWN, PLANES = {'data.num_near_points': 0}, ('xz', 'xy', 'yz')
ONET = {
    'sampling=uniform': {},
    'sampling=uniform64': {'data.num_points_per_step': 64},
    'sampling=equal': {'data.sampling': 'equal'},
    'sampling=surface': {'data.sampling': 'surface'},
    'noresnet': {'model.decoder': 'cbatchnorm_noresnet'},
    'nocbn': {'model.decoder': 'batchnorm'},
    'tiny,sampling=uniform': AS_DRAWN,
    'tiny,sampling=uniform64': {'data.num_points_per_step': 64, **AS_DRAWN},
    'tiny,sampling=equal,nocbn': {'data.sampling': 'equal', 'model.decoder': 'batchnorm', **AS_DRAWN},
}
CONV_ONET = {
    'maps=xz': {'model.maps': PLANES[:1]},
    'maps=planes': {},
    'maps=grid': {'model.maps': ('grid',)},
    'tiny,maps=all': {'model.maps': (*PLANES, 'grid')},
}
POINTCONV = {
    'name': 'conv_onet',
    'encoder': 'pointnet_plus_plus',
    'decoder': 'simple_local_point',
    'cond_size': 32,
    'encoder_hidden_size': 64,
    'decoder_hidden_size': 32,
    'num_centres': (512, 128),
}
TINY_POINTCONV = {
    'model': {**POINTCONV, 'encoder_hidden_size': 16, 'num_centres': (128, 32)},
    'data.num_points_per_step': 256,
    'data.num_near_points': 208,
    'optim.learning_rate': 5e-3,
}
VOXELS = {
    'model.encoder': 'voxel_simple_local',
    **dict.fromkeys(['model.encoder_hidden_size', 'model.pooling', 'model.cell_coordinates']),
    'data.inputs': ('voxels',),
    'data.num_points_per_step': 1024,
    **dict.fromkeys([f'data.{key}' for key in ('num_input_points', 'noise_std', 'partial', 'keep_outliers')]),
}
GRID64 = {'model.maps': ('grid',), 'model.grid_resolution': 64, 'model.unet3d_levels': 4}
CHANGES = {
    'onet_points': {
        **ONET,
        'points=300': {},
        'points=3000': {'data.num_input_points': 3000},
        'tiny,points=3000': {
            'data.num_input_points': 3000,
            'train.num_steps': 1900,
            'train.eval_every_steps': 190,
            'train.checkpoint_every_steps': 190,
        },
    },
    'onet_image': ONET,
    'conv_onet': {
        **CONV_ONET,
        'maps=all': {'model.maps': (*PLANES, 'grid')},
        'points=300,partial': {'data.num_input_points': 300, 'data.partial': True},
        'points=3000': {},
        'tiny,points=3000': {
            'data.num_input_points': 3000,
            'train.num_steps': 1750,
            'train.eval_every_steps': 350,
            'train.checkpoint_every_steps': 350,
        },
        'voxels': {**VOXELS, 'train.batch_size': 64},
        'tiny,voxels': {**VOXELS, 'model.align_corners': True, 'train.batch_size': 16},
        'voxels,maps=xz': {**VOXELS, 'model.maps': PLANES[:1], 'train.batch_size': 64},
        'pointconv': {'model': POINTCONV, 'train.batch_size': 24},
        'tiny,pointconv': TINY_POINTCONV,
    },
    'conv_onet_rooms': {
        **CONV_ONET,
        'maps=all': {'model.maps': (*PLANES, 'grid'), 'train.batch_size': 24},
        'grid64': {**GRID64, 'train.batch_size': 6},
        'tiny,grid64': GRID64,
        'pointconv': {'model': {**POINTCONV, 'decoder_hidden_size': 256}, 'train.batch_size': 20},
        'tiny,pointconv': TINY_POINTCONV,
    },
}


def get_config(name, variant=''):
    return getattr(configs, name)(variant)


def flatten(tree, prefix=''):
    """{'model': {'name': 'onet'}} -> {'model.name': 'onet'}; an empty group stays."""
    flat = {}
    for key, value in tree.items():
        flat |= flatten(value, f'{prefix}{key}.') if value and isinstance(value, dict) else {f'{prefix}{key}': value}
    return flat


@pytest.mark.parametrize('name, variant', [(name, variant) for name in CHANGES for variant in CHANGES[name]])
def test_a_variant_changes_what_it_says_and_nothing_else(name, variant):
    expected = flatten(get_config(name, 'tiny' if 'tiny' in variant else '').to_dict())
    for key, value in CHANGES[name][variant].items():
        expected = {k: v for k, v in expected.items() if k != key and not k.startswith(f'{key}.')}
        expected |= {} if value is None else flatten({key: value})
    found = flatten(get_config(name, variant).to_dict())
    assert found == expected
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize('name', FILES)
def test_every_comment_beside_a_key_is_described(name):
    variants = [get_config(name, variant) for file, variant in VARIANTS if file == name]
    described = ''.join(configs.describe(config, FILES[name]) + '\n' for config in variants)
    beside = re.findall(r'^ {8,}\S.*  # (.*)$', FILES[name].read_text(), re.MULTILINE)
    assert beside
    assert [comment for comment in beside if f'# {comment}\n' not in described] == []


@pytest.mark.parametrize('name, variant', VARIANTS)
def test_a_config_is_locked_and_has_all_groups_and_no_unknown_key(name, variant):
    config = get_config(name, variant)
    models.build(config)
    assert config.is_locked
    assert set(config) == {'seed', 'model', 'data', 'optim', 'train', 'eval', 'mesh'}
    assert set(config.optim) == set(configs.optim())
    assert set(config.eval) <= set(configs.eval_())
    assert set(config.train) == set(configs.train())
    assert set(config.mesh) in (set(), set(configs.mesh()))
    assert ('partial' in config.data) == (config.data.inputs == ('cloud',))
    if config.data.inputs == ('scene',):  # extracted on the grid of its cells
        assert not config.mesh
        assert config.data.cell_size == config.model.unit_size
        assert config.data.feed == 'resident'
        assert config.data.num_points_per_step <= config.data.num_points


@pytest.mark.parametrize('paper', models.PAPERS)
def test_the_model_groups_have_exactly_the_keywords_of_make_model(paper):
    """Each group fits the signature; together they use all of it but the precision, which is of the training step."""
    module, used = importlib.import_module(f'onet_jax.models.{paper}'), set()
    signature = inspect.signature(getattr(module, 'make_modules', module.make_model))
    for name, variant in VARIANTS:
        keywords = get_config(name, variant).model.to_dict()
        if keywords.pop('name') == paper:
            signature.bind(**keywords)
            used |= set(keywords)
    assert used == set(signature.parameters) - {'train_dtype'}


def parts(name, variant):
    """The names of what a network is made of, whatever its sizes and maps."""
    return {key: value for key, value in get_config(name, variant).model.items() if isinstance(value, str)}


@pytest.fixture(scope='module')
def moving(tmp_path_factory):
    """A dataset of two training sequences of 17 frames."""
    data_dir, sizes = tmp_path_factory.mktemp('data') / 'moving', {'num_frames': 17, 'num_points': 2048, 'seed': 0}
    fractions = {'val_fraction': 0, 'test_fraction': 0}
    prepare_moving(data_dir, families=['mechanism'], num_shapes_per_family=2, **sizes, **fractions, run=in_this_process)
    return data_dir


# One variant of each network is traced; of those that are made of the same, all but the first are slow.
NETWORKS = {str(get_config(*v).model): v for v in reversed(VARIANTS)}.values()
# Pixel2Mesh at full size takes long to trace, and has the parts of the tiny one.
FAST = {*{str(parts(*v)): v for v in reversed(VARIANTS)}.values()} - {('pixel2mesh', '')}


@pytest.mark.parametrize(
    'name, variant', [v if v in FAST else pytest.param(*v, marks=pytest.mark.slow) for v in NETWORKS]
)
def test_a_config_fits_together_at_full_size(name, variant):
    config = get_config(name, variant)
    method, tx = models.build(config), make_optimizer(config, config.train.num_steps)
    key, batch = jax.random.key(0), example_batch(config.data)
    variables = jax.eval_shape(method.init, key, batch)
    loss, aux = jax.eval_shape(lambda variables, batch: method.loss(variables, batch, key, None), variables, batch)
    assert loss.shape == ()
    assert jax.tree.structure(aux.mutated) == jax.tree.structure({k: variables[k] for k in variables if k != 'params'})
    jax.eval_shape(tx.init, variables['params'])


# `onet train` trains these in tests/models and tests/inference; Pixel2Mesh makes two steps at full size in parity_test.py; the
# documents train conv_onet, which is the network of conv_onet_rooms and of objects too.
TRAINED_ELSEWHERE = {
    'atlasnet', 'nerf', 'psgn', 'r2n2', 'scenes', 'texture_field', 'pixel2mesh', 'conv_onet', 'conv_onet_rooms', 'objects',
}  # fmt: skip


@pytest.mark.parametrize('name', sorted(FILES.keys() - TRAINED_ELSEWHERE))
@pytest.mark.slow
def test_a_tiny_config_has_the_loss_of_an_untrained_network_and_its_step_fits_together(dataset, moving, name):
    """The step is traced: its gradients are those of the golden files, and tests/cuda_test.py lowers all of it."""
    config = get_config(name, 'tiny')
    with config.unlocked():
        config.data.feed = 'resident'
        for key, most in {'num_points_per_step': 512, 'num_near_points': 208, 'num_input_points': 2048}.items():
            if key in config.data:
                config.data[key] = min(config.data[key], most)
    method, transform = models.build(config), make_transform(config.data)
    tx = make_optimizer(config, config.train.num_steps)
    data_dir = moving if 'num_frames' in config.data else dataset
    raw = next(open_dataset(data_dir).feed(config.data, batch_size=2, seed=0)(0))
    key = jax.random.key(0)
    batch = transform(key, raw)
    state = create_state(key, method, tx, batch)
    loss = float(jax.jit(lambda variables: method.loss(variables, batch, key, None)[0])(state.variables))
    num_points = config.data.get('num_points_per_step', np.inf)  # of an untrained network about ln 2 for each point
    assert 0 < loss < 1.5 * np.log(2) * num_points
    after, scalars = jax.eval_shape(make_train_step(method, tx, transform), state, raw, key)
    assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, after)
    assert scalars['loss'].shape == ()


@pytest.mark.parametrize('name', FILES)
def test_wrong_variants_are_named(name):
    with pytest.raises(InputError, match=rf"configs/{name}.py: expected a variant of \('tiny'.*found 'huge'"):
        get_config(name, 'tiny,huge')
    with pytest.raises(
        InputError, match=rf"configs/{name}.py: expected one of the variants \('tiny',\), found \['tiny', "
    ):
        get_config(name, 'tiny,tiny')


def test_contradicting_variants_are_refused():
    for variant in (
        'maps=xz,pointconv',
        'points=300,points=3000',
        'voxels,points=300',
        'voxels,partial',
        'pointconv,voxels',
    ):
        with pytest.raises(InputError, match=r'configs/conv_onet.py: expected .*, found '):
            get_config('conv_onet', variant)


@pytest.mark.parametrize('name, variant', VARIANTS)
def test_a_description_has_every_value_and_the_comments_beside(name, variant):
    config = get_config(name, variant)
    found, group = {}, ''
    for line in configs.describe(config, FILES[name]).splitlines():
        key, _, rest = line.strip().partition(':')
        group = '' if line[0] != ' ' else group
        found[f'{group}{key}'] = rest.strip()
        group = group or f'{key}.'
    for key, value in flatten(config.to_dict()).items():
        assert found[key].startswith(repr(value)), key
    assert list(found)[:3] == ['seed', 'model', 'model.name']  # in the order of the file
    assert found['train.batch_size'] == f'{config.train.batch_size}  # over all devices'
    if 'data.sampling' in found:
        assert (
            "of the dataset's points" in found['data.sampling']
            or "the dataset's points were drawn" in found['data.sampling']
        )
    assert '#' not in found.get('data.val_fraction', '')
