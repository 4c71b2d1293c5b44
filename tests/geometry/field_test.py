import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from parity.modules import load_field

from onet_jax.errors import InputError
from onet_jax.geometry.field import ACCELERATOR_QUERY_CHUNK, QUERY_CHUNK, check_points, evaluate, field_normals


def decoder_field(weights, cond, latent=None):
    """The official decoder of a golden file as a field [T, 3] -> [T], its arrays being arguments of the Partial."""
    return load_field(weights, np.float32, cond, latent)


@pytest.mark.parametrize('num_points', [0, 1, 63, 64, 65, 1000])
def test_the_field_sees_one_size_only(num_points):
    sizes, points = set(), np.random.default_rng(0).normal(size=(num_points, 3)).astype(np.float32)

    def field(p):
        sizes.add(p.shape)
        return p[:, 0] + 2 * p[:, 1]

    values = evaluate(field, points, chunk_size=64)
    np.testing.assert_array_equal(values, points[:, 0] + 2 * points[:, 1])
    assert sizes <= {(64, 3)}


@pytest.mark.parametrize(
    'backend, size', [('cpu', QUERY_CHUNK), ('gpu', ACCELERATOR_QUERY_CHUNK), ('tpu', ACCELERATOR_QUERY_CHUNK)]
)
def test_an_accelerator_gets_larger_chunks(backend, size, monkeypatch):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    sizes = []

    def field(points):
        sizes.append(len(points))
        return points[:, 0]

    points = np.random.default_rng(0).normal(size=(size + 1, 3))
    np.testing.assert_array_equal(evaluate(field, points), points[:, 0])
    assert sizes == [size, size]


@pytest.mark.parametrize('name, x64', [('trained', False), ('random', True)])
def test_official_normals(golden, name, x64):
    data = golden('mesh/estimate_normals.npz')
    weights = golden(str(data['meta/weights_trained'])) if name == 'trained' else data
    with jax.enable_x64(x64):
        normals = field_normals(
            decoder_field(weights, data[f'in/c_{name}'], data.get(f'in/z_{name}')), data['in/vertices']
        )
    assert normals.dtype == np.float32
    np.testing.assert_allclose(normals, data[f'out/normals_{name}'], atol=5e-6)


def test_normals_of_an_ellipsoid_share_one_compilation():
    traces = []

    def field(axes, points):
        traces.append(points.shape)
        return 1 - (points**2 * axes).sum(axis=-1)

    rng = np.random.default_rng(0)
    for num_points in (0, 1, 100, QUERY_CHUNK + 1):
        points, axes = rng.normal(size=(num_points, 3)), rng.uniform(1, 3, 3)
        normals = field_normals(Partial(field, axes), points)
        expected = points * axes / np.linalg.norm(points * axes, axis=1, keepdims=True)
        assert normals.shape == (num_points, 3)
        np.testing.assert_allclose(normals, expected, atol=1e-6)
    assert traces == [(QUERY_CHUNK, 3)]
    by_closure = field_normals(lambda points: field(axes, points), points)
    np.testing.assert_allclose(by_closure, normals, atol=1e-6)


def test_a_normal_without_gradient_is_zero():
    points = np.array([[0, 0, 0], [0, 0, 2.0]])
    np.testing.assert_array_equal(field_normals(lambda p: -(p**2).sum(axis=-1), points), [[0, 0, 0], [0, 0, 1]])
    np.testing.assert_array_equal(field_normals(lambda p: jnp.ones(len(p)), points), np.zeros((2, 3)))


def test_what_are_no_points_is_named():
    for shape in ([3], [3, 2], [2, 3, 3]):
        with pytest.raises(InputError, match=re.escape(f'points: expected an array [T, 3], found the shape {shape}')):
            check_points(np.zeros(shape))


def test_chunks_are_halved_where_the_device_runs_out_of_memory():
    sizes = []

    def field(points):
        sizes.append(len(points))
        if len(points) > QUERY_CHUNK // 4:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
        return points[:, 0]

    points = np.random.default_rng(0).normal(size=(QUERY_CHUNK + 5, 3))
    np.testing.assert_array_equal(evaluate(field, points), points[:, 0])
    assert sizes == [QUERY_CHUNK, QUERY_CHUNK // 2, *[QUERY_CHUNK // 4] * 5]

    sizes.clear()

    def broken(points):
        sizes.append(len(points))
        raise jax.errors.JaxRuntimeError('INTERNAL: something else')

    with pytest.raises(jax.errors.JaxRuntimeError, match='something else'):
        evaluate(broken, points)
    assert sizes == [QUERY_CHUNK], 'smaller chunks do not help'
