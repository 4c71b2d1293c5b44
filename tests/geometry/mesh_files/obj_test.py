import numpy as np
import pytest
from PIL import Image

from onet_jax.errors import InputError
from onet_jax.geometry.colours import colours_of
from onet_jax.geometry.mesh_files import obj
from onet_jax.geometry.meshes import load_cloud, load_mesh

SQUARES = 'v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1\n'


def middles(mesh):
    return colours_of(mesh)(np.arange(len(mesh.faces)), np.full((len(mesh.faces), 3), 1 / 3))


def test_colours_of_materials(tmp_path):
    (tmp_path / 'a b.mtl').write_text('newmtl deep red\nKd 1 0 0\nmap_Kd away.png\n\nnewmtl blue\n\tKd 0 0 1\n')
    text = (
        'mtllib a b.mtl\n'
        + SQUARES
        + 'f 1 2 3\nusemtl deep red\nf 1 2 3 4\nusemtl blue\nf 5 6 7 8\nusemtl deep red\nf 1 3 4'
    )
    (tmp_path / 'a.obj').write_text(text)
    mesh = load_mesh(tmp_path / 'a.obj')
    assert len(mesh.vertices) == 8
    red, blue = [1, 0, 0], [0, 0, 1]
    np.testing.assert_allclose(middles(mesh), [[0.8] * 3, red, red, blue, blue, red], atol=1e-6)


def test_textures_have_seams(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).save(tmp_path / 'a.png')  # left red, right blue
    (tmp_path / 'a.mtl').write_text('newmtl a\nmap_Kd -s 1 1 1 a.png\n')
    coordinates = 'vt 0.1 0.5\nvt 0.2 0.5\nvt 0.9 0.5\n'
    faces = 'usemtl a\nf 1/1 2/2 3/1\nf 1/3/ 3/3 -5/-1\n'
    (tmp_path / 'a.obj').write_text(f'mtllib a.mtl {"long " * 60}\n' + SQUARES + coordinates + faces)
    mesh = load_mesh(tmp_path / 'a.obj')
    assert len(mesh.vertices) == 6
    np.testing.assert_array_equal(middles(mesh), [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(mesh.triangles[1], [[0, 0, 0], [1, 1, 0], [0, 1, 0]])


def test_a_texture_that_cannot_be_used_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    Image.new('RGB', (40, 40)).save(tmp_path / 'a.png')
    (tmp_path / 'a.mtl').write_text('newmtl a\nKd 0 1 0\nmap_Kd a.png\n')
    (tmp_path / 'a.obj').write_text('mtllib a.mtl\nmtllib ../../../etc/passwd\nusemtl a\n' + SQUARES + 'f 1 2 3\n')
    (tmp_path / 'a.png').write_bytes((tmp_path / 'a.png').read_bytes()[:-40])
    np.testing.assert_array_equal(middles(load_mesh(tmp_path / 'a.obj')), [[0, 1, 0]])
    assert 'a.mtl: a texture is not used' in capsys.readouterr().out
    monkeypatch.setattr('onet_jax.geometry.mesh_files.textures.MAX_PIXELS', 1599)
    Image.new('RGB', (40, 40)).save(tmp_path / 'a.png')
    np.testing.assert_array_equal(middles(load_mesh(tmp_path / 'a.obj')), [[0, 1, 0]])
    assert 'a.mtl: a texture is not used (40 x 40 px, more than 1599 in all)' in capsys.readouterr().out


@pytest.mark.parametrize(
    'faces, fault',
    [
        ('f 1 2 9', 'faces of the vertices 0 to 7, found 0 to 8'),
        ('f 1 2 0', 'found -1 to 1'),
        ('vt 0 0\nmtllib a.mtl\nusemtl a\nf 1/1 2/1 3/9', 'expected texture coordinates 0 to 1, found 0 to 8'),
        ('f 1 2 -9', 'found -1 to 1'),
        ('f 1 2 1.5', 'expected whole numbers'),
        ('f 1 2 x', "expected numbers, found 'x'"),
        ('v 1 2\nf 1 2 3', 'expected at least 3 numbers for vertex 9, found 2'),
        ('v 1 2 nan\nf 1 2 9', 'expected finite vertices, found NaN or infinity in 1 of 9'),
        ('f 1 2', 'expected triangles, found none'),
    ],
)
def test_what_is_damaged_is_named(tmp_path, faces, fault):
    Image.new('RGB', (1, 1)).save(tmp_path / 'a.png')
    (tmp_path / 'a.mtl').write_text('newmtl a\nmap_Kd a.png\n')
    (tmp_path / 'a.obj').write_text(SQUARES + faces)
    with pytest.raises(InputError, match=rf'a\.obj: .*{fault}'):
        load_mesh(tmp_path / 'a.obj')


def test_a_library_that_is_named_many_times_is_read_once(tmp_path, monkeypatch):
    (tmp_path / 'a.mtl').write_text('newmtl a\nKd 1 0 0\n')
    (tmp_path / 'a.obj').write_text('mtllib a.mtl\nmtllib ./a.mtl\n' * 9 + SQUARES + 'usemtl a\nf 1 2 3\n')
    read, parse = [], obj._parse_materials
    monkeypatch.setattr(obj, '_parse_materials', lambda path, textures: read.append(path) or parse(path, textures))
    np.testing.assert_array_equal(middles(load_mesh(tmp_path / 'a.obj')), [[1, 0, 0]])
    assert read == [tmp_path / 'a.mtl']


def test_points_alone_are_a_cloud(tmp_path):
    (tmp_path / 'a.obj').write_text(SQUARES + 'p 1 2 3\nl 1 2\n')
    assert load_cloud(tmp_path / 'a.obj').shape == (8, 3)
