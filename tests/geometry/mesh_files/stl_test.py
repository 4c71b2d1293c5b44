import numpy as np
import pytest
from geometry.mesh_dialects import stl, stl_text

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_mesh

TRIANGLE = np.eye(3), [(0, 1, 2)]


@pytest.mark.parametrize(
    'content, fault',
    [
        (stl(*TRIANGLE)[:-1], 'expected the 1 triangles of the header, found bytes for 0'),
        (stl(*TRIANGLE, count=2), 'expected the 2 triangles of the header, found bytes for 1'),
        (stl_text(*TRIANGLE)[:73].encode(), r'expected three vertices of each facet, found 2 vertices in all'),
        (b'solid empty\nendsolid empty\n' + b' ' * 90, 'expected triangles, found none'),
        (b'hello', 'expected at least 84 bytes, found 5'),
    ],
)
def test_what_is_damaged_is_named(tmp_path, content, fault):
    (tmp_path / 'a.stl').write_bytes(content)
    with pytest.raises(InputError, match=rf'a\.stl: {fault}'):
        load_mesh(tmp_path / 'a.stl')


LOOP = 'facet normal 0 0 1\nouter loop{}vertex 0 0 0{}vertex{}1 0{}0\nvertex 0 1 0{}endloop\nendfacet\n'


@pytest.mark.parametrize('breaks', [' \n \n\n', '\n\n\n \n', '\n\n  \n', '\n\n   ', '     '])
def test_line_breaks_are_white_space(tmp_path, breaks):
    """Also those of one facet alone, and the name may have any words."""
    (tmp_path / 'a.stl').write_text(
        f'solid my vertex\n{LOOP.format(*breaks)}{LOOP.format(*"    ".replace(" ", chr(10)), chr(10))}endsolid my vertex\n'
    )
    mesh = load_mesh(tmp_path / 'a.stl')
    np.testing.assert_array_equal(mesh.triangles, [[[0, 0, 0], [1, 0, 0], [0, 1, 0]]] * 2)


def test_a_damaged_offset_is_named(tmp_path):
    (tmp_path / f'{"n" * 251}.stl').write_bytes(stl(*TRIANGLE))
    assert len(load_mesh(tmp_path / f'{"n" * 251}.stl').faces) == 1, 'a name that leaves no room for that of an offset'
    (tmp_path / 'a.stl').write_bytes(stl(*TRIANGLE))
    (tmp_path / 'a.stl.offset.json').write_text('{"offset": 3}')
    with pytest.raises(InputError, match=r'a\.stl\.offset\.json: offset: expected a list, found 3'):
        load_mesh(tmp_path / 'a.stl')
