import numpy as np
import pytest

from onet_jax.data.records import SHAPES, Index
from onet_jax.evaluation.published import CLASSES, TABLES, find_published, published_row
from onet_jax.scores import METRICS


def make_index(kind, categories):
    return Index(categories, {}, SHAPES.columns, 1, 1, 1, {}, {'kind': kind}, '')


@pytest.mark.parametrize('metric', TABLES['image'].values)
@pytest.mark.parametrize('method', TABLES['image'].methods)
def test_the_printed_mean_is_the_mean_of_the_13_classes(metric, method):
    """A typing error of a digit shows here."""
    rows = TABLES['image'].values[metric]
    assert list(rows) == [*CLASSES.values(), 'mean']
    printed, classes = rows['mean'][method], [rows[name][method] for name in CLASSES.values()]
    if (metric, method) == ('chamfer_l1', 'Pixel2Mesh'):
        # The paper prints the mean of unrounded numbers, and the rounded ones have 0.2166.
        assert (printed, np.mean(classes)) == (0.216, pytest.approx(0.2166, abs=5e-5))
    else:
        np.testing.assert_equal(printed, np.round(np.mean(classes), 3))


def test_every_table_has_the_metrics_of_ours_and_says_what_is_missing():
    for table in TABLES.values():
        assert list(table.values) == ['iou', 'chamfer_l1', 'normal_consistency']
        assert all(METRICS[metric].in_tables for metric in table.values)
        for rows in table.values.values():
            assert all(tuple(row) == table.methods for row in rows.values())
    assert [t.has_classes for t in TABLES.values()] == [True, False, False]
    means = TABLES['cloud'].values
    assert means['chamfer_l1']['mean']['PSGN'] == 0.144
    assert np.isnan(means['iou']['mean']['PSGN'])
    assert np.isnan(TABLES['image'].values['iou']['chair']['AtlasNet'])


def test_only_shapenet_is_compared():
    shapenet = make_index('shapenet', ('02691156', '02773838'))
    assert find_published(('image',), shapenet) is TABLES['image']
    assert find_published(('voxels',), shapenet) is TABLES['voxels']
    assert find_published(('camera', 'image'), shapenet) is TABLES['image'], (
        'of several inputs the one that has a table'
    )
    assert find_published(('none',), shapenet) is None
    assert find_published(('cloud',), make_index('procedural', ('02691156',))) is None
    assert find_published(('cloud',), make_index('meshes', ('02691156',))) is None
    assert find_published(('cloud',), make_index('shapenet', ('chair', 'mug'))) is None, 'an export of other shapes'


def test_rows_of_our_tables_have_what_was_published_of_them():
    assert published_row(('cloud',), 'ONet') == {'iou': 0.778, 'chamfer_l1': 0.079, 'normal_consistency': 0.895}
    assert published_row(('image',), 'ONet')['iou'] == 0.571
    assert published_row(('voxels',), 'Input')['iou'] == 0.631
    assert published_row(('cloud',), 'Input') == published_row(('none',), 'ONet') == {}
    assert published_row(('image',), 'Uniform 64')['iou'] == 0.554
    assert published_row(('cloud',), 'Planes')['f_score'] == 0.942
