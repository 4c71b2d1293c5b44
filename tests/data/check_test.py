import shutil

import numpy as np
import pytest

from onet_jax.data import records
from onet_jax.data.check import check_dataset
from onet_jax.data.runners import processes


@pytest.fixture
def copy(dataset, tmp_path):
    """A dataset to be damaged."""
    folder = tmp_path / 'copy'
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns('tfds'))
    return folder


def test_a_sound_dataset_has_no_bad_example(dataset):
    header, rows, problems = check_dataset(dataset, processes(1))
    assert problems == {}
    assert header[:5] == ['category', 'train', 'val', 'test', 'bad']
    assert [row[:5] for row in rows] == [
        ['chair', '3', '1', '1', '0'],
        ['mug', '3', '1', '1', '0'],
        ['table', '3', '1', '1', '0'],
        ['all', '9', '3', '3', '0'],
    ]
    shares = np.array([[float(x) for x in row[6:9]] for row in rows])
    assert (shares > 0).all()
    assert (np.diff(shares, axis=1) >= 0).all(), 'smallest, median, largest'


def swapped_view(shape):
    """The cameras of the views in another order."""
    return shape._replace(views=shape.views._replace(world_mat=shape.views.world_mat[::-1]))


FAULTS = [
    (lambda s: s._replace(points=s.points * np.float16(2)), r'points: expected coordinates of at most 0.55'),
    (lambda s: s._replace(occ=~s.occ), r'occ: expected a share inside'),
    (lambda s: s._replace(occ=np.zeros_like(s.occ)), r'occ: expected a share inside .* found 0.0000'),
    (lambda s: s._replace(normals=-s.normals), r'surface: expected 85% .*the normals point inwards'),
    (
        lambda s: s._replace(normals=s.normals * np.float16(0.5)),
        r'normals: expected unit vectors, found lengths from 0.',
    ),
    (lambda s: s._replace(surface=s.surface + np.float16(0.05)), r'surface: expected 85%'),
    (lambda s: s._replace(voxels=~s.voxels), r'voxels: expected them to agree with 85%'),
    (swapped_view, r'view 0: expected 90% of the surface samples on the object'),
    (lambda s: s._replace(views=s.views._replace(jpegs=(b'x', *s.views.jpegs[1:]))), r'view 0: .*expected a JPEG file'),
]


@pytest.mark.parametrize('change, message', FAULTS)
def test_every_fault_is_named(copy, change, message):
    category, name = records.read_index(copy).splits['train'][0]
    path = records.shape_path(copy, category, name)
    records.write_shape(path, change(records.read_shape(path)))
    _, rows, problems = check_dataset(copy, processes(1))
    assert list(problems) == [f'{category}/{name}']
    with pytest.raises(ValueError, match=message):
        raise ValueError(problems[f'{category}/{name}'])
    assert rows[-1][4] == '1'


def test_lost_and_repeated_shapes_are_named(copy):
    index = records.read_index(copy)
    lost, repeated = index.splits['train'][:2]
    records.shape_path(copy, *lost).unlink()
    records.write_index(copy, index._replace(splits={**index.splits, 'val': (*index.splits['val'], repeated)}))
    _, _, problems = check_dataset(copy, processes(1))
    assert 'expected a shape file, found none' in problems['/'.join(lost)]
    assert problems['/'.join(repeated)] == 'it is in two splits'
