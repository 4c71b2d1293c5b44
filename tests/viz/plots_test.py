import re
from xml.etree import ElementTree

import numpy as np
import pytest

from onet_jax.viz import plots
from onet_jax.viz.plots import plot, write_plot


@pytest.mark.parametrize(
    'points, logarithmic',
    [
        ([], False),
        ([(5, 0.3)], True),
        ([(1, 100.0), (2500, 2.0)], True),
        ([(0, 0.0), (10, 0.0)], False),
        ([(2, 0.0474)] * 2, False),
    ],
)
def test_a_plot_stays_in_its_frame(points, logarithmic):
    svg = plot('title', {'a': points}, log_y=logarithmic)
    line = re.search(r'<polyline class="a" points="(.*?)"', svg).group(1)
    xy = np.array([pair.split(',') for pair in line.split()], float).reshape(-1, 2)
    assert len(xy) == len(points)
    assert np.isfinite(xy).all()
    assert ((xy >= 0) & (xy <= (plots.WIDTH, plots.HEIGHT))).all()
    assert svg.count('text-anchor="end"') >= 1


def test_curves_share_their_axes_and_a_file_stands_alone(tmp_path):
    """Where two curves meet they are at the same place, and equal factors are equal steps."""
    write_plot(
        tmp_path / 'a.svg',
        'IoU < 1',
        {'voxels': [(16, 0.4), (32, 0.6), (64, 0.7)], 'ours': [(16, 0.7), (64, 0.7)]},
        log_x=True,
    )
    root = ElementTree.parse(tmp_path / 'a.svg').getroot()
    assert root.tag == '{http://www.w3.org/2000/svg}svg'
    lines = [line for line in root.iter('{http://www.w3.org/2000/svg}polyline')]
    (a, b), legend = (
        [np.array([pair.split(',') for pair in line.get('points').split()], float) for line in pair]
        for pair in (lines[:2], lines[2:])
    )
    np.testing.assert_array_equal(a[2], b[1])
    np.testing.assert_allclose(a[1, 0] - a[0, 0], a[2, 0] - a[1, 0], atol=0.11)
    assert a[0, 1] > a[1, 1] > a[2, 1], 'y grows upwards'
    assert len(legend) == 2
    texts = [text.text for text in root.iter('{http://www.w3.org/2000/svg}text')]
    assert {'IoU < 1', 'voxels', 'ours', '20', '50'} <= set(texts)
