import jax
import numpy as np
from untrained import draw_weights

from onet_jax.networks.encoders.voxels import VoxelEncoder


def test_the_encoder_tells_the_axes_apart():
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 2, (1, 32, 32, 32)).astype(np.float32)
    encoder = VoxelEncoder(6, 2)
    weights = draw_weights(jax.eval_shape(encoder.init, jax.random.key(0), voxels))
    encode = jax.jit(encoder.apply)
    code, turned = (encode(weights, x) for x in (voxels, voxels.swapaxes(1, 3)))
    assert code.shape == (1, 6)
    assert weights['params']['conv_3']['kernel'].shape[-1] == 16 * 2
    assert np.abs(turned - code).max() > 1e-4
