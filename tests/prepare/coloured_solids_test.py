import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from onet_jax.data import records
from onet_jax.geometry.cameras import fixed_cameras
from onet_jax.prepare import embedded, procedural, random_solids, rooms
from onet_jax.prepare.coloured_solids import SCHEMES
from onet_jax.prepare.embedded import coloured_solid, embedded_dataset, embedded_solid
from onet_jax.prepare.runners import in_this_process

DATA = {
    'families': ('mug',), 'num_shapes_per_family': 3, 'num_points': 2048, 'num_views': 1, 'dataset_seed': 0,
    'val_fraction': 0.3, 'test_fraction': 0.3, 'inputs': ('image', 'depth_views'), 'targets': ('views',),
}  # fmt: skip


@pytest.mark.parametrize('family', [*procedural.FAMILIES, random_solids.FAMILIES[0], rooms.FAMILIES[0]])
def test_colours_are_functions_of_the_place_and_the_part_and_not_of_triangles(family):
    painted = coloured_solid(3, family, 1)
    mesh, colours_at = painted.surface()
    expected = embedded_solid(3, family, 1).mesh()
    np.testing.assert_array_equal(mesh.vertices, expected.vertices)
    rng = np.random.default_rng(0)
    faces, weights = rng.integers(len(mesh.faces), size=4000), rng.dirichlet(np.ones(3), 4000)
    colours = colours_at(faces, weights)
    assert colours.dtype == np.float32
    assert ((colours >= 0) & (colours <= 1)).all()
    # The paint of one of the parts there, and of the same part all over a face.
    places = np.einsum('ni,nik->nk', weights, np.asarray(mesh.vertices)[mesh.faces[faces]])
    fits = np.stack([(np.abs(paint.at(places) - colours) < 1e-5).all(axis=1) for paint in painted.paints])
    assert fits.any(axis=0).all()
    assert all(fits[:, faces == face].all(axis=1).any() for face in np.unique(faces))
    np.testing.assert_array_equal(colours, coloured_solid(3, family, 1).surface()[1](faces, weights))


def test_solids_of_a_family_share_a_scheme_and_differ():
    assert SCHEMES.keys() == set(procedural.FAMILIES)
    mains = {tuple(coloured_solid(0, 'mug', i).paints[0].colours[0]) for i in range(12)}
    assert len(mains) == 12
    kinds = {coloured_solid(0, 'mug', i).paints[0].pattern for i in range(30)}
    assert kinds == {'stripes', 'checks', 'spots', 'gradient'}
    chair = next(s for i in range(20) if len((s := coloured_solid(0, 'chair', i)).paints) > 6)
    assert len({id(paint) for paint in chair.paints}) < len(chair.paints), 'four legs of one colour'


def test_a_coloured_dataset_is_another_one_with_depth_and_fixed_views(tmp_path, monkeypatch):
    """And what was made before solids had patterns keeps its name and its settings."""
    monkeypatch.setenv('ONET_JAX_CACHE', str(tmp_path))
    monkeypatch.setattr(embedded, 'processes', lambda: in_this_process)
    plain, coloured = (embedded_dataset(ConfigDict({**DATA, 'coloured': flag})) for flag in (False, True))
    assert plain == embedded_dataset(ConfigDict(DATA)) != coloured
    indices = [records.read_index(path) for path in (plain, coloured)]
    assert not {'coloured', 'num_fixed_views'} & indices[0].source.keys()
    assert indices[1].source['coloured'] is True
    assert [index.num_views for index in indices] == [1, 6]
    assert all('depth' in index.columns for index in indices)
    one, other = (
        records.read_shape(records.shape_path(path, *index.splits['train'][0]))
        for path, index in zip((plain, coloured), indices, strict=True)
    )
    for name in ('points', 'occ', 'surface', 'normals', 'voxels'):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.world_mat, other.world_mat[:1])
    assert one.image[0] != other.image[0]
    assert one.alpha[0] == other.alpha[0]
    # The fixed ones lie evenly around, from the front.
    np.testing.assert_allclose(other.world_mat[1:, :, :3], fixed_cameras(5).world_mat[:, :, :3], atol=1e-6)
    eyes = -np.einsum('vji,vj->vi', other.world_mat[1:, :, :3], other.world_mat[1:, :, 3])
    assert eyes[0] @ [0, 0, 1] > 0.8 * np.linalg.norm(eyes[0])
    assert json.loads((coloured / 'dataset.json').read_text())['source']['num_fixed_views'] == 5
