"""Sequences of a user as inputs of a network."""

import re
import warnings

import numpy as np
import pytest
import trimesh
from ml_collections import ConfigDict
from moving_shapes import moved, moving_egg
from PIL import Image

from onet_jax.data.clip_inputs import (
    find_clips,
    find_videos,
    list_frames,
    read_clip,
    read_end_clouds,
    read_image_clip,
)  # fmt: skip
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.geometry.sequence_files import save_animation, save_frames
from onet_jax.geometry.sequences import move

PLACE = np.array([100.0, -20, 3])
SURFACE = moving_egg(2).vertices[0]  # of an egg at rest, 642 points


def data_of(num_frames=5, corresponding=True, num_input_points=50):
    return ConfigDict({
        'num_frames': num_frames, 'num_input_points': num_input_points, 'corresponding': corresponding, 'keep_outliers': False,
    })  # fmt: skip


def to_user(points):
    return 3 * points + PLACE


def write_clouds(folder, clouds, name='{:03d}.npy'):
    folder.mkdir(exist_ok=True)
    for k, cloud in enumerate(clouds):
        np.save(folder / name.format(k), cloud)
    return Source(folder.name, folder)


@pytest.fixture
def clouds():
    """Of the egg, in the user's frame: [5, 642, 3], in correspondence."""
    return to_user(moved(SURFACE))


def expected_of(points):
    """Object coordinates of the first frame: its longest edge is 1."""
    return points / 0.8


def quietly(read, *arguments):
    with warnings.catch_warnings(action='error'):
        return read(*arguments)


def test_a_clip_has_the_same_points_in_all_frames_normalised_by_the_first(tmp_path, clouds):
    found, frame = quietly(read_clip, write_clouds(tmp_path / 'egg', clouds), data_of(), 0)
    assert (found['clip'].shape, found['clip'].dtype) == ((5, 50, 3), np.float32)
    np.testing.assert_allclose(np.ptp(frame.to_object(clouds[0]), axis=0).max(), 1)
    rows = [np.abs(expected_of(SURFACE) - point).sum(axis=1).argmin() for point in found['clip'][0]]
    np.testing.assert_allclose(found['clip'], expected_of(moved(SURFACE[rows])), atol=1e-4)
    np.testing.assert_allclose(frame.to_user(found['clip'][-1]), clouds[-1, rows], atol=1e-3)
    again, _ = read_clip(Source('egg', tmp_path / 'egg'), data_of(), 0)
    np.testing.assert_array_equal(again['clip'], found['clip'])


def test_more_frames_are_resampled_in_time(tmp_path):
    """With correspondence linearly, and without to the nearest ones; either says so."""
    source = write_clouds(tmp_path / 'egg', to_user(moved(SURFACE, 9)))
    with pytest.warns(UserWarning, match='^9 frames are resampled linearly to 5 equidistant times'):
        found, _ = read_clip(source, data_of(), 0)
    rows = [np.abs(expected_of(SURFACE) - point).sum(axis=1).argmin() for point in found['clip'][0]]
    np.testing.assert_allclose(found['clip'], expected_of(moved(SURFACE[rows])), atol=1e-4)
    with pytest.warns(UserWarning, match='^9 frames are resampled linearly to 4'):
        between, _ = read_clip(source, data_of(4), 0)
    np.testing.assert_allclose(between['clip'], expected_of(moved(SURFACE[rows], 4)), atol=0.01)
    with pytest.warns(UserWarning, match='^of 9 frames those nearest to 5 equidistant times are taken'):
        nearest, _ = read_clip(source, data_of(corresponding=False), 0)
    distances = np.linalg.norm(nearest['clip'][:, :, None] - expected_of(moved(SURFACE))[:, None], axis=-1)
    assert distances.min(axis=2).max() < 1e-4


def test_without_correspondence_each_frame_is_drawn_anew(tmp_path, clouds):
    """In whatever order and number the points are."""
    rng = np.random.default_rng(0)
    mixed = [rng.permutation(cloud)[: 640 - k] for k, cloud in enumerate(clouds)]
    found, _ = quietly(read_clip, write_clouds(tmp_path / 'egg', mixed), data_of(corresponding=False), 0)
    rows = [
        [np.abs(place - point).sum(axis=1).argmin() for point in cloud]
        for cloud, place in zip(found['clip'], expected_of(moved(SURFACE)), strict=True)
    ]
    assert len({tuple(sorted(row)) for row in rows}) == 5


def test_meshes_with_common_faces_are_sampled_at_the_same_places(tmp_path):
    egg = moving_egg(subdivisions=2)
    save_frames(move(egg, to_user), tmp_path / 'egg', 'off')
    found, _ = quietly(read_clip, Source('egg', tmp_path / 'egg'), data_of(num_input_points=2000), 0)
    assert found['clip'].shape == (5, 2000, 3)
    sides = np.linalg.norm(found['clip'][:, :-1] - found['clip'][:, 1:], axis=-1)
    np.testing.assert_allclose(sides, sides[:1].repeat(5, axis=0), atol=1e-3, err_msg='a rigid motion')


def test_the_ends_of_a_sequence_are_its_first_and_last_clouds(tmp_path, clouds):
    source = write_clouds(tmp_path / 'two', clouds[[0, -1]])
    found, _ = quietly(read_end_clouds, source, data_of(), 0)
    assert found['end_clouds'].shape == (2, 50, 3)
    source = write_clouds(tmp_path / 'five', clouds)
    with pytest.warns(UserWarning, match='of 5 frames the network sees the first and the last'):
        again, _ = read_end_clouds(source, data_of(), 0)
    np.testing.assert_array_equal(found['end_clouds'], again['end_clouds'])


def test_clips_are_folders_of_numbered_frames(tmp_path, clouds):
    for name in ('b', 'a'):
        write_clouds(tmp_path / name, clouds)
    (tmp_path / 'empty').mkdir()
    assert [source.name for source in find_clips(tmp_path)] == ['a', 'b']
    assert [source.path for source in find_clips(tmp_path / 'b')] == [tmp_path / 'b']
    write_clouds(tmp_path / 'c', clouds, 'walk2_frame{}0.npy')
    assert [file.name for file in list_frames(tmp_path / 'c')] == [f'walk2_frame{k}0.npy' for k in range(5)]
    np.save(tmp_path / 'c' / 'reference.npy', clouds[0])
    with pytest.warns(UserWarning, match='reference.npy has no number, as frames have: it is left out'):
        assert len(list_frames(tmp_path / 'c')) == 5
    with pytest.raises(FileNotFoundError, match='empty: expected the frames of a sequence'):
        find_clips(tmp_path / 'empty')
    with pytest.raises(
        InputError, match=r'000.npy: expected a folder with the frames of a sequence.*found another file'
    ):
        find_clips(tmp_path / 'a' / '000.npy')


def _with_nan(cloud):
    return np.where(np.arange(len(cloud))[:, None] == 7, np.nan, cloud)


def _without(folder, *frames):
    for frame in frames:
        (folder / f'{frame:03d}.npy').unlink()


# What is wrong -> how the folder of the clouds changes, and what is said.
DAMAGES = {
    'a frame is missing': (
        lambda folder, clouds: _without(folder, 3), 'egg: expected .* found 004.npy after 002.npy, where number 3 is missing'
    ),
    'a single frame': (
        lambda folder, clouds: _without(folder, 1, 2, 3, 4), 'egg: expected at least 2 frames of a sequence, found 000.npy'
    ),
    'a point is missing': (
        lambda folder, clouds: np.save(folder / '002.npy', clouds[2, :-1]),
        '002.npy: expected 642 points, as 000.npy has, .* found 641',
    ),
    'NaN': (
        lambda folder, clouds: np.save(folder / '002.npy', _with_nan(clouds[2])),
        '002.npy: expected finite points, found NaN or infinity in 1 of 642',
    ),
    'a number twice': (
        lambda folder, clouds: np.savetxt(folder / '2.xyz', clouds[2]),
        '2.xyz: expected one frame of number 2, found 002.npy too',
    ),
    'no points': (lambda folder, clouds: np.save(folder / '004.npy', clouds[4, :0]), '004.npy: expected points, found none'),
}  # fmt: skip


@pytest.mark.parametrize('kind', DAMAGES)
def test_what_is_wrong_with_a_frame_is_named(tmp_path, clouds, kind):
    source = write_clouds(tmp_path / 'egg', clouds)
    change, message = DAMAGES[kind]
    change(source.path, clouds)
    with pytest.raises(InputError, match=message):
        read_clip(source, data_of(), 0)


def test_meshes_whose_faces_change_are_clouds_only(tmp_path):
    """A network of corresponding points does not take them."""
    save_frames(moving_egg(3, subdivisions=2), tmp_path / 'egg', 'ply')
    trimesh.creation.icosphere(1, 0.4).export(tmp_path / 'egg' / '001.ply')
    source = Source('egg', tmp_path / 'egg')
    with pytest.raises(InputError, match=r'001.ply: expected the faces of 000.ply.* found 42 vertices and 80 faces'):
        read_clip(source, data_of(3), 0)
    found, _ = quietly(read_clip, source, data_of(3, corresponding=False), 0)
    assert found['clip'].shape == (3, 50, 3)


@pytest.mark.parametrize('corresponding', [True, False])
def test_an_animation_is_a_sequence(tmp_path, corresponding):
    """Read at the times of the network; what this project writes, it reads."""
    save_animation(move(moving_egg(9, subdivisions=2), to_user), tmp_path / 'egg.glb')
    (tmp_path / 'no.ply').mkdir()
    (source,) = find_clips(tmp_path)
    assert source == Source('egg', tmp_path / 'egg.glb')
    assert find_clips(f'{source.path}#motion') == [Source('egg-motion', tmp_path / 'egg.glb#motion')]
    found, frame = quietly(read_clip, source, data_of(5, corresponding, 2000), 0)
    np.testing.assert_allclose(frame.scale, 3 * 0.8, rtol=1e-3)
    for cloud, place in zip(found['clip'], expected_of(moved(moving_egg(2, 2).vertices[0])), strict=True):
        np.testing.assert_allclose(
            [cloud.min(axis=0), cloud.max(axis=0)], [place.min(axis=0), place.max(axis=0)], atol=0.03
        )
    steps = np.linalg.norm(found['clip'][1] - found['clip'][0], axis=1)
    assert (steps.max() < 0.4) == corresponding


def test_points_in_another_order_and_too_few_frames_are_reported(tmp_path, clouds):
    mixed = clouds.copy()
    mixed[3] = np.random.default_rng(0).permutation(mixed[2])
    source = write_clouds(tmp_path / 'egg', mixed)
    with pytest.warns(
        UserWarning, match=r'from frame 2 to 3 it moves by 0\.\d+ longest edges.*are the points in another'
    ):
        read_clip(source, data_of(), 0)
    message = re.escape(f'{source.path}: expected at least 9 frames, as the network sees, found 5')
    with pytest.raises(InputError, match=message):
        read_clip(source, data_of(9, corresponding=False), 0)


def test_a_folder_of_pictures_is_a_video(tmp_path):
    (tmp_path / 'video').mkdir()
    for k in range(7):
        Image.new('RGB', (20, 20), (30 * k, 0, 0)).save(tmp_path / 'video' / f'{k:02d}.png')
    (source,) = find_videos(tmp_path)
    data = ConfigDict({'num_frames': 4, 'image_size': 8})
    with pytest.warns(UserWarning, match='of 7 frames those nearest to 4 equidistant times are taken'):
        found, _ = read_image_clip(source, data, 0)
    assert found['image_clip'].shape == (4, 8, 8, 3)
    np.testing.assert_allclose(found['image_clip'][:, 4, 4, 0] * 255, [0, 60, 120, 180], atol=1)
    with pytest.raises(FileNotFoundError, match=r'expected the frames of a sequence, such as 000.jpg'):
        find_videos(tmp_path / 'video' / 'none')
