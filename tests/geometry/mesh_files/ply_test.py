import numpy as np
import pytest
from geometry.mesh_dialects import ply
from PIL import Image

from onet_jax.errors import InputError
from onet_jax.geometry.colours import colours_of
from onet_jax.geometry.mesh_files.ply import read_ply
from onet_jax.geometry.meshes import load_cloud, load_mesh

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0.0]])
HEAD = 'ply\nformat {} 1.0\nelement vertex 4\nproperty float x\nproperty float y\nproperty float z\n'
VERTICES = '0 0 0\n1 0 0\n1 1 0\n0 1 0\n'


@pytest.mark.parametrize('kind', ['ascii', 'binary_little_endian', 'binary_big_endian'])
def test_points_with_lists_of_their_views(tmp_path, kind):
    points = np.random.default_rng(0).normal(size=(50, 3))
    content = ply(points, [], kind, extra=True)
    (tmp_path / 'a.ply').write_bytes(content.replace(b'made by hand', b'before the end_header'))
    np.testing.assert_array_equal(load_cloud(tmp_path / 'a.ply'), points)


def test_strips_and_textures_of_faces(tmp_path):
    strips = 'element tristrips 1\nproperty list int int vertex_indices\nend_header\n'
    (tmp_path / 'a.ply').write_text(HEAD.format('ascii') + strips + VERTICES + '8 0 1 2 -1 0 2 3 3\n')
    np.testing.assert_array_equal(load_mesh(tmp_path / 'a.ply').faces, [[0, 1, 2], [0, 2, 3]])

    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)).save(tmp_path / 'a.png')  # left red, right blue
    lists = 'property list uchar int vertex_indices\nproperty list uchar float texcoord\n'
    faces = 'comment TextureFile a.png\nelement face 2\n' + lists
    (tmp_path / 'a.ply').write_text(
        HEAD.format('ascii')
        + faces
        + 'end_header\n'
        + VERTICES
        + '3 0 1 2 6 .1 .5 .1 .5 .1 .5\n3 0 2 3 6 .9 .5 .9 .5 .9 .5\n'
    )
    mesh = load_mesh(tmp_path / 'a.ply')
    assert len(mesh.vertices) == 6
    np.testing.assert_array_equal(colours_of(mesh)(np.arange(2), np.full((2, 3), 1 / 3)), [[1, 0, 0], [0, 0, 1]])


def test_rows_of_lists_of_many_sizes_between_numbers(tmp_path):
    """What each row holds, and where the next begins, each list says."""
    rng = np.random.default_rng(0)
    polygons = [rng.integers(0, 4, size) for size in (3, 4, 3, 5, 0)]
    body = b''
    for face in polygons:
        notes = rng.integers(0, 9, len(face) % 3).astype('<u1')
        body += (
            b'\7\0'
            + bytes([len(notes)])
            + notes.tobytes()
            + len(face).to_bytes(4, 'little')
            + face.astype('<i4').tobytes()
        )
        body += b'\xff' * 8
    properties = ['short a', 'list uchar uchar notes', 'list int int vertex_indices', 'double b']
    head = HEAD.format('binary_little_endian') + 'element face 5\n' + ''.join(f'property {p}\n' for p in properties)
    content = (head + 'end_header\n').encode() + CORNERS.astype('<f4').tobytes() + body
    (tmp_path / 'a.ply').write_bytes(content)
    (found,) = read_ply(tmp_path / 'a.ply')
    np.testing.assert_array_equal(found.sizes, [len(face) for face in polygons])
    np.testing.assert_array_equal(found.corners, np.concatenate(polygons))
    (tmp_path / 'a.ply').write_bytes(content[:-1])
    with pytest.raises(InputError, match='expected the length of a list or a number, found the end of the file'):
        load_mesh(tmp_path / 'a.ply')


FACE = 'element face 1\nproperty list {} int vertex_indices\nend_header\n'
TEXT, BYTES, INTS = HEAD.format('ascii'), FACE.format('uchar') + VERTICES, FACE.format('int') + VERTICES
BINARY = HEAD.format('binary_little_endian') + FACE.format('int') + 48 * 'a'


@pytest.mark.parametrize(
    'content, fault',
    [
        (TEXT.replace('4', '1000000000000') + 'end_header\n' + VERTICES, 'found 96; the file is cut off'),
        (TEXT + BYTES + '-3 0 1 2\n', 'expected a list of -3 numbers'),
        (TEXT + INTS + '1000000000 0 1 2\n', 'a list of 1000000000 numbers, found bytes'),
        (BINARY + '\0\0\0\x7f', 'expected a list of 2130706432'),
        (
            TEXT + 'end_header\n' + VERTICES.replace('\n', ' 9\n'),
            'numbers of the properties in the header, found 4 more',
        ),
        (TEXT + BYTES + '3 0 1 4\n', 'faces of the vertices 0 to 3, found 0 to 4'),
        (TEXT + BYTES + '3 0 1 nan\n', 'expected whole numbers'),
        (TEXT.replace('float x', 'float u') + 'end_header\n' + VERTICES, "element 'vertex' with x, y and z"),
        (TEXT + 'element face 1\nproperty int a\nend_header\n' + VERTICES + '1', 'expected lists vertex_indices'),
        (HEAD.format('zip') + 'end_header\n', 'expected a format among'),
        ('hello', 'expected a PLY header'),
    ],
)
def test_what_is_damaged_or_claims_too_much_is_named(tmp_path, content, fault):
    (tmp_path / 'a.ply').write_text(content)
    with pytest.raises(InputError, match=rf'a\.ply: .*{fault}'):
        load_mesh(tmp_path / 'a.ply')
