"""A mesh from a cloud without training; the weights of the package are replaced by small ones that nobody trained."""

import json

import jax
import numpy as np
import pytest
import trimesh
from entry_points import launch
from model_configs import small_config
from untrained import untrained

import onet_jax
from onet_jax import ready_made, run
from onet_jax.data.user_inputs import cloud_input
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import UPS, load_mesh, save_mesh
from onet_jax.geometry.sampling import sample_surface
from onet_jax.prepare.embedded import embedded_solid
from onet_jax.training import portable
from onet_jax.training.portable import write_weights

RNG = np.random.default_rng(0)


def sphere(num_points):
    points = RNG.normal(size=(num_points, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


CLOUD = sphere(200) * (3, 2, 1) + (100, 0, 7)


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    """'objects' are the small network, at a threshold at which a part of the cube is inside."""
    config = small_config()
    method, variables = untrained(config)
    cond = method.model.encode(variables, RNG.normal(scale=0.3, size=(1, 30, 3)).astype(np.float32))
    points = RNG.uniform(-0.5, 0.5, (1, 1000, 3)).astype(np.float32)
    with config.unlocked():
        config.eval.threshold = float(jax.nn.sigmoid(np.median(method.model.occupancy(variables, points, cond))))
    write_weights(tmp_path / 'package' / 'objects', config, 1, variables, {}, None)
    monkeypatch.setattr(portable, 'PACKAGED', tmp_path / 'package')
    return tmp_path


def test_the_weights_follow_from_what_the_points_resolve():
    assert ready_made.choose_weights(sphere(5)).name == 'objects'
    assert ready_made.choose_weights(sphere(3000)).name == 'objects'
    name, reason = ready_made.choose_weights(sphere(100_000) * 50)
    assert name == 'scenes'
    assert reason.startswith('100000 points, which resolve about ')


def test_a_cloud_becomes_a_mesh_in_its_frame_whatever_axis_is_up():
    mesh = onet_jax.reconstruct(CLOUD, 'objects')
    low, high = mesh.bounds
    assert len(mesh.faces) > 10
    assert (np.abs((low + high) / 2 - (100, 0, 7)) < 7).all()
    assert (high - low).max() < 1.2 * 6
    for up, turn in UPS.items():
        turned = onet_jax.reconstruct(CLOUD @ turn, 'objects', up=up)
        np.testing.assert_allclose(turned.vertices, mesh.vertices @ turn, atol=1e-4)


def test_up_is_found_for_a_network_that_was_trained_in_all_poses():
    trained = run.load_run(portable.PACKAGED / 'objects')
    assert 'up' not in run.for_clouds(trained).config.data
    with trained.config.unlocked():
        trained.config.data.random_scans = True
    data = run.for_clouds(trained).config.data
    assert data.up == 'auto'
    assert run.for_clouds(trained, up='z').config.data.up == 'z'
    chair, _ = sample_surface(embedded_solid(0, 'chair', 1).mesh(), 3000, 0)
    _, frame = cloud_input(chair @ UPS['z'], data, 0)
    np.testing.assert_array_equal(frame.turn, UPS['z'])


@pytest.mark.parametrize(
    'cloud', [CLOUD[:, :2], CLOUD[:1], CLOUD[[0, 0]], np.where(CLOUD > 101, np.nan, CLOUD), CLOUD[0]]
)
def test_other_arrays_are_refused(cloud):
    with pytest.raises(InputError, match=r'cloud: expected finite points \[P, 3\], .*different ones, found an array'):
        onet_jax.reconstruct(cloud)


def test_a_file_needs_no_workdir(package):
    np.save(package / 'scan.npy', CLOUD)
    done = launch('reconstruct', str(package / 'scan.npy'), '--up=z', f'--output={package}/out', '--format=obj')
    assert done.returncode == 0, done.stderr
    assert '200 points, which resolve about' in done.stdout
    assert "taking the weights 'objects'" in done.stdout
    expected = onet_jax.reconstruct(CLOUD, up='z')
    np.testing.assert_allclose(load_mesh(package / 'out' / 'scan.obj').vertices, expected.vertices, atol=1e-4)
    for given in ([], ['a.ply', 'b.ply']):
        done = launch('reconstruct', *given)
        assert 'expected one file or folder to reconstruct' in done.stderr


def test_meshes_of_an_earlier_run_do_not_choose_the_weights(package, capsys):
    """They lie in the folder of the clouds, and come first."""
    (package / 'clouds').mkdir()
    save_mesh(trimesh.creation.icosphere(5), package / 'clouds' / 'a.ply')
    np.save(package / 'clouds' / 'scan.npy', CLOUD)
    written = {'settings': {}, 'items': {}, 'written': ['a.ply']}
    (package / 'clouds' / 'manifest.json').write_text(json.dumps(written))
    ready_made.load_for(package / 'clouds', package / 'clouds')
    assert 'scan.npy: 200 points' in capsys.readouterr().out
