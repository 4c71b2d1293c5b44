import shutil

import numpy as np
import pytest
import trimesh

from onet_jax.data import records
from onet_jax.data.records import Index
from onet_jax.errors import InputError
from onet_jax.geometry.solid import Solid
from onet_jax.prepare.check import check_dataset, check_shape, list_notes
from onet_jax.prepare.procedural import make_shape
from onet_jax.prepare.runners import in_this_process, processes
from onet_jax.prepare.sampling import SAMPLING_STRATEGIES, sample_solid


@pytest.fixture
def copy(dataset, tmp_path):
    """A dataset to be damaged."""
    folder = tmp_path / 'copy'
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns('tfds'))
    return folder


def test_a_sound_dataset_has_no_bad_example(dataset):
    header, rows, problems, hints = check_dataset(dataset, processes(1))
    assert (problems, hints) == ({}, [])
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
    assert list_notes(dataset) == []


def with_value(key, value):
    """A change of the last number of an array of the shape."""

    def change(shape):
        array = getattr(shape, key).copy()
        array.flat[-1] = value
        return shape._replace(**{key: array})

    return change


def with_view(key, change):
    """The second view's picture file of a column, replaced by its changed pixels."""

    def change_file(shape):
        first, second, *rest = getattr(shape, key)
        pixels = change(records.decode_picture(key, second))
        second = records.encode_picture(pixels.astype(records.COLUMNS[key].dtype))
        return shape._replace(**{key: (first, second, *rest)})

    return change_file


def with_matrices(key, change):
    return lambda s: s._replace(**{key: change(getattr(s, key))})


def flip(shape, share):
    """Wrong labels at random."""
    wrong = np.random.default_rng(0).random(len(shape.occ)) < share
    return shape._replace(occ=shape.occ ^ wrong)


def inverted(shape):
    return shape._replace(normals=-shape.normals)


def moved(shape, distance):
    direction = np.array([2, 1, 2]) / 3
    return shape._replace(surface=(shape.surface + distance * direction).astype(np.float16))


def lying(shape):
    """The surface of another shape: this one on its side."""
    return shape._replace(surface=np.roll(shape.surface, 1, axis=1), normals=np.roll(shape.normals, 1, axis=1))


ALIKE = r'occ: expected 99.9% of the labelled points to have the label of the nearest other one'
SIDES = r'surface: expected 95% of the labelled points near it on the side that its normals tell, found'
FAULTS = [
    (lambda s: s._replace(points=s.points * np.float16(2)), r'points: expected coordinates of at most 0.55'),
    (lambda s: s._replace(surface=s.surface * np.float16(1.2)), r'surface: expected coordinates of at most 0.55'),
    (lambda s: s._replace(occ=~s.occ), r'occ: expected a share inside'),
    (lambda s: s._replace(occ=np.zeros_like(s.occ)), r'occ: expected a share inside .* found 0.0000'),
    (lambda s: flip(s, 0.1), ALIKE),
    (lambda s: flip(s, 0.005), ALIKE),
    (lambda s: s._replace(occ=np.random.default_rng(0).permutation(s.occ)), ALIKE),
    (inverted, rf'{SIDES} 0.0% .*the normals point inwards'),
    (lambda s: moved(s, 0.05), SIDES),
    (lambda s: moved(s, 0.02), SIDES),
    (lying, SIDES),
    (
        lambda s: s._replace(normals=s.normals * np.float16(0.5)),
        r'normals: expected unit vectors, found lengths from 0.',
    ),
    (lambda s: s._replace(voxels=~s.voxels), r'voxels: expected them to agree with 95% .* found 0.0% of'),
    (lambda s: s._replace(scale=0.0), r'^scale: expected a positive number, found 0.0$'),
    (lambda s: s._replace(scale=-1.0), r'^scale: expected a positive number, found -1.0$'),
    (lambda s: s._replace(ambiguous=-0.1), r'^ambiguous: expected a share from 0 to 1, found -0.1$'),
    (lambda s: s._replace(ambiguous=1.1), r'^ambiguous: expected a share from 0 to 1, found 1.1$'),
    (lambda s: s._replace(scale=np.nan), r"key 'scale': expected finite numbers, found NaN or infinity in 1 of 1"),
    (lambda s: s._replace(scale=np.inf), r"key 'scale': expected finite numbers"),
    (lambda s: s._replace(ambiguous=np.nan), r"key 'ambiguous': expected finite numbers"),
    (with_value('loc', np.nan), r"key 'loc': expected finite numbers, found NaN or infinity in 1 of 3"),
    (with_value('points', np.nan), r"key 'points': expected finite numbers, found NaN or infinity in 1 of 15000"),
    (with_value('surface', -np.inf), r"key 'surface': expected finite numbers"),
    (with_value('normals', np.nan), r"key 'normals': expected finite numbers"),
    (with_value('world_mat', np.nan), r"key 'world_mat': expected finite numbers, found NaN or infinity in 1 of 36"),
    (with_value('camera_mat', np.inf), r"key 'camera_mat': expected finite numbers"),
    (with_matrices('world_mat', lambda m: m[::-1]), r'view 0: expected 90% of the surface samples on the object'),
    (with_matrices('camera_mat', np.zeros_like), r'view 2: expected 90% .* found 0%'),
    (with_matrices('world_mat', lambda m: -m), r'view 0: expected 90% .* found 0%'),
    (with_view('image', lambda p: p | 255), r'^view 1: expected an object on white, found 0% of the pixels drawn$'),
    (with_view('image', lambda p: p & 0), r'^view 1: expected an object on white, found 100% of the pixels drawn$'),
    (with_view('image', lambda p: p[::-1]), r'^view 1: expected white where alpha is 0, found \d+ pixels drawn$'),
    (lambda s: s._replace(image=(b'x', *s.image[1:])), r'view 0: image: expected a JPEG file'),
    (lambda s: s._replace(alpha=(b'x', *s.alpha[1:])), r'view 0: alpha: expected a PNG file'),
    (with_view('alpha', lambda p: p[::-1]), r'^view 1: expected white where alpha is 0, .*on the object, found \d+%$'),
]


@pytest.mark.parametrize('change, message', FAULTS)
def test_every_fault_is_named(dataset, tmp_path, change, message):
    index = records.read_index(dataset)
    category, name = index.splits['train'][0]
    shape = records.read_shape(records.shape_path(dataset, category, name))
    records.write_shape(records.shape_path(tmp_path, category, name), change(shape))
    with pytest.raises(InputError, match=message):
        check_shape(category, name, data_dir=tmp_path, index=index)


@pytest.mark.slow
def test_a_bad_shape_is_a_problem_of_its_dataset(copy):
    category, name = records.read_index(copy).splits['train'][0]
    path = records.shape_path(copy, category, name)
    records.write_shape(path, inverted(records.read_shape(path)))
    _, rows, problems, _ = check_dataset(copy, in_this_process)
    assert list(problems) == [f'{category}/{name}']
    assert 'the normals point inwards' in problems[f'{category}/{name}']
    assert rows[-1][4] == '1'


def check(folder, shape):
    """`check_shape` of a shape that is stored in a dataset of its own."""
    counts = len(shape.points), len(shape.surface), len(shape.image or ())
    index = Index(('solid',), {}, records.SHAPES.present(shape), *counts, {}, {}, '')
    records.write_shape(records.shape_path(folder, 'solid', '0'), shape)
    return check_shape('solid', '0', data_dir=folder, index=index)


def sample(solid, num_points, **settings):
    return sample_solid(solid, 'solid', '0', seed=0, num_points=num_points, **settings)


@pytest.fixture(scope='module')
def mug():
    made = make_shape(0, 'mug', 0)
    mesh = made.mesh()
    return Solid(mesh, made.contains, picture=mesh)


@pytest.mark.parametrize('num_points', [2048, 40_000])
@pytest.mark.parametrize('sampling', SAMPLING_STRATEGIES)
def test_few_wrong_labels_are_found_among_any_number_of_points(tmp_path, mug, num_points, sampling):
    shape = sample(mug, num_points, sampling=sampling)
    assert 0 < check(tmp_path, shape)['inside'] <= 0.5
    with pytest.raises(InputError, match=ALIKE):
        check(tmp_path, flip(shape, 0.005 if num_points > 2048 else 0.02))


def test_wrong_labels_of_a_stretch_are_found(tmp_path, mug):
    shape = sample(mug, 40_000)
    shape.occ[-2048:] = np.roll(shape.occ[-2048:], 1024)
    with pytest.raises(InputError, match=ALIKE):
        check(tmp_path, shape)


@pytest.fixture(scope='module')
def mug_with_depth(mug):
    return sample(mug, 2048, num_views=2, depth=True)


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda p: p, None),
        (
            lambda p: p * (np.arange(137) < 68),
            r'^view 1: expected depth where there is an object, found \d+ pixels of \d+$',
        ),
        (
            lambda p: p * 1.03,
            r'^view 1: expected surface samples at its depth and behind it, found .* \d\d% before it$',
        ),
        (lambda p: p * 0.97, r'^view 1: expected surface samples at its depth and behind it, found [0-4]% at it'),
    ],
)
def test_depth_that_is_not_that_of_the_surface_is_found(tmp_path, mug_with_depth, change, message):
    changed = with_view('depth', change)(mug_with_depth)
    if message is None:
        assert check(tmp_path, changed)['inside'] > 0
    else:
        with pytest.raises(InputError, match=message):
            check(tmp_path, changed)


def box(*size):
    mesh = trimesh.creation.box(size)
    return Solid(mesh, lambda points: (np.abs(points) < np.array(size) / 2).all(axis=1), picture=mesh)


@pytest.mark.parametrize('num_points', [2048, 20_000])
@pytest.mark.parametrize('thickness', [0.004, 0.01, 0.03])
def test_a_part_that_is_thin_for_the_distance_between_samples_is_sound(tmp_path, num_points, thickness):
    assert check(tmp_path, sample(box(0.9, thickness, 0.9), num_points))['inside'] > 0


def test_a_solid_that_is_thicker_than_in_its_picture_is_sound(tmp_path):
    thread = trimesh.creation.box((0.9, 1e-3, 1e-3))
    solid = box(0.9, 0.01, 0.01)._replace(picture=thread)
    assert check(tmp_path, sample(solid, 20_000, num_views=8))['inside'] > 0


@pytest.mark.parametrize('damage', [inverted, lambda s: moved(s, 0.02), lambda s: moved(s, 0.05), lying])
def test_a_surface_that_is_not_that_of_a_thin_part_is_found(tmp_path, damage):
    with pytest.raises(InputError, match=SIDES):
        check(tmp_path, damage(sample(box(0.9, 0.01, 0.9), 20_000)))


@pytest.mark.parametrize('num_points', [2, 3, 9])
def test_a_handful_of_points_decides_nothing(tmp_path, mug, num_points):
    shape = sample(mug, 2048)
    surface, normals = shape.surface[:num_points], shape.normals[:num_points]
    # One beside each sample, on its side; the first is inside.
    height = np.where(np.arange(num_points) == 0, -0.01, 0.01).astype(np.float16)
    few = {'points': surface + height[:, None] * normals, 'occ': height < 0, 'surface': surface, 'normals': normals}
    few['colours'] = shape.colours[:num_points]
    assert check(tmp_path, shape._replace(**few))['inside'] == pytest.approx(1 / num_points)


def test_one_point_is_compared_with_nothing(tmp_path, mug):
    shape = sample(mug, 2048)
    one = {key: getattr(shape, key)[:1] for key in ('points', 'surface', 'normals', 'colours')}
    with pytest.raises(InputError, match=r'^occ: expected a share inside .* found 1.0000$'):
        check(tmp_path, shape._replace(**one, occ=np.ones(1, bool)))


def test_a_shape_without_points_or_surface_is_named(tmp_path, mug):
    shape = sample(mug, 2048)
    for keys, message in (
        (('points', 'occ'), 'expected .* found 0'),
        (('surface', 'normals', 'colours'), '^expected points and surface samples, found 2048 and 0$'),
    ):
        with pytest.raises(InputError, match=message):
            check(tmp_path, shape._replace(**{key: getattr(shape, key)[:0] for key in keys}))


def test_faults_of_the_index_are_named(copy):
    index = records.read_index(copy)
    lost, repeated, rejected = index.splits['train'][:3]
    records.shape_path(copy, *lost).unlink()
    splits = {**index.splits, 'val': (*index.splits['val'], repeated)}
    categories = tuple(category for category in index.categories if category != 'table')
    reasons = {'/'.join(rejected): 'it is flat'}
    records.write_index(copy, index._replace(splits=splits, categories=categories, rejected=reasons))

    _, rows, problems, _ = check_dataset(copy, in_this_process)
    unknown = [shape for shapes in index.splits.values() for shape in shapes if shape[0] == 'table']
    assert len(unknown) == 5
    assert problems.keys() == {'/'.join(shape) for shape in (lost, repeated, rejected, *unknown)}
    assert 'expected a shape file, found none' in problems['/'.join(lost)]
    assert problems['/'.join(repeated)] == 'expected it once in the splits, found it 2 times'
    assert problems['/'.join(rejected)] == 'expected it in a split or rejected, found both'
    for shape in unknown:
        assert problems['/'.join(shape)] == "expected a category of ['chair', 'mug'], found 'table'"
    assert {row[0]: row[4] for row in rows} == {'chair': '3', 'mug': '0', 'table': '5', 'all': '8'}


def test_all_that_is_wrong_with_a_shape_is_named(copy):
    index = records.read_index(copy)
    shape = index.splits['train'][0]
    records.shape_path(copy, *shape).unlink()
    records.write_index(copy, index._replace(rejected={'/'.join(shape): 'it is flat'}))
    _, _, problems, _ = check_dataset(copy, in_this_process)
    lost, both = problems['/'.join(shape)].split('; ', 1)[0], problems['/'.join(shape)].rsplit('; ', 1)[1]
    assert 'expected a shape file, found none' in lost
    assert both == 'expected it in a split or rejected, found both'


def test_splits_without_shapes_and_shapes_without_split_are_noted(copy):
    index = records.read_index(copy)
    splits = {split: index.splits[split] for split in ('train', 'test')}
    records.write_index(copy, index._replace(splits=splits))
    unlisted = records.shape_path(copy, *index.splits['val'][0])
    assert list_notes(copy) == [
        "the split 'val' has no shapes; training needs train and val, evaluation the split that it is told",
        f'shape files that are in no split: 3, {unlisted} first',
    ]
    records.write_index(copy, index._replace(splits={**index.splits, 'test': ()}))
    first, _ = list_notes(copy)
    assert first.startswith("the split 'test' has no shapes")
    assert check_dataset(copy, in_this_process)[2] == {}
