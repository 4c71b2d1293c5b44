"""The input of the tests of reconstruction, and short pages."""

import numpy as np
import pytest

from onet_jax.inference import gallery


@pytest.fixture(autouse=True)
def _short_pages(monkeypatch):
    """Pictures take longer than all the rest."""
    monkeypatch.setattr(gallery, 'MAX_SHOWN', 1)


@pytest.fixture
def cloud():
    """The corners and random points of a box of 3 x 2 x 1 metres, far from the origin."""
    corners = np.array(np.meshgrid((0, 3), (0, 2), (0, 1))).reshape(3, -1).T
    inside = np.random.default_rng(0).uniform((0, 0, 0), (3, 2, 1), (22, 3))
    return np.concatenate([corners, inside]) + np.array([1000.0, -20.0, 5.0])
