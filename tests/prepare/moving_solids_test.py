import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from onet_jax.errors import InputError
from onet_jax.geometry.inside import winding_numbers
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.prepare.moving_animals import GAITS, quadruped
from onet_jax.prepare.moving_mechanisms import chest, lamp, pendulum, scissors
from onet_jax.prepare.moving_people import human_body, jumping_jacks, squats, strides, waves
from onet_jax.prepare.moving_solids import FAMILIES, make_moving
from onet_jax.prepare.skeletons import Bone, Turn, cover, pose, stand

CYCLES = 0.3 + 0.04 * np.arange(17)
FRAMES = 0, 8, 16


def check_bodies(sequence):
    """Closed, about as large in every frame, and nowhere inside out or in itself."""
    volumes = []
    for frame in FRAMES:
        mesh = sequence.mesh(frame)
        assert mesh.is_watertight
        volumes.append(mesh.volume)
        numbers = winding_numbers(mesh, np.random.default_rng(frame).uniform(*mesh.bounds, (5_000, 3)))
        assert ((numbers != 0) & (numbers != 1)).mean() < 1e-3
    assert volumes[0] > 0
    np.testing.assert_allclose(volumes, volumes[0], rtol=0.1)


@pytest.mark.parametrize('family', FAMILIES)
def test_shapes_move_on_the_floor_and_are_always_the_same(family):
    found = make_moving(3, family, 1, 17)
    assert 1500 < found.vertices.shape[1] < 8000
    assert np.abs(found.vertices[..., 1].min(axis=1)).max() < 0.3, 'a jump at most'
    assert 0 <= found.vertices[..., 1].min() + 1e-9 < 0.02
    size = np.ptp(found.vertices[0], axis=0).max()
    assert 0.5 < size < 1.5
    path = np.linalg.norm(found.vertices - found.vertices[0], axis=2)
    assert path.max() > 0.1 * size, 'it moves'
    steps = np.linalg.norm(np.diff(found.vertices, axis=0), axis=2)
    assert steps.max() < 0.2 * size, 'it does not leap'
    check_bodies(found)

    longer, other = make_moving(3, family, 1, 18), make_moving(3, family, 2, 2)
    np.testing.assert_array_equal(longer.vertices[:17], found.vertices)
    np.testing.assert_array_equal(longer.faces, found.faces)
    assert other.vertices.shape[1] != found.vertices.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize('family', FAMILIES)
def test_many_shapes_do_not_pass_through_themselves(family):
    for index in range(8):
        check_bodies(make_moving(1, family, index, 17))


@pytest.mark.parametrize('motion', [strides, squats, waves, jumping_jacks])
def test_people_do_not_pass_through_themselves(motion):
    rng = np.random.default_rng(0)
    body = human_body(rng)
    check_bodies(MeshSequence(stand(pose(body, motion(rng, CYCLES)[0])), body.faces))


@pytest.mark.parametrize('make', [chest, lamp, pendulum, scissors])
def test_mechanisms_do_not_pass_through_themselves(make):
    for seed in range(2):
        check_bodies(MeshSequence(*make(np.random.default_rng(seed), CYCLES)))


@pytest.mark.slow
def test_animals_do_not_pass_through_themselves():
    for seed in range(len(GAITS)):
        check_bodies(MeshSequence(*quadruped(np.random.default_rng(seed), CYCLES)))


def test_a_pose_is_rigid_beyond_the_joints_and_keeps_the_length_of_bones():
    """Against forward kinematics by matrices, at places that follow all joints or none."""
    bones = {
        'root': Bone(None, (0, 0, 0), (0, 0.4, 0), (0.06, 0.06)),
        'middle': Bone('root', (0, 0.4, 0), (0, 0.8, 0), (0.06, 0.05)),
        'tip': Bone('middle', (0, 0.8, 0), (0.3, 1.0, 0), (0.05, 0.05)),
    }
    body = cover(bones, 80)
    bend, twist, nod = np.array([[0.0, 0.9], [0.0, -0.7], [0.0, 0.5]])
    turns = [Turn('middle', (1, 0, 0), bend), Turn('tip', (0, 0, 1), nod), Turn('middle', (0, 2, 0), twist)]
    frames = pose(body, turns)
    np.testing.assert_allclose(frames[0], body.vertices, atol=1e-12)

    still, whole = body.weights['middle'] == 0, body.weights['tip'] > 1 - 1e-12
    assert still.sum() > 20
    assert whole.sum() > 20
    np.testing.assert_array_equal(frames[1][still], body.vertices[still])
    outer = (Rotation.from_rotvec([0.9, 0, 0]) * Rotation.from_rotvec([0, -0.7, 0])).as_matrix()
    inner = Rotation.from_rotvec([0, 0, 0.5]).as_matrix()
    elbow, wrist = np.array([0, 0.4, 0]), np.array([0, 0.8, 0])
    expected = ((body.vertices[whole] - wrist) @ inner.T + wrist - elbow) @ outer.T + elbow
    np.testing.assert_allclose(frames[1][whole], expected, atol=1e-12)


def test_an_unknown_family_is_named():
    with pytest.raises(InputError, match=r"family: expected one of .*'human'.*found 'chair'"):
        make_moving(0, 'chair', 0)
