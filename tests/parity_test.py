"""Every network against the outputs of the official implementation (see tests/golden/README.md)."""

import numpy as np
import pytest

from benchmarks import parity


def files(*slow: str) -> list:
    """All that are compared, but for those of mesh/ (in tests/geometry/); those that start like `slow` compile for long."""
    names = [name for name in parity.compared_files() if not name.startswith('mesh/')]
    return [pytest.param(name, marks=pytest.mark.slow) if name.startswith(slow) else name for name in names]


# Where rounding moves values across the kink of a ReLU, or turns sines of 512 pi times a coordinate: the official float32
# gradients differ by as much from the official float64 ones, of which the files have the norms.
ROUNDED = {'conv/conv_onet/model_pointconv.npz': 5e-2, 'conv/conv_onet/model_crop_grid_sincos.npz': 0.1}


@pytest.mark.parametrize('file', files('conv/conv_onet/model'))
def test_float64_equals_the_official_float64_run(file):
    """What the official code also gives in float64 agrees to 1e-9, what it gives in float32 to its rounding."""
    for kind, deviation in parity.deviations_of(file, np.float64).items():
        exact = file.split('/')[0] in ('decoders', 'encoders', 'onet', 'trained', 'conv') and kind.startswith(
            ('logits', 'input gradients', 'largest gradients', 'outputs', 'img', 'points', 'voxels', 'condition',
             'evidence', 'posterior', 'loss', 'norms', 'chosen points')
        )  # fmt: skip
        bound = 1e-9 if exact else 1e-6 if kind.startswith('weights after 3') else 5e-4
        bound = ROUNDED.get(file, bound) if kind.startswith('gradients') else bound
        assert deviation.relative <= bound, (kind, deviation)
        if kind == 'round trip':
            assert deviation.absolute == 0


@pytest.mark.parametrize('file', files('conv/', 'onet/'))
def test_float32_equals_the_official_float32_run(file):
    for kind, deviation in parity.deviations_of(file, np.float32).items():
        # Sines of 512 pi times a coordinate: the official float32 is as far from its float64.
        rounding = 100 if 'sincos' in file else 1
        bound = ROUNDED.get(file, 1e-3) if kind.startswith('gradients') else 1e-3 * rounding
        assert deviation.relative <= bound, (kind, deviation)
        if kind.startswith(('logits', 'outputs', 'img', 'points', 'voxels', 'condition')):
            assert deviation.absolute <= 1e-4 * rounding, (kind, deviation)
