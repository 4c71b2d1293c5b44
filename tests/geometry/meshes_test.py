import numpy as np
import pytest
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import (
    MESH_FORMATS,
    POINT_FORMATS,
    check_format,
    load_cloud,
    load_geometry,
    load_mesh,
    normalise,
    save_mesh,
)


def test_frames_there_and_back():
    points = np.random.default_rng(0).uniform([5, -3, 0], [9, -2, 1], (100, 3))
    frame = normalise(points)
    inside = frame.to_object(points)
    np.testing.assert_allclose(np.ptp(inside, axis=0).max(), 1)
    np.testing.assert_allclose(inside.min(axis=0) + inside.max(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(frame.to_user(inside), points)


@pytest.mark.parametrize('kind', MESH_FORMATS)
def test_meshes_come_back_as_samples_of_their_surface(tmp_path, kind):
    path = tmp_path / f'a.{kind}'
    save_mesh(trimesh.creation.box((2, 1, 1)), path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name], 'no temporary file is left'
    cloud = load_cloud(path)
    assert cloud.shape == (100_000, 3)
    np.testing.assert_allclose(np.abs(cloud).max(axis=0), [1, 0.5, 0.5], atol=1e-3)


def test_clouds_of_every_format(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 3))
    trimesh.PointCloud(points).export(tmp_path / 'a.ply')
    np.savetxt(tmp_path / 'a.xyz', np.hstack([points, points]))
    np.save(tmp_path / 'a.npy', points)
    np.savez(tmp_path / 'a.npz', points=points.astype(np.float16))
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(load_cloud(path), points, atol=2e-3, err_msg=path.name)


def write_bad_files(folder):
    good = np.random.default_rng(0).normal(size=(50, 3))
    np.save(folder / 'nan.npy', np.full((50, 3), np.nan))
    np.save(folder / 'one.npy', np.ones((30, 3)))
    np.save(folder / 'flat.npy', np.ones((30, 2)))
    np.save(folder / 'pickle.npy', np.array([{}], dtype=object))
    np.savez(folder / 'other.npz', cloud=good, more=good)
    np.savez(folder / 'cut.npz', points=good)
    (folder / 'cut.npz').write_bytes((folder / 'cut.npz').read_bytes()[:200])
    (folder / 'text.ply').write_text('hello')
    (folder / 'what.docx').write_text('hello')


@pytest.mark.parametrize(
    'name, found',
    [
        ('nan.npy', 'at least 2 distinct points, found 0 in 0'),
        ('one.npy', 'at least 2 distinct points, found 1 in 30'),
        ('flat.npy', r'expected points \[N, 3\], found an array of shape \[30, 2\]'),
        ('pickle.npy', 'pickled objects'),
        ('other.npz', r"an array named 'points', or one array alone, found \['cloud', 'more'\]"),
        ('cut.npz', 'damaged'),
        ('text.ply', 'expected a PLY header'),
        ('what.docx', "expected one of the formats.*'docx'"),
        ('missing.ply', 'no such file'),
    ],
)
def test_bad_files_are_named_with_their_fault(tmp_path, name, found):
    write_bad_files(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=f'{name}.*{found}'):
        load_cloud(tmp_path / name)


@pytest.mark.parametrize('kind', POINT_FORMATS)
def test_point_clouds_are_written_with_their_colours(tmp_path, kind):
    points = np.random.default_rng(0).normal(size=(50, 3))
    path = tmp_path / f'a.{kind}'
    save_mesh(trimesh.PointCloud(points, colors=np.full((50, 3), 30, np.uint8)), path)
    np.testing.assert_allclose(load_cloud(path), points, atol=1e-6)
    cloud = load_geometry(path)
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_array_equal(cloud.colors[:, :3], 30)


@pytest.mark.parametrize('kind', MESH_FORMATS)
def test_geometry_comes_back_with_shared_vertices(tmp_path, kind):
    """Also from stl, where each face has vertices of its own."""
    box = trimesh.creation.box((2, 1, 1))
    save_mesh(box, tmp_path / f'a.{kind}')
    mesh = load_geometry(tmp_path / f'a.{kind}')
    assert mesh.is_watertight
    assert len(mesh.vertices) == 8
    np.testing.assert_allclose(mesh.bounds, box.bounds)


@pytest.mark.parametrize('size, place', [(1e-4, 4.6e6), (1e12, 0), (1e30, 0), (1e300, 0), (1e-310, 0)])
def test_only_equal_vertices_are_merged(tmp_path, size, place):
    corners = size * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) + [place, 0, 0]
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    lines = [*(f'v {x!r} {y!r} {z!r}' for x, y, z in corners[faces].reshape(-1, 3).tolist()), 'v 7 7 7']
    lines += [f'f {3 * n + 1} {3 * n + 2} {3 * n + 3}' for n in range(4)]
    (tmp_path / 'a.obj').write_text('\n'.join(lines).replace('v 0.0', 'v -0.0', 1))
    mesh = load_geometry(tmp_path / 'a.obj')
    assert (len(mesh.vertices), mesh.is_watertight) == (4, True)
    np.testing.assert_array_equal(mesh.triangles, corners[faces])


def test_a_format_that_cannot_hold_it_is_refused_before_writing(tmp_path):
    cloud = trimesh.PointCloud(np.eye(3))
    for geometry, name in ((trimesh.creation.box(), 'a.fbx'), (trimesh.creation.box(), 'a.xyz'), (cloud, 'a')):
        with pytest.raises(InputError, match=r'a.*: expected a format that holds a .*, ply\|obj\|'):
            save_mesh(geometry, tmp_path / name)
    for kind in ('stl', 'off'):
        with pytest.raises(InputError, match=rf"holds a PointCloud, ply\|obj\|glb\|xyz, found '{kind}'"):
            save_mesh(cloud, tmp_path / f'a.{kind}')
    assert not list(tmp_path.iterdir())
    check_format('glb')
    with pytest.raises(InputError, match=r"one of the formats ply\|obj\|off\|stl\|glb to write meshes in, found 'usd'"):
        check_format('usd')


def test_a_scene_of_point_clouds_is_read_in_its_own_frame(tmp_path):
    points = np.random.default_rng(0).normal(size=(50, 3))
    scene = trimesh.Scene()
    move = trimesh.transformations.translation_matrix([5, 0, 0])
    scene.add_geometry(trimesh.PointCloud(points), node_name='here')
    scene.add_geometry(trimesh.PointCloud(points), node_name='there', transform=move)
    (tmp_path / 'a.glb').write_bytes(scene.export(file_type='glb'))
    cloud = load_cloud(tmp_path / 'a.glb')
    expected = np.concatenate([points, points + np.array([5, 0, 0])])
    np.testing.assert_allclose(np.sort(cloud, axis=0), np.sort(expected, axis=0), atol=1e-5)


def test_a_scene_of_meshes_is_one_with_their_colours(tmp_path):
    red, blue = trimesh.creation.box(), trimesh.creation.box()
    red.visual.face_colors, blue.visual.face_colors = [255, 0, 0, 255], [0, 0, 255, 255]
    scene = trimesh.Scene([red])
    scene.add_geometry(blue, transform=trimesh.transformations.translation_matrix([5, 0, 0]))
    (tmp_path / 'a.glb').write_bytes(scene.export(file_type='glb'))
    mesh = load_mesh(tmp_path / 'a.glb')
    np.testing.assert_allclose(mesh.bounds, [[-0.5] * 3, [5.5, 0.5, 0.5]])
    is_blue = mesh.vertices[:, 0] > 2
    np.testing.assert_array_equal(mesh.visual.vertex_colors[is_blue], [[0, 0, 255, 255]] * is_blue.sum())
    assert is_blue.sum() == len(mesh.vertices) // 2
    save_mesh(trimesh.PointCloud(np.eye(3)), tmp_path / 'a.xyz')
    with pytest.raises(InputError, match=r'a\.xyz: expected triangles, found none'):
        load_mesh(tmp_path / 'a.xyz')


def test_text_is_no_number(tmp_path):
    np.save(tmp_path / 'a.npy', np.full((5, 3), 'one'))
    with pytest.raises(ValueError, match=r'a.npy: expected points \[N, 3\], .* type <U3'):
        load_cloud(tmp_path / 'a.npy')
