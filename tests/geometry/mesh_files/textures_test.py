"""Faulty and unusual textures: a mesh is always read, and a printed line names the file of a texture that is not used."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image

from onet_jax.geometry.colours import colours_of
from onet_jax.geometry.meshes import load_mesh

RED = (200, 40, 60)
PIXELS = Image.new('RGB', (8, 8), RED)
CLEAR = Image.new('RGBA', (8, 8), (*RED, 0))
GREY, DARK = (204, 204, 204), (77, 77, 77)
OBJ = 'mtllib m.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n'
PLY = """ply
format ascii 1.0
comment TextureFile t.png
element vertex 3
property float x
property float y
property float z
property float s
property float t
element face 1
property list uchar int vertex_indices
end_header
0 0 0 0 0
1 0 0 1 0
0 1 0 0 1
3 0 1 2
"""


def colour_of(path):
    mesh = load_mesh(path)
    return np.round(255 * colours_of(mesh)(np.zeros(1, int), np.full((1, 3), 1 / 3)))[0]


@pytest.mark.parametrize(
    'image, colour',
    [
        (PIXELS, RED),
        (PIXELS.quantize(4), RED),  # a palette
        (CLEAR, RED),  # transparency is not looked at
        (Image.new('LA', (8, 8), (90, 255)), (90, 90, 90)),
        (Image.fromarray(np.full((8, 8), 90 * 257, np.uint16)), (90, 90, 90)),  # of 16 bits
        (b'no picture', DARK),
        (None, DARK),
    ],
)
def test_of_every_kind_of_texture_the_colours_are_read_or_a_line_names_its_file(tmp_path, capsys, image, colour):
    (tmp_path / 'm.mtl').write_text('newmtl a\nmap_Kd t.png\nKd 0.3 0.3 0.3\n')
    (tmp_path / 'a.obj').write_text(OBJ)
    if isinstance(image, bytes):
        (tmp_path / 't.png').write_bytes(image)
    elif image is not None:
        image.save(tmp_path / 't.png')
    np.testing.assert_allclose(colour_of(tmp_path / 'a.obj'), colour, atol=1)
    assert (f'{tmp_path}/m.mtl: ' in capsys.readouterr().out) == (colour == DARK)


@pytest.mark.parametrize('kind', ['obj', 'gltf', 'ply'])
def test_without_its_texture_a_mesh_is_grey_where_its_material_says_white(tmp_path, capsys, kind):
    """White is the factor of a texture, and could not be seen in a picture on white."""
    (tmp_path / 'm.mtl').write_text('newmtl a\nKd 1 1 1\nmap_Kd t.png\n')
    (tmp_path / 'a.obj').write_text(OBJ)
    (tmp_path / 'a.ply').write_text(PLY)
    PIXELS.save(tmp_path / 't.png')
    path = tmp_path / f'a.{kind}'
    if kind == 'gltf':
        files = load_mesh(tmp_path / 'a.obj').export(file_type='gltf')
        for name, content in files.items():
            (tmp_path / name.replace('model', 'a')).write_bytes(content)
        tree = json.loads(path.read_text())
        tree['images'] = [{'uri': 't.png'}]
        tree['materials'][0]['pbrMetallicRoughness'].pop('baseColorFactor', None)
        path.write_text(json.dumps(tree))
    np.testing.assert_allclose(colour_of(path), RED, atol=1)
    (tmp_path / 't.png').unlink()
    capsys.readouterr()
    np.testing.assert_allclose(colour_of(path), GREY, atol=1)
    assert "the texture 't.png' is missing and not used" in capsys.readouterr().out
    assert isinstance(load_mesh(path), trimesh.Trimesh)
