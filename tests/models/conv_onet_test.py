import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.golden import find_golden
from configs import conv_onet as config_file
from onet_jax import models
from onet_jax.convert import official
from onet_jax.geometry.field import evaluate


def tiny(variant='tiny'):
    config = config_file.get_config(variant)
    config.mesh.update(resolution=8, upsampling_steps=1)
    if 'pointconv' in variant:
        config.model.update(cond_size=4, encoder_hidden_size=2, decoder_hidden_size=6, num_centres=(16, 4))
        return config
    with config.unlocked():
        config.model.update(cond_size=4, encoder_hidden_size=6, decoder_hidden_size=6, plane_resolution=8, unet_depth=2)
        config.model.update(unet_size=4, grid_resolution=4, unet3d_levels=2, unet3d_size=8)
    return config


def random_params(config, seed=0):
    """Weights of which none is the initial one: zeros would hide mistakes."""
    params = models.occupancy_network(config.model).init(jax.random.key(seed), models.example_batch(config.model))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten([x + 0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def clouds(seed=0):
    return jax.random.uniform(jax.random.key(seed), (2, 60, 3), minval=-0.5, maxval=0.5)


@pytest.mark.parametrize('variant', ['maps=xz', 'maps=all', 'pointconv'])
def test_the_bound_field_is_the_network(variant):
    config = tiny(f'tiny,{variant}')
    model, params = models.occupancy_network(config.model), random_params(config)
    cond = model.encode(params, clouds())
    assert set(cond) == set(config.model.get('maps', ('points', 'features')))
    points = jax.random.uniform(jax.random.key(3), (2, 500, 3), minval=-0.6, maxval=0.6)
    logits = model.occupancy(params, points, cond)
    for b in range(2):
        field = model.bind(params, jax.tree.map(lambda array, b=b: array[b : b + 1], cond))
        np.testing.assert_allclose(evaluate(field, np.asarray(points[b])), logits[b], atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3, 'what is seen matters'


def test_the_order_of_the_points_does_not_matter():
    config = tiny()
    model, params = models.occupancy_network(config.model), random_params(config)
    cond, shuffled = (model.encode(params, x) for x in (clouds(), clouds()[:, ::-1]))
    for name in cond:
        np.testing.assert_allclose(shuffled[name], cond[name], atol=1e-5)


def test_the_method_meshes_what_the_network_says(monkeypatch):
    """Also where a batch of meshes stays on the device."""
    config = tiny()
    model, params = models.occupancy_network(config.model), random_params(config)
    logits = model.occupancy(params, clouds(), model.encode(params, clouds()))
    with config.unlocked():
        config.eval.threshold = float(jax.nn.sigmoid(jnp.median(logits)))
    host = models.build(config).reconstruct(params, np.asarray(clouds()), jax.random.key(0))
    assert len(host[0].faces) > 20
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    device = models.build(config).reconstruct(params, np.asarray(clouds()), jax.random.key(0))
    for a, b in zip(host, device, strict=True):
        assert a.is_watertight
        assert b.is_watertight
        np.testing.assert_allclose(a.volume, b.volume, rtol=1e-2)


# Of the released checkpoints: the config, what differs in it, and the number of weights.
RELEASED = {
    'pointcloud/shapenet_1plane': ('maps=xz', {}, 1_978_209),
    'pointcloud/shapenet_3plane': ('maps=planes', {}, 1_978_209),
    'pointcloud/shapenet_3plane_partial': ('partial', {}, 1_978_209),
    'pointcloud/shapenet_grid32': ('maps=grid', {}, 1_068_545),
    'pointcloud/shapenet_pointconv': ('pointconv', {}, 1_388_641),
    'pointcloud/room_1plane': ('rooms,maps=xz', {}, 7_812_705),
    'pointcloud/room_3plane': ('rooms,maps=planes', {}, 7_812_705),
    'pointcloud/room_combine': ('rooms,maps=all', {}, 8_838_017),
    'pointcloud/room_grid32': ('rooms,maps=grid', {}, 1_068_545),
    'pointcloud/room_grid64': ('rooms,grid64', {}, 4_166_657),
    'pointcloud_crop/room_grid64': ('crops', {}, 4_166_657),
    'pointcloud/room_pointconv': ('rooms,pointconv', {}, 2_074_081),
    'voxel/shapenet_1plane': ('voxels,maps=xz', {}, 1_951_873),
    'voxel/shapenet_3plane': ('voxels,maps=planes', {}, 1_951_873),
    'voxel/shapenet_grid32': ('voxels,maps=grid', {}, 1_042_209),
}


def official_shapes(name):
    """Official names and shapes of the weights of a released checkpoint."""
    path = find_golden('conv/state_dict_shapes.json')
    if path is None:
        pytest.skip('golden file conv/state_dict_shapes.json not found (set ONET_JAX_SHARED)')
    tables = json.loads(path.read_text())
    table = tables[f'conv_onet/{name}']
    while 'same_as' in table:
        table = tables[table['same_as']]
    return table


@pytest.mark.parametrize('name', RELEASED)
def test_the_networks_have_the_official_weights(name):
    variant, settings, total = RELEASED[name]
    config = config_file.get_config(variant)
    config.model.update(settings)
    shapes = official.variable_shapes(config)
    assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == total
    table = official_shapes(name)
    empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape in table.items()}
    read = official.from_state_dict(empty, config)
    written = official.to_state_dict(read, config)
    assert {name: list(x.shape) for name, x in written.items()} == table


def test_weights_go_to_official_names_and_back():
    config = tiny('tiny,maps=all')
    config.model.centred = False
    params = random_params(config)
    state = official.to_state_dict(params, config)
    assert 'encoder.unet3d.encoders.0.basic_module.SingleConv1.groupnorm.weight' in state
    assert state['encoder.unet.up_convs.0.upconv.weight'].shape == (8, 4, 2, 2)
    back = official.from_state_dict(state, config)
    jax.tree.map(np.testing.assert_array_equal, back['params'], params['params'])


def test_wrong_settings_are_named():
    config = tiny()
    with config.unlocked():
        config.model.maps = ('xz', 'zx')
    with pytest.raises(ValueError, match=r"config.model.maps: expected some of .*, found \('xz', 'zx'\)"):
        models.build(config)
    config = tiny()
    with config.unlocked():
        config.model.plane_resolution = 9
    with pytest.raises(ValueError, match=r'config.model.plane_resolution: expected a multiple of 2, .* found 9'):
        models.build(config)
    for variant, name, value in (
        ('tiny', 'pooling', 'median'),
        ('tiny', 'interpolation', 'cubic'),
        ('tiny', 'decoder', 'simple_local_point'),
        ('tiny,pointconv', 'decoder', 'simple_local'),
        ('tiny,crops', 'decoder', 'simple_local'),
    ):
        config = tiny(variant)
        config.model[name] = value
        with pytest.raises(ValueError, match=rf"config.model.{name}: expected .* found '{value}'"):
            models.build(config)


@pytest.mark.parametrize('name, value', [('pooling', 'mean'), ('interpolation', 'nearest')])
def test_ablations_are_other_networks_of_the_same_weights(name, value):
    config = tiny()
    params, logits = random_params(config), []
    for choice in (config.model[name], value):
        config.model[name] = choice
        model = models.occupancy_network(config.model)
        logits.append(model.occupancy(params, clouds(3), model.encode(params, clouds())))
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


def test_centred_maps_are_ours_and_no_official_file_has_them():
    assert not config_file.get_config('').model.centred
    config = tiny()
    assert config.model.centred
    with pytest.raises(ValueError, match=r'config.model.centred: expected False, as official networks read their maps'):
        official.to_state_dict(random_params(config), config)
