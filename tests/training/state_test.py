import jax.numpy as jnp
import numpy as np

from onet_jax.training.state import update_average


def test_each_step_counts_a_fixed_share_of_the_next_and_the_start_does_not():
    """Of 1, 2 and 4 with weights 1/4, 1/2 and 1, whatever was there before; what is counted is not averaged."""
    average, found = {'w': jnp.asarray(100.0), 'count': jnp.int32(7)}, []
    for step, value in enumerate([1.0, 2.0, 4.0], 1):
        average = update_average(average, {'w': jnp.asarray(value), 'count': jnp.int32(step)}, jnp.asarray(step), 0.5)
        found.append(float(average['w']))
        assert (average['count'], average['count'].dtype) == (step, np.int32)
    np.testing.assert_allclose(found, [1, (0.5 * 1 + 2) / 1.5, (0.25 * 1 + 0.5 * 2 + 4) / 1.75], rtol=1e-6)
    late = update_average({'w': jnp.asarray(1.0)}, {'w': jnp.asarray(2.0)}, jnp.asarray(10**6), 0.9999)
    np.testing.assert_allclose(late['w'], 1.0001, rtol=1e-7)
