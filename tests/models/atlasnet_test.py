"""AtlasNet from data to scores, and from a user's file to a file (its numbers: tests/parity_test.py)."""

import json

import jax
import numpy as np
import pytest
import trimesh
from parity.golden import find_golden, parameters, read_golden
from PIL import Image
from untrained import untrained

from onet_jax import InputError, models
from onet_jax.configs import atlasnet
from onet_jax.convert import official
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.models.atlasnet import make_surface
from onet_jax.networks.atlasnet import draw_spheres, draw_squares, make_sphere, make_square
from onet_jax.run import load_run
from onet_jax.training.loop import train


def small(arg, **model):
    """The config of a network that runs in milliseconds."""
    config = atlasnet(arg)
    with config.unlocked():
        config.model.update(cond_size=8, encoder_hidden_size=4, decoder_hidden_size=6, **model)
        if 'sphere' not in arg:
            config.model.update(num_patches=3, num_predicted_points=60, num_mesh_points=75)
        config.data.update(num_target_points=50)
        config.train.update(num_steps=2, batch_size=4, log_every_steps=2, eval_every_steps=2, checkpoint_every_steps=2)
        config.optim.update(warmup_steps=1)
        config.eval.batch_size = 3
    return config


@pytest.mark.parametrize('arg', ['tiny,points', 'tiny,points,sphere', 'tiny'])
def test_from_a_dataset_to_scores_and_from_a_file_to_a_file(arg, dataset, tmp_path):
    config = small(arg)
    method, params = untrained(config)
    results = list(evaluate(method, params, config, open_dataset(dataset), 'test'))
    assert len(results) == 3
    for result in results:
        assert isinstance(result.prediction, OpenSurface) == ('sphere' not in arg)
        assert result.prediction.is_watertight == ('sphere' in arg)
        assert np.isfinite([result.scores[name] for name in ('chamfer_l1', 'normal_consistency')]).all()
        assert np.isfinite(result.scores['iou']) == ('sphere' in arg)
    if 'points' in arg:
        np.save(tmp_path / 'own.npy', np.random.default_rng(0).normal(size=(400, 3)) * [3, 2, 1] + 500)
    else:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)).save(tmp_path / 'own.png')
    (file,) = tmp_path.iterdir()
    (written,) = reconstruct_files(method, params, config, file, tmp_path / 'out', 'ply')
    mesh = trimesh.load(written, process=False)
    assert len(mesh.vertices) == (2562 if 'sphere' in arg else 75)
    assert np.abs(mesh.bounds.mean(axis=0) - (500 if 'points' in arg else 0)).max() < 100, "in the user's frame"
    assert json.loads((tmp_path / 'out/manifest.json').read_text())['items']['own']['status'] == 'done'


@pytest.mark.slow
def test_a_network_is_trained(dataset, tmp_path):
    train(small('tiny,points'), tmp_path / 'run', dataset)
    run = load_run(tmp_path / 'run')
    assert run.step == 2
    assert len(list(evaluate(run.method, run.params, run.config, open_dataset(dataset), 'test'))) == 3


def test_the_patches_are_perceptrons_of_their_own_weights():
    """One after the other in numpy, with the running statistics."""
    method, params = untrained(small('tiny,points'))
    model, rng = method.model, np.random.default_rng(0)
    cond, template = rng.normal(size=(2, 8)), rng.uniform(size=(3, 10, 2))
    weights, stats = params['params']['decoder']['decoder'], params['batch_stats']['decoder']['decoder']

    def layer(net, conv, k):
        return net @ weights[conv]['kernel'][k].astype(np.float64) + weights[conv]['bias'][k]

    def activate(net, bn, k):
        net = (net - stats[bn]['running_mean'][k]) / np.sqrt(stats[bn]['running_var'][k] + 1e-5)
        return np.maximum(net * weights[bn]['scale'][k] + weights[bn]['bias'][k], 0)

    expected = np.empty((2, 3, 10, 3))
    for b in range(2):
        for k in range(3):
            net = activate(layer(template[k], 'conv1', k) + cond[b], 'bn1', k)
            for conv, bn in (('conv2', 'bn2'), ('conv_list_0', 'bn_list_0'), ('conv_list_1', 'bn_list_1')):
                net = activate(layer(net, conv, k), bn, k)
            expected[b, k] = layer(net, 'last_conv', k)
    np.testing.assert_allclose(model.points(params, np.float32(cond), np.float32(template)), expected, atol=1e-5)


def test_the_loss_is_a_function_of_arrays_and_random_points_of_a_key():
    method, params = untrained(small('tiny,points'))
    model = method.model
    cloud, surface = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4, 50, 3)).astype(np.float32)
    first, again, other = (model.draw(jax.random.key(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 20, 2)
    np.testing.assert_array_equal(first, again)
    values = [float(jax.jit(model.loss)(params, surface, cloud, template)[0]) for template in (first, again, other)]
    assert values[0] == values[1] != values[2]


def test_random_points_of_templates():
    squares, spheres = (np.asarray(f(jax.random.key(0), (5, 4000))) for f in (draw_squares, draw_spheres))
    assert squares.min() >= 0
    assert squares.max() < 1
    np.testing.assert_allclose(squares.mean(axis=1), 0.5, atol=0.03)
    assert len(np.unique(squares[:, 0, 0])) == 5, 'each patch has its own'
    np.testing.assert_allclose(np.linalg.norm(spheres, axis=-1), 1, atol=1e-6)
    np.testing.assert_allclose(np.mean(spheres**2, axis=1), 1 / 3, atol=0.03)


def test_templates_are_triangulations():
    """Of any number of points: the squares tile the unit square, the sphere is closed and its faces look outwards."""
    for num_points in (4, 90, 100):
        vertices, faces = make_square(num_points)
        side = int(num_points**0.5)
        corners = vertices[faces]
        x, y = np.moveaxis(corners[:, 1:] - corners[:, :1], -1, 0)
        np.testing.assert_allclose(x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0], 1 / (side - 1) ** 2)
        assert len(faces) == 2 * (side - 1) ** 2
    for num_points, expected in ((1, 12), (13, 42), (2500, 2562)):
        mesh = trimesh.Trimesh(*make_sphere(num_points), process=False)
        assert mesh.is_watertight
        assert mesh.volume > 0
        assert len(mesh.vertices) == expected


def test_a_sphere_that_is_turned_inside_out_has_its_faces_outwards():
    template = make_sphere(42)
    for flip in (1, -1):
        mesh = make_surface((template.vertices * [flip, 2, 3])[None], template)
        assert mesh.is_watertight
        assert mesh.volume > 0
    assert len(make_surface(np.zeros((3, 16, 3)), make_square(16)).faces) == 54


@pytest.mark.parametrize('file, arg', [('ae_square25', 'points'), ('ae_sphere1', 'points,sphere')])
def test_the_networks_have_the_official_weights(file, arg):
    """By name; of those of full width the number, in millions."""
    path = f'nerf_atlasnet_dmc/atlasnet/{file}.npz'
    if find_golden(path) is None:
        pytest.skip(f'golden file {path} not found (set ONET_JAX_SHARED)')
    config = atlasnet(arg)
    shapes = official.variable_shapes(models.build(config), config)
    empty = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)
    state = official.to_state_dict(empty, config)
    assert set(state) == set(parameters(read_golden(path)))
    wrapped, _ = official.split_checkpoint({f'module.{name}': array for name, array in state.items()})
    assert jax.tree.structure(official.from_state_dict(wrapped, shapes, config)) == jax.tree.structure(shapes)


def test_what_does_not_go_together_is_named():
    for arg, key, value, expected in (
        ('sphere', 'num_patches', 25, "1 with the decoder 'sphere', found 25"),
        ('', 'num_patches', 0, 'at least 1, found 0'),
        ('', 'num_predicted_points', 24, 'at least one for each of 25 patches, found 24'),
        ('', 'num_mesh_points', 99, 'at least 2 x 2 for each of 25 patches, found 99'),
        ('', 'decoder', 'cube', r"one of \['sphere', 'squares'\], found 'cube'"),
        ('', 'encoder', 'atlasnet_vgg', "found 'atlasnet_vgg'"),
    ):
        config = atlasnet(arg)
        with config.unlocked():
            config.model[key] = value
        with pytest.raises(InputError, match=f'config.model.{key}: expected .*{expected}'):
            models.build(config)
    config = atlasnet('points')
    with config.unlocked():
        config.model.encoder = 'atlasnet_resnet18'
    with pytest.raises(InputError, match=r"config.data.inputs: expected \('image',\)"):
        models.build(config)


def test_wrong_arrays_are_named():
    method, params = untrained(small('tiny,points'))
    model = method.model
    with pytest.raises(InputError, match=r'inputs: expected an array \[B, P, 3\] .* found the shape \[1, 9, 2\]'):
        model.encode(params, np.zeros((1, 9, 2), np.float32))
    with pytest.raises(InputError, match=r'template: expected an array \[3, N, 2\], found the shape \[3, 9, 3\]'):
        model.points(params, np.zeros((1, 8), np.float32), np.zeros((3, 9, 3)))
    config = atlasnet()
    with config.unlocked():
        config.data.image_size = 127
    with pytest.raises(InputError, match=r'images of 224 x 224 px .*, found 127 x 127'):
        official.variable_shapes(models.build(config), config)
