import numpy as np
import pytest
import trimesh
from model_configs import small_config
from PIL import Image

from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.run import at_threshold, load_run
from onet_jax.scores import score
from onet_jax.training import preview
from onet_jax.training.preview import SIZE, make_preview


@pytest.fixture
def sheets(monkeypatch):
    """(items, titles) of the sheets that are drawn, which are drawn all the same."""
    drawn, original = [], preview.contact_sheet

    def contact_sheet(items, titles, path, *, size):
        drawn.append((items, titles))
        original(items, titles, path, size=size)

    monkeypatch.setattr(preview, 'contact_sheet', contact_sheet)
    return drawn


@pytest.mark.slow
def test_the_predictions_are_those_that_are_scored(workdir, dataset, tmp_path, sheets):
    run, dataset = at_threshold(load_run(workdir), 0.05, 'a test'), open_dataset(dataset)
    shown = make_preview(run.method, run.config, dataset)(run.params, tmp_path / 'sheet.png')
    ((items, titles),) = sheets
    results = list(evaluate(run.method, run.params, run.config, dataset, 'val'))
    assert titles == ('input', 'reconstruction', 'ground truth')
    assert [item.name for item in items] == ['chair 000003', 'mug 000003', 'table 000003']
    for item, result in zip(items, results, strict=True):
        seen, prediction, truth = item.shapes
        np.testing.assert_array_equal(prediction.vertices, result.prediction.vertices)
        assert item.caption == f'IoU {result.scores["iou"]:.2f}'
        assert seen.shape == truth.shape == (SIZE, SIZE, 3)
        assert (seen < 200).any()
        assert (truth < 200).mean() > (seen < 200).mean(), 'a mesh, not points'
    assert shown.titles == titles
    for item, solid in zip(items, shown.items, strict=True):
        seen, prediction, truth = solid.shapes
        assert (solid[:2], prediction) == (item[:2], item.shapes[1])
        assert (seen.shape, type(truth)) == ((30, 3), trimesh.Trimesh), 'of the same shapes, to turn'
    with Image.open(tmp_path / 'sheet.png') as picture:
        assert picture.width > 3 * SIZE


@pytest.mark.parametrize(
    'field, titles, shape, captions',
    [
        ('none', ('reconstruction',), (1, 0), ['', '', '']),
        (
            'index',
            ('input', 'reconstruction', 'ground truth'),
            (1, 2500, 4),
            ['IoU 0.00', 'IoU 0.', 'Chamfer-L1 (x10) '],
        ),
    ],
)
def test_any_prediction_is_drawn_with_what_is_known_of_it(
    dataset, tmp_path, sheets, monkeypatch, field, titles, shape, captions
):
    """Without an input there is no truth either; labelled points that a code is fitted to are seen, and not scored."""
    config, seen, targets = small_config(), [], []
    with config.unlocked():
        config.data.inputs = (field,)
    predictions = [trimesh.Trimesh(), trimesh.creation.box(), trimesh.PointCloud(np.eye(3) / 4)]

    class Method:
        def predict(self, variables, inputs, key):
            seen.append([array.shape for array in inputs.values()])
            return [predictions[len(seen) - 1]]

    def recorded(prediction, target, seed):
        targets.append(target)
        return score(prediction, target, seed)

    monkeypatch.setattr(preview, 'score', recorded)
    make_preview(Method(), config, open_dataset(dataset))({}, tmp_path / 'sheet.png')
    ((items, found),) = sheets
    assert found == titles
    assert seen == [[shape]] * 3
    assert [item.shapes[titles.index('reconstruction')] for item in items] == predictions
    for item, caption in zip(items, captions, strict=True):
        assert item.caption.startswith(caption)
        assert bool(item.caption) == bool(caption)
    assert [len(target.points) for target in targets] == ([2500] * 3 if field == 'index' else []), 'of 5000'
    assert (tmp_path / 'sheet.png').exists()
