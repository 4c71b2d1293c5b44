"""Files that failed elsewhere (`$ONET_JAX_SHARED/faults`), read as its README says; each kind has tests by code as well."""

import numpy as np
import pytest
from parity.golden import SHARED

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import load_cloud, load_mesh

FAULTS = SHARED / 'faults'
CHAIR = ([[-0.25, 0, -0.25], [0.25, 1.05, 0.25]], 0.04375, 1.9408)  # bounds, volume, area
MESHES = {
    'twin/*': CHAIR,
    'glb_mirrored/in/*': CHAIR,
    'glb_sparse/in/*': CHAIR,
    'obj_tabs_all/in/*': CHAIR,
    'obj_tabs_some/in/*': CHAIR,
    'ply_mixed_faces/in/*': CHAIR,
    'off_odd/in_tree/*/*': CHAIR,
    'stl_odd/in_tree/*/*': CHAIR,
    'concave_quad/in/*': (None, 0.18, 2.5466),
    'ply_pentagons/in_tree/*/*': (None, 14.472, 31.544),
}
TWICE = 'two.stl'  # two solids, each of which is the chair
CLOUDS = {'ply_doubles/in/*': 3000, 'ply_point_views/in/*': 3000, 'text_clouds/in/*': 800}
REFUSED = {'glb_draco/in/*': 'KHR_draco_mesh_compression', 'glb_meshopt/in/*': 'EXT_meshopt_compression'}


def find(pattern):
    """The files of a kind; skips where they are absent."""
    if not FAULTS.is_dir():
        pytest.skip(f'{FAULTS} not found (set ONET_JAX_SHARED)')
    files = sorted(path for path in FAULTS.glob(pattern) if path.suffix != '.mtl')
    assert files
    return files


@pytest.mark.parametrize('pattern', MESHES)
def test_meshes_have_their_true_bounds_volume_and_area(pattern):
    bounds, volume, area = MESHES[pattern]
    for path in find(pattern):
        mesh, times = load_mesh(path), 1 + (path.name == TWICE)
        if bounds is not None:
            np.testing.assert_allclose(mesh.bounds, bounds, atol=1e-6, err_msg=path.name)
        assert mesh.volume == pytest.approx(times * volume, rel=1e-4), path.name
        assert mesh.area == pytest.approx(times * area, rel=1e-4), path.name


@pytest.mark.parametrize('pattern', CLOUDS)
def test_clouds_have_all_their_points(pattern, capsys):
    for path in find(pattern):
        points, said = load_cloud(path), capsys.readouterr().out
        assert len(points) == CLOUDS[pattern] - (115 if 'dropped 115 of 800' in said else 0), path.name
        if 'text' in pattern and not said:
            np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], CHAIR[0], atol=0.02, err_msg=path.name)


@pytest.mark.parametrize('pattern', REFUSED)
def test_compressed_meshes_are_refused_by_the_name_of_the_extension(pattern):
    for path in find(pattern):
        with pytest.raises(InputError, match=rf'{path.name}.*{REFUSED[pattern]}'):
            load_mesh(path)
