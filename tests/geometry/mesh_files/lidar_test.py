import sys

import numpy as np
import pytest

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files import lidar
from onet_jax.geometry.meshes import load_cloud, load_coloured_cloud

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (500, 3)) * (30, 20, 5) + (500_000, 4_600_000, 100)
COLOURS = RNG.integers(0, 255, (500, 3), endpoint=True).astype(np.uint8)


def write_las(path, points=POINTS, colours=None, factor=257):
    laspy, _ = pytest.importorskip('laspy'), pytest.importorskip('lazrs')
    header = laspy.LasHeader(version='1.4', point_format=6 if colours is None else 7)
    header.offsets, header.scales = np.floor(POINTS.min(axis=0)), [1e-3] * 3
    las = laspy.LasData(header)
    las.x, las.y, las.z = points.T
    if colours is not None:
        las.red, las.green, las.blue = factor * colours.astype(np.uint16).T
    las.write(path)


def write_e57(path, scans):
    """Scans: (points in the frame of the scanner, rotation as a quaternion, translation, more columns)."""
    with pytest.importorskip('pye57').E57(str(path), mode='w') as file:
        for points, rotation, translation, more in scans:
            columns = dict(zip(lidar.CARTESIAN, np.ascontiguousarray(points.T), strict=True)) | more
            file.write_scan_raw(columns, rotation=np.array(rotation), translation=np.array(translation))


@pytest.mark.parametrize('suffix', ['las', 'laz'])
def test_surveys_keep_their_coordinates_and_colours(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(lidar, 'CHUNK', 199)
    for factor in (257, 1):
        write_las(tmp_path / f'a.{suffix}', colours=COLOURS, factor=factor)
        points, colours = load_coloured_cloud(tmp_path / f'a.{suffix}')
        np.testing.assert_allclose(points, POINTS, rtol=0, atol=6e-4)
        np.testing.assert_array_equal(colours, COLOURS)
    for none in (None, 0 * COLOURS):
        write_las(tmp_path / f'a.{suffix}', colours=none)
        assert load_coloured_cloud(tmp_path / f'a.{suffix}')[1] is None


def test_scans_of_an_e57_are_joined_in_their_common_frame(tmp_path, monkeypatch):
    monkeypatch.setattr(lidar, 'CHUNK', 199)
    turn, local = [np.sqrt(0.5), 0, 0, np.sqrt(0.5)], RNG.uniform(-1, 1, (500, 3))  # a quarter around z
    invalid = (np.arange(500) % 10 == 0).astype(np.int8)
    colours = {name: np.ascontiguousarray(COLOURS[:, i]) for i, name in enumerate(lidar.COLOURS)}
    scans = [
        (local, [1, 0, 0, 0], [0, 0, 0], colours),
        (local, turn, [500_000, 0, 7], colours | {'cartesianInvalidState': invalid}),
    ]
    write_e57(tmp_path / 'a.e57', scans)
    points, found = load_coloured_cloud(tmp_path / 'a.e57')
    moved = np.column_stack([-local[:, 1] + 500_000, local[:, 0], local[:, 2] + 7])
    np.testing.assert_allclose(points, np.concatenate([local, moved[invalid == 0]]), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found, np.concatenate([COLOURS, COLOURS[invalid == 0]]))
    write_e57(tmp_path / 'b.e57', [scans[0], (local, turn, [0, 0, 0], {})])
    assert load_coloured_cloud(tmp_path / 'b.e57')[1] is None, 'not all scans have colours'


def test_of_very_many_points_a_part_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lidar, 'CHUNK', 199)
    monkeypatch.setattr(lidar, 'MAX_POINTS', 100)
    write_las(tmp_path / 'a.las', colours=COLOURS)
    points, colours = load_coloured_cloud(tmp_path / 'a.las')
    assert 70 < len(points) < 130
    assert f'a.las: {len(points)} of 500 points are used, drawn with a fixed seed' in capsys.readouterr().out
    places = [np.abs(POINTS - point).max(axis=1).argmin() for point in points]
    np.testing.assert_array_equal(colours, COLOURS[places])
    np.testing.assert_array_equal(load_cloud(tmp_path / 'a.las'), points)


@pytest.mark.parametrize('suffix', ['las', 'laz', 'e57'])
def test_what_cannot_be_read_is_named(tmp_path, suffix, monkeypatch):
    path, write = tmp_path / f'a.{suffix}', write_e57 if suffix == 'e57' else write_las
    write(path, *([[(POINTS, [1, 0, 0, 0], [0, 0, 0], {})]] if suffix == 'e57' else []))
    whole = path.read_bytes()
    for content in (b'', b'no scan', whole[: len(whole) // 2], whole[:300]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf'a\.{suffix}: expected'):
            load_cloud(path)
        assert path.read_bytes() == content, 'a library deletes no file'
    if suffix != 'e57':
        write_las(path, POINTS[:0])
        with pytest.raises(InputError, match=r'expected at least 2 distinct points, found 0 in 0'):
            load_cloud(path)
    path.write_bytes(whole)
    monkeypatch.setitem(sys.modules, 'pye57' if suffix == 'e57' else 'laspy', None)
    with pytest.raises(InputError, match=rf"a\.{suffix}: expected the library .* pip install -e '.\[scan\]'"):
        load_cloud(path)
