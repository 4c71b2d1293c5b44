"""Evaluation of rendered views: their scores beside those of the baselines, the table, the page."""

from types import SimpleNamespace

import numpy as np
import pytest
from coloured_ball import NUM_VIEWS, SIZE, BallDataset, colours_at
from ml_collections import ConfigDict
from PIL import Image
from predictions import predicting

from onet_jax import metrics
from onet_jax.data.records import encode_picture
from onet_jax.data.schema import VIEW_SIZE
from onet_jax.errors import InputError
from onet_jax.evaluation import comparison, tables
from onet_jax.evaluation.colour_baselines import MEAN, NEAREST
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.evaluation.published import TABLES
from onet_jax.evaluation.report import write_views
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.views import Pictures, tile, unproject_depth
from onet_jax.scores import PicturesTarget, score
from onet_jax.training import preview
from onet_jax.training.preview import make_preview

CONFIG = ConfigDict({'seed': 0, 'data': {'targets': ('views',)}, 'eval': {}})
PROTOCOL = {'split': 'test', 'evaluated': 'reconstructions', 'model': 'stand-in'}


def paint(inputs):
    """A network that knows the colour of every place, but for the blue channel."""
    depth = inputs['view_depth'][0]
    points = unproject_depth(Camera(inputs['view_world_mat'][0], inputs['view_camera_mat'][0]), depth)
    colours = np.where(depth[..., None] > 0, colours_at(points), 1)
    return [Pictures((colours - [0, 0, 0.02]).astype(np.float32))]


@pytest.fixture(scope='module')
def results():
    return list(evaluate(predicting(paint), {}, CONFIG, BallDataset(), 'test'))


def test_views_are_scored_beside_the_baselines(results):
    """What the input picture shows of a ball is right for the places that it shows, and near for the others."""
    assert [(r.category, r.name) for r in results] == list(BallDataset.shapes)
    for result in results:
        assert result.scores['l1'] == pytest.approx(0.02 / 3, rel=1e-3)
        assert result.scores['psnr'] == pytest.approx(-10 * np.log10(0.02**2 / 3), rel=1e-3)
        mean, nearest = result.references[MEAN], result.references[NEAREST]
        assert list(result.references) == [MEAN, NEAREST]
        assert result.scores['l1'] < nearest['l1'] < 0.7 * mean['l1']
        assert result.scores['ssim'] > nearest['ssim'] > mean['ssim']
        assert result.prediction.rgb.dtype == result.truth.rgb.dtype == np.uint8
        assert (result.num_faces, result.is_solid, result.by_time) == (None, None, None)


def test_the_nearest_point_of_the_input_view_itself_has_its_own_colour():
    class Same(BallDataset):
        def cameras(self, category, name):
            one = super().cameras(category, name)
            return Camera(*(array[:1].repeat(NUM_VIEWS, axis=0) for array in one))

    for result in evaluate(predicting(paint), {}, CONFIG, Same(), 'test'):
        assert result.references[NEAREST]['l1'] < 0.005, (
            'the rim is further than a pixel from the colours that are used'
        )


def test_without_an_input_picture_there_are_no_baselines():
    class Unconditional(BallDataset):
        def keep(self, inputs):
            return {name: array for name, array in super().keep(inputs).items() if name != 'image'}

    (first, *_) = evaluate(predicting(paint), {}, CONFIG, Unconditional(), 'test')
    assert first.references == {}
    assert len(tables.make_table([first])[1]) == 2


def test_fixed_views_are_asked_of_the_dataset_and_refused_for_shapes():
    class Fixed(BallDataset):
        def evaluation_batches(self, config, split, *, fixed_views, **options):
            assert fixed_views
            return super().evaluation_batches(config, split, **options)

    assert len(list(evaluate(predicting(paint), {}, CONFIG, Fixed(), 'test', fixed_views=True))) == 3
    shapes = ConfigDict({**CONFIG, 'model': {'name': 'onet'}, 'data': {'targets': ('volume_points',)}})
    with pytest.raises(
        InputError, match='--fixed_views: expected a network that renders views, found onet; leave it out'
    ):
        next(evaluate(predicting(paint), {}, shapes, BallDataset(), 'test', fixed_views=True))


def test_an_input_picture_of_nothing_is_refused():
    class Blank(BallDataset):
        def read(self, category, name):
            shape = super().read(category, name)
            return shape._replace(depth=(encode_picture(np.zeros((VIEW_SIZE, VIEW_SIZE), np.uint16)),))

    with pytest.raises(InputError, match=r'ball/a: expected a first view that shows the shape, found background alone'):
        list(evaluate(predicting(paint), {}, CONFIG, Blank(), 'test'))


def test_the_table_has_the_metrics_of_pictures_and_no_faults(results, tmp_path):
    header, rows = tables.make_table(results)
    assert header == ['category', 'shapes', 'PSNR (dB)', 'SSIM (data range 2)', 'L1']
    assert [row[0] for row in rows] == ['ball', 'other', 'mean', MEAN, NEAREST]
    assert (rows[2][:2], rows[2][-1]) == (['mean', '3'], '0.007')
    tables.write_results(tmp_path, results, PROTOCOL, TABLES['image'])
    assert 'not comparable' not in (tmp_path / 'table.md').read_text(), 'shapes were published, no pictures'
    assert (tmp_path / 'rows.csv').read_text().startswith('category,name,seconds,faces,l1,ssim,psnr\n')
    assert [table[0][0] for table in comparison.by_class({'a': results}, None)] == header[2:]


def test_the_page_shows_them_beside_the_true_ones(results, tmp_path):
    write_views(tmp_path, results, PROTOCOL)
    page = (tmp_path / 'index.html').read_text()
    assert page.count('<img') == 9, 'input, prediction and ground truth of three shapes'
    assert 'PSNR (dB) 38.75' in page
    with Image.open(tmp_path / 'views/ball_a.png') as sheet:
        assert sheet.size == ((NUM_VIEWS - 1) * SIZE, 2 * SIZE)
    assert not (tmp_path / 'meshes').exists()


def test_pictures_during_training_show_the_true_views_and_not_the_mesh(tmp_path):
    """Though the mesh of an embedded solid can be made."""
    dataset = BallDataset()
    dataset.index = SimpleNamespace(source={'kind': 'procedural', 'seed': 0})
    config = ConfigDict({**CONFIG, 'eval': {'split': 'val'}, 'data': {'targets': ('views',), 'inputs': ('image',)}})
    make_preview(predicting(paint), config, dataset)({}, tmp_path / 'preview.png')
    with Image.open(tmp_path / 'preview.png') as sheet:
        pixels = np.asarray(sheet)
    size = preview.SIZE
    left, top = size // 8 + size, size // 6
    seen, true = (pixels[top : top + size, x : x + size].astype(int) for x in (left, left + size))
    assert 0 < np.abs(seen - true).mean() < 5


def test_the_first_four_views_are_shown_row_by_row():
    rgb = np.arange(5, dtype=np.float32)[:, None, None, None] / 255 + np.zeros((5, 2, 2, 3), np.float32)
    square = tile(Pictures(rgb))
    np.testing.assert_array_equal(square[::2, ::2, 0], [[0, 1], [2, 3]])
    assert tile(Pictures(rgb[:3])).shape == (2, 2, 3)


def test_equal_pictures_have_no_error_and_others_are_refused():
    target = PicturesTarget(np.random.default_rng(0).random((2, 8, 8, 3)).astype(np.float32))
    assert score(Pictures(target.rgb), target) == {'l1': 0, 'ssim': 1, 'psnr': np.inf}
    with pytest.raises(InputError, match=r'expected pictures \[2, 8, 8, 3\], as the target has, found \[1, 8, 8, 3\]'):
        score(Pictures(target.rgb[:1]), target)


def test_the_scores_are_the_official_ones(golden):
    data = golden('flow/texture/metrics_transforms.npz')
    fake, real = (np.moveaxis(data[f'in/{name}'], 1, -1) for name in ('fake', 'real'))
    found = metrics.picture_metrics(fake, real)
    np.testing.assert_allclose(found['ssim'], data['out/ssim_per_image'], rtol=0, atol=1e-12)
    assert found['ssim'].mean() == pytest.approx(data['out/ssim'], abs=1e-12)
    assert found['l1'].mean() == pytest.approx(data['out/l1'], abs=1e-8)
