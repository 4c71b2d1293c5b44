import json

import numpy as np
import pytest
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import MESH_FORMATS, POINT_FORMATS, load_geometry, load_mesh, save_mesh

# Where a mesh of size 1 lies, and how large it is: UTM metres, millimetres, at the origin, micrometres in metres.
PLACES = {
    'utm': ((5e5, 4.6e6, 100.25), 1.0),
    'millimetres': ((4e6, -4e6, 4e6), 1000.0),
    'near': ((3.0, 0.0, 0.0), 1.0),
    'small': ((0.0, 0.0, 0.0), 1e-7),
    'small_far': ((1.0, 2.0, 3.0), 1e-6),
}


def sphere(place) -> trimesh.Trimesh:
    offset, scale = PLACES[place]
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    return trimesh.Trimesh(scale * mesh.vertices + offset, mesh.faces, process=False)


@pytest.mark.parametrize('kind', MESH_FORMATS)
@pytest.mark.parametrize('place', PLACES)
def test_a_mesh_comes_back_wherever_it_is(tmp_path, capsys, place, kind):
    mesh, size = sphere(place), PLACES[place][1]
    save_mesh(mesh, tmp_path / f'a.{kind}')
    moved = kind == 'stl' and place not in ('near', 'small')
    assert (tmp_path / 'a.stl.offset.json').exists() == moved
    assert ('a.stl: so far from the origin' in capsys.readouterr().out) == moved
    np.testing.assert_allclose(load_mesh(tmp_path / f'a.{kind}').triangles, mesh.triangles, rtol=0, atol=3e-7 * size)
    whole = load_geometry(tmp_path / f'a.{kind}')
    assert (len(whole.vertices), whole.is_watertight) == (162, True), 'nothing is welded that is apart'


@pytest.mark.parametrize('kind', POINT_FORMATS)
@pytest.mark.parametrize('place', PLACES)
def test_a_cloud_comes_back_wherever_it_is(tmp_path, place, kind):
    points, size = sphere(place).vertices, PLACES[place][1]
    save_mesh(trimesh.PointCloud(points), tmp_path / f'a.{kind}')
    np.testing.assert_allclose(load_geometry(tmp_path / f'a.{kind}').vertices, points, rtol=0, atol=3e-7 * size)


def test_the_offset_of_an_stl_is_that_of_this_file(tmp_path):
    path, beside = tmp_path / 'a.stl', tmp_path / 'a.stl.offset.json'
    save_mesh(sphere('utm'), path)
    assert json.loads(beside.read_text())['offset'] == [5e5, 4.6e6, 100.0]
    np.testing.assert_allclose(trimesh.load(path).bounds, [[-0.5, -0.5, -0.25], [0.5, 0.5, 0.75]], atol=1e-6)
    old = beside.read_bytes()
    save_mesh(sphere('near'), path)
    assert not beside.exists()
    beside.write_bytes(old)
    np.testing.assert_allclose(load_mesh(path).bounds, sphere('near').bounds, atol=1e-6)
    save_mesh(sphere('near'), tmp_path / f'{"n" * 251}.stl')  # a name that leaves no room for that of an offset


@pytest.mark.parametrize('place', ['near', 'utm'])
def test_a_ply_has_the_colours_of_vertices_or_of_faces(tmp_path, place):
    colours = np.random.default_rng(0).integers(0, 256, (320, 4), np.uint8)
    for name, used in (('vertex_colors', colours[:162]), ('face_colors', colours)):
        mesh = sphere(place)
        setattr(mesh.visual, name, used)
        save_mesh(mesh, tmp_path / 'a.ply')
        read = trimesh.load(tmp_path / 'a.ply', process=False)
        np.testing.assert_array_equal(getattr(read.visual, name), used)
        np.testing.assert_array_equal(read.faces, mesh.faces)
    header = (tmp_path / 'a.ply').read_bytes()[:200]
    assert (b'property double x' in header) == (place == 'utm')


@pytest.mark.parametrize('kind', MESH_FORMATS)
def test_sizes_beyond_float32(tmp_path, kind):
    box = trimesh.creation.box()
    for size in (1e-300, 1e-36, 1e38, 1e40, 1e300):
        mesh, path = trimesh.Trimesh(size * box.vertices, box.faces, process=False), tmp_path / f'{size}.{kind}'
        if kind in ('ply', 'obj', 'off') or 1e-36 <= size <= 1e38:
            save_mesh(mesh, path)
            read = load_geometry(path)
            assert len(read.vertices) == 8
            np.testing.assert_allclose(read.triangles / size, mesh.triangles / size, rtol=0, atol=1e-7)
        else:
            with pytest.raises(InputError, match=rf'{kind}: expected coordinates of at most 3e\+38 and a longest edge'):
                save_mesh(mesh, path)
            assert not path.exists()


@pytest.mark.parametrize('kind', MESH_FORMATS)
@pytest.mark.parametrize('value', [np.nan, np.inf, 1e301])
def test_vertices_that_are_not_finite_are_not_written(tmp_path, kind, value):
    mesh = sphere('near')
    mesh.vertices[7, 1] = value
    with pytest.raises(
        InputError, match=rf'a\.{kind}: expected coordinates that are finite, of at most 1e\+300, found '
    ):
        save_mesh(mesh, tmp_path / f'a.{kind}')
    assert not list(tmp_path.iterdir())


def test_another_file_of_the_name_of_an_offset_is_kept(tmp_path):
    beside = tmp_path / 'a.stl.offset.json'
    beside.write_text('{"mine": 1}')
    for place in ('utm', 'near'):
        with pytest.raises(InputError, match=r"a\.stl\.offset\.json: expected the key 'offset'.*write to another name"):
            save_mesh(sphere(place), tmp_path / 'a.stl')
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(beside, '{"mine": 1}')]


@pytest.mark.parametrize('kind', ['glb', 'obj'])
def test_a_cloud_without_points_is_not_written_where_it_could_not_be_read(tmp_path, kind):
    with pytest.raises(InputError, match=rf'a\.{kind}: expected points, found none'):
        save_mesh(trimesh.PointCloud(np.zeros((0, 3))), tmp_path / f'a.{kind}')
