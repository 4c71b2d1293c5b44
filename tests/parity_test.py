"""Every network against the outputs of the official implementation (see tests/golden/README.md)."""

import numpy as np
import pytest

from benchmarks import parity


@pytest.mark.parametrize('file', parity.compared_files())
def test_float64_equals_the_official_float64_run(file):
    """What the official code also gives in float64 agrees to 1e-9, what it gives in float32 to its rounding."""
    for kind, deviation in parity.deviations_of(file, np.float64).items():
        exact = file.split('/')[0] in ('decoders', 'encoders', 'onet', 'trained') and kind.startswith(
            ('logits', 'input gradients', 'largest gradients', 'outputs', 'img', 'points', 'voxels', 'condition',
             'evidence', 'posterior', 'loss')
        )  # fmt: skip
        assert deviation.relative <= (1e-9 if exact else 5e-4), (kind, deviation)
        if kind == 'round trip':
            assert deviation.absolute == 0


@pytest.mark.parametrize('file', parity.compared_files())
def test_float32_equals_the_official_float32_run(file):
    for kind, deviation in parity.deviations_of(file, np.float32).items():
        assert deviation.relative <= 1e-3, (kind, deviation)
        if kind.startswith(('logits', 'outputs', 'img', 'points', 'voxels', 'condition')):
            assert deviation.absolute <= 1e-4, (kind, deviation)
