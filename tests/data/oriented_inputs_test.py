"""The field 'oriented_cloud' of a user's file: a mesh, or points with normals."""

import numpy as np
import pytest
import trimesh
from model_configs import small_data

from onet_jax.data import fields
from onet_jax.errors import InputError

SHAPE = trimesh.creation.icosphere(3)
SHAPE.apply_scale([1, 2, 3])
SHAPE.apply_translation([5, 6, 7])
POINTS, _FACES = trimesh.sample.sample_surface(SHAPE, 3000, seed=0)
NORMALS = SHAPE.face_normals[_FACES]
PLY = 'ply\nformat ascii 1.0\nelement vertex 3000\n' + ''.join(
    f'property float {name}\n' for name in ('x', 'y', 'z', 'nx', 'ny', 'nz')
)


def read(path, **changes):
    data = small_data(inputs=('oriented_cloud',), targets=('none',), num_surface_points=400, **changes)
    (source,) = fields.find_sources(data, path)
    arrays, frame = fields.read_inputs(data, source, 0)
    return np.asarray(arrays['oriented_cloud'], np.float64), frame


def write(path, normals):
    table = np.column_stack([POINTS, normals])
    if path.suffix == '.npz':
        np.savez(path, points=POINTS, normals=normals)
    else:
        np.savetxt(path, table, fmt='%.7f', header=PLY + 'end_header' if path.suffix == '.ply' else '', comments='')


@pytest.mark.parametrize(
    'name', ['mesh.ply', 'mesh.obj', 'cloud.ply', 'cloud.xyz', 'cloud.npz', 'inwards.xyz', 'coloured.xyz']
)
@pytest.mark.parametrize('up', ['y', 'z'])
def test_points_and_outward_normals_are_in_object_coordinates(tmp_path, capsys, name, up):
    path = tmp_path / name
    if name.startswith('mesh'):
        SHAPE.export(path)
    elif name.startswith('coloured'):
        np.savetxt(path, np.column_stack([POINTS, np.full((3000, 3), 77), NORMALS]))
    else:
        write(path, -NORMALS if name.startswith('inwards') else NORMALS)
    cloud, frame = read(path, up=up)
    assert cloud.shape == (400, 6)
    assert ('point inwards' in capsys.readouterr().out) == name.startswith('inwards')
    np.testing.assert_allclose(np.ptp(cloud[:, :3], axis=0).max(), 1, atol=0.03)
    np.testing.assert_allclose(np.linalg.norm(cloud[:, 3:], axis=1), 1, atol=1e-5)
    # In the user's frame it lies on the ellipsoid and looks away from it.
    places, normals = frame.to_user(cloud[:, :3]) - [5, 6, 7], cloud[:, 3:] @ frame.turn
    np.testing.assert_allclose(np.linalg.norm(places / [1, 2, 3], axis=1), 1, atol=0.03)
    gradient = places / np.square([1, 2, 3])
    assert (np.sum(normals * gradient, axis=1) > 0.9 * np.linalg.norm(gradient, axis=1)).all()


def test_what_has_no_volume_faces_or_normals_is_refused_with_the_file(tmp_path):
    np.savetxt(tmp_path / 'bare.xyz', POINTS)
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(tmp_path / 'flat.obj')
    (tmp_path / 'faceless.obj').write_text('v 0 0 0\nv 1 0 0\n')
    np.savetxt(tmp_path / 'one.xyz', [[0, 0, 0, 0, 0, -1]])
    np.savez(tmp_path / 'few.npz', points=POINTS, normals=NORMALS[1:])
    for name, message in (
        ('bare.xyz', 'expected a mesh, or points with normals .* found points without'),
        ('faceless.obj', 'expected a mesh, or points with normals .* found points without'),
        ('flat.obj', 'expected a solid, found a flat one'),
        ('one.xyz', 'expected at least 2 distinct points with normals, found 1'),
        ('few.npz', 'expected a normal for each of 3000 points, found 2999'),
    ):
        with pytest.raises(InputError, match=f'{tmp_path}/{name}: .*{message}'):
            read(tmp_path / name)


def test_points_without_a_normal_are_left_out(tmp_path, capsys):
    normals = NORMALS.copy()
    normals[:10], normals[10] = 0, np.nan
    write(tmp_path / 'a.npz', normals)
    cloud, _ = read(tmp_path / 'a.npz')
    assert np.isfinite(cloud).all()
    assert f'{tmp_path}/a.npz: dropped 11 of 3000 points' in capsys.readouterr().out
