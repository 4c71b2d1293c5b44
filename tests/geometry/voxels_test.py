import numpy as np
import pytest
from conftest import SHARED, golden_names

from onet_jax.geometry import voxels
from onet_jax.geometry.inside import contains
from onet_jax.geometry.voxels import Voxels, read_binvox, voxels_contain, voxels_to_mesh, write_binvox

BLOB = np.random.default_rng(0).random((4, 5, 6)) < 0.4


def surface_slowly(values):
    """Every face of every occupied voxel whose neighbour is empty: its centre and outward normal, in object coordinates."""
    faces = []
    for index in np.argwhere(values):
        for axis in range(3):
            for step in (-1, 1):
                other = index.copy()
                other[axis] += step
                inside = (other >= 0).all() and (other < values.shape).all()
                if not inside or not values[tuple(other)]:
                    faces.append((*((index + other + 1) / 2 / values.shape - 0.5), *np.sign(other - index)))
    return np.array(sorted(faces))


def test_the_surface_is_every_face_to_an_empty_voxel():
    mesh = voxels_to_mesh(BLOB)
    half = len(mesh.faces) // 2
    corners = mesh.vertices[mesh.faces]
    normals = np.sign(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]))
    np.testing.assert_array_equal(normals[:half], normals[half:])
    # The two triangles of a quad meet along its diagonal, whose middle is the centre of the quad.
    centres = (corners[:half, 0] + corners[:half, 2]) / 2
    found = np.array(sorted(map(tuple, np.hstack([centres, normals[:half]]))))
    np.testing.assert_allclose(found, surface_slowly(BLOB), atol=1e-12)
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices), 'vertices are shared'
    np.testing.assert_allclose(mesh.volume, BLOB.sum() / BLOB.size)


@pytest.mark.parametrize('values', [BLOB, np.pad(BLOB, 2), np.eye(5, dtype=bool)[:, :, None]])
def test_the_surface_is_closed_and_encloses_the_voxels(values):
    """Also where voxels touch along an edge or in a corner only."""
    mesh = voxels_to_mesh(values)
    edges = mesh.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    forth, back = (np.sort(e @ [len(mesh.vertices), 1]) for e in (edges, edges[:, ::-1]))
    np.testing.assert_array_equal(forth, back, 'every edge is gone along as often one way as the other')
    np.testing.assert_allclose(mesh.volume, values.sum() / values.size)
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (20_000, 3))
    np.testing.assert_array_equal(contains(mesh, points), voxels_contain(values, points))


def test_no_voxels_and_all_voxels():
    assert len(voxels_to_mesh(np.zeros((3, 3, 3))).faces) == 0
    full = voxels_to_mesh(np.ones((2, 3, 4)))
    assert full.is_watertight
    assert len(full.faces) == 2 * 2 * (6 + 8 + 12)
    np.testing.assert_array_equal(full.bounds, [[-0.5] * 3, [0.5] * 3])


def test_points_in_voxels():
    centres = (np.argwhere(np.ones_like(BLOB)) + 0.5) / BLOB.shape - 0.5
    np.testing.assert_array_equal(voxels_contain(BLOB, centres), BLOB.ravel())
    full = np.ones((4, 4, 4))
    points = np.zeros((6, 3))
    points[:, 1] = [-0.76, -0.74, 0.49, 0.5, np.nan, np.inf]  # a voxel is 0.25 long
    np.testing.assert_array_equal(voxels_contain(full, points), [False, True, True, False, False, False])
    assert voxels_contain(full, np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize('file', golden_names('dataset/fields_*.npz'))
def test_equals_the_official_code(golden, file, tmp_path):
    data = golden(file)
    name = file.removeprefix('dataset/fields_').removesuffix('.npz')
    (path,) = (SHARED / 'golden/dataset/ShapeNet').glob(f'*/{name}/model.binvox')
    found = read_binvox(path)
    np.testing.assert_array_equal(found.values, data['voxels'])
    write_binvox(tmp_path / 'a.binvox', found)
    assert (tmp_path / 'a.binvox').read_bytes() == path.read_bytes()

    mesh = voxels_to_mesh(found.values)
    np.testing.assert_array_equal(mesh.vertices, data['voxelgrid_mesh/vertices'])
    np.testing.assert_array_equal(mesh.faces, data['voxelgrid_mesh/faces'])
    occ = voxels_contain(found.values, data['voxelgrid_contains/points'])
    np.testing.assert_array_equal(occ, data['voxelgrid_contains/occ'])


@pytest.mark.parametrize(
    'values', [BLOB, np.zeros((32, 32, 32), bool), np.ones((1, 1, 255), bool), np.ones((2, 4, 64))]
)
def test_grids_come_back(tmp_path, values):
    path = tmp_path / 'a.binvox'
    write_binvox(path, Voxels(values, np.array([0.1, -2, 3e-9]), 1.25))
    found = read_binvox(path)
    assert found.values.dtype == bool
    np.testing.assert_array_equal(found.values, values)
    np.testing.assert_array_equal(found.translate, [0.1, -2, 3e-9])
    assert found.scale == 1.25
    runs = np.frombuffer(path.read_bytes().split(b'data\n')[1], np.uint8)
    assert runs[1::2].min() > 0


def test_y_is_the_fastest_axis_of_a_file(tmp_path):
    path = tmp_path / 'a.binvox'
    path.write_bytes(b'#binvox 1\r\ndim 2 3 4\r\ntranslate 0 0 0\r\nscale 1\r\ndata\r\n' + bytes([0, 5, 1, 1, 0, 18]))
    found = read_binvox(path).values
    assert found.shape == (2, 4, 3)
    np.testing.assert_array_equal(np.argwhere(found), [[0, 1, 1]])


HEADER = '#binvox 1\ndim {}\ntranslate 0 0 0\nscale {}\ndata\n'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', r"expected a file that begins with '#binvox 1', found b''"),
        (b'PK\x03\x04' + bytes(100), "begins with '#binvox 1'"),
        (b'#binvox 1\n' + bytes(1000), "expected a line 'data' among the first 16, found none"),
        (b'#binvox 1\ntranslate 0 0 0\nscale 1\ndata\n', "expected 3 int after 'dim', found 'no such line'"),
        (HEADER.format('2 2', 1).encode(), "expected 3 int after 'dim', found '2 2'"),
        (HEADER.format('2 2 x', 1).encode(), "expected 3 int after 'dim', found '2 2 x'"),
        (HEADER.format('2 2 2', 'nan').encode(), "expected 1 float after 'scale', found 'nan'"),
        (HEADER.format('2 2 2', 0).encode(), "expected 1 float after 'scale', found '0'"),
        (
            HEADER.format('2048 1024 1024', 1).encode(),
            'expected dim of 1 to 134217728 voxels, found dim 2048 1024 1024',
        ),
        (HEADER.format('-2 -2 2', 1).encode(), 'found dim -2 -2 2'),
        (
            HEADER.format('512 512 512', 1).encode() + b'\1\377',
            r'expected runs of 134217728 voxels .*, found 255 voxels',
        ),
        (
            HEADER.format('2 2 2', 1).encode() + b'\1\7',
            r'expected runs of 8 voxels in all \(dim 2 2 2\), found 7 voxels',
        ),
        (HEADER.format('2 2 2', 1).encode() + b'\1\7\0', 'found at least 3 bytes; it may be cut off'),
        (HEADER.format('2 2 2', 1).encode() + b'\1\1' * 50, 'runs of two bytes, at most one for each voxel'),
        (HEADER.format('2 2 2', 1).encode() + b'\2\10', 'expected runs of 0 and 1, found a run of 2'),
    ],
)
def test_bad_files_are_named_with_their_fault(tmp_path, content, message):
    path = tmp_path / 'a.binvox'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf'a\.binvox: .*{message}'):
        read_binvox(path)


def test_a_file_may_be_missing_or_cut_anywhere(tmp_path):
    path = tmp_path / 'a.binvox'
    with pytest.raises(FileNotFoundError, match=r'a\.binvox: expected a binvox file'):
        read_binvox(path)
    write_binvox(path, Voxels(BLOB, np.zeros(3), 1.0))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r'a\.binvox: expected'):
            read_binvox(path)


def test_no_more_is_read_than_the_grid_can_need(tmp_path, monkeypatch):
    monkeypatch.setattr(voxels, 'MAX_VOXELS', 7)
    write_binvox(tmp_path / 'a.binvox', Voxels(np.ones((2, 2, 2)), np.zeros(3), 1.0))
    with pytest.raises(ValueError, match='dim of 1 to 7 voxels, found dim 2 2 2'):
        read_binvox(tmp_path / 'a.binvox')
