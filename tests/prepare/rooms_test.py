import numpy as np
import pytest
from mesh_files import digest
from scipy.spatial import KDTree

from onet_jax.data import records
from onet_jax.errors import InputError
from onet_jax.geometry.inside import contains
from onet_jax.prepare import embedded
from onet_jax.prepare.check import check_dataset
from onet_jax.prepare.rooms import FAMILIES, Placed, make_room
from onet_jax.prepare.runners import in_this_process

POINTS = np.random.default_rng(0).uniform(-0.55, 0.55, (30_000, 3))


def placed_in(room):
    return [part for part in room.parts if isinstance(part, Placed)]


@pytest.mark.parametrize('family', FAMILIES)
def test_rooms_are_normalised_closed_and_exact(family):
    room = make_room(0, family, 1)
    mesh = room.mesh()
    assert len(placed_in(room)) == int(family[-2:])
    assert mesh.is_watertight
    extents = np.ptp(mesh.bounds, axis=0)
    np.testing.assert_allclose(extents.max(), 1, atol=1e-6)
    assert extents.argmax() == 0, 'the floor is the longest'
    np.testing.assert_allclose(mesh.bounds.sum(axis=0), 0, atol=1e-6)
    by_mesh, exact = contains(mesh, POINTS), room.contains(POINTS)
    assert (by_mesh & exact).sum() / (by_mesh | exact).sum() > 0.98
    assert 0.01 < exact.mean() < 0.1


def test_furniture_stands_apart_on_the_floor():
    room = make_room(0, 'rooms_08', 3)
    boxes = [part.mesh.bounds[:, [0, 2]] for part in placed_in(room)]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert ((a[1] < b[0]) | (b[1] < a[0])).any()
    for part in placed_in(room):
        assert -0.01 < part.mesh.bounds[0, 1] < 0, 'a hair in the floor'


def test_rooms_depend_on_seed_family_and_index_alone():
    again = make_room(3, 'rooms_04', 7).mesh()
    np.testing.assert_array_equal(make_room(3, 'rooms_04', 7).mesh().vertices, again.vertices)
    occupied = [make_room(seed, 'rooms_04', index).contains(POINTS) for seed, index in ((3, 7), (3, 8), (4, 7))]
    for other in occupied[1:]:
        assert (occupied[0] & other).sum() / (occupied[0] | other).sum() < 0.9


def test_the_rooms_of_a_seed_are_those_that_they_have_always_been():
    assert digest(make_room(0, family, 0) for family in FAMILIES) == '72b63901bae6e998'


def test_furniture_keeps_its_colours():
    room = make_room(0, 'rooms_06', 1)
    mesh = room.mesh()
    _, _, centre, scale = room._body
    for furniture in placed_in(room):
        own = furniture.mesh
        # Most faces of the furniture, those that the floor does not cut, are faces of the room.
        distance, face = KDTree(mesh.triangles_center * scale + centre).query(own.triangles_center)
        same = distance < 1e-6
        assert same.mean() > 0.5
        np.testing.assert_array_equal(mesh.visual.face_colors[face[same]], own.visual.face_colors[same])
        assert len(np.unique(own.visual.face_colors, axis=0)) > 1


@pytest.mark.slow
def test_rooms_are_a_dataset_as_any_other(tmp_path):
    index = embedded.prepare_procedural(
        tmp_path,
        families=FAMILIES[:2],
        num_shapes_per_family=3,
        num_points=4100,
        seed=0,
        val_fraction=0.3,
        test_fraction=0.3,
        sampling='surface',
        run=in_this_process,
    )
    assert index.categories == FAMILIES[:2]
    assert [len(index.splits[split]) for split in records.SPLITS] == [2, 2, 2]
    _, _, problems, _ = check_dataset(tmp_path, in_this_process)
    assert not problems


def test_an_unknown_family_is_named():
    with pytest.raises(InputError, match=r"family: expected one of .*'rooms_04'.*found 'rooms_99'"):
        make_room(0, 'rooms_99', 0)
