import re

import numpy as np
import pytest

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_cloud, load_geometry, save_mesh

POINTS = np.round(np.random.default_rng(0).normal(size=(40, 3)), 4)


def rows(sep=' ', more='', points=POINTS):
    return '\n'.join(sep.join(f'{value:.4f}' for value in point) + more for point in points) + '\n'


def numbered(sep, more=''):
    return re.sub('(?m)^(?=.)', f'7{sep}', rows(sep, more))


TEXTS = {
    'blanks': rows(),
    'tabs of Windows': rows('\t').replace('\n', '\r\n'),
    'of an old Macintosh': rows().replace('\n', '\r'),
    'commas': rows(','),
    'commas and blanks': rows(', '),
    'semicolons': rows(';'),
    'quotes': rows('","', '"').replace('\n', '\n"', 39).join(['"', '']),
    'trailing commas': rows(',', ','),
    'decimal commas': rows().replace('.', ','),
    'decimal commas and semicolons': rows(';').replace('.', ','),
    'header': 'X Y Z\n' + rows(),
    'header of other columns first': 'id,"y",label,"x","z"\n' + '\n'.join(f'7,{y},chair,{x},{z}' for x, y, z in POINTS),
    'header in a comment': '//X Y Z R G B\n' + rows(more=' 1 2 3.5'),
    'header with units': 'x [m];y [m];z [m]\n' + rows(';'),
    'a sentence': '# columns: x y z in metres\n' + rows(),
    'count': '40\n' + rows(),
    'comment, count': '//X Y Z\n40\n' + rows(),
    'comments': '# made by hand\n\n' + rows(more=' # a, b').replace('\n', '\n\n', 3),
    'intensity': rows(more=' 216'),
    'ragged': rows().replace('\n', ' 12\n', 7),
    'words behind': rows(',', ',chair'),
    'words behind, a header': 'x,y,z,label\n' + rows(',', ',chair'),
    'empty columns behind': rows(',', ',,,5'),
    'decimal commas behind a number': 'Nr;X;Y;Z\n' + numbered(';').replace('.', ','),
    'decimal commas and names': 'X;Y;Z;Name\n' + rows(';', ';P1').replace('.', ','),
    'decimal commas and an empty column': rows(';', ';').replace('.', ','),
    'decimal commas and tabs': rows('\t').replace('.', ','),
    'decimal commas in quotes': 'x,y,z\n' + re.sub(r'[-\d.]+', r'"\g<0>"', rows(',')).replace('.', ','),
    'decimal commas and whole numbers': rows().replace('.', ',') + '1 2 nan\n',
    'numbered, an empty label': 'id,x,y,z,label\n' + numbered(',', ','),
    'numbered, labels of two words': 'id,x,y,z,label\n' + numbered(',', ',big chair'),
    'numbered, quoted labels': 'id,x,y,z,label\n' + numbered(',', ',"big, 5; chair"'),
    'numbered, units': 'id,x [m],y [m],z [m]\n' + numbered(','),
    'an unnamed index': ',x,y,z\n' + numbered(','),
    'empty cells before': 'id,label,x,y,z\n' + re.sub('(?m)^(?=.)', ',,', rows(',')),
    'fields in a comment': '# fields: x y z\n' + rows(more=' 17'),
    'numbered, a comment': '# id x y z\n' + numbered(' '),
}


@pytest.mark.parametrize('name', TEXTS)
def test_dialects_of_text(tmp_path, name):
    for encoding in ('utf-8', 'utf-8-sig', 'utf-16'):
        (tmp_path / 'a.txt').write_bytes(TEXTS[name].encode(encoding))
        np.testing.assert_array_equal(load_cloud(tmp_path / 'a.txt'), POINTS, err_msg=encoding)


def test_a_comment_in_any_encoding_and_colours(tmp_path):
    (tmp_path / 'a.xyz').write_bytes('# Höhe in m\n'.encode('latin-1') + rows(more=' 10 20 30').encode())
    cloud = load_geometry(tmp_path / 'a.xyz')
    np.testing.assert_array_equal(cloud.vertices, POINTS)
    np.testing.assert_array_equal(cloud.colors, [[10, 20, 30, 255]] * 40)
    (tmp_path / 'a.xyz').write_text(rows(more=' 0.5 0.5 -0.7'))  # normals are no colours
    save_mesh(load_geometry(tmp_path / 'a.xyz'), tmp_path / 'b.ply')
    np.testing.assert_allclose(load_cloud(tmp_path / 'b.ply'), POINTS, atol=1e-6)


def test_invalid_points_are_dropped_and_counted(tmp_path, capsys):
    broken = POINTS.copy()
    broken[[3, 5, 6], [0, 1, 2]] = np.nan, np.inf, -np.inf
    (tmp_path / 'a.xyz').write_text(rows(points=broken))
    (tmp_path / 'b.csv').write_text(rows(',', points=broken).replace('nan', '').replace('-inf', '').replace('inf', ' '))
    (tmp_path / 'e.txt').write_text(rows(points=broken).replace('-inf', '-1.#IND').replace('nan', '-nan(ind)'))
    np.save(tmp_path / 'c.npy', broken)
    np.savez(tmp_path / 'd.npz', points=broken)
    for name in ('a.xyz', 'b.csv', 'c.npy', 'd.npz', 'e.txt'):
        np.testing.assert_array_equal(load_cloud(tmp_path / name), np.delete(POINTS, [3, 5, 6], axis=0))
        assert f'{name}: dropped 3 of 40 points, which are NaN or infinity' in capsys.readouterr().out


def test_arrays_of_many_kinds(tmp_path):
    records = np.zeros(40, [('t', 'i4'), ('x', 'f8'), ('y', 'f8'), ('z', 'f8')])
    for axis, values in zip('xyz', POINTS.T, strict=True):
        records[axis] = values
    arrays = {
        'normals': np.hstack([POINTS, POINTS]), 'intensity': np.hstack([POINTS, POINTS[:, :1]]), 'records': records,
        'organised': POINTS.reshape(8, 5, 3), 'batch': POINTS[None], 'fortran': np.asfortranarray(POINTS),
        'big': POINTS.astype('>f8'),
    }  # fmt: skip
    for name, array in arrays.items():
        np.save(tmp_path / 'a.npy', array)
        np.savez_compressed(tmp_path / 'a.npz', **{name: array})
        np.savez(tmp_path / 'b.npz', points=array, other=np.ones((9, 3)))
        for file in ('a.npy', 'a.npz', 'b.npz'):
            np.testing.assert_array_equal(load_cloud(tmp_path / file), POINTS, err_msg=name)


@pytest.mark.parametrize(
    'name, content, fault',
    [
        ('a.txt', '41\n' + rows(), 'expected the 41 points that its first line announces, found 40'),
        ('a.txt', rows() + 'a b c\n', r'expected numbers in the columns \[1, 2, 3\]'),
        ('a.txt', 'C 1 2 3\n' + rows(), r'expected numbers in the columns \[1, 2, 3\]'),
        ('a.txt', rows() + '1 2\n', r'expected numbers in the columns \[1, 2, 3\], .*with 2 columns'),
        ('a.xyz', '1 2\n3 4\n5 7\n', 'expected x, y and z, three columns, found 2'),
        ('a.csv', 'x,y,z\n1,2\n3,4\n5,7\n', 'expected x, y and z, three columns, found 2'),
        ('a.csv', '1.5\n2.5\n', 'expected x, y and z, three columns, found 1'),
        ('a.csv', 'x,y,z\n1,5,2,25,3,125\n4,5,5,25,6,125\n', 'expected the 3 columns that its header names, found 6'),
        ('a.csv', 'id x y z\n7 8 1 2 3\n9 8 4 5 6\n', 'expected the 4 columns that its header names, found 5'),
        ('a.csv', 'x;y;z\n0,5;1;2.5\n0,75;1;2.5\n', 'decimal points or decimal commas, found both: 0,5 and 2.5'),
        ('a.csv', '1.234,5;2.000,0;1,5\n' * 2, 'expected numbers in the columns'),
        ('a.csv', '1.234,5 2.000,5 3,5\n' * 2, 'expected numbers in the columns'),
        ('a.csv', 'x,y,z\n"4,600,100.50","5,200,300.25",1.5\n', "expected numbers in the columns .* by ';'"),
        ('a.csv', 'x,y,z\n"1,500",900,"2,100"\n', 'found "1,500": a thousand, or a decimal comma'),
        ('a.txt', '', 'at least 2 distinct points, found 0 in 0'),
        ('a.txt', bytes(90), 'expected text, found zero bytes'),
        ('a.npy', POINTS.T, r'found an array of shape \[3, 40\]; transpose it'),
        ('a.npy', POINTS[:, :2], r'expected points \[N, 3\], found an array of shape \[40, 2\]'),
        ('a.npy', np.ones((3, 4, 5)), r'shape \[3, 4, 5\]; transpose it'),
        ('a.npy', np.ones((100, 3, 50)), r'shape \[100, 3, 50\]; transpose it'),
        ('a.npy', POINTS + 1j, 'type complex128'),
    ],
)
def test_what_is_no_cloud_is_named(tmp_path, name, content, fault):
    if isinstance(content, np.ndarray):
        np.save(tmp_path / name, content)
    else:
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=rf'{name}: .*{fault}'):
        load_cloud(tmp_path / name)
