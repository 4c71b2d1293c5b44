"""Readers of posed pictures: beside the official loaders, and with wrong input."""

import json
import struct

import numpy as np
import pytest
from parity.golden import find_golden, read_golden
from PIL import Image
from scipy.spatial.transform import Rotation

from onet_jax.data.posed_views import read_views
from onet_jax.data.scenes import load_views
from onet_jax.errors import InputError
from onet_jax.geometry.camera_paths import orbit, spiral, to_cameras, to_poses

NERF = 'nerf_atlasnet_dmc/nerf'
OFFICIAL = pytest.mark.skipif(
    find_golden(f'{NERF}/blender.npz') is None, reason='golden files not found: $ONET_JAX_SHARED'
)
POINTS = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 3))
UNTURNED = np.eye(3)
POSE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]  # on +z, looks at the origin, y up


def write_scene(folder, num_views=3, size=(8, 6), pose=POSE, **changes):
    """A scene of `num_views` training and test views in the layout of Blender."""
    for split in ('train', 'test'):
        (folder / split).mkdir(parents=True)
        names = [f'{split}/{i}' for i in range(num_views)]
        for name in names:
            Image.new('RGBA', size, (255, 0, 0, 128)).save(folder / f'{name}.png')
        frames = [{'file_path': f'./{name}', 'transform_matrix': pose} for name in names]
        content = {'camera_angle_x': 0.7, 'frames': frames} | changes
        (folder / f'transforms_{split}.json').write_text(json.dumps(content))
    return folder


@OFFICIAL
def test_blender_scenes_are_those_of_the_official_loader():
    views, expected = read_views(find_golden(f'{NERF}/blender_scene')), read_golden(f'{NERF}/blender.npz')
    assert np.abs(to_poses(views.camera) - expected['out/full/poses'][:, :3]).max() < 1e-6
    height, width, focal = expected['out/full/hwf']
    assert views.size == (width, height)
    # There the focal length of all is that of the last file.
    assert views.camera.camera_mat[-1, 0, 0] == pytest.approx(focal, rel=1e-12)
    assert [len(views.splits[split]) for split in ('train', 'val', 'test')] == [2, 1, 3]
    rgba = load_views(views, range(6), 1).rgba / 255
    white = rgba[..., :3] + 1 - rgba[..., 3:]
    assert np.abs(white - expected['out/images_white']).max() <= 0.5 / 255 + 1e-6
    small = load_views(views, range(6), 2)
    # There the transparent colours take part in the mean.
    solid = (expected['out/full/imgs'][..., 3] == 1).reshape(6, 5, 2, 6, 2).all(axis=(2, 4))
    assert solid.any()
    assert np.abs(small.rgba / 255 - expected['out/area_resize_2x'])[solid].max() <= 0.5 / 255 + 1e-6
    assert np.allclose(small.intrinsic[:, :2], views.camera.camera_mat[:, :2] / 2)


@OFFICIAL
def test_llff_scenes_are_those_of_the_official_loader():
    views, expected = read_views(find_golden(f'{NERF}/llff_scene')), read_golden(f'{NERF}/llff.npz')
    assert np.abs(to_poses(views.camera) - expected['out/f8/poses'][:, :, :4]).max() < 1e-5
    assert np.abs(views.bounds - expected['out/f8/bds']).max() < 1e-5
    focal = expected['out/f8/poses'][:, 2, 4]
    assert np.allclose(load_views(views, range(10), 8).intrinsic[:, 0, 0], focal, rtol=1e-6)
    assert views.splits['test'] == (0, 8)
    path = spiral(views.camera, views.bounds, 120)
    assert np.abs(to_poses(path) - expected['out/f8/render_poses'][:, :, :4]).max() < 1e-5


@OFFICIAL
def test_an_orbit_of_cameras_on_a_circle_has_these_cameras():
    expected = read_golden(f'{NERF}/blender.npz')['out/render_poses'][:, :3]
    views = read_views(find_golden(f'{NERF}/blender_scene'))
    path = to_poses(orbit(to_cameras(expected, views.camera.camera_mat[0]), len(expected)))
    gaps = np.abs(path[:, None] - expected).max(axis=(2, 3))
    assert sorted(gaps.argmin(axis=1)) == list(range(len(expected)))
    assert gaps.min(axis=1).max() < 1e-5


def test_colmap_models_are_read_as_text_and_as_bytes(tmp_path):
    turn = Rotation.from_euler('xyz', [0.1, 0.2, 0.3])
    pose = [*np.roll(turn.as_quat(), 1), 0.1, 0.2, 3.0]
    for write in (write_text, write_binary):
        found = read_views(write_colmap(tmp_path / write.__name__, pose, write))
        assert np.allclose(found.camera.world_mat[0], np.column_stack([turn.as_matrix(), pose[4:]]))
        # The model was made of pictures of twice the size.
        assert np.allclose(found.camera.camera_mat[0], [[15, 0, 10], [0, 16, 5], [0, 0, 1]])
        depths = POINTS @ turn.as_matrix()[2] + 3
        assert found.bounds[0, 0] < depths.min() < depths.max() < found.bounds[0, 1] < 2 * depths.max()
        assert found.splits == {'train': (1,), 'val': (0,), 'test': (0,)}


def write_colmap(folder, pose=(1, 0, 0, 0, 0, 0, 3.0), write=None):
    """A COLMAP model of two pictures."""
    (folder / 'images').mkdir(parents=True)
    (folder / 'sparse/0').mkdir(parents=True)
    for name in ('a', 'b'):
        Image.new('RGB', (20, 10), 'blue').save(folder / f'images/{name}.png')
    (write or write_text)(folder / 'sparse/0', pose, POINTS)
    return folder


def write_text(folder, pose, points):
    folder.joinpath('cameras.txt').write_text('# a comment\n1 PINHOLE 40 20 30 32 20 10\n')
    seen = ' '.join(f'1 2 {i}' for i in range(len(points))) + ' 3 4 -1'
    lines = [f'{i} {" ".join(map(str, pose))} 1 {name}.png\n{seen}\n' for i, name in ((1, 'b'), (2, 'a'))]
    folder.joinpath('images.txt').write_text(''.join(lines))
    rows = [f'{i} {x} {y} {z} 0 0 0 0.1 1 2\n' for i, (x, y, z) in enumerate(points)]
    folder.joinpath('points3D.txt').write_text(''.join(rows))


def write_binary(folder, pose, points):
    camera = struct.pack('<QIiQQ4d', 1, 1, 1, 40, 20, 30, 32, 20, 10)
    folder.joinpath('cameras.bin').write_bytes(camera)
    seen = b''.join(struct.pack('<ddq', 1, 2, i) for i in [*range(len(points)), -1])
    images = [
        struct.pack('<I7dI', i, *pose, 1) + name + b'.png\0' + struct.pack('<Q', len(points) + 1) + seen
        for i, name in ((1, b'b'), (2, b'a'))
    ]
    folder.joinpath('images.bin').write_bytes(struct.pack('<Q', 2) + b''.join(images))
    rows = [struct.pack('<Q3d3BdQII', i, *point, 0, 0, 0, 0.1, 1, 1, 2) for i, point in enumerate(points)]
    folder.joinpath('points3D.bin').write_bytes(struct.pack('<Q', len(points)) + b''.join(rows))


MIRRORED = (np.diag([-1, 1, 1, 1]) @ POSE).tolist()
SKEWED = [[1, 0.2, 0, 0], *POSE[1:]]


@pytest.mark.parametrize(
    'changes, expected',
    [
        ({'pose': MIRRORED}, 'expected a right-handed rotation, found a mirrored one'),
        ({'pose': SKEWED}, 'expected a rotation, found axes that are 0.2 off'),
        ({'pose': [[1, 0, 0]]}, r'transform_matrix: expected 4 x 4 numbers, found the shape \[1, 3\]'),
        ({'camera_angle_x': 0.0}, 'expected camera_angle_x between 0 and pi radians'),
        ({'fl_x': 0.0}, 'expected a positive focal length, found 0.0 px'),
        ({'num_views': 0}, 'expected views to train on and views to hold out'),
        ({'pose': np.zeros((4, 4)).tolist()}, 'expected a rotation, found axes that are 1 off'),
    ],
)
def test_wrong_cameras_are_named(tmp_path, changes, expected):
    with pytest.raises(InputError, match=expected):
        read_views(write_scene(tmp_path / 'scene', **changes))


def test_pictures_that_are_missing_or_of_another_size_are_named(tmp_path):
    folder = write_scene(tmp_path / 'scene')
    Image.new('RGB', (8, 7)).save(folder / 'train/1.png')
    with pytest.raises(InputError, match=r'train/1.png: expected 8 x 6 px, as the first picture, found 8 x 7'):
        read_views(folder)
    (folder / 'train/1.png').unlink()
    with pytest.raises(
        FileNotFoundError, match=r'transforms_train.json: expected the picture ./train/1.png of frame 1'
    ):
        read_views(folder)
    with pytest.raises(FileNotFoundError, match='expected posed pictures'):
        read_views(tmp_path)


def test_of_a_single_picture_nothing_can_be_held_out(tmp_path):
    folder = write_scene(tmp_path / 'blender', num_views=1)
    (folder / 'transforms_train.json').rename(folder / 'transforms.json')
    (folder / 'transforms_test.json').unlink()
    expected = r"views to hold out, found {'train': 1, 'val': 0, 'test': 0}; take more pictures"
    with pytest.raises(InputError, match=expected):
        read_views(folder)
    with pytest.raises(InputError, match=expected):
        read_views(write_llff(tmp_path / 'llff', num_views=1))


def write_llff(folder, num_views=10, focal=10.0, rotation=UNTURNED, near=1.0, num_pictures=None):
    """A scene in the layout of LLFF of cameras side by side."""
    (folder / 'images').mkdir(parents=True)
    for i in range(num_views if num_pictures is None else num_pictures):
        Image.new('RGB', (8, 6)).save(folder / f'images/{i}.png')
    rows = [[*np.column_stack([rotation, [0.1 * i, 0, 0], [6, 8, focal]]).ravel(), near, 5] for i in range(num_views)]
    np.save(folder / 'poses_bounds.npy', rows)
    return folder


@pytest.mark.parametrize(
    'changes, expected',
    [
        ({'focal': 0.0}, 'images/0.png: expected a positive focal length, found 0.0 px'),
        ({'near': 0.0}, 'poses_bounds.npy: expected near and far above 0 of each picture, found 0'),
        ({'rotation': np.diag([1, 1, -1])}, 'images/0.png: expected a right-handed rotation'),
        ({'rotation': np.zeros((3, 3))}, 'images/0.png: expected a rotation, found axes that are 1 off'),
        ({'num_pictures': 9}, r'poses_bounds.npy: expected as many rows as pictures in .*images, 9, found 10'),
    ],
)
def test_wrong_scenes_of_llff_are_named(tmp_path, changes, expected):
    with pytest.raises(InputError, match=expected):
        read_views(write_llff(tmp_path / 'scene', **changes))


def test_damaged_poses_of_llff_are_named(tmp_path):
    path = write_llff(tmp_path / 'scene') / 'poses_bounds.npy'
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=r'poses_bounds.npy: expected 1360 bytes for float64 \[10, 17\], found 1355'):
        read_views(tmp_path / 'scene')
    np.save(path, np.zeros((10, 3, 5)))
    with pytest.raises(InputError, match=r'expected finite numbers of the shape \[V, 17\], found float64 \[10, 3, 5\]'):
        read_views(tmp_path / 'scene')


@pytest.mark.parametrize(
    'file, old, new, expected',
    [
        ('cameras.txt', '30 32', '0 32', 'a.png: expected a positive focal length, found 0.0 px'),
        ('cameras.txt', '40 20', '0 20', 'expected pictures of the camera 1 with pixels, found 0 x 20 px'),
        ('cameras.txt', '30 32 20 10', '30 32 20', 'cameras.txt: .*expected 4 parameters of PINHOLE, found 3'),
        ('cameras.txt', 'PINHOLE 40 20 30 32 20 10', 'SIMPLE_RADIAL 40 20 30 20 10 0.1', 'undistort them with `colmap'),
        ('images.txt', '2 1 0 0 0 0 0', '2 0 0 0 0 0 0', 'expected a quaternion and a translation of a.png'),
        ('images.txt', 'a.png', 'c.png', 'expected the picture .*c.png of the COLMAP model, found none'),
        ('images.txt', None, '# empty', 'images.txt: expected pictures of the COLMAP model, found none'),
        ('points3D.txt', None, '# empty', 'expected points before the camera of a.png, found none'),
    ],
)
def test_wrong_models_of_colmap_are_named(tmp_path, file, old, new, expected):
    path = write_colmap(tmp_path / 'scene') / 'sparse/0' / file
    path.write_text(path.read_text().replace(path.read_text() if old is None else old, new))
    with pytest.raises((InputError, FileNotFoundError), match=expected):
        read_views(tmp_path / 'scene')


@pytest.mark.parametrize('mode', ['P', 'I;16', 'LA', 'RGB'])
def test_pictures_of_any_mode_are_read(tmp_path, mode):
    folder = write_scene(tmp_path / 'scene', num_views=1)
    picture = Image.new('RGB', (8, 6), (128, 128, 128))
    if mode == 'I;16':
        picture = Image.fromarray(np.full((6, 8), 128 * 257, np.uint16))
    elif mode != 'RGB':
        picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE)
    picture.save(folder / 'train/0.png')
    rgba = load_views(read_views(folder), [0], 1).rgba
    assert np.abs(rgba[..., :3].astype(int) - 128).max() <= 1
    assert (rgba[..., 3] == 255).all()
