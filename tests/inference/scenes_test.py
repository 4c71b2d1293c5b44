"""The sliding-window network on scenes of any size, from its training to files in the user's frame."""

import json
from functools import partial

import jax
import numpy as np
import pytest
import trimesh
from entry_points import launch
from untrained import untrained

from onet_jax.configs import conv_onet_crops
from onet_jax.data import fields
from onet_jax.data.datasets import open_dataset
from onet_jax.data.sources import Source
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.geometry.meshes import load_mesh
from onet_jax.geometry.sliding_window import Layout, claim
from onet_jax.inference.reconstruct import reconstruct_files
from onet_jax.inference.refine import refine_file
from onet_jax.models import build, conv_onet
from onet_jax.prepare.embedded import prepare_procedural
from onet_jax.prepare.runners import in_this_process
from onet_jax.run import load_run
from onet_jax.training.loop import train

LAYOUT = Layout(12, 5)  # of windows of the network below


def small():
    config = conv_onet_crops('tiny')
    with config.unlocked():
        config.model.update(cond_size=4, encoder_hidden_size=6, decoder_hidden_size=6)
        config.model.update(unet3d_size=8, unet3d_levels=1, unit_size=0.1, query_cells=5, num_queries=64)
        # So few points that all windows are padded to as many of them: one program.
        config.data.update(cell_size=0.1, num_input_points=1000, num_points_per_step=4096)
    return config


@pytest.fixture(scope='module')
def network():
    """What reconstructs, but for the files: method, weights and config."""
    config = small()
    with config.unlocked():
        config.eval.threshold, config.data.scan_cell = 0.5, 10.0
    _, params = untrained(config)
    return build(config), params, config


@pytest.fixture(scope='module')
def scan(tmp_path_factory):
    """A file of two sheets of points that several windows see, in centimetres."""
    cloud = np.random.default_rng(0).uniform((3, 3, 3), (15, 3.5, 9), (1000, 3))
    cloud[::3, 1] += 4
    path = tmp_path_factory.mktemp('scans') / 'scan.npy'
    np.save(path, 10 * cloud + 1000)
    return path


@pytest.fixture(scope='module')
def whole(network, scan, tmp_path_factory):
    """Its mesh, as a file."""
    (path,) = reconstruct_files(*network, scan, tmp_path_factory.mktemp('whole'), 'ply')
    return path


@pytest.mark.slow
def test_a_scan_is_one_closed_mesh_in_its_own_frame(whole, scan):
    mesh, cloud, folder = trimesh.load(whole), np.load(scan), whole.parent
    assert len(mesh.faces) > 100
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert (mesh.bounds[0] > cloud.min(axis=0) - 100).all()
    assert (mesh.bounds[1] < cloud.max(axis=0) + 100).all()
    assert sorted(path.name for path in folder.iterdir()) == ['index.html', 'manifest.json', 'scan.ply']
    assert json.loads((folder / 'manifest.json').read_text())['items']['scan']['faces'] == len(mesh.faces)


@pytest.mark.slow
@pytest.mark.parametrize(
    'change',
    [
        lambda cloud: np.concatenate([cloud, [[-1e6, -2e6, -3e6]]]),
        lambda cloud: np.concatenate([cloud, [[1e6, 2e6, 3e6]]]),
        lambda cloud: np.tile(cloud, (2, 1)),
    ],
    ids=['stray_low', 'stray_high', 'repeated'],
)
def test_stray_and_repeated_points_change_nothing(network, whole, scan, tmp_path, change):
    np.save(tmp_path / 'scan.npy', change(np.load(scan)))
    (path,) = reconstruct_files(*network, tmp_path / 'scan.npy', tmp_path / 'out', 'ply')
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_scan_far_from_the_origin_has_the_same_mesh(network, whole, scan, tmp_path):
    """A georeferenced one, in centimetres; cells are 10 of them."""
    offset = np.array([5e7, 4.6e8, 1e4])
    np.save(tmp_path / 'scan.npy', np.load(scan) + offset)
    (path,) = reconstruct_files(*network, tmp_path / 'scan.npy', tmp_path / 'out', 'glb')
    found, expected = load_mesh(path), load_mesh(whole)
    np.testing.assert_array_equal(found.faces, expected.faces)
    np.testing.assert_allclose(found.vertices - offset, expected.vertices, rtol=0, atol=1e-3 * 10)


def test_a_scan_that_is_too_long_is_refused(network, scan, tmp_path):
    np.save(tmp_path / 'scan.npy', np.concatenate([np.load(scan), [[1e9, 1e9, 1e9]]]))
    with pytest.raises(
        ValueError,
        match=r'at most 1.5e\+18 values, found one of 8e\+24, 1e\+08 cells long',
    ):
        reconstruct_files(*at(network, 'data', keep_outliers=True), tmp_path / 'scan.npy', tmp_path / 'out', 'ply')


@pytest.fixture
def asked(monkeypatch):
    """The number of windows that the network was asked for, and at which of them it is interrupted."""
    infer = conv_onet._infer_window

    def counting(*arguments):
        counting.windows += 1
        if counting.windows == counting.stop:
            raise KeyboardInterrupt
        return infer(*arguments)

    counting.windows, counting.stop = 0, None
    monkeypatch.setattr(conv_onet, '_infer_window', counting)
    return counting


def at(network, group, **values):
    """The network with other values in a group of its config."""
    _, params, config = network
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config[group].update(values)
    return build(config), params, config


@pytest.mark.slow
def test_an_interrupted_scan_goes_on(network, whole, scan, tmp_path, asked):
    def interrupt(network):
        asked.windows, asked.stop = 0, 3
        with pytest.raises(KeyboardInterrupt):
            reconstruct_files(*network, scan, tmp_path, 'ply')
        return len(list((tmp_path / 'scan.unfinished').glob('window_*')))

    assert interrupt(network) == 2
    assert interrupt(network) == 4
    assert interrupt(at(network, 'data', scan_cell=11.0)) == 2, 'another cell is another scene'
    assert interrupt(network) == 2
    asked.windows, asked.stop = 0, None
    (again,) = reconstruct_files(*network, scan, tmp_path, 'ply')
    assert again.read_bytes() == whole.read_bytes()
    num_windows = asked.windows
    assert num_windows > 10
    reconstruct_files(*network, scan, tmp_path, 'ply')
    assert asked.windows == num_windows, 'the mesh is there'


@pytest.mark.slow
def test_where_nothing_is_inside_another_threshold_needs_no_new_windows(network, whole, scan, tmp_path, asked):
    with pytest.raises(ValueError, match=r'scan.npy: the network finds nothing inside.*--threshold, or --cell'):
        reconstruct_files(*at(network, 'eval', threshold=1 - 1e-9), scan, tmp_path / 'out', 'ply')
    num_windows = asked.windows
    (path,) = reconstruct_files(*network, scan, tmp_path / 'out', 'ply')
    assert asked.windows == num_windows
    assert path.read_bytes() == whole.read_bytes()


def test_what_is_not_of_a_scene_is_left_alone(network, scan, tmp_path):
    (tmp_path / 'mine.txt').write_text('x')
    with pytest.raises(ValueError, match=r'expected an empty folder, or the windows of a scene'):
        claim(tmp_path, {})
    assert (tmp_path / 'mine.txt').read_text() == 'x'


@pytest.mark.slow
def test_a_scan_is_never_overwritten_and_a_bad_one_stops_no_other(network, scan, whole, tmp_path, asked):
    """By the path of all reconstructions, one by one."""
    scans = tmp_path / 'scans'
    scans.mkdir()
    trimesh.PointCloud(np.load(scan)).export(scans / 'room.ply')
    before = (scans / 'room.ply').read_bytes()
    for inputs in (scans, scans / 'room.ply'):
        with pytest.raises(ValueError, match=r'scans/room.ply: expected a new file, found the input .*scans/room.ply'):
            reconstruct_files(*network, inputs, scans, 'ply')
    (scans / 'a_broken.ply').write_bytes(before[: len(before) // 3])
    (scans / 'room.ply').unlink()
    (scans / 'b_room.npy').write_bytes(scan.read_bytes())
    np.savetxt(scans / 'b_room.xyz', np.load(scan))
    with pytest.raises(ValueError, match=r'expected one input of this name, found .*b_room.npy and .*b_room.xyz'):
        reconstruct_files(*network, scans, tmp_path / 'out', 'ply')
    assert not asked.windows
    assert not (tmp_path / 'out').exists()
    (scans / 'b_room.xyz').unlink()
    with pytest.raises(ValueError, match=r'a_broken.ply: .* \(1 of 2 inputs failed'):
        reconstruct_files(*network, scans, tmp_path / 'out', 'ply')
    assert (tmp_path / 'out/b_room.ply').read_bytes() == whole.read_bytes()


def test_a_scan_has_no_field_to_refine_by(network, whole, scan, tmp_path):
    method, params, config = network
    with pytest.raises(
        ValueError, match=r'expected one with a field of a whole object, found OccupancyNetwork of scene'
    ):
        refine_file(method.model, params, config, whole, scan, tmp_path / 'out.ply')


def test_the_cell_follows_the_density(network, tmp_path):
    """A room of the training has its points on 3 squares."""
    rng = np.random.default_rng(0)
    room = 3**0.5 * rng.uniform(0, 100, (network[2].data.num_input_points, 3)) * (1, 0, 1)
    np.save(tmp_path / 'room.npy', room)
    np.save(tmp_path / 'same.npy', np.repeat(room[:3], 100, axis=0))
    data = at(network, 'data', scan_cell=0.0)[2].data
    inputs, frame = fields.read_inputs(data, Source('room', tmp_path / 'room.npy'), 0)
    assert frame.scale * data.cell_size == pytest.approx(100 * data.cell_size, rel=0.1)
    np.testing.assert_allclose(frame.to_user(inputs['scene']), room, atol=1e-6)
    with pytest.raises(ValueError, match=r'same.npy: expected .*--cell'):
        fields.read_inputs(data, Source('same', tmp_path / 'same.npy'), 0)


def test_an_evaluation_goes_window_by_window(monkeypatch):
    """Whatever the values of the windows are, the mesh is closed."""
    asked, rng = [], np.random.default_rng(0)

    def infer(module, layout, params, points):
        assert layout == LAYOUT
        asked.append(points)
        return rng.normal(size=(layout.num_values,) * 3)

    monkeypatch.setattr(conv_onet, '_infer_window', infer)
    cloud = rng.uniform(-0.5, 0.5, (1, 900, 3)).astype(np.float32) * (1, 0.1, 0.5)
    (mesh,) = build(small()).predict({'params': {'a': np.ones(3)}}, {'scene': cloud}, None)
    assert len(asked) > 10
    assert mesh.is_watertight
    assert mesh.is_winding_consistent


def test_a_window_holds_queries_and_the_whole_cloud_around_its_centre():
    rng = np.random.default_rng(0)
    points, cloud = rng.uniform(-0.5, 0.5, (5000, 3)), rng.uniform(-0.4, 0.4, (100, 3))
    occ = np.arange(5000.0)  # their numbers
    draw = jax.jit(partial(conv_onet.draw_window, 0.3, 40))
    centres = []
    for i in range(20):
        drawn, numbers, moved = draw(jax.random.key(i), points, occ, cloud)
        centre = (cloud - moved)[0]
        np.testing.assert_allclose(cloud - moved, np.broadcast_to(centre, cloud.shape), atol=1e-6)
        np.testing.assert_allclose(drawn + centre, points[np.asarray(numbers, int)], atol=1e-6)
        assert np.abs(drawn).max() <= 0.15 + 1e-6
        assert len(np.unique(numbers)) > 20
        centres.append(centre)
    assert (np.ptp(centres, axis=0) > 0.5).all()
    far = draw(jax.random.key(0), points + 5, occ, cloud)
    assert len(np.unique(far[1])) == 1, 'the nearest point, where none is in the window'


@pytest.mark.slow
def test_a_network_of_windows_from_training_to_a_scan(tmp_path):
    rooms = tmp_path / 'rooms'
    settings = {'families': ('rooms_04',), 'num_shapes_per_family': 4, 'num_points': 4200, 'num_views': 0, 'seed': 0}
    settings |= {'val_fraction': 0.25, 'test_fraction': 0.25, 'sampling': 'surface', 'run': in_this_process}
    prepare_procedural(rooms, **settings)
    config = small()
    with config.unlocked():
        config.optim.update(name='adam', schedule='constant', learning_rate=1e-3, warmup_steps=0)
        config.train.update(num_steps=2, batch_size=2, log_every_steps=1)
        config.eval.threshold = 0.3
    train(config, tmp_path / 'run', rooms)
    run = load_run(tmp_path / 'run')
    (result,) = evaluate(run.method, run.params, run.config, open_dataset(rooms), 'test')
    assert result.inputs['scene'].shape == (1000, 3)
    assert result.prediction.is_watertight
    assert 0 < result.scores['iou'] < 1

    # The same room, ten times as large and elsewhere.
    np.save(tmp_path / 'scan.npy', 10 * result.inputs['scene'].astype(np.float64) + 100)
    done = launch(
        'reconstruct',
        f'--workdir={tmp_path}/run',
        f'--input={tmp_path}/scan.npy',
        f'--output={tmp_path}/out',
        '--cell=1',
    )
    assert done.returncode == 0, done.stderr
    mesh = trimesh.load(tmp_path / 'out/scan.ply')
    np.testing.assert_allclose((mesh.bounds - 100) / 10, result.prediction.bounds, atol=0.05)
    assert 'data-shape="1"' in (tmp_path / 'out/index.html').read_text()
    done = launch(
        'reconstruct',
        f'--workdir={tmp_path}/run',
        f'--input={tmp_path}/scan.npy',
        f'--output={tmp_path}/out',
        '--resolution=64',
    )
    assert (done.returncode, done.stderr.count('error: config.mesh.resolution: expected a method that has it')) == (
        1,
        1,
    )
