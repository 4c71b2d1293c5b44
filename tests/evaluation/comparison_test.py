"""Several methods side by side: the numbers of each in its column, a dash where there is none, and one figure."""

import numpy as np
import pytest
import trimesh
from PIL import Image

from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation import comparison
from onet_jax.evaluation.evaluate import Result
from onet_jax.evaluation.published import TABLES
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.scores import EMPTY

BALL = trimesh.creation.icosphere(1, 0.4)
PATCH = OpenSurface(BALL.vertices, BALL.faces[:9])
CLOUD = trimesh.PointCloud(BALL.vertices)


@pytest.fixture
def methods():
    """Three methods on a chair, whose class was published, and a mug."""

    def result(category, prediction, iou, chamfer):
        scores = {**EMPTY, 'iou': iou, 'chamfer_l1': chamfer, 'normal_consistency': 0.5}
        image = np.full((8, 8, 3), 0.5, np.float32)
        return Result(category, '000004', scores, {}, 0.1, {'image': image}, prediction)

    return {
        'PSGN': [result('chair', CLOUD, np.nan, 0.01), result('mug', CLOUD, np.nan, 0.02)],
        'AtlasNet': [result('chair', PATCH, np.nan, 0.03), result('mug', PATCH, np.nan, 0.04)],
        'ONet': [result('chair', BALL, 0.5, 0.05), result('mug', BALL, 0.7, 0.06)],
    }


def test_classes_by_methods_with_the_published_ones_beside_them(methods):
    iou, chamfer, normals = comparison.by_class(methods, TABLES['image'])
    header, rows = chamfer
    assert header[:5] == ['Chamfer-L1 (x10)', 'PSGN', 'AtlasNet', 'ONet', 'published: 3D-R2N2']
    assert [row[:5] for row in rows] == [
        ['chair', '0.100', '0.300', '0.500', '0.270'],
        ['mug', '0.200', '0.400', '0.600', '-'],
        ['mean', '0.150', '0.350', '0.550', '0.278'],
    ]
    assert [row[1:4] for row in iou[1]] == [['-', '-', '0.500'], ['-', '-', '0.700'], ['-', '-', '0.600']]
    assert len(header) == 4 + len(TABLES['image'].methods)
    assert normals[0][0] == 'Normal consistency'
    # Of point clouds the means alone were published.
    assert comparison.by_class(methods, TABLES['cloud'])[0][0] == ['IoU', *methods]
    assert comparison.by_class(methods, None)[0][0] == ['IoU', *methods]


def test_a_dash_is_explained(methods):
    psgn, atlasnet = comparison.explain_dashes(methods).splitlines()
    assert psgn == '* PSGN: points have neither an inside nor normals'
    assert atlasnet.startswith('* AtlasNet: patches enclose no volume')


def test_later_papers_are_quoted_by_the_size_of_their_clouds():
    (header, rows), source = comparison.published_by_others(3000)
    assert header[:2] == ['3,000 points', 'IoU']
    assert rows[0] == ['SAP', '-', '0.034', '0.944', '0.975']
    assert 'table 1' in source
    assert comparison.published_by_others(300)[0][1][1] == ['AIR-Nets', '0.869', '0.047', '0.929', '0.930']
    assert comparison.published_by_others(500) is None


def test_the_figure_has_a_row_for_each_shape_and_a_column_for_each_method(methods, dataset, tmp_path):
    comparison.draw_figure(methods, open_dataset(dataset), 2, tmp_path / 'figure.png')
    with Image.open(tmp_path / 'figure.png') as figure:
        width, height = figure.size
    assert 5 * comparison.PICTURE_SIZE < width < 6 * comparison.PICTURE_SIZE, 'input, three methods, ground truth'
    assert height > 2 * comparison.PICTURE_SIZE
