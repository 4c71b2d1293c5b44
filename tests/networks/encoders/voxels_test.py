import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.networks.encoders.voxels import VoxelEncoder


def test_the_encoder_tells_the_axes_apart():
    rng = np.random.default_rng(0)
    voxels = jnp.asarray(rng.integers(0, 2, (1, 32, 32, 32)), jnp.float32)
    encoder = VoxelEncoder(6)
    variables = encoder.init(jax.random.key(0), voxels)
    code = encoder.apply(variables, voxels)
    assert code.shape == (1, 6)
    assert variables['params']['conv_3']['kernel'].shape[-1] == 512
    assert np.abs(encoder.apply(variables, voxels.swapaxes(1, 3)) - code).max() > 1e-4
