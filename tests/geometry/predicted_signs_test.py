import numpy as np
import pytest

from onet_jax.errors import InputError
from onet_jax.geometry.extract import marching_cubes
from onet_jax.geometry.mise import multiresolution_grid
from onet_jax.geometry.predicted_signs import predicted_grid


def balls(centres, radii):
    def field(points):
        distances = np.linalg.norm(points[:, None] - np.asarray(centres), axis=2)
        return (10 * (np.asarray(radii) - distances).max(axis=1)).astype(np.float32)

    return field


def sheet(points):
    """A wavy sheet, thinner than a coarse cell, that a ball holds."""
    height = points[:, 1] - 0.05 * np.sin(9 * points[:, 0])
    return np.maximum(8 * (0.012 - np.abs(height)), 8 * (0.12 - np.linalg.norm(points, axis=1)))


def rods(points):
    """Bars along the three axes through the middle, to the faces of the box: the inside reaches it."""
    x, y, z = points.T
    return 20 * (0.03 - np.minimum(np.hypot(x, y), np.minimum(np.hypot(y, z), np.hypot(x, z))))


FIELDS = {
    'balls': balls([(-0.2, 0, 0.1), (0.1, 0.05, 0), (0.3, 0.3, -0.3)], [0.25, 0.2, 0.06]),
    'sheet': sheet,
    'rods': rods,
    'nothing': lambda points: -1 - points[:, 0] ** 2,
    'everything': lambda points: 1 + points[:, 0] ** 2,
}


@pytest.mark.parametrize('name', FIELDS)
@pytest.mark.parametrize('resolution, steps, level', [(16, 2, 0.0), (15, 2, 0.1), (16, 1, -0.2), (8, 3, 0.0)])
def test_meshes_equal_those_of_mise(name, resolution, steps, level):
    arguments = {'resolution': resolution, 'upsampling_steps': steps, 'level': level}
    whole, predicted = (make(FIELDS[name], **arguments) for make in (multiresolution_grid, predicted_grid))
    mesh, other = marching_cubes(whole.values, level), marching_cubes(predicted.values, level)
    np.testing.assert_array_equal(other.faces, mesh.faces)
    np.testing.assert_allclose(other.vertices, mesh.vertices, atol=1e-7)
    assert predicted.values.dtype == whole.values.dtype
    assert sum(predicted.queried_per_round) <= sum(whole.queried_per_round)
    if name == 'balls' and resolution == 16:
        assert sum(predicted.queried_per_round) < 0.75 * sum(whole.queried_per_round)


def test_ends_of_crossed_edges_have_the_values_of_the_field():
    asked = {}

    def field(points):
        found = FIELDS['balls'](points)
        asked.update(zip(map(tuple, np.rint((points / 1.1 + 0.5) * 64).astype(int)), found, strict=True))
        return found

    values = predicted_grid(field, resolution=16, upsampling_steps=2).values
    inside = values > 0
    for axis in range(3):
        first = np.argwhere(np.diff(inside, axis=axis))
        for ends in (first, first + np.eye(3, dtype=int)[axis]):
            assert [asked[tuple(place)] for place in ends] == values[tuple(ends.T)].tolist()


def test_seeds_find_what_no_corner_shows():
    speck = balls([(0.31, 0.02, -0.03)], [0.02])
    arguments = {'resolution': 16, 'upsampling_steps': 2}
    assert not (predicted_grid(speck, **arguments).values > 0).any()
    seeded = predicted_grid(speck, seeds=np.array([[0.33, 0.02, -0.03]]), **arguments)
    whole = multiresolution_grid(speck, seeds=np.array([[0.33, 0.02, -0.03]]), **arguments)
    np.testing.assert_array_equal(seeded.values > 0, whole.values > 0)
    assert (whole.values > 0).any()


def test_a_field_on_the_level_everywhere_is_evaluated_everywhere():
    grid = predicted_grid(lambda points: np.zeros(len(points)), resolution=16, upsampling_steps=1)
    assert sum(grid.queried_per_round) == 33**3


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match='field'):
        predicted_grid(lambda points: np.full(len(points), np.nan))
