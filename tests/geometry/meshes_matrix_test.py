"""Every format in its dialects against the analytic truth: bounds, area, volume, number of vertices."""

import itertools

import numpy as np
import pytest
from geometry.mesh_dialects import glb, obj, obj_normals, obj_relative, off, off_homogeneous, ply, stl, stl_text

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import MESH_FORMATS, load_mesh, save_mesh

U_PROFILE = [(0, 0), (3, 0), (3, 2), (2, 2), (2, 0.5), (1, 0.5), (1, 2), (0, 2)]
HOUSE = [(0, 0), (2, 0), (2, 1), (1, 2), (0, 1)]
FAR = np.array([2.0**19, -(2.0**20), 2.0**18])  # with eighths exact in float32


def prism(profile, height, turn=0):
    """An n-gon, which begins at any of its corners, below and above quads."""
    n = len(profile)
    vertices = np.array([(x, y, z) for z in (0, height) for x, y in profile], float)
    ring = np.roll(np.arange(n), turn)
    sides = [(i, (i + 1) % n, n + (i + 1) % n, n + i) for i in range(n)]
    return vertices, [tuple(ring[::-1]), *sides, tuple(n + ring)]


def shapes():
    """Name, vertices [N, 3], polygons, area, volume. Coordinates are multiples of 1/8."""
    tetrahedron = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    yield 'triangles', tetrahedron, [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)], 1.5 + np.sqrt(3) / 2, 1 / 6
    yield 'quads', *prism([(0, 0), (2, 0), (2, 1), (0, 1)], 0.5), 7.0, 1.0
    for turn in range(8):
        yield 'concave', *prism(U_PROFILE, 0.75, turn), 2 * 4.5 + 13 * 0.75, 4.5 * 0.75
    vertices, polygons = prism(HOUSE, 3)
    mixed = [polygons[1][:3], (polygons[1][0], *polygons[1][2:]), *polygons[2:], polygons[0]]
    yield 'mixed', vertices, mixed, 2 * 3 + 3 * (4 + 2 * np.sqrt(2)), 9.0


BLUE = (0, 0, 1 / 255)
B, L = 'binary_big_endian', 'binary_little_endian'
DIALECTS = {
    'obj': lambda v, p: {'a.obj': obj(v, p)},
    'obj tabs': lambda v, p: {'a.obj': obj(v, p, sep='\t')},
    'obj relative indices between the vertices': lambda v, p: {'a.obj': obj_relative(v, p)},
    'obj texture coordinates and normals': obj_normals,
    'obj continued lines': lambda v, p: {'a.obj': obj(v, p, sep=' \\\n ')},
    'obj vertex colours': lambda v, p: {'a.obj': obj(v, p, colours=' 0 0 0.00392156862745098')},
    'obj of Windows': lambda v, p: {
        'a.obj': obj(v, p, before='# Ü\no a\n', after='\ng a # b\ns off\n').replace('\n', '\r\n')
    },
    'obj indented': lambda v, p: {'a.obj': '  ' + obj(v, p).replace('\n', ' # 1\n  ')},
    'ply': lambda v, p: {f'{k}{r}.ply': ply(v, p, k, r) for k in ('ascii', B, L) for r in ('float', 'double')},
    'ply extra': lambda v, p: {f'{k}.ply': ply(v, p, k, extra=True) for k in ('ascii', B, L)},
    'ply vertex colours': lambda v, p: {f'{k}.ply': ply(v, p, k, colours='vertex') for k in ('ascii', B, L)},
    'ply face colours': lambda v, p: {f'{k}.ply': ply(v, p, k, colours='face') for k in ('ascii', B, L)},
    'ply other types': lambda v, p: {f'{k}.ply': ply(v, p, k, index='uint', length='int') for k in ('ascii', B, L)},
    'ply of Windows': lambda v, p: {'a.ply': ply(v, p).replace(b'\n', b'\r\n')},
    'off': lambda v, p: {'a.off': off(v, p)},
    'off lower case': lambda v, p: {'a.off': off(v, p, 'off\r\n')},
    'off without keyword': lambda v, p: {'a.off': off(v, p, '')},
    'off one line': lambda v, p: {'a.off': off(v, p, 'OFF ')},
    'off comments': lambda v, p: {'a.off': off(v, p, '\n# a\nOFF # b\n\n', comments=' # c\n')},
    'off normals': lambda v, p: {'a.off': off(v, p, 'NOFF\n', (0, 0, 1))},
    'off vertex colours': lambda v, p: {'a.off': off(v, p, 'COFF\n', BLUE), 'b.off': off(v, p, 'COFF\n', (*BLUE, 1))},
    'off everything': lambda v, p: {'a.off': off(v, p, 'STCNOFF\n', (0, 0, 1, *BLUE, 1, 0.5, 0.5))},
    'off face colours': lambda v, p: {'a.off': off(v, p, face=' 255 0 0')},
    'off homogeneous': lambda v, p: {'a.off': off_homogeneous(v, p)},
    'stl': lambda v, p: {'a.stl': stl(v, p)},
    'stl solid': lambda v, p: {'a.stl': stl(v, p, b'solid facet outer loop vertex')},
    'stl trailing bytes': lambda v, p: {'a.stl': stl(v, p, b'solid', trailing=b'\r\n' * 40)},
    'stl count unknown': lambda v, p: {'a.stl': stl(v, p, count=0), 'b.stl': stl(v, p, count=2**32 - 1)},
    'stl text': lambda v, p: {'a.stl': stl_text(v, p), 'b.stl': stl_text(v, p).upper()},
    'stl names': lambda v, p: {'a.stl': stl_text(v, p, 'vertex 1 2 3'), 'b.stl': stl_text(v, p, 'facet endsolid', '')},
    'stl one line': lambda v, p: {'a.stl': stl_text(v, p).replace('\n', ' ')},
    'stl decimal commas': lambda v, p: {'a.stl': stl_text(v + 0.125, p).replace('.', ',')},
    'glb': lambda v, p: {f'{i[1:]}.glb': glb(v, p, index=i).glb() for i in ('<u1', '<u2', '<u4')},
    'glb colours': lambda v, p: {'a.glb': glb(v, p, colours=True).glb()},
    **{
        f'glb {kind}': lambda v, p, kind=kind: {'a.glb': glb(v, p, kind).glb()}
        for kind in (
            'normalised',
            'quantised',
            'sparse',
            'interleaved',
            'corners',
            'strips',
            'matrix',
            'mirrored',
            'instanced',
        )
    },
    'gltf': lambda v, p: {'a.gltf': glb(v, p).gltf(), 'b.gltf': glb(v, p).gltf('b%20c.bin'), 'b c.bin': glb(v, p).data},
}


@pytest.mark.parametrize('dialect', DIALECTS)
def test_files_give_the_shape_that_they_describe(tmp_path, dialect):
    for (name, vertices, polygons, area, volume), origin in itertools.product(shapes(), (np.zeros(3), FAR)):
        for file, content in DIALECTS[dialect](vertices + origin, polygons).items():
            (tmp_path / file).write_bytes(content.encode() if isinstance(content, str) else content)
        for file in tmp_path.glob(f'*.{dialect[:4].strip()}'):
            mesh = load_mesh(file)
            shift = 0.125 if 'commas' in dialect else 0
            case, extent = f'{dialect}, {name}, {file.name}', np.ptp(vertices, axis=0).max()
            low, high = vertices.min(axis=0) + origin + shift, vertices.max(axis=0) + origin + shift
            np.testing.assert_allclose(mesh.bounds, [low, high], rtol=0, atol=1e-9 * extent, err_msg=case)
            a, b, c = (np.asarray(mesh.vertices - low)[mesh.faces[:, i]] for i in range(3))
            cross = np.cross(b - a, c - a)
            assert np.linalg.norm(cross, axis=1).sum() / 2 == pytest.approx(area, rel=1e-9), case
            assert (a * cross).sum() / 6 == pytest.approx(volume, rel=1e-9), case
            corners, num_triangles = sum(map(len, polygons)), sum(map(len, polygons)) - 2 * len(polygons)
            assert len(mesh.faces) == num_triangles, case
            per_corner = 3 * num_triangles if dialect[:3] == 'stl' or 'corners' in dialect else len(vertices)
            assert len(mesh.vertices) == (corners if 'relative' in dialect else per_corner), case
            if 'face colours' in dialect:
                assert (mesh.visual.face_colors == [255, 0, 0, 255]).all(), case
            elif 'colours' in dialect or 'everything' in dialect:
                blue = 13 if dialect.startswith('gl') else 1  # glTF holds linear colours, of which 1/255 is sRGB 13/255
                assert (mesh.visual.vertex_colors == [0, 0, blue, 255]).all(), case
        for file in tmp_path.iterdir():
            file.unlink()


@pytest.mark.parametrize('kind', MESH_FORMATS)
def test_what_is_written_is_read_again(tmp_path, kind):
    for (name, vertices, polygons, *_), origin in itertools.product(shapes(), (np.zeros(3), FAR)):
        (tmp_path / 'a.obj').write_text(obj(vertices + origin, polygons))
        mesh = load_mesh(tmp_path / 'a.obj')
        save_mesh(mesh, tmp_path / f'b.{kind}')
        read, extent = load_mesh(tmp_path / f'b.{kind}'), np.ptp(vertices, axis=0).max()
        np.testing.assert_allclose(read.triangles, mesh.triangles, rtol=0, atol=1e-9 * extent, err_msg=name)


WORDS = (
    b'-1',
    b'0',
    b'1e400',
    b'nan',
    b'99999999999999999999',
    b'4294967295',
    b'',
    b'\xff' * 4,
    b'\0' * 4,
    b'{}',
    b'null',
    b'/',
    b'\n',
    b',',
)


def mutate(rng, content):
    """One to three edits: bytes changed, cut off, left out, put in or repeated."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(min(len(content), rng.choice([400, 10**6])) + 1))
        length, word = int(rng.integers(1, 12)), WORDS[rng.integers(len(WORDS))]
        match rng.integers(5):
            case 0:
                content[place : place + 1] = bytes([rng.integers(256)])
            case 1:
                content[place : place + length] = word
            case 2:
                content[place:place] = word
            case 3:
                del content[place : place + rng.choice([length, 10**6])]
            case 4:
                content[place:place] = content[place // 2 : place // 2 + length]
    return bytes(content)


@pytest.mark.parametrize('suffix', ['obj', 'ply', 'off', 'stl', 'glb', 'gltf'])
def test_damaged_files_are_wrong_input_and_nothing_else(tmp_path, suffix):
    """Whatever still is a mesh has finite corners that exist."""
    rng = np.random.default_rng(0)
    _, vertices, polygons, *_ = next(shape for shape in shapes() if shape[0] == 'mixed')
    files = [
        content.encode() if isinstance(content, str) else content
        for write in DIALECTS.values()
        for name, content in write(vertices, polygons).items()
        if name.endswith(f'.{suffix}')
    ]
    path, refused = tmp_path / f'a.{suffix}', 0
    for number in range(200):
        path.write_bytes(mutate(rng, files[number % len(files)]))
        try:
            mesh = load_mesh(path)
        except InputError:
            refused += 1
        else:
            assert np.isfinite(mesh.vertices[mesh.faces]).all()
            assert mesh.faces.min() >= 0
    assert refused > 40
