"""NeRF: volume rendering beside a slow twin, and a small network from posed pictures to pictures and a mesh."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh
from untrained import draw_weights

from onet_jax import models
from onet_jax.configs import nerf as nerf_config
from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import example_batch, make_transform
from onet_jax.data.scenes import draw_middle
from onet_jax.errors import InputError
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.geometry.camera_paths import orbit
from onet_jax.geometry.volume_rendering import Rays, composite, sample_again, stratify, to_ndc
from onet_jax.inference.render import choose_path, depth_range, render_path, save_frames
from onet_jax.inference.scene_mesh import reconstruct_scene
from onet_jax.models import nerf
from onet_jax.prepare.embedded_scene import render_scene
from onet_jax.run import load_run
from onet_jax.training.loop import train


def some_rays(num_rays, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(num_rays, 3)).astype(np.float32)
    view = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    ends = np.ones(num_rays, np.float32)
    return Rays(rng.normal(size=(num_rays, 3)).astype(np.float32), directions, view, 2 * ends, 6 * ends)


def test_compositing_is_front_to_back():
    rng = np.random.default_rng(0)
    rgb, density = rng.uniform(size=(4, 5, 3)), rng.exponential(size=(4, 5))
    distances, directions = np.sort(rng.uniform(2, 6, (4, 5)), axis=1), rng.normal(size=(4, 3))
    found = jax.jit(composite)(*(np.float32(array) for array in (rgb, density, distances, directions)), 1.0)
    for r in range(4):
        left, seen, depth = 1.0, np.zeros(3), 0.0
        for n in range(5):
            gap = (distances[r, n + 1] - distances[r, n]) if n < 4 else 1e10
            alpha = 1 - np.exp(-density[r, n] * gap * np.linalg.norm(directions[r]))
            seen += left * alpha * rgb[r, n]
            depth += left * alpha * distances[r, n]
            left *= 1 - alpha
        np.testing.assert_allclose(found.rgb[r], seen + left, atol=1e-5)
        np.testing.assert_allclose(found.depth[r], depth, atol=1e-4)
        np.testing.assert_allclose(found.opacity[r], 1 - left, atol=1e-5)


def test_a_ray_that_meets_nothing_sees_the_background_and_has_gradients():
    rays = some_rays(2)

    def total(density):
        seen = composite(jnp.full((2, 8, 3), 0.5), density, stratify(rays, 8), rays.directions, 1.0)
        return seen.rgb.sum() + seen.disparity.sum(), seen

    gradient, seen = jax.jit(jax.grad(total, has_aux=True))(np.zeros((2, 8), np.float32))
    assert (seen.rgb == 1).all()
    assert (seen.disparity == 0).all()
    assert np.isfinite(gradient).all()
    assert (gradient < 0).any()  # grey before white


@pytest.mark.parametrize('in_disparity', [False, True])
def test_samples_are_one_in_each_interval_and_more_where_the_weights_are(in_disparity):
    rays, rng = some_rays(64), np.random.default_rng(1)
    draw = jax.jit(partial(stratify, num_samples=9, in_disparity=in_disparity))
    even = draw(rays)
    assert (even[:, 0] == 2).all()
    np.testing.assert_allclose(even[:, -1], 6, rtol=1e-6)
    jittered = np.asarray(draw(rays, jitter=rng.uniform(size=(64, 9)).astype(np.float32)))
    middles = np.asarray((even[:, 1:] + even[:, :-1]) / 2)
    assert (np.diff(jittered) > 0).all()
    assert (jittered[:, :-1] <= middles).all()
    assert (jittered[:, 1:] >= middles).all()
    weights = np.tile(np.eye(9, dtype=np.float32)[4], (64, 1))
    more = np.asarray(jax.jit(sample_again)(even, weights, rng.uniform(size=(64, 20)).astype(np.float32)))
    assert (np.diff(more) >= 0).all()
    inside = (more >= middles[:, 3:4]) & (more <= middles[:, 4:5])
    assert inside.sum(axis=1).min() >= 19


def test_normalised_device_coordinates_keep_the_points_of_a_ray_on_a_line():
    rays = some_rays(8)
    rays = rays._replace(directions=rays.directions * [0.3, 0.3, 0] - [0, 0, 1], origins=rays.origins * 0.1)
    focal = np.full(8, 20, np.float32)
    ndc = jax.jit(to_ndc)(rays, focal, 10, 16)
    for distance in (1.5, 4.0):
        x, y, z = np.moveaxis(np.asarray(rays.origins + distance * rays.directions), -1, 0)
        projected = np.stack([-2 * 20 / 16 * x / z, -2 * 20 / 10 * y / z, 1 + 2 / z], axis=-1)
        cross = np.cross(projected - np.asarray(ndc.origins), np.asarray(ndc.directions))
        assert np.abs(cross).max() < 1e-4
    np.testing.assert_allclose(ndc.origins[:, 2], -1, atol=1e-5)


def random_weights(model, rays):
    return draw_weights(jax.eval_shape(model.init, jax.random.key(0), rays))


def small_config(**train_settings):
    config = nerf_config('tiny')
    with config.unlocked():
        config.model.update(width=16, depth=3, bottleneck_size=16, num_frequencies=4, num_samples=8, num_fine_samples=8)
        config.data.update(downscale=1.0, precrop_steps=2, validate_every=4)
        config.train.update(
            num_steps=60, batch_size=128, log_every_steps=20, eval_every_steps=30, checkpoint_every_steps=30
        )
        config.train.update(train_settings)
        config.optim.update(warmup_steps=2, learning_rate=1e-2)
        config.mesh.update(resolution=8, upsampling_steps=1)
    return config


@pytest.fixture(scope='module')
def scene_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes') / 'scene'
    render_scene(folder, num_views=24, size=16, seed=0)
    return folder


@pytest.mark.slow
def test_a_part_of_a_batch_has_the_random_numbers_of_the_whole():
    config = small_config()
    model = models.build(config).model
    rays, rgb, key = some_rays(8), np.full((8, 3), 0.5, np.float32), jax.random.key(1)
    params, loss = random_weights(model, rays), jax.jit(model.loss)
    whole, _ = loss(params, rays, rgb, key)
    parts = [
        loss(params, Rays(*(part[half] for part in rays)), rgb[half], key, np.arange(8)[half])[0]
        for half in (slice(0, 4), slice(4, 8))
    ]
    assert np.mean(parts) == pytest.approx(float(whole), rel=1e-6)


def test_the_paper_s_regularisation_draws_noise_and_a_single_network_is_both():
    keywords = dict(width=8, depth=2, skips=(), bottleneck_size=8, num_samples=4, num_fine_samples=4)
    rays, rgb = some_rays(4), np.zeros((4, 3), np.float32)
    model = nerf.make_model(**keywords, noise_std=1.0, two_networks=False, density='relu', background='black')
    params, loss = random_weights(model, rays), jax.jit(model.loss)
    assert set(params['params']) == {'coarse'}
    first, second = (float(loss(params, rays, rgb, jax.random.key(k))[0]) for k in (0, 1))
    assert first != second
    with pytest.raises(InputError, match=r"config.model.density: expected one of .'relu', 'softplus'.*'exp'"):
        nerf.make_model(density='exp')
    with pytest.raises(InputError, match=r'num_samples: expected at least 3, found 2'):
        nerf.make_model(num_samples=2)


@pytest.mark.slow
def test_rendering_in_chunks_is_rendering_at_once_and_on_the_device():
    model = models.build(small_config()).model
    rays = some_rays(30)
    params = random_weights(model, rays)
    whole, parts, jitted = (
        model.render(params, rays), model.render(params, rays, chunk_size=7), model.render_jitted(params, rays)
    )  # fmt: skip
    for name in ('rgb', 'depth', 'disparity', 'opacity'):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), atol=1e-5)
        np.testing.assert_allclose(getattr(whole, name), getattr(jitted, name), atol=1e-5)
    rgb, density = model.radiance(params, rays.origins, rays.directions)
    np.testing.assert_allclose(density, model.density(params, rays.origins), rtol=1e-5)
    assert rgb.shape == (30, 3)


@pytest.mark.slow
def test_batches_are_pixels_of_the_views_and_of_their_middle_first(scene_dir):
    config = small_config()
    dataset = open_dataset(scene_dir)
    assert [len(dataset.names(split)) for split in ('train', 'val', 'test')] == [8, 8, 8]
    feed = dataset.feed(config.data, batch_size=64, seed=0)
    first, again = next(feed(0)), next(feed(0))
    assert all((first[name] == again[name]).all() for name in first)
    assert first['pixel'].min() >= 4
    assert first['pixel'].max() <= 11
    later = next(feed(5))
    assert later['pixel'].min() < 4
    half = next(dataset.feed(config.data, batch_size=64, seed=0, rows=range(32, 64))(5))
    assert (half['rgba'] == later['rgba'][32:]).all()
    batch = make_transform(config.data)(jax.random.key(0), later)
    eyes = batch['inputs']['origins']
    np.testing.assert_allclose(np.linalg.norm(eyes, axis=-1), 4, rtol=1e-5)
    assert batch['targets']['rgb'].shape == (64, 3)
    for found, expected in zip(jax.tree.leaves(batch), jax.tree.leaves(example_batch(config.data)), strict=True):
        assert (expected.shape, expected.dtype) == ((1, *found.shape[1:]), found.dtype)
    with config.unlocked():
        config.data.one_view = True
    assert len(set(next(dataset.feed(config.data, batch_size=64, seed=0)(5))['index'].tolist())) == 1


def test_the_middle_of_a_picture_is_that_of_the_official_code(golden):
    expected = golden('nerf_atlasnet_dmc/nerf/ray_batches.npz')
    for height, width, share in ((10, 12, 0.5), (11, 9, 0.5), (12, 16, 0.7)):
        rows, columns = expected[f'derived/precrop_{height}x{width}_f{share}_coords'].T
        for edge, found in ((height, rows), (width, columns)):
            drawn = draw_middle(np.random.default_rng(0), edge, share, 500)
            assert set(drawn.tolist()) == set(found.tolist())


@pytest.mark.slow
def test_a_scene_is_trained_evaluated_rendered_and_meshed(scene_dir, tmp_path):
    config = small_config()
    train(config, tmp_path / 'run', scene_dir)
    run = load_run(tmp_path / 'run')
    dataset = open_dataset(run.data_dir)
    results = list(evaluate(run.method, run.params, run.config, dataset, 'test'))
    assert len(results) == 8
    psnr = np.mean([result.scores['psnr'] for result in results])
    white = np.mean([-10 * np.log10(np.square(1 - result.truth.rgb / 255).mean()) for result in results])
    assert psnr > white + 1, 'better than a white picture'
    cameras = choose_path(dataset, 'orbit', 3)
    frames = list(render_path(run.method.model, run.params, run.config, dataset, cameras, (8, 8)))
    written = save_frames(frames, tmp_path / 'frames', *depth_range(run.config.data, dataset))
    assert [path.name for path in written if path.suffix != '.mp4'] == [
        '000.png', 'depth_000.png', '001.png', 'depth_001.png', '002.png', 'depth_002.png', 'path.gif'
    ]  # fmt: skip
    mesh = trimesh.load(reconstruct_scene(run, tmp_path / 'mesh', 'ply', '16'), process=False)
    assert len(mesh.faces) > 0
    assert mesh.visual.kind == 'vertex'


def test_paths_are_read_from_files_and_wrong_ones_named(scene_dir, tmp_path):
    dataset = open_dataset(scene_dir)
    path = choose_path(dataset, str(scene_dir / 'transforms_test.json'), 0)
    test = list(dataset.views.splits['test'])
    np.testing.assert_allclose(path.world_mat, dataset.views.camera.world_mat[test], atol=1e-12)
    circle = orbit(dataset.views.camera, 8)
    assert len(circle.world_mat) == 8
    with pytest.raises(
        InputError, match=r"--path: expected one of .'orbit', 'spiral'. or a JSON file of poses, found 'zoom'"
    ):
        choose_path(dataset, 'zoom', 3)
    (tmp_path / 'bad.json').write_text(json.dumps({'frames': [{'transform_matrix': [[1, 2]]}]}))
    with pytest.raises(InputError, match=r'bad.json: expected frames with 4 x 4 numbers each'):
        choose_path(dataset, str(tmp_path / 'bad.json'), 3)
