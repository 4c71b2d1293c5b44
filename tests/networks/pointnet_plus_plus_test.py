import jax
import jax.numpy as jnp
import numpy as np
import pytest
from untrained import draw_weights

from onet_jax.networks import pointnet_plus_plus
from onet_jax.networks.pointnet_plus_plus import PointDecoder


@pytest.fixture
def cloud():
    return np.random.default_rng(0).uniform(-0.5, 0.5, (60, 3)).astype(np.float32)


def distances_of(a, b):
    return np.linalg.norm(a[:, None].astype(float) - b, axis=-1)


def test_each_chosen_point_is_the_farthest_from_those_before(cloud):
    expected = [0]
    for _ in range(19):
        expected.append(int(distances_of(cloud, cloud[expected]).min(axis=1).argmax()))
    np.testing.assert_array_equal(pointnet_plus_plus.sample_farthest(jnp.asarray(cloud), 20), expected)
    np.testing.assert_array_equal(pointnet_plus_plus.sample_farthest(jnp.asarray(cloud[:3]), 5)[3:], [0, 0])


def test_groups_are_the_first_points_that_are_near_enough(cloud):
    found = pointnet_plus_plus.query_ball(cloud[5:15], cloud, 0.3, 8)
    sizes = []
    for row, centre in zip(found, cloud[5:15], strict=True):
        near = np.flatnonzero(distances_of(cloud, centre[None])[:, 0] <= 0.3)
        np.testing.assert_array_equal(row, [*near[:8], *[near[0]] * (8 - len(near))])
        sizes.append(len(near))
    assert min(sizes) < 8 < max(sizes)


def test_features_are_interpolated_from_the_three_nearest(cloud):
    places, features = cloud[:10], np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    found = pointnet_plus_plus.interpolate_three(features[None], places[None], cloud[None])[0]
    expected = []
    for row in distances_of(cloud, places):
        nearest = np.argsort(row)[:3]
        weights = 1 / (row[nearest] ** 2 + 1e-8)
        expected.append(weights @ features[nearest] / weights.sum())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found[:10], features, atol=1e-5)


def test_the_gradient_of_gathered_rows_is_the_sum_for_each():
    rows, weights = np.array([3, 1, 3, 3]), np.arange(8, dtype=np.float32).reshape(4, 2)
    differentiate = jax.jit(jax.grad(lambda values: (pointnet_plus_plus.gather_rows(values, rows) * weights).sum()))
    gradient = differentiate(np.ones((5, 2), np.float32))
    np.testing.assert_array_equal(gradient, [[0, 0], [2, 3], [0, 0], [10, 13], [0, 0]])


def test_the_decoder_has_a_slope_on_the_points_and_a_value_far_away(cloud):
    decoder = PointDecoder(4, num_blocks=1)
    cond = {'points': cloud[None], 'features': cloud[None]}
    queries = np.concatenate([cloud[None], 100 + cloud[None]], axis=1)

    weights = draw_weights(jax.eval_shape(decoder.init, jax.random.key(0), queries, cond))
    logits, gradient = jax.jit(jax.value_and_grad(lambda queries: decoder.apply(weights, queries, cond).sum()))(queries)
    assert np.isfinite(logits)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0
    weights = np.exp(-((distances_of(cloud[:2] + 0.1, cloud) + 1e-5) ** 2) / 0.2**2)
    expected = weights / weights.sum(axis=1, keepdims=True) @ cloud
    _, sampled = jax.jit(decoder.sample)(cloud[None, :2] + 0.1, cond)
    np.testing.assert_allclose(sampled[0], expected, atol=1e-5)
