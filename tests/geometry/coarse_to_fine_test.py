import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.geometry.coarse_to_fine import dilate, evaluate_near_surface


def body(points):
    """Logits of a ball and of a sheet thinner than a coarse cell."""
    ball = 20 * (0.6 - jnp.linalg.norm(points, axis=-1))
    return jnp.maximum(ball, 40 * (0.02 - jnp.abs(points[..., 0] + 0.77)))


def test_the_surface_is_that_of_all_values_and_few_of_them_are_decoded():
    axis, asked = np.linspace(-1, 1, 41, dtype=np.float32), []

    def decode(points):
        jax.debug.callback(lambda: asked.append(len(points)))
        return body(points)

    middles = (axis[1:-1:2] + 0.77 + 0 * axis[1:-1:2]) ** 2 < 0.05**2
    near = np.zeros((20, 20, 20), bool)
    near[middles] = True
    values = np.asarray(jax.jit(lambda near: evaluate_near_surface(decode, jnp.asarray(axis), dilate(near)))(near))
    jax.effects_barrier()
    expected = np.asarray(jax.jit(body)(np.stack(np.meshgrid(axis, axis, axis, indexing='ij'), axis=-1)))
    np.testing.assert_array_equal(values > 0, expected > 0)
    crossed = np.abs(expected) < 0.2
    np.testing.assert_allclose(values[crossed], expected[crossed], atol=1e-5)
    assert sum(asked) < 0.5 * 41**3


def test_dilation_adds_the_neighbours():
    cells = np.random.default_rng(0).random((5, 5, 5)) < 0.05
    expected = np.zeros_like(cells)
    for x, y, z in np.argwhere(cells):
        expected[max(x - 1, 0) : x + 2, max(y - 1, 0) : y + 2, max(z - 1, 0) : z + 2] = True
    np.testing.assert_array_equal(jax.jit(dilate)(cells), expected)
