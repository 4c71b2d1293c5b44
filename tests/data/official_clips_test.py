"""What the fields of clips give of files in the original layout, against the loaders of the original code."""

from functools import partial

import jax
import numpy as np
import pytest
from numbered_sequences import make_config
from parity.golden import find_golden, read_golden, under

from onet_jax.data import clip_draws, clips, records
from onet_jax.data.datasets import open_dataset
from onet_jax.data.schema import SEQUENCES
from onet_jax.geometry.mesh_files import animations
from onet_jax.geometry.meshes import normalise
from onet_jax.prepare.dfaust import export_dfaust, find_categories, import_dfaust, read_original
from onet_jax.prepare.runners import in_this_process

pytestmark = pytest.mark.skipif(find_golden('flow/dataset') is None, reason='needs the folder of shared data')
KEY, LENGTH = jax.random.key(0), 4


@pytest.fixture(scope='module')
def root():
    return find_golden('flow/dataset') / 'Humans'


@pytest.fixture(scope='module')
def official():
    return under(read_golden('flow/dataset/fields.npz'), 'out/')


@pytest.fixture(scope='module')
def row(root):
    """Item 1: the clip of the first sequence from frame 3 on, as a row of an evaluation batch."""
    return read_row(root / 'D-FAUST' / '50002_alpha', 3)


def read_row(folder, start):
    sequence = read_original(folder)
    names = ('points_seq', 'occ_seq', 'pcl_seq', 'loc_seq', 'scale_seq')
    return {name: records.as_stored(name, getattr(sequence, name)[start : start + LENGTH]) for name in names}


def test_points_and_labels_of_each_frame_in_coordinates_of_the_first(row, official):
    """The original computes in float32 from loc in float16, as the files store it."""
    data = make_config().data
    found = jax.jit(partial(clip_draws.all_volume_clip, KEY, data=data))(row)
    np.testing.assert_allclose(found['points'], official['points_all_nonoise/data'], atol=3e-7)
    np.testing.assert_array_equal(found['occ'], official['points_all_nonoise/occ'])
    np.testing.assert_array_equal(clip_draws.times(LENGTH), official['points_all_nonoise/time'])
    np.testing.assert_allclose(found['points'][:, :30], official['points_val_first30_nonoise/data'], atol=3e-7)
    start = jax.jit(partial(clip_draws.all_start_points, KEY, data=data))(row)
    np.testing.assert_allclose(start['points'], official['points_fixed0/data'], atol=3e-7)
    np.testing.assert_array_equal(start['occ'], official['points_fixed0/occ'])
    later = make_config(num_points_per_step=56).data  # of the 61 that a frame has; its last byte is padding
    draw = jax.jit(partial(clip_draws.draw_later_points, data=later))
    drawn = [jax.device_get(draw(jax.random.key(i), row)) for i in range(20)]
    for seed in (0, 1):
        of_original = under(official, f'points_random_t_sub20_seed{seed}/')
        for ours in (one for one in drawn if abs(one['time'] - of_original['time']) < 1e-6):
            apart = np.abs(ours['later_points'][None] - of_original['data'][:, None]).max(axis=2)
            theirs, mine = np.nonzero(apart < 1e-6)
            assert len(set(theirs)) >= 15
            np.testing.assert_array_equal(ours['later_occ'][mine], of_original['occ'][theirs])


def test_trajectories_and_clouds_are_the_same_places(row, root, official):
    data = make_config(num_input_points=15).data
    whole = clip_draws.all_trajectories(KEY, row, data)
    np.testing.assert_allclose(whole, official['pcl_all/data'], atol=3e-7)
    other = clip_draws.all_trajectories(KEY, read_row(root / 'D-FAUST' / '50004_beta', 4), data)
    np.testing.assert_allclose(other, official['pcl_all_item6/data'], atol=3e-7)

    def places(drawn, frames):
        """The numbers of the drawn points among those of their frames."""
        apart = np.abs(np.asarray(drawn)[:, :, None] - np.asarray(whole)[list(frames), None]).max(axis=3)
        assert apart.min(axis=2).max() < 1e-6
        return apart.argmin(axis=2)

    for corresponding, clip, ends in (
        (True, 'pcl_connected15_seed0', 'inputs_end_pointclouds_seed0'),
        (False, 'pcl_unconnected15_seed0', 'inputs_end_pointclouds_noncorr_seed0'),
    ):
        data = make_config(num_input_points=15, corresponding=corresponding).data
        for draw, frames, name in ((clip_draws.draw_clip, range(4), clip), (clip_draws.draw_end_clouds, (0, 3), ends)):
            for drawn in (jax.jit(partial(draw, KEY, data=data))(row), official[f'{name}/data']):
                numbers = places(drawn, frames)
                assert (numbers == numbers[:1]).all() == corresponding


def test_meshes_are_in_the_box_of_the_first_of_the_clip(root, official):
    moving = animations.read_sequence(root / 'D-FAUST' / '50002_alpha' / 'mesh_seq')
    frame = normalise(moving.vertices[3])
    found = np.stack([frame.to_object(vertices) for vertices in moving.vertices[3 : 3 + LENGTH]])
    for name, vertices in (('mesh_all', found), ('mesh_endpoints', found[[0, -1]])):
        np.testing.assert_allclose(vertices, official[f'{name}/vertices'], atol=3e-7)
        np.testing.assert_array_equal(moving.faces, official[f'{name}/faces'])


def test_pictures_are_those_of_one_view_and_of_the_frames_of_the_clip(root, official):
    stored = read_original(root / 'D-FAUST' / '50002_alpha').image_seq
    pixels = np.stack([records.decode_picture('image_seq', file) for file in stored]) / 255
    small = jax.image.resize(pixels, (len(pixels), 8, 10, 3), 'linear').reshape(-1, 4, 8, 10, 3)  # [F, V, H, W, 3]
    for name, view in (('img_view0', 0), ('img_random_seed0', 3)):
        for k, picture in enumerate(np.moveaxis(official[f'{name}/data'], 1, -1)):
            apart = np.abs(small - picture).mean(axis=(2, 3, 4))
            assert np.unravel_index(apart.argmin(), apart.shape) == (3 + k, view)
            assert apart.min() < 1e-3 < 1e-2 < np.sort(apart.ravel())[1]


@pytest.mark.parametrize(
    'items, first, limit', [('default', 2, None), ('nfiles5', 2, 5), ('offset0', 0, None), ('train', 2, None)]
)
def test_the_clips_of_the_original(root, official, tmp_path, items, first, limit):
    """limit: of frames after the first, as if the sequences were shorter."""
    import_dfaust(root, tmp_path, num_points=50, run=in_this_process)
    index = open_dataset(tmp_path).index
    frames = {name: min(n, first + limit if limit else n) for name, n in index.num_frames.items()}
    index = index._replace(source={'first_frame': first, 'stride': 1}, num_frames=frames)
    listed = clips.list_clips(index, index.splits['train' if items == 'train' else 'test'], LENGTH)
    expected = zip(official[f'items_{items}/model'], official[f'items_{items}/start_idx'], strict=True)
    assert listed == tuple(('D-FAUST', f'{model}/{start}') for model, start in expected)


def test_what_is_exported_is_what_was_imported(root, tmp_path):
    assert (
        [path.name for path in find_categories(root)]
        == ['D-FAUST']
        == [p.name for p in find_categories(root / 'D-FAUST')]
    )
    index = import_dfaust(root, tmp_path / 'data', num_points=100, run=in_this_process)
    assert index.splits['train'][-1] == ('D-FAUST', '50009_short')
    assert index.num_frames == {'D-FAUST/50002_alpha': 9, 'D-FAUST/50004_beta': 8, 'D-FAUST/50009_short': 5}
    assert (index.num_points, index.num_surface_points, index.num_views) == (61, 60, 4)
    assert index.columns == SEQUENCES.columns
    export_dfaust(tmp_path / 'data', tmp_path / 'out')
    again = import_dfaust(tmp_path / 'out', tmp_path / 'again', num_points=100, run=in_this_process)
    assert again.splits == index.splits
    dataset = open_dataset(tmp_path / 'data')
    name = ('D-FAUST', '50002_alpha')
    stored, copy = dataset.read(*name), read_original(tmp_path / 'out' / 'D-FAUST' / '50002_alpha')
    for key in SEQUENCES.columns:
        if key != 'recipe':
            np.testing.assert_array_equal(getattr(stored, key), getattr(copy, key))
    original = read_original(root / 'D-FAUST' / '50002_alpha')
    orders = [np.lexsort(one.points_seq[0].T) for one in (stored, original)]
    for key in ('points_seq', 'occ_seq'):  # in another order, the same in every frame
        ours, theirs = (getattr(one, key)[:, order] for one, order in zip((stored, original), orders, strict=True))
        np.testing.assert_array_equal(ours, theirs)
    assert dataset.check(*name)

    records.write_index(tmp_path / 'data', index._replace(source={}))
    examples = open_dataset(tmp_path / 'data').evaluation_batches(
        make_config(inputs=('image_clip',), image_size=224), 'test', view=2, positions=[1], batch_size=1
    )
    batch, names = next(examples)
    assert names == (('D-FAUST', '50002_alpha/4'),)
    for k in range(LENGTH):
        pixels = records.decode_picture('image_seq', stored.image_seq[4 * (4 + k) + 2])
        np.testing.assert_allclose(255 * batch['inputs']['image_clip'][0, k], pixels, atol=1e-3)
