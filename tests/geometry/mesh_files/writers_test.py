import json

import numpy as np
import pytest
import trimesh

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
