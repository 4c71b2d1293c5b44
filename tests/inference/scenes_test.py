import jax
import numpy as np
import pytest

from configs import conv_onet, onet_points
from onet_jax import models
from onet_jax.geometry.extract import marching_cubes
from onet_jax.geometry.tiled_marching_cubes import join, march_block
from onet_jax.inference import scenes


def tiny(**model):
    config = conv_onet.get_config('tiny,crops')
    with config.unlocked():
        config.model.update(cond_size=4, encoder_hidden_size=6, decoder_hidden_size=6, unet3d_size=8, query_cells=5)
        config.model.update(model)
    return config


@pytest.fixture(scope='module')
def scene():
    """A config, weights of which none is the initial one, and two sheets of points that several windows see."""
    config = tiny()
    params = models.occupancy_network(config.model).init(jax.random.key(0), models.example_batch(config.model))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = tree.unflatten([x + 0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])
    cloud = np.random.default_rng(0).uniform((3, 3, 3), (15, 3.5, 9), (1500, 3))
    cloud[::3, 1] += 4
    return config, params, cloud


def test_a_scene_is_one_closed_mesh_in_its_own_frame(scene, tmp_path):
    config, params, cloud = scene
    cloud = 10 * cloud + 1000
    layout = scenes.layout_of(config)
    values = scenes.Index(((cloud - cloud.min(axis=0)) / 10).astype(np.float32), layout)
    assert len(values.slices) > 4
    with config.unlocked():
        config.eval.threshold = 0.5
    mesh = scenes.reconstruct_scene(params, config, cloud, tmp_path / 'a', cell=10.0)
    assert len(mesh.faces) > 100
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert (mesh.bounds[0] > cloud.min(axis=0) - 100).all()
    assert (mesh.bounds[1] < cloud.max(axis=0) + 100).all()


def test_an_interrupted_scene_goes_on(scene, tmp_path, monkeypatch):
    config, params, cloud = scene
    whole = scenes.reconstruct_scene(params, config, cloud, tmp_path / 'whole', cell=1.0)
    asked, infer = [], scenes._infer

    def fail_once(*args):
        asked.append(args)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return infer(*args)

    monkeypatch.setattr(scenes, '_infer', fail_once)
    with pytest.raises(KeyboardInterrupt):
        scenes.reconstruct_scene(params, config, cloud, tmp_path / 'part', cell=1.0)
    again = scenes.reconstruct_scene(params, config, cloud, tmp_path / 'part', cell=1.0)
    num_boxes = len(list((tmp_path / 'whole').glob('window_*')))
    assert len(asked) == 3 + num_boxes - 2, 'two windows were done'
    np.testing.assert_array_equal(again.vertices, whole.vertices)
    np.testing.assert_array_equal(again.faces, whole.faces)
    scenes.reconstruct_scene(params, config, cloud, tmp_path / 'part', cell=1.1)
    assert len(asked) > 3 + num_boxes - 2, 'another cell is another scene'


def test_neighbours_have_the_same_values_on_their_border(scene, tmp_path):
    config, params, cloud = scene
    scenes.reconstruct_scene(params, config, cloud, tmp_path, cell=1.0)
    layout = scenes.layout_of(config)
    known = {tuple(map(int, p.stem.split('_')[1:])) for p in tmp_path.glob('window_*')}
    pairs = 0
    for box in known:
        other = (box[0] + 1, *box[1:])
        if other in known:
            a, b = (scenes.blend(tmp_path, known, x, layout) for x in (box, other))
            np.testing.assert_array_equal(a[-1], b[0])
            pairs += 1
    assert pairs > 2


def test_blocks_join_to_the_surface_of_the_whole_lattice():
    axis = np.linspace(-1.2, 1.2, 13)
    x, y, z = np.meshgrid(axis, axis, axis, indexing='ij')
    values = 0.3 - np.abs(np.hypot(np.hypot(x, y) - 0.7, z))
    size = np.array([13, 13, 13])
    pieces = [
        march_block(values[i : i + 7, j : j + 7, k : k + 7], 0.0, np.array([i, j, k]), size)
        for i in (0, 6)
        for j in (0, 6)
        for k in (0, 6)
    ]
    mesh, whole = join(pieces), marching_cubes(values, 0.0)
    assert mesh.is_watertight
    assert mesh.euler_number == 0
    np.testing.assert_allclose(mesh.volume * (1.1 / 12) ** 3, whole.volume, rtol=1e-2)
    np.testing.assert_allclose(sorted(mesh.vertices[:, 0] * 1.1 / 12 - 0.55), sorted(whole.vertices[:, 0]), atol=1e-4)


def test_the_cell_follows_the_density_and_the_unit(scene):
    config, _, _ = scene
    sheet = np.random.default_rng(0).uniform(0, 1, (20_000, 3)) * (1, 0, 1)
    cell = scenes.choose_cell(sheet, config)
    np.testing.assert_allclose(scenes.choose_cell(100 * sheet, config), 100 * cell)
    np.testing.assert_allclose(scenes.choose_cell(sheet[:5000], config), 2 * cell, rtol=0.1)
    # A room of the training has 10,000 points on 3 squares.
    room = 3**0.5 * sheet[:10_000]
    np.testing.assert_allclose(scenes.choose_cell(room, config), config.model.unit_size, rtol=0.1)


def test_a_full_window_takes_as_many_points_as_training():
    points = np.random.default_rng(0).uniform(-1, 1, (3000, 3)).astype(np.float32)
    assert len(scenes.fill_up(points[:10], 2000, np.zeros(3, int))) == 1024
    kept = scenes.fill_up(points, 2000, np.zeros(3, int))
    assert len(kept) == 2048
    assert (kept > scenes.OUTSIDE).all(axis=1).sum() == 2000
    np.testing.assert_array_equal(kept, scenes.fill_up(points, 2000, np.zeros(3, int)))


def test_wrong_arguments_are_named(scene, tmp_path):
    config, params, cloud = scene
    with pytest.raises(
        ValueError, match=r"config.model.encoder: expected 'pointnet_crop_local_pool'.*found 'pointnet_resnet'"
    ):
        scenes.layout_of(onet_points.get_config())
    with pytest.raises(ValueError, match='cell: expected a positive length, found -1'):
        scenes.reconstruct_scene(params, config, cloud, tmp_path, cell=-1)
    (tmp_path / 'mine.txt').write_text('x')
    with pytest.raises(ValueError, match='expected an empty folder, or the windows of a scene'):
        scenes.reconstruct_scene(params, config, cloud, tmp_path, cell=1.0)


def test_an_evaluation_goes_window_by_window(monkeypatch):
    """Whatever the values of the windows are, the mesh is closed."""
    config, asked, rng = tiny(), [], np.random.default_rng(0)
    num_values = scenes.layout_of(config).num_values

    def infer(module, layout, params, points):
        asked.append(points)
        return rng.normal(size=(num_values,) * 3)

    monkeypatch.setattr(scenes, '_infer', infer)
    cloud = rng.uniform(-0.5, 0.5, (1, 900, 3)).astype(np.float32) * (1, 0.1, 0.5)
    (mesh,) = scenes.build_method(config).reconstruct({'params': {'a': np.ones(3)}}, cloud, None)
    assert len(asked) > 10
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
