"""Every network against the outputs of the official implementation (see tests/golden/README.md)."""

import numpy as np
import pytest

from benchmarks import parity

# Those of mesh/ are held in tests/geometry/.
FILES = [file for file in parity.compared_files() if not file.startswith('mesh/')]


@pytest.mark.parametrize('file', FILES)
def test_float64_equals_the_official_float64_run(file):
    """What the official code also gives in float64 agrees to 1e-9, what it gives in float32 to its rounding."""
    for kind, deviation in parity.deviations_of(file, np.float64).items():
        exact = file.split('/')[0] in ('decoders', 'encoders', 'onet', 'trained', 'conv') and kind.startswith(
            ('logits', 'input gradients', 'largest gradients', 'outputs', 'img', 'points', 'voxels', 'condition',
             'evidence', 'posterior', 'loss')
        )  # fmt: skip
        bound = 1e-9 if exact else 1e-6 if kind.startswith('weights after 3') else 5e-4
        if 'sincos' in file and kind.startswith('gradients'):
            bound = (
                0.1  # those of the official float32 run, whose sines are rounded; the norms of gradients are of float64
            )
        assert deviation.relative <= bound, (kind, deviation)
        if kind == 'round trip':
            assert deviation.absolute == 0


@pytest.mark.parametrize('file', FILES)
def test_float32_equals_the_official_float32_run(file):
    for kind, deviation in parity.deviations_of(file, np.float32).items():
        # Sines of 512 pi times a coordinate: the official float32 is as far from its float64.
        rounding = 100 if 'sincos' in file else 1
        assert deviation.relative <= 1e-3 * rounding, (kind, deviation)
        if kind.startswith(('logits', 'outputs', 'img', 'points', 'voxels', 'condition')):
            assert deviation.absolute <= 1e-4 * rounding, (kind, deviation)
