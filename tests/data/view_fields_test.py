"""Fields of several posed views of a shape: in training one beside the condition view, in evaluation all others."""

from itertools import islice

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from model_configs import small_data
from numbered_shapes import NUM_VIEWS, decode, write_numbered_shapes
from scipy.spatial import KDTree

from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import find_need, make_transform
from onet_jax.data.records import Need
from onet_jax.data.view_draws import resize_nearest
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import IMAGE_SIZE, Camera, unproject
from onet_jax.geometry.sampling import sample_surface_with_colours
from onet_jax.prepare.embedded import coloured_solid, prepare_procedural
from onet_jax.prepare.runners import in_this_process

KEY = jax.random.key(0)
FIXED = {'kind': 'numbered', 'num_fixed_views': 4}
SEEN = ('image', 'oriented_cloud', 'depth_views')
CAMERA = ('view_world_mat', 'view_camera_mat')


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    return open_dataset(write_numbered_shapes(tmp_path_factory.mktemp('numbered'), source=FIXED))


def make_data(**changes):
    sizes = {'view_size': 137, 'num_surface_points': 60, 'num_views': 8, 'feed': 'resident'}
    return small_data(inputs=SEEN, targets=('views',), **{**sizes, **changes})


def evaluate(dataset, data, **options):
    config = ConfigDict({'seed': 0, 'data': data, 'eval': {'targets': ('views',), 'batch_size': 3}})
    return list(dataset.evaluation_batches(config, 'val', **options))


def which(batch):
    """The views of all rows, [B, V], by the depth, checked against pictures and cameras; and the condition views, [B]."""
    depth, rgb = np.asarray(batch['inputs']['view_depth']), np.asarray(batch['targets']['rgb'])
    seen = depth[:, :, 0, 0] * 4
    assert (depth == depth[:, :, :1, :1]).all()
    np.testing.assert_array_equal(batch['inputs']['view_world_mat'][..., 0, 3], seen)
    np.testing.assert_allclose(rgb[..., 1].mean((2, 3)) * 255, 20 * seen, atol=2)
    images = batch['inputs'].get('image')
    return seen, None if images is None else np.round(np.asarray(images)[..., 1].mean((1, 2)) * 255 / 20)


@pytest.mark.slow
def test_a_step_sees_one_view_and_is_asked_for_another(numbered):
    data, pairs = make_data(), set()
    assert find_need(data) == Need(('surface', 'normals', 'image', 'depth', *Camera._fields), 0, 60, 0, 2, 1)
    transform = jax.jit(make_transform(data))
    for raw in islice(numbered.feed(data, batch_size=5, seed=0)(0), 60):
        batch = transform(KEY, raw)
        seen, shown = which(batch)
        assert seen.shape == (5, 1)
        assert (seen[:, 0] != shown).all()
        pairs |= set(zip(shown.tolist(), seen[:, 0].tolist(), strict=True))
    assert len(pairs) > 100, 'nearly all of the 132'
    cloud = np.asarray(batch['inputs']['oriented_cloud'])
    assert cloud.shape == (5, 60, 6)
    np.testing.assert_array_equal(cloud[..., 3:], -cloud[..., :3])
    np.testing.assert_array_equal(decode(cloud[..., :3])[0], np.tile(raw['index'], (60, 1)).T)


@pytest.mark.slow
def test_evaluation_has_all_other_views_and_the_fixed_ones_on_request(numbered):
    (found,) = evaluate(numbered, make_data())
    for seen, shown in zip(*which(found.batch), strict=True):
        assert (shown, *seen) == (0, 1, 2, 3, 4, 5, 6, 7), 'the first num_views of the stored ones'
    (found,) = evaluate(numbered, make_data(), view=3, fixed_views=True)
    for seen, shown in zip(*which(found.batch), strict=True):
        assert (shown, *seen) == (3, 8, 9, 10, 11)
    (found,) = evaluate(numbered, make_data(num_views=24))
    assert which(found.batch)[0].shape == (3, NUM_VIEWS - 4 - 1)

    blind = make_data(num_views=8)
    with blind.unlocked():
        blind.inputs = SEEN[1:]
    assert find_need(blind).num_views == 1
    (found,) = evaluate(numbered, blind)
    np.testing.assert_array_equal(which(found.batch)[0], np.tile(np.arange(8), (3, 1)))


def test_pictures_without_cameras_are_seen_and_never_asked_for(tmp_path):
    source = {**FIXED, 'num_input_views': 3}
    data, dataset = make_data(), open_dataset(write_numbered_shapes(tmp_path, source=source))
    transform, shown_before = jax.jit(make_transform(data)), set()
    for raw in islice(dataset.feed(data, batch_size=5, seed=0)(0), 20):
        seen, shown = which(transform(KEY, raw))
        assert (seen >= 3).all()
        shown_before |= set(shown.tolist())
    assert shown_before == {0, 1, 2}
    (found,) = evaluate(dataset, data)
    for seen, shown in zip(*which(found.batch), strict=True):
        assert (shown, *seen) == (0, 3, 4, 5, 6, 7), 'the random ones'
    crowded = open_dataset(write_numbered_shapes(tmp_path, source={**FIXED, 'num_input_views': NUM_VIEWS}))
    with pytest.raises(InputError, match=r'expected at least 1 views of a shape, .* found 0'):
        crowded.feed(data, batch_size=2, seed=0)


def test_what_lacks_views_or_is_streamed_is_refused(numbered, tmp_path):
    with pytest.raises(InputError, match=r"expected 'resident' for fields of several views .* found 'tfds'"):
        numbered.feed(make_data(feed='tfds'), batch_size=2, seed=0)
    flat = open_dataset(write_numbered_shapes(tmp_path, num_views=1))
    with pytest.raises(InputError, match='expected fixed views of a shape, found 1 in all, 0 fixed'):
        evaluate(flat, make_data(), fixed_views=True)
    with pytest.raises(InputError, match=r'expected at least 2 views of a shape, .*found 1; prepare .*--num_views'):
        flat.feed(make_data(), batch_size=2, seed=0)
    with pytest.raises(InputError, match='expected other views of a shape, found 1 in all'):
        evaluate(flat, make_data())


@pytest.fixture(scope='module')
def mugs(tmp_path_factory):
    """Three, of which one is of each split, with two random and two fixed views."""
    data_dir = tmp_path_factory.mktemp('mugs')
    views = {'num_views': 2, 'num_fixed_views': 2, 'depth': True, 'coloured': True}
    shares = {'val_fraction': 0.3, 'test_fraction': 0.3}
    sizes = {'families': ['mug'], 'num_shapes_per_family': 3, 'num_points': 2048, 'seed': 0}
    prepare_procedural(data_dir, **sizes, **shares, **views, run=in_this_process)
    return open_dataset(data_dir)


@pytest.mark.slow
@pytest.mark.parametrize('size', [137, 48])
def test_depth_unprojects_to_the_surface_and_the_pictures_have_its_colours(mugs, size):
    (found,) = evaluate(mugs, make_data(view_size=size, num_views=2), fixed_views=True, batch_size=1)
    inputs, rgb = found.batch['inputs'], np.asarray(found.batch['targets']['rgb'])
    assert rgb.shape == (1, 2, size, size, 3)
    mesh, colours_at = coloured_solid(0, 'mug', int(found.names[0][1])).surface()
    samples, _, colours = sample_surface_with_colours(mesh, 100_000, 0, colours_at)
    pixels = np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2), axis=-1).reshape(-1, 2)
    for view in range(2):
        depth = np.asarray(inputs['view_depth'])[0, view].reshape(-1)
        on = depth > 0
        assert 0.05 < on.mean() < 0.8
        camera = Camera(*(np.asarray(inputs[name])[0, view] for name in CAMERA))
        distance, nearest = KDTree(samples).query(unproject(camera, pixels[on], depth[on]))
        stored_pixel = depth[on] / camera.camera_mat[0, 0] * size / IMAGE_SIZE
        assert (distance < stored_pixel).mean() > 0.99
        drawn, albedo = rgb[0, view].reshape(-1, 3)[on], colours[nearest] / 255
        cosine = (drawn * albedo).sum(axis=1) / np.linalg.norm(drawn, axis=1) / np.linalg.norm(albedo, axis=1)
        assert np.median(cosine) > 0.999, 'the same colour in another light'
        assert (cosine > 0.98).mean() > 0.85, 'but for edges'


def test_views_are_resized_as_the_official_ones(golden):
    data = golden('flow/texture/metrics_transforms.npz')
    for height, width in ((6, 6), (24, 24), (5, 7)):
        found = resize_nearest(data['in/resize'][None], height, width)[0]
        np.testing.assert_array_equal(found, data[f'out/resize_order0_{height}x{width}_skimage0.26'])
    found = resize_nearest(data['in/depth_resize'][None], 4, 4)[0, ..., :1]
    np.testing.assert_array_equal(found, data['out/depth_resize_4x4_skimage0.26'])
