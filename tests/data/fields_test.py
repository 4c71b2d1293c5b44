import importlib
import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import trimesh
from numbered_shapes import NUM_SAMPLES, decode, make_shape
from PIL import Image

import configs
from configs import conv_onet_crops, onet_embedding, onet_image, onet_points, onet_unconditional, onet_voxels
from onet_jax.data import fields, records, resident
from onet_jax.data.fields import make_evaluation_transform, make_transform
from onet_jax.data.records import CHUNK_POINTS, COLUMNS, Need
from onet_jax.errors import InputError
from onet_jax.geometry.grid import BOX, voxel_centres
from onet_jax.geometry.voxels import Voxels, write_binvox

# Every field of a batch, in `FIELDS`' terms.
SHAPES = {
    'inputs': {
        'cloud': (30, 3),
        'scene': (30, 3),
        'image': (24, 24, 3),
        'alpha': (137, 137),
        'depth': (137, 137),
        'world_mat': (3, 4),
        'camera_mat': (3, 3),
        'voxels': (32, 32, 32),
        'index': (),
        'labels': (CHUNK_POINTS // 2, 4),
        'none': (0,),
    },
    'targets': {'points': (64, 3), 'occ': (64,), 'surface': (50, 3), 'normals': (50, 3)},
}
INPUTS = ('cloud', 'scene', 'image', 'alpha', 'depth', 'camera', 'voxels', 'index', 'labels', 'none')
KEY, ALL, OTHERS = jax.random.key(0), np.arange(6), np.array([5, 3, 5, 1, 1, 2])


def make_data(**changes):
    """The group `data` of a config with every key that a field reads."""
    data = onet_points.get_config('tiny').data
    with data.unlocked():
        data.update(num_input_points=30, num_points_per_step=64, num_near_points=32, noise_std=0.0)
        data.update(num_target_points=50, image_size=24, augment=False, cell_size=0.1, scan_cell=0.0)
        data.update(changes)
    return data


def make_rows(need, num_rows, whole=False):
    """Rows as a feed delivers them, or as an evaluation does: of shape 0, 1, ..., each with the view of its number."""
    stored = {name: [] for name in need.columns}
    for number in range(num_rows):
        shape = make_shape(number)
        for name in need.columns:
            column, value = COLUMNS[name], getattr(shape, name)
            if column.per == 'view':
                value = records.decode_picture(name, value[number]) if column.is_picture else value[number]
            elif column.per == 'shape' or whole:
                value = records.as_stored(name, value)
            else:
                value = np.concatenate(records.cut_chunks(shape, name)[: need.chunks[column.per]])
            stored[name].append(value)
    numbers = np.arange(num_rows, dtype=np.int32)
    return {name: np.stack(values) for name, values in stored.items()} | {'row': numbers, 'index': 5 + numbers}


def draw(num_rows, **changes):
    """A training batch of a config."""
    data = make_data(**changes)
    return jax.jit(make_transform(data))(KEY, make_rows(fields.find_need(data), num_rows))


def repeat(raw, num_rows):
    """The first row again and again: the same shape, drawn from other keys."""
    rows = {name: np.repeat(value[:1], num_rows, axis=0) for name, value in raw.items()}
    return rows | {'row': np.arange(num_rows, dtype=np.int32)}


def test_every_field_is_what_the_table_says_and_a_row_does_not_depend_on_the_others():
    """All at once, with all options: shapes, types, one view; and rows in other company, as another device has them."""
    targets = ('volume_points', 'surface_samples')
    data = make_data(inputs=INPUTS, targets=targets, noise_std=0.005, augment=True, partial=True)
    raw, transform = make_rows(fields.find_need(data), 6), jax.jit(make_transform(data))
    whole, others = (transform(KEY, {name: value[rows] for name, value in raw.items()}) for rows in (ALL, OTHERS))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[OTHERS], b), whole, others)
    for group, shapes in SHAPES.items():
        assert {name: x.shape for name, x in whole[group].items()} == {k: (6, *dims) for k, dims in shapes.items()}
        assert {name for name, x in whole[group].items() if x.dtype != np.float32} <= {'index'}
    np.testing.assert_array_equal(whole['row'], np.arange(6))
    example = fields.example_batch(data)
    for found, expected in zip(jax.tree.leaves(whole), jax.tree.leaves(example), strict=True):
        assert (expected.shape, expected.dtype) == ((1, *found.shape[1:]), found.dtype)

    for number in range(6):
        inputs, shape = {name: np.asarray(x[number]) for name, x in whole['inputs'].items()}, make_shape(number)
        assert inputs['index'] == 5 + number
        np.testing.assert_allclose(inputs['alpha'], 20 * number / 255, rtol=1e-6)
        np.testing.assert_array_equal(inputs['depth'], np.float32(number / 4))
        np.testing.assert_array_equal(inputs['world_mat'], shape.world_mat[number])
        np.testing.assert_array_equal(inputs['camera_mat'], shape.camera_mat[number])
        np.testing.assert_allclose(inputs['image'][..., 1:].mean((0, 1)) * 255, [20 * number, 25 * number], atol=2)
        np.testing.assert_array_equal(inputs['voxels'], shape.voxels)
        np.testing.assert_array_equal(inputs['labels'][:, :3], shape.points[: CHUNK_POINTS // 2])
        np.testing.assert_array_equal(inputs['labels'][:, 3], shape.occ[: CHUNK_POINTS // 2])
        shapes, numbers = decode(whole['targets']['surface'][number])
        assert set(shapes) == {number}
        np.testing.assert_array_equal(np.diff(numbers), 1)
        np.testing.assert_array_equal(whole['targets']['normals'][number], -whole['targets']['surface'][number])
    other = transform(jax.random.key(1), raw)
    for group, name in (('inputs', 'cloud'), ('inputs', 'scene'), ('inputs', 'image'), ('targets', 'points')):
        assert not np.array_equal(whole[group][name], other[group][name]), name


@pytest.mark.parametrize('num_points, num_near', [(100, 1), (256, 256), (2048, 0), (5000, 416), (5001, 5001)])
def test_the_nearest_points_of_each_chunk_are_drawn_and_the_others_spread_over_its_shells(num_points, num_near):
    targets = draw(2, num_points_per_step=num_points, num_near_points=num_near)['targets']
    shapes, numbers = decode(targets['points'])
    assert shapes.tolist() == [[0] * num_points, [1] * num_points]
    num_chunks = -(-num_points // CHUNK_POINTS)
    for number, row in enumerate(numbers):
        assert len(set(row)) == num_points
        np.testing.assert_array_equal(targets['occ'][number], make_shape(number).occ[row])
        for chunk in range(num_chunks):
            first, last = (n * num_points // num_chunks for n in (chunk, chunk + 1))
            num_near_here = (chunk + 1) * num_near // num_chunks - chunk * num_near // num_chunks
            near, far = np.split(row[first:last] - chunk * CHUNK_POINTS, [num_near_here])
            np.testing.assert_array_equal(near, np.arange(num_near_here))
            shells = np.linspace(num_near_here, CHUNK_POINTS, len(far) + 1)
            assert ((np.floor(shells[:-1]) <= far) & (far < shells[1:])).all()


def test_points_without_near_ones_come_equally_often():
    data = make_data(num_points_per_step=256, num_near_points=0)
    batch = jax.jit(make_transform(data))(KEY, repeat(make_rows(fields.find_need(data), 1), 400))
    counts = np.bincount(decode(batch['targets']['points'])[1].ravel(), minlength=CHUNK_POINTS)
    assert len(counts) == CHUNK_POINTS
    np.testing.assert_array_less(np.abs(counts - 50), 36)  # the standard deviation is below 7


def test_a_cloud_is_a_window_of_the_samples_with_noise_of_the_stated_size():
    quiet, noisy = (
        draw(3, inputs=('scene',), num_input_points=3000, noise_std=noise)['inputs']['scene'] for noise in (0.0, 0.005)
    )
    shapes, numbers = decode(quiet)
    np.testing.assert_array_equal(shapes, np.tile(np.arange(3), (3000, 1)).T)
    np.testing.assert_array_equal(np.diff(numbers), 1)
    assert len(set(numbers[:, 0])) == 3
    noise = np.asarray(noisy - quiet)
    assert abs(noise.std() - 0.005) < 1e-4
    assert abs(noise.mean()) < 1e-4


def test_a_partial_cloud_is_the_lower_part_along_one_axis():
    """In training and in evaluation alike."""
    data = make_data(num_input_points=1500, partial=True)
    raw = repeat(make_rows(fields.find_need(data), 1), 64)
    raw['surface'][:] = np.random.default_rng(0).uniform(-0.5, 0.5, raw['surface'].shape[1:])
    evaluation = make_evaluation_transform(data, ('cloud',), ('volume_points',))
    clouds, evaluated = (
        np.asarray(jax.jit(f)(KEY, raw)['inputs']['cloud']) for f in (make_transform(data), evaluation)
    )
    np.testing.assert_array_equal(clouds, evaluated)
    np.testing.assert_allclose(clouds.min(axis=1), -0.5, atol=0.02)
    extents = np.ptp(clouds, axis=1)
    assert (np.sort(extents, axis=1)[:, 1:] > 0.98).all(), 'two axes are whole'
    assert extents.min() > 0.68
    short = extents.argmin(axis=1)[extents.min(axis=1) < 0.95]
    assert len(short) > 40
    assert set(short) == {0, 1, 2}
    assert {tuple(point) for point in clouds[0]} <= {tuple(point) for point in raw['surface'][0].astype(np.float32)}


@pytest.mark.parametrize('size', [224, 64])
def test_views_are_resized_as_pillow_does(size):
    """Noise, edges and a gradient; in evaluation, and in training where nothing is augmented."""
    data, rng = make_data(inputs=('image',), image_size=size), np.random.default_rng(0)
    raw = make_rows(fields.find_need(data), 3)
    raw['image'][:2] = rng.integers(0, 256, (2, 137, 137, 3))
    raw['image'][1, 30:90, 20:110] = rng.integers(0, 256, 3)
    for transform in (make_transform(data), make_evaluation_transform(data, ('image',), ('volume_points',))):
        images = np.asarray(jax.jit(transform)(KEY, raw)['inputs']['image'])
        assert images.shape == (3, size, size, 3)
        assert images.min() >= 0
        assert images.max() <= 1
        for view, found in zip(raw['image'], images, strict=True):
            expected = Image.fromarray(view).resize((size, size), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(found, np.asarray(expected, np.float32) / 255, rtol=0, atol=1.5 / 255)


def test_augmented_views_are_crops_of_three_quarters_and_more():
    """A picture that carries its own coordinates tells which part of it is seen."""
    data = make_data(inputs=('image',), image_size=137, augment=True)
    raw = repeat(make_rows(fields.find_need(data), 1), 64)
    raw['image'][..., 0], raw['image'][..., 1] = np.arange(137)[:, None], np.arange(137)
    seen = np.asarray(jax.jit(make_transform(data))(KEY, raw)['inputs']['image'])[:, 3:-3, 3:-3, :2] * 255
    sides = (seen[:, -1, -1] - seen[:, 0, 0]) / 130
    np.testing.assert_allclose(sides[:, 0], sides[:, 1], atol=2e-2, err_msg='square')
    assert 0.865 < sides.min() < 0.89
    assert 0.97 < sides.max() < 1.005
    assert np.ptp(seen[:, 0, 0], axis=0).min() > 8, 'anywhere in the picture, in both directions'
    plain = jax.jit(make_evaluation_transform(data, ('image',), ('volume_points',)))(KEY, raw)['inputs']['image']
    np.testing.assert_allclose(plain * 255, raw['image'], atol=1e-2, err_msg='evaluation sees the whole view')


@pytest.mark.parametrize('num_drawn, last', [(64, CHUNK_POINTS - 1), (2400, 2399), (9999, 2500)])
def test_an_evaluation_has_all_of_a_shape_also_where_labels_do_not_fill_a_byte(num_drawn, last):
    """And the places of as many points as a step draws: in the first chunk, which is a sample of the whole cube, if it is
    enough."""
    raw = make_rows(Need(('points', 'occ', 'surface', 'normals', 'voxels')), 3, whole=True)
    occ = np.unpackbits(raw['occ'], axis=1)[:, :2501]
    raw |= {'points': raw['points'][:, :2501], 'occ': np.packbits(occ, axis=1), 'mask': np.array([True, True, False])}
    targets = ('volume_points', 'surface_samples', 'voxels')
    batch = make_evaluation_transform(make_data(num_points_per_step=num_drawn), ('voxels',), targets)(KEY, raw)
    targets = batch['targets']
    assert targets.keys() == {'points', 'occ', 'subset', 'surface', 'normals', 'voxels'}
    for name in ('points', 'surface', 'normals'):
        np.testing.assert_array_equal(targets[name], raw[name])
    np.testing.assert_array_equal(targets['occ'], occ)
    np.testing.assert_array_equal(batch['mask'], raw['mask'])
    np.testing.assert_array_equal(targets['voxels'], [make_shape(number).voxels for number in range(3)])
    np.testing.assert_array_equal(targets['subset'], np.tile(np.linspace(0, last, num_drawn).round(), (3, 1)))


def test_an_evaluation_of_too_few_surface_samples_is_refused():
    raw = make_rows(Need(('surface',)), 1, whole=True)
    transform = make_evaluation_transform(make_data(num_input_points=20_000), ('cloud',), ('voxels',))
    with pytest.raises(InputError, match=f'expected at most the {NUM_SAMPLES} surface samples of a shape, found 20000'):
        transform(KEY, raw)


def all_data_groups():
    """The group `data` of every variant of every config, each once: name of one variant -> group."""
    found = {}
    for path in sorted(Path(configs.__file__).parent.glob('[a-z]*.py')):
        module = importlib.import_module(f'configs.{path.stem}')
        for variant in module.VARIANTS:
            data = module.get_config(variant).data
            found.setdefault(json.dumps(data.to_dict(), sort_keys=True), (f'{path.stem}:{variant}', data))
    return dict(found.values())


@pytest.mark.parametrize('name, data', all_data_groups().items(), ids=all_data_groups())
def test_the_example_batch_of_a_config_has_the_shapes_of_a_real_one(name, data):
    """Of the resident feed, for a dataset as large as the config asks for; nothing is computed."""
    need = fields.find_need(data)
    num_chunks = {'point': 48, 'sample': 48}
    stored = {'index': jax.ShapeDtypeStruct((7,), np.int32)}
    for column_name in need.columns:
        column = COLUMNS[column_name]
        if column.per in num_chunks:
            dims = (CHUNK_POINTS // 8,) if column.dtype is bool else (CHUNK_POINTS, *column.dims)
            dims = (num_chunks[column.per], *dims)
        else:
            dims = (4096,) if column.dtype is bool else column.dims
            dims = (24, *dims) if column.per == 'view' else dims
        dtype = np.uint8 if column.dtype is bool else column.dtype
        stored[column_name] = jax.ShapeDtypeStruct((7, *dims), dtype)
    numbers = jax.ShapeDtypeStruct((2,), np.int32)
    raw = jax.eval_shape(partial(resident._gather, need), stored, numbers, numbers, numbers)
    batch, example = jax.eval_shape(make_transform(data), KEY, raw), fields.example_batch(data)
    assert jax.tree.structure(batch) == jax.tree.structure(example)
    for found, expected in zip(jax.tree.leaves(batch), jax.tree.leaves(example), strict=True):
        assert (expected.shape, expected.dtype) == ((1, *found.shape[1:]), found.dtype)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'inputs': ('smell',)}, r"config\.data\.inputs: expected some of \['alpha', 'camera', .*found \('smell',\)"),
        ({'targets': ('cloud', 'noise')}, r"config\.data\.targets: expected some of \[.*found \('cloud', 'noise'\)"),
        ({'targets': ()}, r'config\.data\.targets: expected some of \[.*found \(\)'),
        ({'num_points_per_step': 0}, r'config\.data\.num_points_per_step: expected at least 1, found 0'),
        ({'num_input_points': 0}, r'config\.data\.num_input_points: expected at least 1, found 0'),
        ({'num_target_points': -1}, r'config\.data\.num_target_points: expected at least 1, found -1'),
        ({'num_near_points': 65}, r'config\.data\.num_near_points: expected 0 to .*per_step = 64, found 65'),
        ({'num_near_points': -1}, r'config\.data\.num_near_points: expected 0 to .*per_step = 64, found -1'),
    ],
)
def test_a_config_that_no_dataset_satisfies_is_refused(changes, message):
    for use in (make_transform, fields.find_need):
        with pytest.raises(InputError, match=message):
            use(make_data(**changes))


def test_a_need_is_what_the_fields_read_and_the_most_that_one_of_them_draws():
    data = make_data(inputs=('cloud', 'image'), num_input_points=3000, num_target_points=100)
    assert fields.find_need(data) == Need(('points', 'occ', 'surface', 'image'), 64, 3000)
    with data.unlocked():
        data.update(inputs=('none',), targets=('surface_samples', 'depth', 'camera'))
    assert fields.find_need(data) == Need(('surface', 'normals', 'depth', 'world_mat', 'camera_mat'), 0, 100)
    assert fields.columns_of(('camera', 'labels')) == ('points', 'occ', 'world_mat', 'camera_mat')


@pytest.mark.parametrize(
    'inputs, has_input, is_object, is_view, in_test',
    [
        (('cloud',), True, True, False, ('cloud',)),
        (('scene',), True, False, False, ('scene',)),
        (('image', 'camera'), True, False, True, ('image', 'camera')),
        (('index',), True, False, False, ('labels',)),
        (('none',), False, False, False, ('none',)),
    ],
)
def test_what_is_known_of_inputs(inputs, has_input, is_object, is_view, in_test):
    """Of a shape that is not of the training split its number says nothing: labelled points stand in for it."""
    data = make_data(inputs=inputs)
    assert fields.has_input(data) == has_input
    assert fields.shows_objects(data) == is_object
    assert fields.sees_views(data) == is_view
    assert fields.unseen_inputs(inputs, 'train') == inputs
    assert fields.unseen_inputs(inputs, 'test') == fields.unseen_inputs(inputs, 'val') == in_test


def test_points_that_an_input_contains_are_held_out_of_the_score():
    raw = make_rows(Need(('points', 'occ')), 2, whole=True)
    batch = make_evaluation_transform(make_data(), ('labels',), ('volume_points',))(KEY, raw)
    left = fields.held_out(batch['targets'], batch['inputs'])
    seen, scored = decode(batch['inputs']['labels'][..., :3])[1], decode(left['points'])[1]
    for number in range(2):
        assert sorted([*seen[number], *scored[number]]) == list(range(raw['points'].shape[1]))
        np.testing.assert_array_equal(left['occ'][number], make_shape(number).occ[scored[number]])
    assert fields.held_out(batch['targets'], {'cloud': None}) is batch['targets']


# --- Files of a user.


def write_files(folder):
    """A box, its corner (7, 8, 9) and its longest edge 4, in every form that a field reads."""
    mesh = trimesh.creation.box((4, 2, 1), trimesh.transformations.translation_matrix((9, 9, 9.5)))
    mesh.export(folder / 'a.ply')
    np.save(folder / 'a.npy', np.concatenate([mesh.vertices, mesh.sample(500, seed=0)]))
    Image.fromarray(np.full((40, 20, 3), 51, np.uint8)).save(folder / 'a.png')
    values = np.zeros((32, 32, 32), bool)
    values[3:9, 4, 5:7] = True
    write_binvox(folder / 'a.binvox', Voxels(values, np.zeros(3), 1.0))
    return mesh, values


@pytest.mark.parametrize(
    'module, variant, file',
    [
        (onet_points, 'tiny', 'a.npy'),
        (conv_onet_crops, 'tiny', 'a.npy'),
        (onet_image, 'tiny', 'a.png'),
        (onet_voxels, 'tiny', 'a.binvox'),
        (onet_embedding, 'tiny', 'a.ply'),
    ],
)
def test_the_inputs_of_a_config_are_read_from_a_file_and_shown(tmp_path, module, variant, file):
    """In the types and shapes of a batch, but for a scene, which has all its points, and labels, which stand in for a number;
    and the frame puts what is reconstructed where the file has it."""
    mesh, values = write_files(tmp_path)
    (folder := tmp_path / 'one').mkdir()
    (tmp_path / file).rename(folder / file)
    data = module.get_config(variant).data
    for place in (folder, folder / file):
        (source,) = fields.find_sources(data, place)
        assert (source.name, source.path) == ('a', folder / file)
    inputs, frame = fields.read_inputs(data, source, seed=0)
    ((name, array),) = inputs.items()
    again, _ = fields.read_inputs(data, source, seed=0)
    np.testing.assert_array_equal(array, again[name])
    shown = fields.show(inputs)
    if name in ('cloud', 'voxels', 'image'):
        example = fields.example_batch(data)['inputs'][name]
        assert (array.shape, array.dtype) == (example.shape[1:], example.dtype)
    if name in ('cloud', 'scene'):
        np.testing.assert_array_equal(shown, array)
        points = frame.to_user(array)
        np.testing.assert_allclose([points.min(axis=0), points.max(axis=0)], mesh.bounds, atol=0.2)
        other, _ = fields.read_inputs(data, source, seed=1)
        assert (name == 'scene') == np.array_equal(array, other[name]), 'points are drawn by the seed, or all taken'
    if name == 'cloud':
        np.testing.assert_allclose(
            [array.min(axis=0), array.max(axis=0)], [[-0.5, -0.25, -0.125], [0.5, 0.25, 0.125]], atol=0.05
        )
    elif name == 'scene':
        assert array.shape == (508, 3)
        assert array.min() == 0
    elif name == 'image':
        np.testing.assert_allclose(array[:, 20:44], 0.2, atol=0.01)
        np.testing.assert_allclose(array[:, :12], 1, err_msg='filled with white')
        assert shown.dtype == np.uint8
        np.testing.assert_allclose(shown, 255 * array, atol=0.5)
    elif name == 'voxels':
        np.testing.assert_array_equal(array, values)
        np.testing.assert_array_equal(shown, voxel_centres(32)[values])
    elif name == 'labels':
        assert array.shape == (fields.NUM_FITTED_POINTS, 4)
        assert np.abs(array[:, :3]).max() <= BOX / 2
        inside = (np.abs(array[:, :3]) < [0.5, 0.25, 0.125]).all(axis=1)
        np.testing.assert_array_equal(array[:, 3], inside)
        np.testing.assert_array_equal(shown, array[inside, :3])
        np.testing.assert_allclose(frame.to_user(np.array([[0.5, 0.25, 0.125]])), mesh.bounds[1:])


def test_a_scan_is_read_in_cells_of_a_given_edge_or_of_the_density_of_training(tmp_path):
    """A room of the training density has the cells of training, whatever its unit."""
    points = np.random.default_rng(0).uniform(0, 5, (2000, 3))
    for name, scale in (('small', 1.0), ('large', 100.0)):
        np.save(tmp_path / f'{name}.npy', scale * points)
    data = make_data(inputs=('scene',), cell_size=0.025)
    small, large = (fields.read_inputs(data, source, 0) for source in reversed(fields.find_sources(data, tmp_path)))
    np.testing.assert_allclose(small[0]['scene'], large[0]['scene'], rtol=1e-9)
    np.testing.assert_allclose(large[1].scale, 100 * small[1].scale)
    with data.unlocked():
        data.scan_cell = 0.5
    (cloud, frame) = fields.read_inputs(data, fields.find_sources(data, tmp_path / 'small.npy')[0], 0)
    assert frame.scale == 20
    np.testing.assert_allclose(np.ptp(cloud['scene'], axis=0), np.ptp(points, axis=0) / 20)


def test_files_that_are_no_input_are_named(tmp_path):
    with pytest.raises(
        InputError, match=r"inputs of \['cloud', 'image', 'index', 'scene', 'voxels'\], .* found \('none',\)"
    ):
        fields.find_sources(onet_unconditional.get_config().data, tmp_path)
    with pytest.raises(FileNotFoundError, match=r'expected a file or a folder with .*npz files, found none'):
        fields.find_sources(make_data(), tmp_path)
    write_binvox(tmp_path / 'a.binvox', Voxels(np.ones((4, 4, 8), bool), np.zeros(3), 1.0))
    data = onet_voxels.get_config().data
    with pytest.raises(InputError, match=r'a\.binvox: expected 32 x 32 x 32 voxels, found 4 x 4 x 8'):
        fields.read_inputs(data, fields.find_sources(data, tmp_path)[0], 0)
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(tmp_path / 'flat.ply')
    data = onet_embedding.get_config().data
    with pytest.raises(InputError, match=r'flat\.ply: mesh: expected a solid'):
        fields.read_inputs(data, fields.find_sources(data, tmp_path)[0], 0)
