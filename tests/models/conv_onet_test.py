import json

import jax
import numpy as np
import pytest
import trimesh
from parity.golden import SHARED, find_golden

from onet_jax import models
from onet_jax.configs import conv_onet, conv_onet_crops, conv_onet_rooms, objects
from onet_jax.convert import official
from onet_jax.errors import InputError
from onet_jax.geometry.field import evaluate
from onet_jax.models.conv_onet import predict_supported


def tiny(variant='tiny'):
    config = conv_onet(variant)
    config.mesh.update(resolution=8, upsampling_steps=1)
    if 'pointconv' in variant:
        config.model.update(cond_size=4, encoder_hidden_size=2, decoder_hidden_size=6, num_centres=(16, 4))
    else:
        config.model.update(cond_size=4, encoder_hidden_size=6, decoder_hidden_size=6, plane_resolution=8, unet_depth=2)
        config.model.update(unet_size=4, grid_resolution=4, unet3d_levels=2, unet3d_size=8)
    return config


def without_unets(variant='tiny'):
    """They compile longest, and are compared with the official ones by tests/parity_test.py."""
    config = tiny(variant)
    if 'unet_depth' in config.model:
        config.model.update(unet_depth=0, unet3d_levels=0)
    return config


def random_network(config, seed=0):
    """The network of a config, and weights of which none is an initial one, which may be zero: zeros would hide mistakes."""
    model, rng = models.build(config).model, np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clouds())
    params = jax.tree.map(lambda x: rng.normal(scale=0.2, size=x.shape).astype(np.float32), shapes)
    if 'batch_stats' in params:
        params['batch_stats'] = jax.tree.map(lambda x: np.abs(x) + np.float32(0.5), params['batch_stats'])
    return model, params


def clouds(seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (2, 60, 3)).astype(np.float32)


@pytest.mark.parametrize('variant', ['maps=all', 'pointconv'])
def test_the_bound_field_is_the_network(variant):
    """For any condition of the shapes that the encoder gives."""
    config, rng = without_unets(f'tiny,{variant}'), np.random.default_rng(1)
    model, params = random_network(config)
    shapes = jax.eval_shape(model.encode, params, clouds())
    assert set(shapes) == set(config.model.get('maps', ('points', 'features')))
    cond = jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(np.float32), shapes)
    points = rng.uniform(-0.6, 0.6, (2, 500, 3)).astype(np.float32)
    logits = model.occupancy(params, points, cond)
    for b in range(2):
        field = model.bind(params, jax.tree.map(lambda array, b=b: array[b : b + 1], cond))
        np.testing.assert_allclose(evaluate(field, points[b]), logits[b], atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3, 'what is seen matters'


@pytest.mark.slow
def test_the_order_of_the_points_does_not_matter():
    model, params = random_network(without_unets())
    cond, shuffled = (model.encode(params, x) for x in (clouds(), clouds()[:, ::-1]))
    for name in cond:
        np.testing.assert_allclose(shuffled[name], cond[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_method_meshes_what_the_network_says(monkeypatch):
    """Also where a batch of meshes stays on the device."""
    config = without_unets()
    model, params = random_network(config)
    logits = model.occupancy(params, clouds(), model.encode(params, clouds()))
    with config.unlocked():
        config.eval.threshold = float(jax.nn.sigmoid(np.median(logits)))
    host = models.build(config).predict(params, {'cloud': clouds()}, jax.random.key(0))
    assert len(host[0].faces) > 20
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    device = models.build(config).predict(params, {'cloud': clouds()}, jax.random.key(0))
    for a, b in zip(host, device, strict=True):
        assert a.is_watertight
        assert b.is_watertight
        np.testing.assert_allclose(a.volume, b.volume, rtol=1e-2)


# Of the released checkpoints: the config and the number of weights.
RELEASED = {
    'pointcloud/shapenet_1plane': (conv_onet, 'maps=xz', 1_978_209),
    'pointcloud/shapenet_3plane': (conv_onet, 'maps=planes', 1_978_209),
    'pointcloud/shapenet_3plane_partial': (conv_onet, 'partial', 1_978_209),
    'pointcloud/shapenet_grid32': (conv_onet, 'maps=grid', 1_068_545),
    'pointcloud/shapenet_pointconv': (conv_onet, 'pointconv', 1_388_641),
    'pointcloud/room_1plane': (conv_onet_rooms, 'maps=xz', 7_812_705),
    'pointcloud/room_3plane': (conv_onet_rooms, 'maps=planes', 7_812_705),
    'pointcloud/room_combine': (conv_onet_rooms, 'maps=all', 8_838_017),
    'pointcloud/room_grid32': (conv_onet_rooms, 'maps=grid', 1_068_545),
    'pointcloud/room_grid64': (conv_onet_rooms, 'grid64', 4_166_657),
    'pointcloud_crop/room_grid64': (conv_onet_crops, '', 4_166_657),
    'pointcloud/room_pointconv': (conv_onet_rooms, 'pointconv', 2_074_081),
    'voxel/shapenet_1plane': (conv_onet, 'voxels,maps=xz', 1_951_873),
    'voxel/shapenet_3plane': (conv_onet, 'voxels,maps=planes', 1_951_873),
    'voxel/shapenet_grid32': (conv_onet, 'voxels,maps=grid', 1_042_209),
}


def official_shapes(name):
    """Official names and shapes of the weights of a released checkpoint."""
    path = find_golden('conv/state_dict_shapes.json')
    if path is None:
        pytest.skip(f'golden file conv/state_dict_shapes.json not found under {SHARED} (set ONET_JAX_SHARED)')
    tables = json.loads(path.read_text())
    table = tables[f'conv_onet/{name}']
    while 'same_as' in table:
        table = tables[table['same_as']]
    return table


# Those that have a map of each kind and an encoder of each kind; the others are other numbers of the same.
FAST = ('room_combine', 'shapenet_pointconv', 'pointcloud_crop/room_grid64', 'voxel/shapenet_1plane')


@pytest.mark.parametrize(
    'name', [name if name.endswith(FAST) else pytest.param(name, marks=pytest.mark.slow) for name in RELEASED]
)
def test_the_networks_have_the_official_weights(name):
    file, variant, total = RELEASED[name]
    config = file(variant)
    shapes = official.variable_shapes(models.build(config), config)
    assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == total
    table = official_shapes(name)
    empty = {name: np.broadcast_to(np.float32(0), shape) for name, shape in table.items()}
    written = official.to_state_dict(official.from_state_dict(empty, shapes, config), config)
    assert {name: list(x.shape) for name, x in written.items()} == table


def test_weights_go_to_official_names_and_back():
    config = tiny('tiny,maps=all')
    config.model.update(align_corners=True, cell_coordinates=False)
    _, params = random_network(config)
    state = official.to_state_dict(params, config)
    assert 'encoder.unet3d.encoders.0.basic_module.SingleConv1.groupnorm.weight' in state
    assert state['encoder.unet.up_convs.0.upconv.weight'].shape == (8, 4, 2, 2)
    back = official.from_state_dict(state, params, config)
    jax.tree.map(np.testing.assert_array_equal, back['params'], params['params'])


def test_wrong_settings_are_named():
    for variant, name, value in (
        ('tiny', 'maps', ('xz', 'zx')),
        ('tiny', 'plane_resolution', 9),
        ('tiny', 'pooling', 'median'),
        ('tiny', 'interpolation', 'cubic'),
        ('tiny', 'decoder', 'simple_local_point'),
        ('tiny,pointconv', 'decoder', 'simple_local'),
    ):
        config = tiny(variant)
        config.model[name] = value
        with pytest.raises(InputError) as error:
            models.build(config)
        assert f'config.model.{name}: expected ' in str(error.value)
        assert f'found {value!r}' in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize('name, value', [('pooling', 'mean'), ('interpolation', 'nearest'), ('align_corners', True)])
def test_ablations_are_other_networks_of_the_same_weights(name, value):
    config = without_unets()
    model, params = random_network(config)
    config.model[name] = value
    other = models.build(config).model
    logits = [m.occupancy(params, clouds(3), m.encode(params, clouds())) for m in (model, other)]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize('name, official_value', [('align_corners', True), ('cell_coordinates', False)])
def test_no_official_file_has_what_is_ours(name, official_value):
    assert conv_onet('').model[name] == official_value
    config = tiny()
    config.model.update(align_corners=True, cell_coordinates=False)
    config.model[name] = not official_value
    with pytest.raises(
        InputError, match=f'config.model.{name}: expected {official_value}, .* found {not official_value}'
    ):
        official.to_state_dict({}, config)


def test_meshes_of_objects_in_any_pose_lack_the_shells_that_no_point_supports():
    ball, far = trimesh.creation.icosphere(3, 0.2), trimesh.creation.icosphere(1, 0.05)
    far.apply_translation([0.4, 0.4, 0.4])
    cloud, _ = trimesh.sample.sample_surface(ball, 500, seed=0)
    both = trimesh.util.concatenate([ball, far])
    (mesh,) = predict_supported(lambda *_: [both], {}, {'cloud': cloud[None]}, jax.random.key(0))
    np.testing.assert_array_equal(mesh.vertices, ball.vertices)
    config = objects('tiny')
    assert models.build(config).predict.func is predict_supported
    with config.unlocked():
        config.data.random_scans = False
    assert getattr(models.build(config).predict, 'func', None) is not predict_supported
