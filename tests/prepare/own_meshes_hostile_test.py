"""Files that somebody made to break a reader of meshes, or that were broken on the way."""

import json
import struct
import tracemalloc

import numpy as np
import pytest
import trimesh

from onet_jax.data import records
from onet_jax.errors import InputError
from onet_jax.geometry.solid import make_solid
from onet_jax.prepare import own_meshes
from onet_jax.prepare.own_meshes import describe_mesh, find_meshes, prepare_meshes
from onet_jax.prepare.runners import in_this_process
from onet_jax.prepare.splits import invariants

pytestmark = pytest.mark.usefixtures('frozen_heap')
SETTINGS = {'num_points': 2100, 'num_views': 0, 'seed': 0, 'val_fraction': 0.25, 'test_fraction': 0.25}


def ply(vertices, faces) -> str:
    kinds = ''.join(f'property double {axis}\n' for axis in 'xyz')
    head = f'ply\nformat ascii 1.0\nelement vertex {len(vertices)}\n{kinds}element face {len(faces)}\n'
    rows = [*(' '.join(map(str, v)) for v in vertices), *('3 ' + ' '.join(map(str, f)) for f in faces)]
    return head + 'property list uchar int vertex_indices\nend_header\n' + '\n'.join(rows) + '\n'


def gltf(uri) -> str:
    """A box whose numbers are in another file."""
    views = [{'buffer': 0, 'byteOffset': 0, 'byteLength': 96}, {'buffer': 0, 'byteOffset': 96, 'byteLength': 144}]
    accessors = [
        {'bufferView': 0, 'componentType': 5126, 'count': 8, 'type': 'VEC3', 'min': [-0.5] * 3, 'max': [0.5] * 3},
        {'bufferView': 1, 'componentType': 5125, 'count': 36, 'type': 'SCALAR'},
    ]
    return json.dumps(
        {
            'asset': {'version': '2.0'},
            'scenes': [{'nodes': [0]}],
            'nodes': [{'mesh': 0}],
            'meshes': [{'primitives': [{'attributes': {'POSITION': 0}, 'indices': 1}]}],
            'buffers': [{'uri': uri, 'byteLength': 240}],
            'bufferViews': views,
            'accessors': accessors,
        }
    )


BOX = trimesh.creation.box()
V, F = BOX.vertices.tolist(), BOX.faces.tolist()
BUFFER = np.asarray(V, '<f4').tobytes() + np.asarray(F, '<u4').tobytes()
HUGE_PLY = ply([], []).replace('vertex 0', 'vertex 2147483648').replace('ascii', 'binary_little_endian')
HOSTILE = {
    'vertices.off': (
        'OFF\n2147483648 12 0\n0 0 0\n1 0 0\n',
        r'vertices\.off: expected the 2147483648 vertices of the header, found 2 lines',
    ),
    'faces.off': (
        'OFF\n3 2147483648 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n',
        'expected the 2147483648 faces of the header, found 1 lines',
    ),
    'beyond.off': ('OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 99\n', r'beyond\.off: expected'),
    'vertices.ply': (
        HUGE_PLY,
        r'vertices\.ply: expected 2147483648 rows of the element .* found 1; the file is cut off',
    ),
    'negative.ply': (ply(V, [*F, [0, -1, -2]]), r'negative\.ply: expected faces of the vertices 0 to 7, found -2 to 7'),
    'beyond.ply': (
        ply(V, [*F, [0, 1, 2_000_000_000]]),
        r'expected faces of the vertices 0 to 7, found 0 to 2000000000',
    ),
    'nan.ply': (ply([[float('nan')] * 3, *V[1:]], F), r'nan\.ply: expected finite vertices, found NaN or infinity'),
    'infinite.ply': (ply([*V[:-1], [float('inf'), 0, 0]], F), r'expected finite vertices, found NaN or infinity'),
    'none.ply': (ply(V, []), r'none\.ply: expected triangles, found none'),
    'point.ply': (ply([[1, 2, 3]] * 8, F), 'expected a surface with a finite area, found 0'),
    'cloud.obj': ('v 0 0 0\nv 1 0 0\nv 0 1 0\n', r'cloud\.obj: expected'),
    'beyond.obj': (
        'v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n',
        r'beyond\.obj: expected faces of the vertices 0 to 2, found 0 to 8',
    ),
    'claims.stl': (
        bytes(80) + struct.pack('<I', 2**31) + bytes(50),
        r'claims\.stl: expected the 2147483648 triangles of the header',
    ),
    'claims.glb': (
        b'glTF' + struct.pack('<IIII', 2, 2**32 - 1, 2**32 - 1, 0x4E4F534A) + b'{}',
        r'claims\.glb: expected',
    ),
    'up.gltf': (gltf('../outside.bin'), r'up\.gltf: expected the file .* in its folder, found none'),
    'root.gltf': (gltf('/dev/zero'), r'root\.gltf: expected the file .* in its folder'),
    'web.gltf': (gltf('http://127.0.0.1:9/other.bin'), r'web\.gltf: expected the file .* in its folder'),
    'zip.glb': (b'PK\x03\x04' + bytes(100), r'zip\.glb: expected'),
}


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    root = tmp_path_factory.mktemp('hostile')
    (root / 'odd').mkdir()
    (root / 'odd/box.bin').write_bytes(BUFFER)
    (root / 'outside.bin').write_bytes(BUFFER)
    for name, (content, _) in HOSTILE.items():
        (root / 'odd' / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_files_are_named_with_their_fault(hostile, name):
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=HOSTILE[name][1]):
            make_solid(own_meshes._read(describe_and_return(hostile / 'odd' / name)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 23


def describe_and_return(path):
    assert np.isfinite(describe_mesh('odd', path.stem, str(path), data_dir=path.parents[1] / 'notes')).all()
    return str(path)


def test_hostile_files_never_stop_a_run(hostile, tmp_path):
    (hostile / 'odd/good.gltf').write_text(gltf('box.bin'))
    (hostile / 'odd/good.obj').write_text(
        'mtllib ../../../etc/passwd\n' + ''.join(f'v {x} {y} {z}\n' for x, y, z in V)
        + ''.join(f'f {a + 1} {b + 1} {c + 1}\n' for a, b, c in F)
    )  # fmt: skip
    before = sorted(hostile.rglob('*'))
    index = prepare_meshes(hostile, tmp_path, **SETTINGS, run=in_this_process)
    assert sorted(sum(index.splits.values(), ())) == [('odd', 'good'), ('odd', 'good-obj')]
    assert len(index.rejected) == len(HOSTILE)
    assert sorted(hostile.rglob('*')) == before


@pytest.mark.slow
def test_a_million_faces_without_area_are_no_burden(tmp_path):
    faces = np.tile(np.array([[0, 0, 1], [2, 3, 3], [4, 4, 4], [5, 7, 5]]), (250_000, 1))
    for name, all_faces in (('a.ply', np.concatenate([F, faces])), ('b.ply', faces)):
        trimesh.Trimesh(V, all_faces, process=False).export(tmp_path / name)
    np.testing.assert_allclose(
        describe_mesh('box', 'a', str(tmp_path / 'a.ply'), data_dir=tmp_path),
        invariants(np.asarray(V), np.asarray(F)),
        atol=1e-9,
    )
    solid = make_solid(own_meshes._read(str(tmp_path / 'a.ply')))
    assert len(solid.surface.faces) == 12
    assert solid.scale == pytest.approx(1)
    with pytest.raises(InputError, match='expected a surface with a finite area, found 0'):
        describe_mesh('box', 'b', str(tmp_path / 'b.ply'), data_dir=tmp_path)


def test_a_mesh_with_too_many_faces_is_rejected_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(own_meshes, 'MAX_FACES', 11)
    monkeypatch.setattr(own_meshes, 'invariants', None)
    BOX.export(tmp_path / 'a.ply')
    with pytest.raises(InputError, match=r'a\.ply: expected at most 11 faces, found 12; simplify the mesh'):
        describe_mesh('box', 'a', str(tmp_path / 'a.ply'), data_dir=tmp_path)


@pytest.mark.parametrize('num_views', [0, 1])
def test_vertices_that_no_face_uses_do_no_harm(tmp_path, num_views):
    (tmp_path / 'meshes').mkdir()
    (tmp_path / 'meshes/a.ply').write_text(ply([*V, [float('nan')] * 3, [1e9, 0, 0]], F))
    settings = {**SETTINGS, 'num_views': num_views}
    index = prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **settings, run=in_this_process)
    shape = records.read_shape(records.shape_path(tmp_path / 'data', 'meshes', 'a'), index)
    assert shape.scale == 1


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / 'elsewhere').mkdir()
    BOX.export(tmp_path / 'elsewhere/a.off')
    (tmp_path / 'root').mkdir()
    (tmp_path / 'root/box').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'root/lost').symlink_to(tmp_path / 'nowhere')
    (tmp_path / 'elsewhere/up').symlink_to(tmp_path / 'root')
    assert list(find_meshes(tmp_path / 'root')) == [('box', 'a')]
