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


def test_a_damaged_offset_is_named(tmp_path):
    (tmp_path / f'{"n" * 251}.stl').write_bytes(stl(*TRIANGLE))
    assert len(load_mesh(tmp_path / f'{"n" * 251}.stl').faces) == 1, 'a name that leaves no room for that of an offset'
    (tmp_path / 'a.stl').write_bytes(stl(*TRIANGLE))
    (tmp_path / 'a.stl.offset.json').write_text('{"offset": 3}')
    with pytest.raises(InputError, match=r'a\.stl\.offset\.json: offset: expected a list, found 3'):
        load_mesh(tmp_path / 'a.stl')
