import json
import runpy
from functools import partial

import jax
import numpy as np
import pytest
import trimesh
from model_configs import small_data
from numbered_shapes import decode, make_rows, make_shape
from PIL import Image

from onet_jax import configs
from onet_jax.configs import conv_onet_crops, onet_embedding, onet_image, onet_points, onet_unconditional, onet_voxels
from onet_jax.data import fields, resident, user_inputs
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


def test_every_field_is_what_the_table_says_and_a_row_does_not_depend_on_the_others():
    """All at once, with all options: shapes, types, one view; and rows in other company, as another device has them."""
    targets = ('volume_points', 'surface_samples')
    data = small_data(inputs=INPUTS, targets=targets, noise_std=0.005, augment=True, partial=True)
    raw, transform = make_rows(fields.find_need(data), 6), jax.jit(make_transform(data))
    described = fields.describe_rows(fields.find_need(data), 6)
    of_rows = {name: (rows.shape, jax.dtypes.canonicalize_dtype(rows.dtype)) for name, rows in raw.items()}
    assert {name: (rows.shape, rows.dtype) for name, rows in described.items()} == of_rows
    whole, others = (
        jax.device_get(transform(KEY, {name: value[rows] for name, value in raw.items()})) for rows in (ALL, OTHERS)
    )
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[OTHERS], b), whole, others)
    for group, shapes in SHAPES.items():
        assert {name: x.shape for name, x in whole[group].items()} == {k: (6, *dims) for k, dims in shapes.items()}
        assert {name for name, x in whole[group].items() if x.dtype != np.float32} <= {'index'}
    np.testing.assert_array_equal(whole['row'], np.arange(6))
    example = fields.example_batch(data)
    for found, expected in zip(jax.tree.leaves(whole), jax.tree.leaves(example), strict=True):
        assert (expected.shape, expected.dtype) == ((1, *found.shape[1:]), found.dtype)

    for number in range(6):
        inputs, shape = {name: x[number] for name, x in whole['inputs'].items()}, make_shape(number)
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


def all_data_groups():
    """The group `data` of every variant of every config, each once: name of one variant -> group."""
    found = {}
    for name, file in configs.FILES.items():
        for variant in runpy.run_path(str(file))['VARIANTS']:
            data = configs.load_config(f'{name}:{variant}').data
            found.setdefault(json.dumps(data.to_dict(), sort_keys=True), (f'{name}:{variant}', data))
    return dict(found.values())


@pytest.mark.parametrize(
    'data',
    # Rays have another feed: see models/nerf_test.py.
    [pytest.param(data, id=name) for name, data in all_data_groups().items() if not fields.sees_rays(data)],
)
def test_the_example_batch_of_a_config_has_the_shapes_of_a_real_one(data):
    """Of the resident feed, for a dataset as large as the config asks for; nothing is computed."""
    need, stored = fields.find_need(data), {'index': jax.ShapeDtypeStruct((7,), np.int32)}
    for name in need.columns:
        column = COLUMNS[name]
        rows = {'shape': (), 'view': (24,)}.get(column.per, (48, CHUNK_POINTS))  # 48 chunks
        dims = (7, *rows, *column.dims)
        dtype = np.float32 if column.dtype is np.float64 else column.dtype  # on the device
        if dtype is bool:
            first = 1 + len(rows[:1])
            dims, dtype = (*dims[:first], np.prod(dims[first:]) // 8), np.uint8
        stored[name] = jax.ShapeDtypeStruct(dims, dtype)
    numbers, clips = (jax.ShapeDtypeStruct(dims, np.int32) for dims in ((2,), (2, 2)))
    views = jax.ShapeDtypeStruct((2, need.num_views), np.int32)
    raw = jax.eval_shape(partial(resident._gather, need), stored, clips, numbers, views, numbers)
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
            use(small_data(**changes))


def test_a_config_without_the_keys_of_a_field_is_refused():
    data = onet_voxels('tiny').data
    with data.unlocked():
        data.inputs = ('voxels', 'cloud')
    keys = r"\['num_input_points', 'noise_std', 'partial', 'keep_outliers'\]"
    message = rf"config\.data: expected the keys {keys}, which the field 'cloud' reads"
    for use in (make_transform, fields.find_need):
        with pytest.raises(InputError, match=message):
            use(data)


def test_a_need_is_what_the_fields_read_and_the_most_that_one_of_them_draws():
    data = small_data(inputs=('cloud', 'image'), num_input_points=3000, num_target_points=100)
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
        (('image', 'camera'), True, True, True, ('image', 'camera')),
        (('index',), True, False, False, ('labels',)),
        (('none',), False, False, False, ('none',)),
    ],
)
def test_what_is_known_of_inputs(inputs, has_input, is_object, is_view, in_test):
    """Of a shape that is not of the training split its number says nothing: labelled points stand in for it."""
    data = small_data(inputs=inputs)
    assert fields.has_input(data) == has_input
    assert fields.shows_objects(data) == is_object
    assert fields.sees_views(data) == is_view
    assert fields.unseen_inputs(inputs, 'train') == inputs
    assert fields.unseen_inputs(inputs, 'test') == fields.unseen_inputs(inputs, 'val') == in_test


def test_points_that_an_input_contains_are_held_out_of_the_score():
    raw = make_rows(Need(('points', 'occ')), 2, whole=True)
    batch = jax.jit(make_evaluation_transform(small_data(), ('labels',), ('volume_points',)))(KEY, raw)
    left = fields.held_out(batch['targets'], batch['inputs'])
    seen, scored = decode(batch['inputs']['labels'][..., :3])[1], decode(left['points'])[1]
    for number in range(2):
        assert sorted([*seen[number], *scored[number]]) == list(range(raw['points'].shape[1]))
        np.testing.assert_array_equal(left['occ'][number], make_shape(number).occ[scored[number]])
    assert fields.held_out(batch['targets'], {'cloud': None}) is batch['targets']


def test_evaluations_of_a_run_draw_from_a_key_of_their_own():
    """Another key would change every published number."""
    expected = jax.random.fold_in(jax.random.key(3), 2**31)
    np.testing.assert_array_equal(*map(jax.random.key_data, (fields.evaluation_key(3), expected)))


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
    'experiment, variant, file',
    [
        (onet_points, 'tiny', 'a.npy'),
        (conv_onet_crops, 'tiny', 'a.npy'),
        (onet_image, 'tiny', 'a.png'),
        (onet_voxels, 'tiny', 'a.binvox'),
        (onet_embedding, 'tiny', 'a.ply'),
    ],
)
def test_the_inputs_of_a_config_are_read_from_a_file_and_shown(tmp_path, experiment, variant, file):
    """In the types and shapes of a batch, but for a scene, which has all its points, and labels, which stand in for a number;
    and the frame puts what is reconstructed where the file has it."""
    mesh, values = write_files(tmp_path)
    (folder := tmp_path / 'one').mkdir()
    (tmp_path / file).rename(folder / file)
    data = experiment(variant).data
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
        assert array.shape == (user_inputs.NUM_FITTED_POINTS, 4)
        assert np.abs(array[:, :3]).max() <= BOX / 2
        corners = array[:, :3].min(axis=0), array[:, :3].max(axis=0)
        np.testing.assert_allclose(corners, [[-BOX / 2] * 3, [BOX / 2] * 3], atol=1e-3)
        inside = (np.abs(array[:, :3]) < [0.5, 0.25, 0.125]).all(axis=1)
        np.testing.assert_array_equal(array[:, 3], inside)
        np.testing.assert_array_equal(shown, array[inside, :3])
        np.testing.assert_allclose(frame.to_user(np.array([[0.5, 0.25, 0.125]])), mesh.bounds[1:])


def test_of_several_inputs_the_first_decides_the_frame(tmp_path):
    write_files(tmp_path)
    for names in (('cloud', 'scene'), ('scene', 'cloud')):
        data = small_data(inputs=names, cell_size=0.025)
        (source,) = fields.find_sources(data, tmp_path / 'a.npy')
        inputs, frame = fields.read_inputs(data, source, seed=0)
        _, expected = fields.FIELDS[names[0]].read(source, data, 0)
        assert tuple(inputs) == names
        assert frame.scale == expected.scale


def test_a_cloud_of_as_many_points_as_are_drawn_gives_all_of_them():
    cloud = np.random.default_rng(0).normal(size=(30, 3))
    np.testing.assert_array_equal(np.sort(user_inputs.subsample(cloud, 30, seed=0), axis=0), np.sort(cloud, axis=0))
    assert len(np.unique(user_inputs.subsample(cloud, 29, seed=0), axis=0)) == 29
    assert user_inputs.subsample(cloud, 31, seed=0).shape == (31, 3)


def test_the_one_input_of_a_config_is_what_its_encoder_reads():
    config = onet_points('tiny')
    fields.check_inputs(config, 'cloud')
    with pytest.raises(InputError, match=r"config\.data\.inputs: expected \('image',\), .* found \('cloud',\)"):
        fields.check_inputs(config, 'image')


def test_a_scan_is_read_in_cells_of_a_given_edge_or_of_the_density_of_training(tmp_path):
    """A room of the training density has the cells of training, whatever its unit."""
    points = np.random.default_rng(0).uniform(0, 5, (2000, 3))
    for name, scale in (('small', 1.0), ('large', 100.0)):
        np.save(tmp_path / f'{name}.npy', scale * points)
    data = small_data(inputs=('scene',), cell_size=0.025)
    small, large = (fields.read_inputs(data, source, 0) for source in reversed(fields.find_sources(data, tmp_path)))
    np.testing.assert_allclose(small[0]['scene'], large[0]['scene'], rtol=1e-9)
    np.testing.assert_allclose(large[1].scale, 100 * small[1].scale)
    with data.unlocked():
        data.scan_cell = 0.5
    (cloud, frame) = fields.read_inputs(data, fields.find_sources(data, tmp_path / 'small.npy')[0], 0)
    assert frame.scale == 20
    np.testing.assert_allclose(np.ptp(cloud['scene'], axis=0), np.ptp(points, axis=0) / 20)


def test_files_that_are_no_input_are_named(tmp_path):
    known = r"\['camera', 'clip', 'cloud', 'end_clouds', 'image', 'image_clip', 'index', 'oriented_cloud', 'scene', 'voxels'\]"
    with pytest.raises(InputError, match=rf"inputs of {known}, .* found \('none',\)"):
        fields.find_sources(onet_unconditional().data, tmp_path)
    with pytest.raises(FileNotFoundError, match=r'expected a file or a folder with .*npz files, found none'):
        fields.find_sources(small_data(), tmp_path)
    write_binvox(tmp_path / 'a.binvox', Voxels(np.ones((4, 4, 8), bool), np.zeros(3), 1.0))
    data = onet_voxels().data
    with pytest.raises(InputError, match=r'a\.binvox: expected 32 x 32 x 32 voxels, found 4 x 4 x 8'):
        fields.read_inputs(data, fields.find_sources(data, tmp_path)[0], 0)
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(tmp_path / 'flat.ply')
    data = onet_embedding().data
    with pytest.raises(InputError, match=r'flat\.ply: mesh: expected a solid'):
        fields.read_inputs(data, fields.find_sources(data, tmp_path)[0], 0)
