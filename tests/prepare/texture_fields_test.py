import re
import shutil

import numpy as np
import pytest
from PIL import Image

from onet_jax.data import records
from onet_jax.data.schema import DEPTH_STEPS
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import IMAGE_SIZE, Camera, unproject
from onet_jax.geometry.render import render_views
from onet_jax.geometry.sampling import sample_surface
from onet_jax.prepare.check import check_dataset
from onet_jax.prepare.embedded import coloured_solid
from onet_jax.prepare.runners import in_this_process
from onet_jax.prepare.texture_fields import import_texture_fields, to_camera

SIZE = 160  # px of the stored views
K = np.array([[149.84375, 0, -68.5, 0], [0, 149.84375, -68.5, 0], [0, 0, -68.5, 0]])


def test_cameras_are_those_of_the_original_code(golden):
    """Which takes a pixel for its left upper corner, and swaps the axes of pictures."""
    found = golden('flow/texture/unprojection.npz')
    for suffix in ('', '_b'):
        depth = found[f'in/depth{suffix}'][:, 0]
        corners = np.stack(np.meshgrid(*map(np.arange, depth.shape[1:]), indexing='ij'), axis=-1)  # [column, row]
        for i, (camera_mat, world_mat) in enumerate(
            zip(found[f'in/camera_mat{suffix}'], found['in/world_mat'], strict=True)
        ):
            camera = to_camera(camera_mat.astype(np.float64), world_mat.astype(np.float64), depth.shape[1])
            seen = np.isfinite(depth[i].T)
            assert seen.any()
            points = unproject(camera, corners[seen], depth[i].T[seen])
            expected = found[f'out/loc3d{suffix}'][i].transpose(1, 2, 0)[seen]
            np.testing.assert_allclose(points, expected, atol=2e-6)


@pytest.fixture(scope='module')
def layout(tmp_path_factory):
    """ROOT of two mugs with two random views and one fixed view, in the layout of the original."""
    exr, root = pytest.importorskip('OpenEXR'), tmp_path_factory.mktemp('layout')
    for number, name in enumerate('ab'):
        mesh, colours = coloured_solid(0, 'mug', number).surface()
        folder = root / 'mug' / name
        for part, eyes in ((folder, [(0.3, 0.5, 1.6), (1.6, 0.4, -0.2)]), (folder / 'visualize', [(0, 0.3, 1.7)])):
            (part / 'image').mkdir(parents=True)
            (part / 'depth').mkdir()
            cameras = {}
            for i, eye in enumerate(np.array(eyes)):
                back = eye / np.linalg.norm(eye)
                right = np.cross((0, 1, 0), back) / np.linalg.norm(np.cross((0, 1, 0), back))
                turn = np.stack([right, np.cross(back, right), back])
                cameras |= {f'camera_mat_{i}': K, f'world_mat_{i}': np.column_stack([turn, -turn @ eye])}
                ours = to_camera(K, cameras[f'world_mat_{i}'], IMAGE_SIZE)
                view = render_views(mesh, Camera(*(matrix[None] for matrix in ours)), size=SIZE, colour=colours)
                Image.fromarray(view.rgb[0]).save(part / 'image' / f'{i:03d}.png')
                depth = np.repeat(view.depth[0][..., None], 3, axis=2).astype(np.float16)
                with exr.File({'compression': exr.ZIP_COMPRESSION}, {'RGB': depth}) as file:
                    file.write(str(part / 'depth' / f'{i:03d}.exr'))
            np.savez(part / 'depth' / 'cameras.npz', **cameras)
        points, normals = sample_surface(mesh, 2500, 0)
        np.savez(folder / 'pointcloud.npz', points=points, normals=normals.astype(np.float64))
        (folder / 'input_image').mkdir()
        for i in range(2):
            Image.new('RGB', (137, 137), (50 * i, 90, 200)).save(folder / 'input_image' / f'{i:03d}.jpg')
    (root / 'mug' / 'train.lst').write_text('a')
    (root / 'mug' / 'test.lst').write_text('b')
    return root


@pytest.mark.slow
def test_the_layout_becomes_a_dataset_of_views_and_oriented_points(layout, tmp_path):
    index = import_texture_fields(layout, tmp_path, run=in_this_process)
    assert index.splits == {'train': (('mug', 'a'),), 'val': (), 'test': (('mug', 'b'),)}
    assert (index.num_points, index.num_surface_points, index.num_views) == (0, 2500, 5)
    assert (index.num_input_views, index.num_fixed_views) == (2, 1)
    assert not check_dataset(tmp_path, in_this_process).problems
    path = records.shape_path(tmp_path, 'mug', 'a')
    shape = records.read_shape(path, index)
    assert shape.voxels is None
    depth, alpha, rgb = (records.decode_views(path, name, getattr(shape, name)) for name in ('depth', 'alpha', 'image'))
    mesh, colours = coloured_solid(0, 'mug', 0).surface()
    assert [tuple(rgb[view, 60, 60].astype(int).round(-1)) for view in range(2)] == [(0, 90, 200), (50, 90, 200)]
    for view in range(2, 5):
        # As our own renderings of the same size.
        camera = Camera(shape.world_mat[view][None], shape.camera_mat[view][None])
        expected = render_views(mesh, camera, colour=colours)
        drawn, both = alpha[view] > 0, (alpha[view] > 0) & (expected.alpha[0] > 0)
        assert both.sum() > 0.97 * max(drawn.sum(), (expected.alpha[0] > 0).sum())
        assert (np.abs(depth[view] / DEPTH_STEPS - expected.depth[0])[both] < 0.01).mean() > 0.85, (
            'but for what is steep'
        )
        assert np.abs(rgb[view][both].astype(float) - expected.rgb[0][both]).mean() < 6
        np.testing.assert_array_equal(drawn, depth[view] > 0)
        assert (rgb[view][~drawn] > 230).all()


def test_of_one_category_without_point_clouds_there_are_views_alone_and_a_line_says_so(layout, tmp_path, capsys):
    root = shutil.copytree(layout / 'mug', tmp_path / 'cup')
    (root / 'a' / 'pointcloud.npz').unlink()
    (root / 'test.lst').unlink()
    index = import_texture_fields(root, tmp_path / 'data', run=in_this_process)
    assert index.splits['train'] == (('cup', 'a'),)
    assert index.num_surface_points == 0
    assert f'{root}/a/pointcloud.npz: expected points and normals' in capsys.readouterr().out
    assert not check_dataset(tmp_path / 'data', in_this_process).problems
    with pytest.raises(InputError, match='expected at least 2048 surface samples of a shape, found 0'):
        records.check_need(tmp_path / 'data', index, records.Need(('surface', 'normals'), 0, 100))


def _cut(path):
    path.write_bytes(path.read_bytes()[:300])


def _shrink(path):
    Image.new('RGB', (20, 20)).save(path)


def _empty(path):
    import OpenEXR

    with OpenEXR.File({}, {'Y': np.full((SIZE, SIZE), np.inf, np.float32)}) as file:
        file.write(str(path))


FAULTS = {
    'depth/000.exr': (_cut, r'expected a depth map as OpenEXR, found another file'),
    'depth/001.exr': (lambda path: path.unlink(), r'expected the depth of a view, found no such file'),
    'visualize/depth/000.exr': (_empty, r'expected an object, found background alone'),
    'image/000.png': (_shrink, r'expected a picture of 160 x 160 px, found another file \(20 x 20'),
    'image/001.png': (_cut, r'expected a picture of 160 x 160 px, found another file'),
    'depth/cameras.npz': (_cut, r'expected an archive'),
    'input_image/001.jpg': (_cut, r'expected a readable picture'),
    'pointcloud.npz': (lambda path: np.savez(path, points=np.ones((3, 3))), r'expected an array of this name'),
}


@pytest.mark.parametrize('file', FAULTS)
def test_a_faulty_model_is_rejected_and_its_file_named(layout, tmp_path, file):
    harm, message = FAULTS[file]
    root = shutil.copytree(layout, tmp_path / 'root')
    harm(root / 'mug' / 'b' / file)
    index = import_texture_fields(root, tmp_path / 'data', run=in_this_process)
    assert index.splits['test'] == ()
    assert re.search(rf'mug/b/{file}.*{message}', index.rejected['mug/b'])
