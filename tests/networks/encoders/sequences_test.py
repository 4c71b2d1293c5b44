import jax
import numpy as np
import pytest
from untrained import draw_weights

from onet_jax.networks.encoders.latent import LatentPointnet
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.sequences import FirstFrame, JoinedFrames, TwoStreamPointnet, VideoEncoder

SIMPLE = Pointnet(6, 8, residual=False)
# Encoder -> the frames that it sees, and whether a point must have the same number in all of them.
OF_CLOUDS = [
    (FirstFrame(SIMPLE), {0}, False),
    (JoinedFrames(SIMPLE), {0, 1, 2, 3}, True),
    (TwoStreamPointnet(6, 8), {0, 3}, False),
]


@pytest.mark.parametrize('encoder, seen, corresponding', OF_CLOUDS)
def test_encoders_of_clips_see_their_frames_in_any_order_of_the_points(encoder, seen, corresponding):
    rng = np.random.default_rng(0)
    clip = rng.normal(size=(2, 4, 20, 3)).astype(np.float32)
    weights = draw_weights(jax.eval_shape(encoder.init, jax.random.key(0), clip))
    encode = jax.jit(lambda clip: encoder.apply(weights, clip))
    code = encode(clip)
    assert code.shape == (2, 6)
    np.testing.assert_allclose(encode(clip[:, :, ::-1]), code, atol=1e-5)
    for frame in range(4):
        changed, shuffled = clip.copy(), clip.copy()
        changed[:, frame] *= -1
        shuffled[:, frame] = shuffled[:, frame, ::-1]
        assert (np.abs(encode(changed) - code).max() > 1e-3) == (frame in seen)
        assert (np.abs(encode(shuffled) - code).max() > 1e-3) == corresponding


@pytest.mark.slow
def test_frames_are_joined_point_by_point_and_streams_one_after_the_other():
    clip, single = np.random.default_rng(0).normal(size=(2, 4, 20, 3)).astype(np.float32), Pointnet(3, 8)
    weights = draw_weights(jax.eval_shape(JoinedFrames(SIMPLE).init, jax.random.key(0), clip))
    joined = np.concatenate([clip[:, frame] for frame in range(4)], axis=-1)
    np.testing.assert_allclose(JoinedFrames(SIMPLE).apply(weights, clip), SIMPLE.apply(weights, joined), atol=1e-6)
    weights = draw_weights(jax.eval_shape(single.init, jax.random.key(0), clip[:, 0]))
    streams = TwoStreamPointnet(6, 8).apply({'params': {'resnet_pointnet': weights['params']}}, clip)
    np.testing.assert_allclose(streams[:, :3], single.apply(weights, clip[:, 0]), atol=1e-6)
    np.testing.assert_allclose(streams[:, 3:], single.apply(weights, clip[:, -1]), atol=1e-6)


def test_weights_of_clips_have_the_names_of_those_of_single_inputs():
    """Also of the posterior, which takes a condition beside its input."""
    clip, cond = np.zeros((1, 4, 20, 3), np.float32), np.zeros((1, 5), np.float32)
    for encoder, more in ((SIMPLE, ()), (LatentPointnet(3, 8), (cond,))):
        single = jax.eval_shape(encoder.init, jax.random.key(0), clip[:, 0], *more)
        assert jax.eval_shape(FirstFrame(encoder).init, jax.random.key(0), clip, *more) == single
        joined = jax.eval_shape(JoinedFrames(encoder).init, jax.random.key(0), clip, *more)
        assert jax.tree.structure(joined) == jax.tree.structure(single)
        assert joined['params']['fc_pos']['kernel'].shape == (12, 16)


def test_pictures_of_any_size_and_number_become_codes():
    for num_frames, height, width in ((17, 224, 224), (5, 32, 40)):
        clip = jax.ShapeDtypeStruct((2, num_frames, height, width, 3), np.float32)
        code, variables = jax.eval_shape(VideoEncoder(7).init_with_output, jax.random.key(0), clip)
        assert code.shape == (2, 7)
        assert variables['params']['conv5']['kernel'].shape == (3, 3, 3, 512, 512)
