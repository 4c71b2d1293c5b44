import json

import numpy as np
import pytest
import trimesh
from model_configs import small_config
from PIL import Image

from configs import onet_image, onet_unconditional, onet_voxels
from onet_jax import models
from onet_jax.geometry.mise import dense_grid
from onet_jax.geometry.voxels import Voxels, write_binvox
from onet_jax.inference.out_of_distribution import Domain
from onet_jax.inference.inputs import READERS, bind_input, cloud_input, draw_points
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.models import occupancy, occupancy_network
from onet_jax.models.method import Method
from onet_jax.networks.bound_decoder import BoundDecoder
from onet_jax.training.checkpoints import load_run


def hull_method(seen=None):
    """A method whose reconstruction is the convex hull of its input."""

    def reconstruct(params, inputs, key):
        if seen is not None:
            seen.append(np.asarray(inputs))
        return [trimesh.PointCloud(cloud).convex_hull for cloud in inputs]

    return Method(None, None, None, reconstruct)


@pytest.fixture
def cloud():
    """The corners and random points of a box of 3 x 2 x 1 metres, far from the origin."""
    corners = np.array(np.meshgrid((0, 3), (0, 2), (0, 1))).reshape(3, -1).T
    inside = np.random.default_rng(0).uniform((0, 0, 0), (3, 2, 1), (22, 3))
    return np.concatenate([corners, inside]) + np.array([1000.0, -20.0, 5.0])


def test_the_network_sees_object_coordinates_and_the_user_gets_the_own_frame(cloud, tmp_path):
    np.save(tmp_path / 'cloud.npy', cloud)
    seen, config = [], small_config()
    (path,) = reconstruct_files(hull_method(seen), {}, config, tmp_path / 'cloud.npy', tmp_path / 'out', 'ply')
    assert seen[0].shape == (1, config.data.num_input_points, 3)
    np.testing.assert_allclose(
        [seen[0][0].min(0), seen[0][0].max(0)], [[-0.5, -1 / 3, -1 / 6], [0.5, 1 / 3, 1 / 6]], atol=1e-5
    )
    np.testing.assert_allclose(trimesh.load(path).bounds, [[1000, -20, 5], [1003, -18, 6]], atol=1e-3)


def test_points_are_drawn_without_repetition_where_there_are_enough():
    cloud = np.arange(300.0).reshape(100, 3)
    drawn = draw_points(cloud, 60, seed=0)
    assert len(np.unique(drawn, axis=0)) == 60
    np.testing.assert_array_equal(drawn, draw_points(cloud, 60, seed=0))
    assert not np.array_equal(drawn, draw_points(cloud, 60, seed=1))
    assert draw_points(cloud, 250, seed=0).shape == (250, 3)


@pytest.mark.parametrize('file_format', ['ply', 'obj', 'off', 'stl', 'glb'])
def test_a_folder_of_clouds_becomes_a_folder_of_meshes(cloud, tmp_path, file_format):
    inputs = tmp_path / 'in'
    inputs.mkdir()
    np.save(inputs / 'b.npy', cloud)
    np.savetxt(inputs / 'a.xyz', cloud)
    trimesh.PointCloud(cloud).export(inputs / 'c.ply')
    (inputs / 'notes.md').write_text('not a cloud')
    written = reconstruct_files(hull_method(), {}, small_config(), inputs, tmp_path / 'out', file_format)
    assert [p.name for p in written] == [f'{stem}.{file_format}' for stem in 'abc']
    for path in written:
        np.testing.assert_allclose(trimesh.load(path, force='mesh').bounds, [[1000, -20, 5], [1003, -18, 6]], atol=1e-2)
    assert len(list((tmp_path / 'out').iterdir())) == 5, (
        'the meshes, the manifest and the page; no temporary file is left'
    )


def test_an_empty_level_set_is_explained(workdir, cloud, tmp_path):
    run = load_run(workdir)
    np.save(tmp_path / 'cloud.npy', cloud)
    empty = run.method._replace(reconstruct=lambda *_: [trimesh.Trimesh()])
    with pytest.raises(ValueError, match=r'cloud.npy: the network finds nothing inside at threshold') as error:
        reconstruct_files(empty, run.params, run.config, tmp_path / 'cloud.npy', tmp_path / 'out', 'ply')
    logits = dense_grid(bind_input(run.params, run.config, cloud_input(cloud, run.config)[0]), num_points=9)
    probs = 1 / (1 + np.exp(-logits))
    assert run.config.mesh.resolution == 8
    assert f'{probs.min():.3g} to {probs.max():.3g}, 50.0% below {np.median(probs):.3g}' in str(error.value)
    assert f'--threshold={np.quantile(probs, 0.99):.3g}' in str(error.value)
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['manifest.json']


def test_one_bad_input_stops_no_other_and_what_is_done_is_not_done_again(cloud, tmp_path):
    config, seen, inputs, output = small_config(), [], tmp_path / 'in', tmp_path / 'out'
    inputs.mkdir()
    for name in 'acd':
        np.save(inputs / f'{name}.npy', cloud)
    (inputs / 'b.npy').write_bytes(b'no array')
    with pytest.raises(
        ValueError, match=r'b.npy: expected a readable .npy file.* \(1 of 4 inputs failed, see .*manifest.json'
    ):
        reconstruct_files(hull_method(seen), {}, config, inputs, output, 'ply')
    items = json.loads((output / 'manifest.json').read_text())['items']
    assert {name: item['status'] for name, item in items.items()} == dict(a='done', b='failed', c='done', d='done')
    assert 'expected a readable' in items['b']['reason']
    assert items['c']['faces'] == len(trimesh.load(output / 'c.ply').faces)
    assert sum(map(len, seen)) == 3

    np.save(inputs / 'b.npy', cloud[:20])
    (output / 'c.ply').unlink()
    seen.clear()
    assert len(reconstruct_files(hull_method(seen), {}, config, inputs, output, 'ply')) == 4
    assert sum(map(len, seen)) == 2, 'the repaired and the lost one'
    seen.clear()
    reconstruct_files(hull_method(seen), {}, config, inputs, output, 'ply')
    assert not seen
    reconstruct_files(hull_method(seen), {'weight': np.ones(1)}, config, inputs, output, 'ply')
    assert sum(map(len, seen)) == 4, 'other weights make other meshes'
    (output / 'manifest.json').write_text('[]')
    with pytest.raises(
        ValueError, match=r'manifest.json: expected the manifest of a reconstruction, found another file'
    ):
        reconstruct_files(hull_method(), {}, config, inputs, output, 'ply')


def test_nothing_of_another_run_passes_for_a_result(cloud, tmp_path):
    """Killed in the middle, other settings have replaced a mesh that the first ones made; then a failure."""
    config, output = small_config(), tmp_path / 'out'
    for name in 'ab':
        np.save(tmp_path / f'{name}.npy', cloud)
    arguments = config, tmp_path, output, 'ply'
    reconstruct_files(hull_method(), {}, *arguments)
    before = (output / 'a.ply').read_bytes()

    def kill(params, inputs, key):
        (output / 'a.ply').write_bytes(b'half of it')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct_files(Method(None, None, None, kill), {'weight': np.ones(1)}, *arguments)
    seen = []
    reconstruct_files(hull_method(seen), {}, *arguments)
    assert sum(map(len, seen)) == 2
    assert (output / 'a.ply').read_bytes() == before

    for name in 'ab':
        (tmp_path / f'{name}.npy').write_bytes(b'damaged')
    with pytest.raises(ValueError, match=r'a.npy: expected a readable'):
        reconstruct_files(hull_method(), {}, *arguments)
    assert [path.name for path in output.iterdir()] == ['manifest.json']


def test_a_field_that_is_not_finite_stops_no_other_of_its_batch(cloud, tmp_path):
    for name, size in (('a', 1), ('b', 2), ('c', 3)):
        np.save(tmp_path / f'{name}.npy', cloud[: 10 * size])

    def reconstruct(params, inputs, key):
        if any(10 < len(np.unique(values, axis=0)) <= 20 for values in inputs):
            raise ValueError('field: expected finite values')
        return hull_method().reconstruct(params, inputs, key)

    config = small_config()
    with config.unlocked():
        config.eval.batch_size = 3
    with pytest.raises(ValueError, match=r'b.npy: field: expected finite values \(1 of 3 inputs failed'):
        reconstruct_files(Method(None, None, None, reconstruct), {}, config, tmp_path, tmp_path / 'out', 'off')
    assert sorted(path.name for path in (tmp_path / 'out').glob('*.off')) == ['a.off', 'c.off']


def test_fifty_shapes_are_meshed_by_one_compilation_of_each_function(workdir, cloud, tmp_path):
    run, inputs = load_run(workdir), tmp_path / 'in'
    inputs.mkdir()
    rng = np.random.default_rng(0)
    for i in range(50):
        np.save(inputs / f'{i:02d}.npy', cloud * rng.uniform(0.5, 2, 3))
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.batch_size, config.eval.threshold = 5, 0.02
    method = models.build(config)
    functions = occupancy._encode, occupancy._bind, BoundDecoder.__call__
    before = [function._cache_size() for function in functions]
    reconstruct_files(method, run.params, config, inputs, tmp_path / 'out', 'off')
    after = [function._cache_size() for function in functions]
    assert all(n - m <= 1 for n, m in zip(after, before, strict=True)), 'earlier tests may have compiled them already'


def test_no_input_is_overwritten_and_no_mesh_by_another(cloud, tmp_path):
    np.save(tmp_path / 'a.npy', cloud)
    trimesh.PointCloud(cloud).export(tmp_path / 'a.ply')
    before = (tmp_path / 'a.ply').read_bytes()
    with pytest.raises(
        ValueError, match=r'a.ply: expected a new file, found the input .*a.ply; choose another --output'
    ):
        reconstruct_files(hull_method(), {}, small_config(), tmp_path, tmp_path, 'ply')
    with pytest.raises(ValueError, match=r'expected one input of this name, found .*a.npy and .*a.ply; rename one'):
        reconstruct_files(hull_method(), {}, small_config(), tmp_path, tmp_path / 'out', 'ply')
    assert (tmp_path / 'a.ply').read_bytes() == before
    assert not (tmp_path / 'out').exists()


def test_voxels_are_reconstructed(tmp_path):
    values = np.zeros((32, 32, 32), bool)
    values[4:8, 10:20, 12:28] = True
    write_binvox(tmp_path / 'box.binvox', Voxels(values, np.zeros(3), 1.0))
    seen, config = [], onet_voxels.get_config('tiny')
    method = Method(None, None, None, lambda params, inputs, key: [seen.append(inputs) or trimesh.creation.box()])
    (path,) = reconstruct_files(method, {}, config, tmp_path / 'box.binvox', tmp_path / 'out', 'off')
    np.testing.assert_array_equal(seen[0][0], values)
    assert len(trimesh.load(path).faces) == 12
    write_binvox(tmp_path / 'fine.binvox', Voxels(np.ones((16, 16, 16), bool), np.zeros(3), 1.0))
    with pytest.raises(ValueError, match=r'fine.binvox: expected 32 x 32 x 32 voxels, found 16 x 16 x 16'):
        reconstruct_files(method, {}, config, tmp_path / 'fine.binvox', tmp_path / 'out', 'off')


def test_photos_with_categories_become_folders_of_meshes(tmp_path):
    for name in ('chair_final/a.JPG', 'sofa_final/a.JPG'):
        path = tmp_path / name
        path.parent.mkdir()
        Image.new('RGB', (40, 20), 'red').save(path)
        path.parent.with_suffix('.txt').write_text('a.JPG\n')
    seen, config = [], onet_image.get_config('tiny')
    method = Method(
        None, None, None, lambda params, inputs, key: [seen.append(image) or trimesh.creation.box() for image in inputs]
    )
    written = reconstruct_files(method, {}, config, tmp_path, tmp_path / 'out', 'off')
    assert written == [tmp_path / 'out/chair/a.off', tmp_path / 'out/sofa/a.off']
    assert all(path.is_file() for path in written)
    assert [image.shape for image in seen] == [(64, 64, 3)] * 2
    items = json.loads((tmp_path / 'out/manifest.json').read_text())['items']
    assert [item['mesh'] for item in items.values()] == ['chair/a.off', 'sofa/a.off']
    page = (tmp_path / 'out/index.html').read_text()
    assert page.count('alt="chair/a: photo" src="data:image/jpeg') == 1
    assert 'data-shape="1"' in page


def test_the_page_says_which_inputs_are_outside_the_training_domain(workdir, cloud, tmp_path):
    run = load_run(workdir)
    inputs = tmp_path / 'in'
    inputs.mkdir()
    np.save(inputs / 'box.npy', cloud)
    np.save(inputs / 'rod.npy', cloud * (1, 0.1, 0.1))
    model = occupancy_network(run.config.model)
    codes = [
        model.encode(run.params, cloud_input(np.load(inputs / f'{n}.npy'), run.config)[0][None])[0]
        for n in ('box', 'rod')
    ]
    codes = np.stack(codes) / np.linalg.norm(codes, axis=1, keepdims=True)
    domain = Domain(codes[:1], float(np.linalg.norm(codes[0] - codes[1])) / 2)
    arguments = run.method._replace(reconstruct=hull_method().reconstruct), run.params, run.config, inputs
    reconstruct_files(*arguments, tmp_path / 'out', 'ply', lambda: domain)
    page = (tmp_path / 'out/index.html').read_text()
    assert '<h3>box<span>within the training domain (0.00 times the limit)</span>' in page
    assert '<h3>rod<span>OUTSIDE the training domain (2.00 times the limit)' in page
    assert '1 of 2 inputs are outside the training domain' in page
    reconstruct_files(*arguments, tmp_path / 'unknown', 'ply')
    page = (tmp_path / 'unknown/index.html').read_text()
    assert 'was not measured' in page
    assert 'OUTSIDE' not in page


def test_bad_requests_are_named(tmp_path):
    config = small_config()
    with pytest.raises(FileNotFoundError, match=r'expected a file or a folder with .*ply.* files, found none'):
        READERS['points'].find(tmp_path)
    with pytest.raises(ValueError, match=r"--format: expected one of .*'ply'.*found 'usd'"):
        reconstruct_files(hull_method(), {}, config, tmp_path, tmp_path / 'out', 'usd')
    with pytest.raises(ValueError, match=r'sampled by `python -m launch.sample`'):
        reconstruct_files(hull_method(), {}, onet_unconditional.get_config('tiny'), tmp_path, tmp_path / 'out', 'off')
