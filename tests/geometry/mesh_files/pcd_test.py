import numpy as np
import pytest

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_cloud, load_coloured_cloud

POINTS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
HEADER = (
    '# .PCD v0.7\nVERSION 0.7\nFIELDS rgb normal x y z\nSIZE 4 4 4 4 4\nTYPE U F F F F\nCOUNT 1 3 1 1 1\nWIDTH 40\nHEIGHT 1\n'
    'VIEWPOINT 0 0 0 1 0 0 0\nPOINTS 40\nDATA {}\n'
)
TABLE = np.hstack([np.zeros((40, 4)), POINTS]).astype('<f4')


def literals(content):
    """LZF without references to earlier bytes."""
    return b''.join(bytes([len(run) - 1]) + run for run in (content[i : i + 32] for i in range(0, len(content), 32)))


def compressed(content, packed):
    return b''.join(len(c).to_bytes(4, 'little') for c in (packed, content)) + packed


def test_points_of_all_three_kinds(tmp_path):
    by_field = TABLE.T.tobytes()  # begins with 640 zeros
    # One zero, and references to the byte before: the longest copies 264.
    packed = b'\0\0' + b'\xe0\xff\0' * 2 + b'\xe0' + bytes([639 - 528 - 9]) + b'\0' + literals(by_field[640:])
    files = {
        'ascii': ''.join(' '.join(f'{value:.17g}' for value in row) + '\n' for row in TABLE).encode(),
        'binary': TABLE.tobytes(),
        'binary_compressed': compressed(by_field, packed),
    }
    for kind, body in files.items():
        (tmp_path / 'a.pcd').write_bytes(HEADER.format(kind).encode() + body)
        np.testing.assert_array_equal(load_cloud(tmp_path / 'a.pcd'), POINTS, err_msg=kind)
        padded = HEADER.replace('rgb normal x y z', '_ _ x y z').format(kind).encode()
        (tmp_path / 'a.pcd').write_bytes(padded + body)
        np.testing.assert_array_equal(load_cloud(tmp_path / 'a.pcd'), POINTS, err_msg=f'padded {kind}')


def test_colours_are_packed_in_floats_or_in_whole_numbers(tmp_path):
    colours = np.random.default_rng(1).integers(0, 255, (40, 3), endpoint=True)
    packed = (colours @ [1 << 16, 1 << 8, 1]).astype('<u4')
    rows = np.hstack([np.zeros((40, 3)), POINTS]).astype('<f4')
    for kind, column in (('U', packed), ('F', packed.view('<f4'))):
        header = HEADER.replace('TYPE U', f'TYPE {kind}')
        body = b''.join(packed[i].tobytes() + rows[i].tobytes() for i in range(40))
        text = ''.join(
            f'{c:.17g} ' + ' '.join(f'{v:.17g}' for v in row) + '\n' for c, row in zip(column, rows, strict=True)
        )
        for encoding, content in (('binary', body), ('ascii', text.encode())):
            (tmp_path / 'a.pcd').write_bytes(header.format(encoding).encode() + content)
            points, found = load_coloured_cloud(tmp_path / 'a.pcd')
            np.testing.assert_array_equal(points, POINTS)
            np.testing.assert_array_equal(found, colours, err_msg=f'{kind} {encoding}')
    (tmp_path / 'a.pcd').write_bytes(HEADER.replace('rgb', '_').format('binary').encode() + TABLE.tobytes())
    assert load_coloured_cloud(tmp_path / 'a.pcd')[1] is None


@pytest.mark.parametrize(
    'content, fault',
    [
        (HEADER.format('binary').encode() + TABLE.tobytes()[:-1], 'expected 1120 bytes for 40 points, found 1119'),
        (HEADER.format('ascii').encode() + b'0 0 0 0 1 2 3\n', 'expected the 40 points of the header, found 1'),
        (HEADER.format('zip').encode(), "expected 1120 bytes for 40 points, found 0 in a file of b'zip'"),
        (HEADER.replace(' x y z', ' a b c').format('ascii').encode(), 'expected fields x, y, z'),
        (
            HEADER.replace('POINTS 40', 'POINTS 1000000000000').format('binary').encode(),
            'expected 28000000000000 bytes',
        ),
        (HEADER.format('binary_compressed').encode() + compressed(TABLE.tobytes(), b'\x20\xff'), 'earlier bytes'),
        (b'VERSION 0.7\n', 'expected a PCD header that ends with a line DATA'),
    ],
)
def test_what_is_damaged_is_named(tmp_path, content, fault):
    (tmp_path / 'a.pcd').write_bytes(content)
    with pytest.raises(InputError, match=rf'a\.pcd: .*{fault}'):
        load_cloud(tmp_path / 'a.pcd')
