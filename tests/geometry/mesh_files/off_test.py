import pytest

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_mesh

VERTICES = '0 0 0\n1 0 0\n0 1 0\n'


@pytest.mark.parametrize(
    'content, fault',
    [
        ('OFF\n4 1 0\n' + VERTICES, 'expected the 4 vertices of the header, found 3 lines'),
        ('OFF\n3 2 0\n' + VERTICES + '3 0 1 2\n', 'expected the 2 faces of the header, found 1 lines'),
        ('OFF\n3 1 0\n' + VERTICES + '4 0 1 2\n', 'expected 4 vertices of face 1, found 3 numbers'),
        ('OFF\n3 1 0\n' + VERTICES + '3 0 1 -1\n', 'expected faces of the vertices 0 to 2, found -1 to 1'),
        ('OFF\n3 1 0\n' + VERTICES + '3 0 1 1.5\n', 'expected whole numbers'),
        ('OFF\n3 1 0\n0 0\n' + VERTICES + '3 0 1 2\n', 'expected at least 3 numbers for vertex 1, found 2'),
        (
            '4OFF\n3 1 0\n0 0 0 0\n1 0 0 1\n0 1 0 1\n3 0 1 2\n',
            'expected finite vertices, found NaN or infinity in 1 of 3',
        ),
        ('OFF BINARY\n3 1 0\nabc', 'expected OFF and the numbers of vertices and faces, in text'),
        ('nOFF\n4\n3 1 0\n', 'expected OFF and the numbers of vertices and faces, in text and of three dimensions'),
    ],
)
def test_what_is_damaged_or_of_another_kind_is_named(tmp_path, content, fault):
    (tmp_path / 'a.off').write_text(content)
    with pytest.raises(InputError, match=rf'a\.off: .*{fault}'):
        load_mesh(tmp_path / 'a.off')


@pytest.mark.parametrize('content', ['\n' * 100_000 + 'x', 'OFF\n' + '# x\n' * 100_000 + '8 six 12\n'])
def test_a_header_of_much_white_space_is_refused_at_once(tmp_path, content):
    (tmp_path / 'a.off').write_text(content)
    with pytest.raises(InputError, match=r'a\.off: expected OFF and the numbers of vertices and faces'):
        load_mesh(tmp_path / 'a.off')
