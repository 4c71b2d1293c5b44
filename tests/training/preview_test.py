import numpy as np
import pytest
import trimesh
from model_configs import small_config
from PIL import Image

from onet_jax.evaluation.evaluate import evaluate
from onet_jax.training import checkpoints, preview
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


def test_the_meshes_are_those_that_are_scored(workdir, dataset, tmp_path, sheets):
    run = checkpoints.at_threshold(checkpoints.load_run(workdir), 0.05, 'a test')
    make_preview(run.method, run.config, dataset)(run.params, tmp_path / 'sheet.png')
    ((items, titles),) = sheets
    results = list(evaluate(run.method, run.params, run.config, dataset, 'val'))
    assert titles == ('input', 'reconstruction', 'ground truth')
    assert [item.name for item in items] == ['chair 000003', 'mug 000003', 'table 000003']
    for item, result in zip(items, results, strict=True):
        seen, mesh, truth = item.shapes
        np.testing.assert_array_equal(mesh.vertices, result.mesh.vertices)
        assert item.caption == f'IoU {result.scores["iou"]:.2f}'
        assert seen.shape == truth.shape == (SIZE, SIZE, 3)
        assert (seen < 200).any()
        assert (truth < 200).mean() > (seen < 200).mean(), 'a mesh, not points'
    with Image.open(tmp_path / 'sheet.png') as picture:
        assert picture.width > 3 * SIZE


@pytest.mark.parametrize('seen, titles', [('none', ('reconstruction',)), ('index', ('reconstruction', 'ground truth'))])
def test_an_empty_mesh_is_drawn_and_an_input_that_is_nothing_to_see_is_not(
    workdir, dataset, tmp_path, sheets, seen, titles
):
    run, config = checkpoints.load_run(workdir), small_config()
    with config.unlocked():
        config.data.input = seen
    method = run.method._replace(reconstruct=lambda params, inputs, key: [trimesh.Trimesh()])
    make_preview(method, config, dataset)(run.params, tmp_path / 'sheet.png')
    ((items, found),) = sheets
    assert found == titles
    assert {item.caption for item in items} == ({''} if seen == 'none' else {'IoU 0.00'})
    assert (tmp_path / 'sheet.png').exists()
