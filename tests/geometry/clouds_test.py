import numpy as np
import pytest

from onet_jax.geometry.clouds import describe_strays, drop_repeated, find_outliers, find_strays, measure_sampling


def ball(num_points=2000, radius=0.5):
    directions = np.random.default_rng(0).normal(size=(num_points, 3))
    return radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)


@pytest.mark.parametrize('offset', [0.0, 5e5])
@pytest.mark.parametrize(
    'strays',
    [
        np.array([[30.0, 40, 50]]),
        np.array([[0.0, 0, -2.6]]),  # the box is 3.1 times as large
        np.array([[30.0, 40, 50], [-1e6, 0, 0], [0, 9, 0]]),
        np.tile([[7.0, 7, 7]], (900, 1)),  # invalid returns: one place, however often
    ],
)
def test_few_points_far_from_all_others_are_stray(strays, offset):
    order = np.random.default_rng(1).permutation(2000 + len(strays))
    points = np.concatenate([ball(), strays])[order] + offset
    np.testing.assert_array_equal(find_strays(points), order >= 2000)
    half = points[:: len(points) // 40]  # so few points that one is more than their share
    assert find_strays(half).sum() <= len(strays)


def test_a_stray_point_of_few_points_is_found():
    points = np.concatenate([ball(49), [[40.0, 0, 0]]])
    np.testing.assert_array_equal(np.flatnonzero(find_strays(points)), [49])
    assert not find_strays(points[-15:]).any(), 'of fewer than 20 nobody knows'
    assert describe_strays(points, find_strays(points)).startswith('1 of 50 points, which make the box 41')
    assert describe_strays(points, find_strays(points)).endswith('as large as the others do: at (40, 0, 0)')


def test_an_invalid_return_is_found_nearer_than_another_point():
    scan = ball() + np.array([0, 0, 1.9])  # in the frame of the camera
    points = np.concatenate([[[0, 0, 0]], scan])
    np.testing.assert_array_equal(np.flatnonzero(find_strays(points)), [0])
    assert not find_strays(points + 1e-3).any()
    assert not find_strays(points - (0, 0, 0.6)).any()


def rng():
    return np.random.default_rng(2)


@pytest.mark.parametrize(
    'part',
    [
        np.linspace((0, 0.5, 0), (0, 4.5, 0), 4),  # an antenna of four points
        rng().uniform((0, 0.5, 0), (0, 3.5, 0), (12, 3)),
        0.1 * rng().normal(size=(40, 3)) + (0, 30, 0),  # another part of the object
        rng().uniform((-3, 0, -3), (3, 0, 3), (80, 3)),  # a sparse floor
        np.array([[0, 0, 2.4]]),
    ],
)
def test_thin_and_distant_parts_are_not_stray(part):
    assert not find_strays(np.concatenate([ball(), part])).any()


def test_repeated_points_are_dropped_in_their_order():
    points = ball(300)
    np.testing.assert_array_equal(drop_repeated(np.tile(points, (3, 1))), points)
    np.testing.assert_array_equal(
        drop_repeated(np.repeat(points.astype(np.float32), 3, axis=0)), points.astype(np.float32)
    )
    np.testing.assert_array_equal(drop_repeated(np.array([[0.0, 1, 2], [-0.0, 1, 2]])), [[0, 1, 2]])
    few = np.concatenate([points, points[:2]])
    assert drop_repeated(few) is few, 'of a clean scan nothing changes'
    turned = points[:, [1, 2, 0]]
    assert len(drop_repeated(np.tile(np.concatenate([points, turned]), (2, 1)))) == 600


def test_extent_density_and_noise_are_seen():
    generator = np.random.default_rng(0)
    plane = generator.uniform(-0.5, 0.5, (1000, 3)) * (1, 0, 0.5)
    flat, volume = measure_sampling(plane), measure_sampling(generator.uniform(-0.5, 0.5, (1000, 3)))
    np.testing.assert_allclose(flat[:3], [1, 0, 0.5], atol=0.01)
    np.testing.assert_allclose(flat[4], np.log(np.sqrt(8 * 0.5 / (1000 * np.pi))), atol=0.1)
    assert flat[6] == pytest.approx(0, abs=1e-9)
    assert volume[6] > 0.08
    noisy = measure_sampling(plane + generator.normal(scale=0.01, size=plane.shape))
    assert 0.005 < noisy[6] < volume[6]
    sparse = measure_sampling(plane[:250])
    np.testing.assert_allclose(sparse[3:6] - flat[3:6], np.log(2), atol=0.1)
    np.testing.assert_array_equal(measure_sampling(np.tile(plane, (3, 1))), flat)
    assert np.isfinite(measure_sampling(plane[:1])).all()


def test_points_scattered_around_a_surface_are_outliers_and_none_of_its_own():
    rng = np.random.default_rng(0)
    surface = ball() + rng.normal(scale=0.005, size=(2000, 3))
    scattered = rng.uniform(-0.5, 0.5, (100, 3))
    far = np.abs(np.linalg.norm(scattered, axis=1) - 0.5) > 0.2
    assert not find_outliers(surface).any()
    found = find_outliers(np.concatenate([surface, scattered]))
    assert not found[:2000].any()
    assert found[2000:][far].all()
    assert not find_outliers(surface[:1]).any()
