"""The layout of DeepVoxels: cameras that are known, written as its files and read again, and files that are wrong."""

import shutil

import numpy as np
import pytest
from PIL import Image

from onet_jax.data.datasets import open_dataset
from onet_jax.data.posed_views import read_views
from onet_jax.errors import InputError
from onet_jax.geometry.camera_paths import to_poses
from onet_jax.geometry.cameras import project
from onet_jax.prepare.embedded_scene import DISTANCE, scene_poses

INTRINSICS = '60. 32. 24. 0.\n0. 0. 0.\n1.\n1.\n48 64\n'  # of pictures of 64 x 48 px
TO_OPENCV = np.diag([1.0, -1, -1, 1])  # axes right, up, back -> right, down, forward
POSES = {'train': scene_poses(0, 5), 'validation': scene_poses(1, 2), 'test': scene_poses(2, 3)}


def write_scene(folder, poses, intrinsics=INTRINSICS, size=(32, 24), to_camera=False):
    """A split of a scene of poses [V, 3, 4] from the camera to the world, axes right, up, back."""
    for part in ('pose', 'rgb'):
        (folder / part).mkdir(parents=True)
    (folder / 'intrinsics.txt').write_text(intrinsics)
    for i, pose in enumerate(poses):
        matrix = np.vstack([pose, [0, 0, 0, 1]]) @ TO_OPENCV
        matrix = np.linalg.inv(matrix) if to_camera else matrix
        # One line as the synthetic scenes have them, or four.
        lines = [matrix.ravel()] if i % 2 else matrix
        (folder / f'pose/{i:06d}.txt').write_text('\n'.join(' '.join(map(str, line)) for line in lines) + '\n')
        Image.new('RGB', size, 'blue').save(folder / f'rgb/{i:06d}.png')


@pytest.fixture
def root(tmp_path):
    for split, poses in POSES.items():
        write_scene(tmp_path / f'scenes/{split}/greek', poses)
    return tmp_path / 'scenes'


def test_poses_focal_length_near_and_far_are_those_that_were_written(root):
    views = read_views(root / 'train/greek')
    np.testing.assert_allclose(to_poses(views.camera), np.concatenate(list(POSES.values())), atol=1e-12)
    # The pictures are half as large as those that the intrinsics belong to.
    np.testing.assert_allclose(views.camera.camera_mat, np.tile([[30, 0, 16], [0, 30, 12], [0, 0, 1.0]], (10, 1, 1)))
    np.testing.assert_allclose(views.bounds, np.tile([DISTANCE - 1, DISTANCE + 1], (10, 1)))
    pixels, depth = project(views.camera, np.zeros((10, 1, 3)))
    np.testing.assert_allclose(pixels[:, 0], np.tile([16, 12], (10, 1)), atol=1e-9)
    np.testing.assert_allclose(depth, DISTANCE)
    assert views.size == (32, 24)
    assert views.splits == {'train': tuple(range(5)), 'val': (5, 6), 'test': (7, 8, 9)}


def test_a_scene_is_found_by_any_of_its_splits_and_by_the_folder_above_them(root):
    of_train = open_dataset(root / 'train/greek')
    for folder in (root, root / 'test/greek'):
        assert read_views(folder).pictures == of_train.views.pictures
    assert of_train.names('test')[0] == ('greek', 'test_greek_rgb_000000')
    assert of_train.check('greek', 'test_greek_rgb_000000')
    assert of_train.index.source == {'kind': 'views', 'layout': 'deepvoxels'}
    write_scene(root / 'train/cube', POSES['train'])
    with pytest.raises(
        InputError, match=r"expected one scene, found \['cube', 'greek'\]; give the folder of one, such as"
    ):
        read_views(root)
    assert read_views(root / 'train/greek').splits == of_train.views.splits
    # A folder without splits.
    shutil.move(root / 'train/cube', root / 'mine')
    assert read_views(root / 'mine').splits == {'train': (1, 2, 3, 4), 'val': (0,), 'test': (0,)}


def test_poses_from_the_world_to_the_camera_say_so(tmp_path):
    write_scene(tmp_path, POSES['train'], INTRINSICS + '1\n', to_camera=True)
    np.testing.assert_allclose(to_poses(read_views(tmp_path).camera), POSES['train'], atol=1e-12)


@pytest.mark.parametrize(
    'file, content, expected',
    [
        (
            'intrinsics.txt',
            '60. 32. 24. 0.\n0. 0. 0.\n',
            r'intrinsics.txt: expected the lines focal length .* \[4, 3\]',
        ),
        ('intrinsics.txt', INTRINSICS.replace('48', '0'), r'intrinsics.txt: expected the lines'),
        ('intrinsics.txt', INTRINSICS.replace('60.', 'sixty'), 'intrinsics.txt: expected lines of numbers'),
        (
            'intrinsics.txt',
            INTRINSICS.replace('60.', '0.'),
            '000000.png: expected a positive focal length, found 0.0 px',
        ),
        ('pose/000001.txt', '1 0 0 0', r'000001.txt: expected 4 x 4 numbers, row by row.*, found 4 that end with'),
        ('pose/000001.txt', ' '.join(map(str, range(16))), r'found 16 that end with \[12.0, 13.0, 14.0, 15.0\]'),
        ('pose/000001.txt', 'nan ' * 16, '000001.txt: expected finite numbers'),
        ('pose/000001.txt', '-1 0 0 0  0 1 0 0  0 0 1 0  0 0 0 1', '000001.png: expected a right-handed rotation'),
        ('pose/000001.txt', '0 ' * 15 + '1', '000001.png: expected a rotation, found axes that are 1 off'),
        ('pose/000001.txt', None, '000001.txt: expected a part of a DeepVoxels scene, found none'),
        ('rgb/000001.png', None, '000001.txt: expected a picture rgb/000001.png of each pose, found none of 1'),
        ('rgb/000001.png', 'no picture', '000001.png: expected a readable picture'),
    ],
)
def test_files_that_are_missing_short_or_odd_are_named(root, file, content, expected):
    path = root / 'train/greek' / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises((InputError, FileNotFoundError), match=expected):
        read_views(root / 'test/greek')
