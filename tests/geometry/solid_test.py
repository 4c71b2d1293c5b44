import numpy as np
import pytest
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.solid import make_solid


@pytest.mark.parametrize('place', [(70, -20, 5), (5e5, 4.6e6, 100.3)])
@pytest.mark.parametrize('up', ['y', 'z'])
def test_a_mesh_of_any_frame_becomes_a_solid_in_object_coordinates(up, place):
    """A box of 4 x 2 x 3 (up, along the file's own up axis: 2), far from the origin, without one of its faces."""
    size = {'y': (4, 2, 3), 'z': (4, 3, 2)}[up]
    mesh = trimesh.creation.box(size).apply_translation(place).subdivide()
    mesh.update_faces(np.arange(len(mesh.faces)) > 0)
    solid = make_solid(mesh.copy(), up)
    assert solid.surface.is_watertight
    np.testing.assert_allclose(solid.surface.bounds, np.array([[-1], [1]]) * [0.5, 0.25, 0.375], atol=1e-9)
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (2000, 3))
    np.testing.assert_array_equal(solid.contains(points), (np.abs(points) < [0.5, 0.25, 0.375]).all(axis=1))
    assert solid.scale == pytest.approx(4)
    x, y, z = place
    np.testing.assert_allclose(solid.loc, place if up == 'y' else (x, z, -y), rtol=1e-14)
    assert len(solid.picture.faces) == len(mesh.faces)


def test_what_is_no_solid_is_refused():
    bowl = trimesh.creation.icosphere(3)
    bowl.update_faces(bowl.triangles_center[:, 1] < 0.2)
    with pytest.raises(InputError, match=r'found a surface for which \d+% of the volume .*, more than 50%'):
        make_solid(bowl)
    with pytest.raises(InputError, match='expected finite vertices that are not all one, found a box of edge 0'):
        make_solid(trimesh.Trimesh(np.ones((3, 3)), [[0, 1, 2]], process=False))
    with pytest.raises(InputError, match=r"up: expected one of \['x', 'y', 'z'\], found 'w'"):
        make_solid(bowl, 'w')
