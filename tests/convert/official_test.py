import numpy as np
import pytest

from onet_jax.convert.official import from_state_dict


def test_names_become_paths_and_kernels_are_transposed():
    rng = np.random.default_rng(0)
    state = {
        'encoder.fc_c.weight': rng.normal(size=(4, 3)),
        'encoder.fc_c.bias': rng.normal(size=4),
        'decoder.block0.bn_0.conv_gamma.weight': rng.normal(size=(5, 2, 1)),
        'decoder.block0.bn_0.bn.running_var': rng.normal(size=5),
        'decoder.block0.bn_0.bn.num_batches_tracked': np.array(7),
    }
    tree = from_state_dict(state)
    np.testing.assert_allclose(tree['params']['encoder']['fc_c']['kernel'], state['encoder.fc_c.weight'].T, rtol=1e-6)
    gamma = tree['params']['decoder']['block0']['bn_0']['conv_gamma']['kernel']
    np.testing.assert_allclose(gamma, state['decoder.block0.bn_0.conv_gamma.weight'][:, :, 0].T, rtol=1e-6)
    assert set(tree['batch_stats']['decoder']['block0']['bn_0']['bn']) == {'running_var'}
    assert gamma.dtype == np.float32


def test_an_array_without_a_place_is_named():
    with pytest.raises(
        ValueError, match=r'encoder.conv1.weight: expected a linear layer .* found shape \(8, 3, 3, 3\)'
    ):
        from_state_dict({'encoder.conv1.weight': np.zeros((8, 3, 3, 3))})
