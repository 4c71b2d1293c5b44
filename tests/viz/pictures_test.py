import numpy as np
import pytest
import trimesh
from PIL import Image, ImageSequence

from onet_jax.errors import InputError
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.geometry.voxels import Voxels, voxels_to_mesh
from onet_jax.viz import pictures
from onet_jax.viz.pictures import Item, animation, contact_sheet, render, render_mesh

BALL = trimesh.creation.icosphere(subdivisions=4, radius=0.4)


def test_a_ball_covers_the_area_that_perspective_says():
    picture = render_mesh(BALL, size=128)
    covered = (picture < 250).any(axis=-1).mean()
    tangent = 0.4 / np.sqrt(pictures.DISTANCE**2 - 0.4**2) * pictures.DISTANCE  # silhouette in the plane of the origin
    expected = np.pi * tangent**2 / (2 * pictures.HALF_WIDTH) ** 2
    assert covered == pytest.approx(expected, rel=0.03)
    np.testing.assert_array_equal(picture[0, 0], 255)


def test_up_is_up_and_the_front_is_seen():
    def centre(points):
        mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.1)
        rows, columns = np.nonzero((render_mesh(mesh.apply_translation(points), size=64) < 250).any(axis=-1))
        return columns.mean() - 31.5, rows.mean() - 31.5

    assert centre((0, 0.3, 0))[1] < -8
    assert centre((0.3, 0, 0))[0] > 8
    left, down = centre((0, 0, 0.3))  # towards the viewer, who stands to the right and above
    assert left < -3
    assert down > 1


def test_back_faces_have_a_colour_of_their_own():
    inverted = BALL.copy()
    inverted.invert()
    front, back = (render_mesh(mesh, size=64)[32, 32].astype(int) for mesh in (BALL, inverted))
    assert front[2] > front[0], 'blue'
    assert back[0] > back[2], 'orange'


def test_every_kind_of_prediction_has_a_picture():
    cloud = np.random.default_rng(0).uniform(-0.5, 0.5, (300, 3))
    values = np.random.default_rng(0).random((4, 4, 4)) < 0.5
    for prediction, same in (
        (trimesh.PointCloud(cloud), cloud),
        (Voxels(values, np.zeros(3), 1.0), voxels_to_mesh(values)),
        (OpenSurface(BALL.vertices, BALL.faces[:99]), trimesh.Trimesh(BALL.vertices, BALL.faces[:99])),
    ):
        picture = render(prediction, size=64)
        assert (picture < 250).any()
        np.testing.assert_array_equal(picture, render(same, size=64))
    assert (render(trimesh.Trimesh(), size=64) < 250).any(), 'of nothing: a word that says so'
    with pytest.raises(InputError, match=r'expected an array \[N, 3\], found shape \(5, 2\)'):
        render(np.zeros((5, 2)))
    broken = BALL.copy()
    broken.vertices[0] = np.nan
    with pytest.raises(InputError, match='expected finite vertices'):
        render(broken)


@pytest.mark.parametrize('count', [1, 5, 12])
def test_a_contact_sheet_has_a_tile_for_every_shape(tmp_path, count):
    items = [Item('a rather long name of a shape', 'IoU 0.5', (BALL, BALL)) for _ in range(count)]
    contact_sheet(items, ('input', 'result'), tmp_path / 'sheet.png', size=48)
    sheet = np.asarray(Image.open(tmp_path / 'sheet.png').convert('RGB')).astype(int)
    blue = (sheet[..., 2] - sheet[..., 0] > 30).sum()
    single = (render(BALL, size=48).astype(int)[..., 2] - render(BALL, size=48).astype(int)[..., 0] > 30).sum()
    assert blue == 2 * count * single
    assert [p.name for p in tmp_path.iterdir()] == ['sheet.png']


def test_wrong_columns_are_named(tmp_path):
    with pytest.raises(InputError, match='at least one, found none'):
        contact_sheet([], ('input',), tmp_path / 'sheet.png')
    with pytest.raises(InputError, match=r"item 'x': expected 2 shapes, one for each of \['a', 'b'\], found 1"):
        contact_sheet([Item('x', '', (BALL,))], ('a', 'b'), tmp_path / 'sheet.png')


@pytest.mark.parametrize('count', [2, 5])
def test_an_animation_goes_forth_and_back_for_ever(tmp_path, count):
    balls = [trimesh.creation.icosphere(subdivisions=3, radius=0.2 + 0.05 * i) for i in range(count)]
    animation(balls, tmp_path / 'balls.gif', size=64)
    with Image.open(tmp_path / 'balls.gif') as gif:
        assert gif.info['loop'] == 0, 'without end'
        frames, rests = zip(
            *[(np.array(frame.convert('RGB')), frame.info['duration']) for frame in ImageSequence.Iterator(gif)],
            strict=True,
        )
    order = [*range(count), *range(count - 2, 0, -1)]
    assert len(frames) == len(order) == 2 * count - 2
    for frame, number in zip(frames, order, strict=True):
        assert np.abs(frame.astype(int) - render(balls[number], size=64)).mean() < 1, 'of 255'
    assert [rest == pictures.REST for rest in rests] == [number in (0, count - 1) for number in order]
    assert [p.name for p in tmp_path.iterdir()] == ['balls.gif']


def test_an_animation_of_equal_or_empty_shapes_is_one_picture(tmp_path):
    animation([trimesh.Trimesh()] * 3, tmp_path / 'still.gif', size=48)
    with Image.open(tmp_path / 'still.gif') as gif:
        assert gif.n_frames == 1
    with pytest.raises(InputError, match='shapes: expected at least 2 to move between, found 1'):
        animation([BALL], tmp_path / 'no.gif')
