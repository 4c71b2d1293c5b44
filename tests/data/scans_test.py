import numpy as np
import pytest
from model_configs import small_data

from onet_jax.data import fields, user_inputs
from onet_jax.data.scans import find_cell, load_bulk
from onet_jax.data.sources import Source
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import normalise


def test_outliers_are_left_out_of_all_that_sees_a_cloud_where_a_user_asks(tmp_path, capsys, cloud):
    flat = cloud * [1, 0, 1]
    source = write(tmp_path, 'scan', np.concatenate([flat, [[0, 0.5, 0]]]))
    data = small_data()
    assert normalise(load_bulk(source.path, False)).loc[1] == 0.25
    with data.unlocked():
        data.remove_outliers = True
    _, frame = fields.read_inputs(data, source, 0)
    assert frame.loc[1] == 0
    assert '1 of 501 points are outliers' in capsys.readouterr().out


@pytest.fixture
def cloud():
    return np.random.default_rng(0).uniform((-0.5, 0, -0.5), (0.5, 1.5, 0.5), (500, 3))


def write(folder, name, points):
    np.save(folder / f'{name}.npy', points)
    return Source(name, folder / f'{name}.npy')


def test_one_stray_point_does_not_move_the_object(tmp_path, capsys, cloud):
    """A georeferenced cloud with an invalid return."""
    data, there = small_data(), cloud + np.array([5e5, 4.6e6, 100])
    clean, stray = write(tmp_path, 'clean', there), write(tmp_path, 'stray', np.concatenate([there, [[0, 0, 0]]]))
    (expected, frame), (found, frame_found) = (fields.read_inputs(data, source, 0) for source in (clean, stray))
    np.testing.assert_array_equal(found['cloud'], expected['cloud'])
    assert frame_found.scale == frame.scale == normalise(there).scale
    said = capsys.readouterr().out
    assert said.count('\n') == 1
    assert said.startswith(f'{stray.path}: 1 of 501 points, which make the box 3.')
    assert said.endswith('as large as the others do: at (0, 0, 0): left out; --keep_outliers keeps them\n')
    with data.unlocked():
        data.keep_outliers = True
    assert fields.read_inputs(data, stray, 0)[1].scale == normalise(np.append(there, [[0, 0, 0]], axis=0)).scale
    assert 'kept as --keep_outliers asks' in capsys.readouterr().out
    load_bulk(stray.path, True)
    load_bulk(clean.path, False)
    assert capsys.readouterr().out == '', 'what was said is not said again'


def test_an_object_far_from_the_origin_gives_the_same_bits(tmp_path, cloud):
    offset, data = np.array([500123.4, 4600321.7, 312.1]), small_data()
    near, far = write(tmp_path, 'near', cloud), write(tmp_path, 'far', cloud + offset)
    (expected, frame), (found, frame_found) = (fields.read_inputs(data, source, 0) for source in (near, far))
    np.testing.assert_array_equal(found['cloud'], expected['cloud'])
    np.testing.assert_allclose(frame_found.loc - offset, frame.loc, rtol=0, atol=3e-9)
    np.testing.assert_allclose(
        expected['cloud'], frame.to_object(user_inputs.subsample(cloud, 30, 0)), rtol=0, atol=2.0**-17
    )


def test_the_cell_is_that_of_the_distinct_points(tmp_path, cloud):
    data = small_data(inputs=('scene',), cell_size=0.025)
    once, thrice = write(tmp_path, 'once', cloud), write(tmp_path, 'thrice', np.repeat(cloud, 10, axis=0))
    (points, cell), (expected, expected_cell) = (
        find_cell(load_bulk(source.path, False), data, 0) for source in (thrice, once)
    )
    np.testing.assert_array_equal(points, expected)
    assert cell == expected_cell > 0
    same = write(tmp_path, 'same', np.repeat(cloud[:8], 100, axis=0))
    with pytest.raises(
        InputError, match=r'same.npy: expected more than 8 points in .* found 800 points in 8 places; .*--cell'
    ):
        find_cell(load_bulk(same.path, False), data, 0, str(same.path))
    with data.unlocked():
        data.scan_cell = 0.5
    assert find_cell(load_bulk(same.path, False), data, 0, str(same.path))[1] == 0.5
