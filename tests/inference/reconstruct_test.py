import json
import os
import warnings

import jax
import numpy as np
import pytest
import trimesh
from model_configs import small_config
from PIL import Image
from predictions import hull_method, one_by_one, predicting

from onet_jax import models
from onet_jax.configs import onet_image, onet_unconditional, onet_voxels
from onet_jax.data.fields import find_sources, read_inputs
from onet_jax.errors import InputError
from onet_jax.geometry.mise import dense_grid
from onet_jax.geometry.voxels import Voxels, write_binvox
from onet_jax.inference import reconstruct
from onet_jax.inference.reconstruct import bind_input, reconstruct_files
from onet_jax.models import occupancy
from onet_jax.models.method import Method
from onet_jax.networks.bound_decoder import BoundDecoder
from onet_jax.run import load_run

pytestmark = pytest.mark.usefixtures('small_pictures')


def test_the_network_sees_object_coordinates_and_the_user_gets_the_own_frame(cloud, tmp_path):
    np.save(tmp_path / 'cloud.npy', cloud)
    seen, config = [], small_config()
    (path,) = reconstruct_files(hull_method(seen), {}, config, tmp_path / 'cloud.npy', tmp_path / 'out', 'ply')
    assert seen[0].shape == (1, config.data.num_input_points, 3)
    np.testing.assert_allclose(
        [seen[0][0].min(0), seen[0][0].max(0)], [[-0.5, -1 / 3, -1 / 6], [0.5, 1 / 3, 1 / 6]], atol=1e-5
    )
    np.testing.assert_allclose(trimesh.load(path).bounds, [[1000, -20, 5], [1003, -18, 6]], atol=1e-3)


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


def test_predictions_of_any_kind_are_written_in_the_own_frame(cloud, tmp_path):
    """Points, and voxels of which half the cube is occupied: a box of 1.5 x 3 x 3 metres around the centre of the cloud."""
    np.save(tmp_path / 'cloud.npy', cloud)
    points = predicting(lambda inputs: [trimesh.PointCloud(cloud) for cloud in inputs['cloud']])
    half = np.zeros((4, 4, 4), bool)
    half[:2] = True
    voxels = predicting(lambda inputs: [Voxels(half, np.zeros(3), 1.0)])
    arguments = {}, small_config(), tmp_path / 'cloud.npy'
    (path,) = reconstruct_files(points, *arguments, tmp_path / 'points', 'ply')
    assert isinstance(trimesh.load(path), trimesh.PointCloud)
    np.testing.assert_allclose(trimesh.load(path).bounds, [[1000, -20, 5], [1003, -18, 6]], atol=1e-3)
    items = json.loads((tmp_path / 'points/manifest.json').read_text())['items']
    assert (items['cloud']['vertices'], items['cloud']['faces']) == (30, 0)
    assert (tmp_path / 'points/index.html').exists()
    (path,) = reconstruct_files(voxels, *arguments, tmp_path / 'voxels', 'stl')
    np.testing.assert_allclose(trimesh.load(path).bounds, [[1000, -20.5, 4], [1001.5, -17.5, 7]], atol=1e-3)
    with pytest.raises(ValueError, match=r'cloud.stl: expected a format that holds a PointCloud, .*found .stl'):
        reconstruct_files(points, *arguments, tmp_path / 'no', 'stl')


def test_an_empty_level_set_is_explained(workdir, cloud, tmp_path):
    run = load_run(workdir)
    np.save(tmp_path / 'cloud.npy', cloud)
    (source,) = find_sources(run.config.data, tmp_path / 'cloud.npy')
    empty = run.method._replace(predict=lambda *_: [trimesh.Trimesh()])
    with pytest.raises(ValueError, match=r'cloud.npy: the network finds nothing inside at threshold') as error:
        reconstruct_files(empty, run.params, run.config, source.path, tmp_path / 'out', 'ply')
    inputs, _ = read_inputs(run.config.data, source, run.config.seed)
    logits = dense_grid(bind_input(run.method.model, run.params, run.config, inputs), num_points=9)
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
        ValueError, match=r'b.npy: expected the header of an array.* \(1 of 4 inputs failed, see .*manifest.json'
    ):
        reconstruct_files(hull_method(seen), {}, config, inputs, output, 'ply')
    items = json.loads((output / 'manifest.json').read_text())['items']
    assert {name: item['status'] for name, item in items.items()} == dict(a='done', b='failed', c='done', d='done')
    assert 'expected the header of an array' in items['b']['reason']
    assert items['c']['faces'] == len(trimesh.load(output / 'c.ply').faces)
    assert sum(map(len, seen)) == 3

    np.save(inputs / 'b.npy', cloud[:20])
    (output / 'c.ply').unlink()
    whole = (output / 'd.ply').read_bytes()
    (output / 'd.ply').write_bytes(whole[:99])
    seen.clear()
    assert len(reconstruct_files(hull_method(seen), {}, config, inputs, output, 'ply')) == 4
    assert sum(map(len, seen)) == 3, 'the repaired, the lost and the cut one'
    assert (output / 'd.ply').read_bytes() == whole
    seen.clear()
    reconstruct_files(hull_method(seen), {}, config, inputs, output, 'ply')
    assert not seen
    reconstruct_files(hull_method(seen), {'weight': np.ones(1)}, config, inputs, output, 'ply')
    assert sum(map(len, seen)) == 4, 'other weights make other meshes'
    (output / 'manifest.json').write_text('[]')
    with pytest.raises(
        InputError, match=r'manifest.json: expected an object, found \[\]; it is not of a reconstruction'
    ):
        reconstruct_files(hull_method(), {}, config, inputs, output, 'ply')


def test_the_meshes_do_not_depend_on_the_number_of_devices(cloud, tmp_path, monkeypatch, capsys):
    """Nor what is warned of: each warning goes with the batch whose thread raises it."""
    config, inputs, used = small_config(), tmp_path / 'in', []
    with config.unlocked():
        config.eval.batch_size = 2
    inputs.mkdir()
    for i in range(7):
        np.save(inputs / f'{i}.npy', cloud * (1, 1, 1 + i / 7))

    def predict(params, inputs, key, workspace=None):
        used.append(params['scale'].devices())
        if inputs['cloud'].shape[0] == 1:
            warnings.warn('the last one', stacklevel=1)
        return [trimesh.PointCloud(np.asarray(cloud * params['scale'])).convex_hull for cloud in inputs['cloud']]

    meshes, devices = [], jax.local_devices()
    for few in (devices[:1], devices):
        monkeypatch.setattr(jax, 'local_devices', lambda few=few: few)
        paths = reconstruct_files(
            Method(None, None, None, predict, None),
            {'scale': jax.numpy.float32(0.9)},
            config,
            inputs,
            tmp_path / str(len(few)),
            'ply',
        )
        meshes.append([path.read_bytes() for path in paths])
    assert capsys.readouterr().out.count('6.npy: warning: the last one') == 2
    assert len(set(meshes[0])) == 7
    assert meshes[0] == meshes[1]
    assert set(map(frozenset, used[:4])) == {frozenset(devices[:1])}
    assert set(map(frozenset, used[4:])) == {frozenset({device}) for device in devices}


def test_nothing_of_another_run_passes_for_a_result(cloud, tmp_path):
    """Killed in the middle, other settings have replaced a mesh that the first ones made; then a failure."""
    config, output = small_config(), tmp_path / 'out'
    for name in 'ab':
        np.save(tmp_path / f'{name}.npy', cloud)
    arguments = config, tmp_path, output, 'ply'
    reconstruct_files(hull_method(), {}, *arguments)
    before = (output / 'a.ply').read_bytes()

    def kill(inputs):
        (output / 'a.ply').write_bytes(b'half of it')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct_files(predicting(kill), {'weight': np.ones(1)}, *arguments)
    seen = []
    reconstruct_files(hull_method(seen), {}, *arguments)
    assert sum(map(len, seen)) == 2
    assert (output / 'a.ply').read_bytes() == before

    for name in 'ab':
        (tmp_path / f'{name}.npy').write_bytes(b'damaged')
    with pytest.raises(ValueError, match=r'a.npy: expected the header of an array'):
        reconstruct_files(hull_method(), {}, *arguments)
    assert [path.name for path in output.iterdir()] == ['manifest.json']


def test_a_field_that_is_not_finite_stops_no_other_of_its_batch(cloud, tmp_path, capsys):
    for name, size in (('a', 1), ('b', 2), ('c', 3)):
        np.save(tmp_path / f'{name}.npy', cloud[: 10 * size])
    config = small_config()
    with config.unlocked():
        config.eval.batch_size = 3

    def failing(error):
        def predict(inputs):
            if any(10 < len(np.unique(values, axis=0)) <= 20 for values in inputs['cloud']):
                raise error
            return [trimesh.PointCloud(cloud).convex_hull for cloud in inputs['cloud']]

        return predicting(predict), {}, config, tmp_path, tmp_path / 'out', 'off'

    with pytest.raises(ValueError, match=r'b.npy: field: expected finite values \(1 of 3 inputs failed'):
        reconstruct_files(*failing(InputError('field: expected finite values')))
    assert sorted(path.name for path in (tmp_path / 'out').glob('*.off')) == ['a.off', 'c.off']
    capsys.readouterr()
    with pytest.raises(InputError, match=r'b.npy: IndexError: shapes do not fit \(1 of 3'):  # a defect of the program
        reconstruct_files(*failing(IndexError('shapes do not fit')))
    assert capsys.readouterr().err.count('Traceback') == 1


def test_what_is_reconstructed_alone_has_a_folder_for_what_it_has_done(cloud, tmp_path):
    """It is gone with the result; of an interrupted one, and of one that failed, it stays."""
    np.save(tmp_path / 'cloud.npy', cloud)
    config, errors, found = small_config(), [KeyboardInterrupt(), InputError('not finite')], []
    with config.unlocked():
        config.eval.batch_size = 1

    def predict(params, inputs, key, workspace):
        workspace.mkdir(exist_ok=True)
        found.append([path.name for path in workspace.iterdir()])
        (workspace / f'part_{len(found)}').touch()
        if errors:
            raise errors.pop(0)
        return [trimesh.creation.box()]

    arguments = Method(None, None, None, predict, None), {}, config, tmp_path / 'cloud.npy', tmp_path / 'out', 'ply'
    with pytest.raises(KeyboardInterrupt):
        reconstruct_files(*arguments)
    with pytest.raises(InputError, match=r'cloud.npy: not finite'):
        reconstruct_files(*arguments)
    reconstruct_files(*arguments)
    assert [sorted(names) for names in found] == [[], ['part_1'], ['part_1', 'part_2']]
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['cloud.ply', 'index.html', 'manifest.json']


def test_many_shapes_are_meshed_by_one_compilation_of_each_function(workdir, cloud, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])  # each compiles its own
    run, inputs = load_run(workdir), tmp_path / 'in'
    inputs.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        np.save(inputs / f'{i:02d}.npy', cloud * rng.uniform(0.5, 2, 3))
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.eval.batch_size, config.eval.threshold = 4, 0.02
    method = models.build(config)
    encode = models.method._jit(models.method._encode)
    functions = encode, occupancy._bind_shape, BoundDecoder.__call__
    before = [function._cache_size() for function in functions]
    reconstruct_files(method, run.params, config, inputs, tmp_path / 'out', 'off')
    after = [function._cache_size() for function in functions]
    assert all(n - m <= 1 for n, m in zip(after, before, strict=True)), 'earlier tests may have compiled them already'


def test_no_file_of_the_user_is_overwritten_and_no_mesh_by_another(cloud, tmp_path, monkeypatch):
    """Under whatever name: that of an input, a link to it, or of another scan beside it. Nothing is written."""
    scans, out = tmp_path / 'scans', tmp_path / 'out'
    scans.mkdir()
    trimesh.PointCloud(cloud).export(scans / 'a.ply')
    np.save(scans / 'b.npy', cloud)
    before = {path.name: path.read_bytes() for path in scans.iterdir()}

    def refuses(inputs, output, message):
        with pytest.raises(InputError, match=message):
            reconstruct_files(predicting(None), {}, one_by_one(), inputs, output, 'ply')
        assert {path.name: path.read_bytes() for path in scans.iterdir()} == before

    refuses(scans, scans, r'a.ply: expected a new file, found the input .*a.ply; choose another --output')
    refuses(scans / 'a.ply', scans / '../scans', r'a.ply: expected a new file, found the input')
    for name, link in (('hard', 'hardlink_to'), ('soft', 'symlink_to')):
        (tmp_path / name).mkdir()
        getattr(tmp_path / name / 'a.ply', link)(scans / 'a.ply')
        refuses(scans / 'a.ply', tmp_path / name, r'a.ply: expected a new file, found the input')
    (tmp_path / 'mine').mkdir()
    for mine in ('mine/b.ply', 'mine/b.unfinished', 'mine/index.html'):
        (tmp_path / mine).write_text('of the user')
        refuses(scans, tmp_path / 'mine', rf'{mine}: expected a new file, found one that no reconstruction has written')
        (tmp_path / mine).unlink()
    mine = tmp_path / 'mine' / 'b.stl.offset.json'
    mine.write_text('of the user')
    with pytest.raises(InputError, match=r'b.stl.offset.json: expected a new file, found one that no reconstruction'):
        reconstruct_files(predicting(None), {}, one_by_one(), scans / 'b.npy', tmp_path / 'mine', 'stl')
    mine.unlink()
    np.save(scans / 'a.npy', cloud)
    before['a.npy'] = (scans / 'a.npy').read_bytes()
    refuses(scans, out, r'expected one input of this name, found .*a.npy and .*a.ply; rename one')
    (scans / 'a.npy').rename(scans / 'B.npy')
    before['B.npy'] = before.pop('a.npy')
    monkeypatch.setattr(reconstruct, 'ignores_case', lambda path: path.exists())
    refuses(scans, out, r'expected one input of this name, found .*B.npy and .*b.npy; rename one')
    assert not out.exists()
    assert [path.name for path in (tmp_path / 'mine').iterdir()] == []


def test_beside_its_inputs_a_run_knows_its_own_meshes(cloud, tmp_path):
    np.save(tmp_path / 'a.npy', cloud)
    seen, arguments = [], ({}, small_config(), tmp_path, tmp_path, 'ply')
    for count in (1, 1):
        assert reconstruct_files(hull_method(seen), *arguments) == [tmp_path / 'a.ply']
        assert len(seen) == count
    np.save(tmp_path / 'b.npy', cloud)
    assert reconstruct_files(hull_method(seen), *arguments) == [tmp_path / 'a.ply', tmp_path / 'b.ply']
    assert len(seen) == 2


@pytest.mark.parametrize('batch_size', [1, 8])
def test_whatever_is_in_a_folder_stops_no_other(cloud, tmp_path, capsys, batch_size):
    inputs, output, config = tmp_path / 'in', tmp_path / 'out', small_config()
    with config.unlocked():
        config.eval.batch_size = batch_size
    inputs.mkdir()
    good = ['n' * 245, 'b', 'c\udcff']  # the last is not UTF-8
    for name in good:
        np.savetxt(inputs / f'{name}.xyz', cloud)
    (inputs / 'broken.npy').symlink_to('nowhere')
    os.mkfifo(inputs / 'pipe.xyz')
    (inputs / 'folder.ply').mkdir()  # is no input
    with pytest.raises(InputError, match=r'broken.npy: expected a file, found a broken link \(2 of 5 inputs failed'):
        reconstruct_files(hull_method(), {}, config, inputs, output, 'ply')
    items = json.loads((output / 'manifest.json').read_text())['items']
    assert {name for name, item in items.items() if item['status'] == 'done'} == set(good)
    assert all((output / f'{name}.ply').is_file() for name in good)
    assert items['pipe']['reason'] == f'{inputs}/pipe.xyz: expected a file, found a pipe or the like'
    assert 'c\\udcff.ply: 8 vertices' in capsys.readouterr().out
    assert len(list(output.iterdir())) == 5


def test_voxels_are_reconstructed(tmp_path):
    values = np.zeros((32, 32, 32), bool)
    values[4:8, 10:20, 12:28] = True
    write_binvox(tmp_path / 'box.binvox', Voxels(values, np.zeros(3), 1.0))
    seen, config = [], onet_voxels('tiny')
    method = predicting(lambda inputs: [seen.append(inputs['voxels']) or trimesh.creation.box()])
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
    seen, config = [], onet_image('tiny')
    method = predicting(lambda inputs: [seen.append(image) or trimesh.creation.box() for image in inputs['image']])
    written = reconstruct_files(method, {}, config, tmp_path, tmp_path / 'out', 'off')
    assert written == [tmp_path / 'out/chair/a.off', tmp_path / 'out/sofa/a.off']
    assert all(path.is_file() for path in written)
    assert [image.shape for image in seen] == [(64, 64, 3)] * 2
    items = json.loads((tmp_path / 'out/manifest.json').read_text())['items']
    assert [item['mesh'] for item in items.values()] == ['chair/a.off', 'sofa/a.off']
    page = (tmp_path / 'out/index.html').read_text()
    assert page.count('alt="chair/a: input" src="data:image/jpeg') == 1
    assert 'data-shape="0"' in page
    assert 'The first 1 of 2 are shown.' in page


def test_bad_requests_are_named(tmp_path):
    config = small_config()
    arguments = {}, config, tmp_path, tmp_path / 'out'
    with pytest.raises(FileNotFoundError, match=r'expected a file or a folder with .*ply.* files, found none'):
        reconstruct_files(hull_method(), *arguments, 'ply')
    with pytest.raises(ValueError, match=r"expected one of the formats ply.* to write meshes in, found 'usd'"):
        reconstruct_files(hull_method(), *arguments, 'usd')
    with pytest.raises(ValueError, match=r'sampled by `onet sample`'):
        reconstruct_files(hull_method(), {}, onet_unconditional('tiny'), tmp_path, tmp_path / 'out', 'off')
    assert not (tmp_path / 'out').exists()
