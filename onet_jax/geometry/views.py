"""Pictures of a scene or an object: what methods that render predict.

V views, S pixels along each side.
"""

from typing import NamedTuple

import numpy as np


class Pictures(NamedTuple):
    """Rendered views."""

    rgb: np.ndarray  # [V, S, S, 3] float32, sRGB in [0, 1]
