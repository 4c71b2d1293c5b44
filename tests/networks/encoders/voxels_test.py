import jax
import numpy as np

from onet_jax.networks.encoders.voxels import VoxelEncoder


def test_the_encoder_tells_the_axes_apart():
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 2, (1, 32, 32, 32)).astype(np.float32)
    encoder = VoxelEncoder(6, 4)

    @jax.jit
    def encode(voxels):
        code, variables = encoder.init_with_output(jax.random.key(0), voxels)
        return code, encoder.apply(variables, voxels.swapaxes(1, 3)), variables

    code, turned, variables = encode(voxels)
    assert code.shape == (1, 6)
    assert variables['params']['conv_3']['kernel'].shape[-1] == 16 * 4
    assert np.abs(turned - code).max() > 1e-4
