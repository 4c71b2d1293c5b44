import numpy as np
import pytest
from mesh_files import plate, save

from onet_jax import metrics
from onet_jax.data import records
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.representation import solids, voxel_centre, voxel_ious
from onet_jax.geometry.grid import voxel_centres
from onet_jax.prepare import procedural
from onet_jax.prepare.own_meshes import prepare_meshes
from onet_jax.prepare.runners import in_this_process


def test_voxels_say_what_their_centres_are(dataset):
    """Against the whole grid of 32^3, on the points that it holds."""
    dataset = open_dataset(dataset)
    for (category, name), (found, ious) in zip(
        dataset.names('test'), voxel_ious(dataset, 'test', (32, 500)), strict=True
    ):
        assert category == found
        shape = dataset.read(category, name)
        solid = procedural.make_shape(0, category, int(name))
        grid = solid.contains(voxel_centres(32).reshape(-1, 3)).reshape(32, 32, 32)
        places = np.floor((shape.points.astype(float) + 0.5) * 32).astype(int)
        held = ((places >= 0) & (places < 32)).all(axis=1)
        predicted = np.zeros(len(held), bool)
        predicted[held] = grid[tuple(places[held].T)]
        assert ious[32] == pytest.approx(float(metrics.iou(predicted, shape.occ)), abs=2e-3), (
            'solids fill the unit cube'
        )
        assert ious[32] < ious[500] <= 1
        assert ious[500] > 0.9


def test_a_voxel_holds_the_points_around_its_centre():
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (1000, 3))
    centre = voxel_centre(points, 16)
    assert np.abs(points - centre).max() <= 0.5 / 16 + 1e-12
    np.testing.assert_allclose(voxel_centre(voxel_centres(16).reshape(-1, 3), 16), voxel_centres(16).reshape(-1, 3))


def test_solids_of_meshes_are_made_again_and_others_are_not_known(tmp_path):
    save(plate(0), tmp_path / 'meshes/box/a.off')
    settings = {'num_points': 2100, 'num_views': 0, 'seed': 0, 'val_fraction': 0, 'test_fraction': 0}
    index = prepare_meshes(tmp_path / 'meshes', tmp_path / 'data', **settings, run=in_this_process)
    shape = records.read_shape(records.shape_path(tmp_path / 'data', 'box', 'a'))
    np.testing.assert_array_equal(solids(index)('box', 'a')(shape.points.astype(float)), shape.occ)
    with pytest.raises(ValueError, match="expected one of procedural solids or of meshes, found one of 'shapenet'"):
        solids(index._replace(source={'kind': 'shapenet'}))
