import os

import numpy as np
import pytest
from scipy.spatial import KDTree

from onet_jax.errors import InputError
from onet_jax.files import TEMPORARY
from onet_jax.geometry.sliding_window import (
    FAR,
    SAMPLES_PER_CELL,
    Layout,
    PointIndex,
    blend,
    claim,
    extract_sliding_window,
    fill_up,
    find_boxes,
    find_origin,
    find_scales,
    matching_cell,
)
from onet_jax.geometry.tiled_marching_cubes import join, march_block

LAYOUT = Layout(window=16, step=4)
RADIUS = 0.8  # cells


def make_cells():
    """Two sheets of points that several windows see, in cells from the origin of their scene."""
    cloud = np.random.default_rng(0).uniform((3, 3, 3), (15, 3.5, 9), (1500, 3))
    cloud[::3, 1] += 4
    return (cloud - find_origin(cloud, LAYOUT, 1.0)).astype(np.float32)


def tube(points, places):
    """A field that knows the surroundings of a place: how far the places [..., 3] are within RADIUS of the nearest point."""
    return (RADIUS - np.minimum(KDTree(points).query(places, distance_upper_bound=3)[0], 3)).astype(np.float16)


def lattice(first, num_values):
    axes = (start + np.arange(n) / SAMPLES_PER_CELL for start, n in zip(first, num_values, strict=True))
    return np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)


def infer_tube(points):
    return tube(points, lattice([-(LAYOUT.step / 2 + LAYOUT.band)] * 3, [LAYOUT.num_values] * 3))


def test_windows_give_the_surface_of_the_whole_scene(tmp_path):
    cells = make_cells()
    boxes = find_boxes(cells, LAYOUT)
    assert len(boxes) > 20
    mesh = extract_sliding_window(cells, infer_tube, LAYOUT, tmp_path, 0.0, 2000)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    size = (boxes.max(axis=0) + 1) * LAYOUT.step * SAMPLES_PER_CELL + 1
    whole = join([march_block(tube(cells, lattice([0, 0, 0], size)).astype(np.float32), 0.0, np.zeros(3, int), size)])
    assert len(mesh.vertices) == len(whole.vertices) > 1000
    assert len(mesh.faces) == len(whole.faces)
    distance, _ = KDTree(whole.vertices / SAMPLES_PER_CELL).query(mesh.vertices)
    assert distance.max() < 1e-5


def test_whatever_the_windows_say_the_mesh_is_closed_and_neighbours_agree_on_their_border(tmp_path):
    cells, rng = make_cells(), np.random.default_rng(1)
    mesh = extract_sliding_window(
        cells, lambda points: rng.normal(size=(LAYOUT.num_values,) * 3), LAYOUT, tmp_path, 0.3, 2000
    )
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    known = {tuple(box) for box in find_boxes(cells, LAYOUT).tolist()}
    pairs = [(box, other) for box in known if (other := (box[0] + 1, *box[1:])) in known]
    assert len(pairs) > 2
    for box, other in pairs:
        np.testing.assert_array_equal(
            blend(tmp_path, 1, known, box, LAYOUT)[-1], blend(tmp_path, 1, known, other, LAYOUT)[0]
        )


def test_an_interrupted_scene_goes_on(tmp_path):
    cells, calls = make_cells(), []
    (tmp_path / 'part').mkdir()
    (tmp_path / 'part' / TEMPORARY.format('0' * 16, os.getpid())).touch()  # killed while it wrote the settings
    claim(tmp_path / 'part', {'layout': LAYOUT, 'weights': 'a'})

    def infer(points):
        calls.append(points)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return infer_tube(points)

    def extract(folder):
        return extract_sliding_window(cells, infer, LAYOUT, tmp_path / folder, 0.0, 2000)

    with pytest.raises(KeyboardInterrupt):
        extract('part')
    claim(tmp_path / 'part', {'layout': LAYOUT, 'weights': 'a'})
    mesh, num_boxes = extract('part'), len(find_boxes(cells, LAYOUT))
    assert len(calls) == 1 + num_boxes, 'two windows were done'
    whole = extract('whole')
    np.testing.assert_array_equal(mesh.vertices, whole.vertices)
    np.testing.assert_array_equal(mesh.faces, whole.faces)
    (tmp_path / 'part' / 'scene.json').write_text('[' * 99_999)
    claim(tmp_path / 'part', {'layout': LAYOUT, 'weights': 'b'})
    assert [path.name for path in (tmp_path / 'part').iterdir()] == ['scene.json'], 'other weights, other values'


@pytest.mark.slow
def test_what_is_sparse_has_larger_cells(tmp_path):
    rng = np.random.default_rng(3)
    dense, sparse = rng.uniform((0, 0, 0), (12, 0, 12), (720, 3)), rng.uniform((200, 0, 0), (260, 0, 60), (320, 3))
    stray = np.array([[-100.0, 0, 0]])
    cells = np.concatenate([dense, sparse, stray]) + 1.5 * LAYOUT.step + 100
    scales = find_scales(cells, LAYOUT)
    assert [scale.cell for scale in scales][:2] == [1, 2]
    kept = [set(map(tuple, scale.boxes.tolist())) for scale in scales]
    count = sum(
        np.array([tuple(box) in boxes for box in np.floor(cells / scale.cell / LAYOUT.step).astype(int).tolist()])
        for scale, boxes in zip(scales, kept, strict=True)
    )
    assert (count[: len(dense)] >= 1).all()
    assert (count[len(dense) : -1] >= 1).mean() > 0.95
    assert not count[-1]
    mesh = extract_sliding_window(cells, infer_tube, LAYOUT, tmp_path, 0.0, 2000)
    assert mesh.is_watertight
    distance, _ = KDTree(mesh.vertices).query(cells[:-1])
    assert np.quantile(distance, 0.95) < 2 * (RADIUS + 1)
    few = cells[:10]
    assert [scale.cell for scale in find_scales(few, LAYOUT)] == [1], 'a scan of few points is one scene all the same'


def test_the_index_finds_what_is_in_the_window():
    cells = np.random.default_rng(2).uniform(0, 30, (4000, 3)).astype(np.float32)
    for box in ([0, 0, 0], [3, 4, 2], [9, 9, 9]):
        offset = cells - (np.array(box, np.float32) + 0.5) * LAYOUT.step
        expected = offset[((offset >= -8) & (offset < 8)).all(axis=1)]
        found = PointIndex(cells, LAYOUT).find(np.array(box))
        np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


def test_a_full_window_takes_as_many_points_as_training():
    points = np.random.default_rng(0).uniform(-1, 1, (3000, 3)).astype(np.float32)
    assert len(fill_up(points[:10], 2000, np.zeros(3, int))) == 4096
    kept = fill_up(points, 2000, np.zeros(3, int))
    assert len(kept) == 4096
    assert (kept > FAR).all(axis=1).sum() == 2000
    np.testing.assert_array_equal(kept, fill_up(points, 2000, np.zeros(3, int)))


def test_the_cell_follows_the_density_and_the_unit():
    sheet = np.random.default_rng(0).uniform(0, 1, (20_000, 3)) * (1, 0, 1)
    cell = matching_cell(sheet, 0.02, 10_000, 0)
    np.testing.assert_allclose(matching_cell(100 * sheet, 0.02, 10_000, 0), 100 * cell)
    np.testing.assert_allclose(matching_cell(sheet[:5000], 0.02, 10_000, 0), 2 * cell, rtol=0.1)
    # A room of the training has its points on 3 squares.
    room = 3**0.5 * sheet[:10_000]
    np.testing.assert_allclose(matching_cell(room, 0.02, 10_000, 0), 0.02, rtol=0.1)


def test_wrong_arguments_are_named(tmp_path):
    with pytest.raises(InputError, match='cell: expected a positive length, found -1'):
        find_origin(np.eye(3), LAYOUT, -1)
    (tmp_path / 'mine.txt').write_text('x')
    with pytest.raises(InputError, match='expected an empty folder, or the windows of a scene'):
        claim(tmp_path, {})
    with pytest.raises(
        InputError, match=r'field in box \[.*\]: expected finite numbers, found 4913 of 4913 not finite'
    ):
        extract_sliding_window(
            make_cells(), lambda points: np.full((17, 17, 17), np.nan), LAYOUT, tmp_path / 'new', 0.0, 2000
        )
    assert not list(tmp_path.glob('new/window_*'))
