import numpy as np
import pytest
from PIL import Image

from onet_jax.data import records
from onet_jax.data.schema import DEPTH_STEPS, VIEW_SIZE
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera, unproject
from onet_jax.geometry.render import render_views
from onet_jax.geometry.sampling import sample_surface
from onet_jax.prepare.check import check_dataset
from onet_jax.prepare.embedded import coloured_solid
from onet_jax.prepare.runners import in_this_process
from onet_jax.prepare.texture_fields import FLIP, import_texture_fields, to_camera

SIZE = 192  # px of the stored views
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


def write_layout(root, names, pointcloud=True):
    """Mugs with two random and one fixed view, in the layout of the original; returns meshes and colours."""
    exr = pytest.importorskip('OpenEXR')
    meshes = []
    for number, name in enumerate(names):
        mesh, colours = coloured_solid(0, 'mug', number).surface()
        meshes.append((mesh, colours))
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
                ours = Camera(FLIP @ cameras[f'world_mat_{i}'], to_camera(K, cameras[f'world_mat_{i}'], 137).camera_mat)
                view = render_views(mesh, Camera(*(matrix[None] for matrix in ours)), size=SIZE, colour=colours)
                Image.fromarray(view.rgb[0]).save(part / 'image' / f'{i:03d}.png')
                depth = np.repeat(view.depth[0][..., None], 3, axis=2).astype(np.float16)
                header = {'compression': exr.ZIP_COMPRESSION, 'type': exr.scanlineimage}
                with exr.File(header, {'RGB': depth}) as file:
                    file.write(str(part / 'depth' / f'{i:03d}.exr'))
            np.savez(part / 'depth' / 'cameras.npz', **cameras)
        if pointcloud:
            points, normals = sample_surface(mesh, 2500, 0)
            np.savez(folder / 'pointcloud.npz', points=points, normals=normals.astype(np.float64))
    for split, chosen in (('train', names[:1]), ('test', names[1:])):
        (root / 'mug' / f'{split}.lst').write_text('\n'.join(chosen))
    return meshes


@pytest.mark.parametrize('is_category', [False, True])
def test_the_layout_becomes_a_dataset_of_views_and_oriented_points(tmp_path, is_category):
    root, data_dir = tmp_path / 'root', tmp_path / 'data'
    mesh, colours = write_layout(root, ['a', 'b'])[0]
    index = import_texture_fields(root / 'mug' if is_category else root, data_dir, run=in_this_process)
    assert index.splits == {'train': (('mug', 'a'),), 'val': (), 'test': (('mug', 'b'),)}
    assert (index.num_points, index.num_surface_points, index.num_views) == (0, 2500, 3)
    assert not check_dataset(data_dir, in_this_process).problems
    path = records.shape_path(data_dir, 'mug', 'a')
    shape = records.read_shape(path, index)
    assert shape.voxels is None
    depth, alpha, rgb = (records.decode_views(path, name, getattr(shape, name)) for name in ('depth', 'alpha', 'image'))
    for view in range(3):
        # As our own renderings of the same size.
        camera = Camera(shape.world_mat[view][None], shape.camera_mat[view][None])
        expected = render_views(mesh, camera, colour=colours)
        both = (alpha[view] > 0) & (expected.alpha[0] > 0)
        assert both.sum() > 0.97 * max((alpha[view] > 0).sum(), (expected.alpha[0] > 0).sum())
        assert (np.abs(depth[view] / DEPTH_STEPS - expected.depth[0])[both] < 0.01).mean() > 0.85, (
            'but for what is steep'
        )
        assert np.abs(rgb[view][both].astype(float) - expected.rgb[0][both]).mean() < 6
        np.testing.assert_array_equal(alpha[view] > 0, depth[view] > 0)
        assert (rgb[view][alpha[view] == 0] > 230).all()
    assert rgb.shape == (3, VIEW_SIZE, VIEW_SIZE, 3)


def test_without_its_point_cloud_a_model_has_views_alone_and_a_line_says_so(tmp_path, capsys):
    write_layout(tmp_path / 'root', ['a'], pointcloud=False)
    index = import_texture_fields(tmp_path / 'root', tmp_path / 'data', run=in_this_process)
    assert index.num_surface_points == 0
    assert f'{tmp_path}/root/mug/a/pointcloud.npz: expected points and normals' in capsys.readouterr().out
    assert not check_dataset(tmp_path / 'data', in_this_process).problems
    with pytest.raises(InputError, match='expected at least 2048 surface samples of a shape, found 0'):
        records.check_need(tmp_path / 'data', index, records.Need(('surface', 'normals'), 0, 100))


def _cut(path):
    path.write_bytes(path.read_bytes()[:300])


def _shrink(path):
    Image.new('RGB', (20, 20)).save(path)


def _empty(path):
    import OpenEXR

    nothing = np.full((SIZE, SIZE), np.inf, np.float32)
    with OpenEXR.File({'compression': OpenEXR.ZIP_COMPRESSION, 'type': OpenEXR.scanlineimage}, {'Y': nothing}) as file:
        file.write(str(path))


@pytest.mark.parametrize(
    'file, harm, message',
    [
        ('depth/000.exr', _cut, r'depth/000\.exr: expected a depth map as OpenEXR, found another file'),
        ('depth/001.exr', lambda path: path.unlink(), r'depth/001\.exr: expected the depth of a view, found no such file'),
        ('depth/001.exr', _empty, r'depth/001\.exr: expected an object, found background alone'),
        ('image/001.png', _shrink, r'image/001\.png: expected a picture of 192 x 192 px, found another file \(20 x 20'),
        ('image/001.png', _cut, r'image/001\.png: expected a picture of 192 x 192 px, found another file'),
        ('depth/cameras.npz', _cut, r'depth/cameras\.npz: expected an archive'),
        ('pointcloud.npz', _cut, r'pointcloud\.npz: expected an archive'),
        ('pointcloud.npz', lambda path: np.savez(path, points=np.ones((3, 3))), r"pointcloud\.npz, key 'normals'"),
    ],
)  # fmt: skip
def test_a_faulty_model_is_rejected_and_its_file_named(tmp_path, file, harm, message):
    write_layout(tmp_path / 'root', ['a'])
    harm(tmp_path / 'root' / 'mug' / 'a' / file)
    with pytest.raises(InputError, match=message):
        import_texture_fields(tmp_path / 'root', tmp_path / 'data', run=in_this_process)
