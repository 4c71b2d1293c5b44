"""Pages of small networks that were trained for a few steps: what stands in them, not how good they are."""

import numpy as np
import pytest
from model_configs import small_config
from PIL import Image

from configs import onet_embedding, onet_unconditional
from onet_jax import reproduce
from onet_jax.reproduce import Page, Row


def small(config):
    """Another config with the sizes of `small_config`."""
    other = small_config()
    with config.unlocked():
        for group in ('mesh', 'optim', 'train'):
            config[group] = other[group]
        config.model.decoder_hidden_size = 16
        config.eval.batch_size = 2
    return config


@pytest.mark.slow
def test_a_table_has_its_rows_with_means_over_seeds_and_what_was_published(dataset, tmp_path, monkeypatch):
    configs = {f'small-{seed}': small_config() for seed in range(2)}
    with configs['small-1'].unlocked():
        configs['small-1'].seed = 1
    published = {'iou': 0.778, 'chamfer_l1': 0.079, 'normal_consistency': np.nan}
    rows = [Row('Input', {'small-0': configs['small-0']}, {}, inputs=True), Row('ONet', configs, published)]
    folders = tmp_path / 'results', tmp_path / 'runs', dataset
    path = reproduce.reconstruction(Page('completion', 'Completion of clouds', rows, 'do it'), *folders)
    page = path.read_text()
    assert page.startswith('# Completion of clouds\n')
    assert '* command: `do it`' in page
    lines = [
        [cell.strip() for cell in line.strip('|\n').split('|')] for line in page.splitlines() if line.startswith('|')
    ]
    (header,), (inputs,), (ours,) = ([line for line in lines if line[0] == name] for name in ('', 'Input', 'ONet'))
    assert header[1:5] == ['seeds', 'IoU', 'IoU, published', 'Chamfer-L1 (x10)']
    assert (inputs[1:4], inputs[-3:]) == (['-', '-', '-'], ['-', '-', '-'])
    assert 0 < float(inputs[4]) < 1, 'thirty points lie near the surface'
    assert (ours[1], ours[3], ours[5], ours[7]) == ('2', '0.778', '0.079', '-')
    assert '±' in ours[2]
    assert {'chair', 'mug', 'table', 'mean'} <= {line[0] for line in lines}
    for picture in ('completion_shapes.png', 'completion_curves.svg'):
        assert f']({picture})' in page
        assert (path.parent / picture).stat().st_size > 500

    monkeypatch.setattr(reproduce, 'calibrate_run', None)
    again = reproduce.reconstruction(Page('completion', 'Completion of clouds', rows, 'do it'), *folders)
    without_times = ([line.split('|')[:-3] for line in text.splitlines()] for text in (page, again.read_text()))
    assert next(without_times) == next(without_times), 'what is trained and calibrated already is not touched'


def test_representation_is_a_curve_against_voxels(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, 'RESOLUTIONS', (16, 64))
    monkeypatch.setattr(reproduce, 'voxel_ious', lambda data_dir, split: iter([('chair', {16: 0.4, 64: 0.8})]))
    config = small(onet_embedding.get_config('tiny'))
    with config.unlocked():
        config.model.cond_size = 12
    folders = tmp_path / 'results', tmp_path / 'runs', dataset
    rows = [Row('ONet', {'embedding-0': config}, {})]
    page = reproduce.representation(Page('power', 'Power', rows, 'do it'), *folders).read_text()
    assert '| voxels 64^3 | 0.800 |      2,359,296 |' in page, '9 shapes'
    assert 'power_iou.svg' in page
    assert (tmp_path / 'results/power_iou.svg').exists()


@pytest.mark.slow
def test_generation_shows_samples_and_a_way_between_them(dataset, tmp_path):
    config = small(onet_unconditional.get_config('tiny'))
    with config.unlocked():
        config.model.latent_size = 4
    folders = tmp_path / 'results', tmp_path / 'runs', dataset
    page = reproduce.generation(
        Page('vae', 'Samples', [Row('ONet', {'vae-0': config}, {})], 'do it'), *folders
    ).read_text()
    assert 'kl ' in page
    with Image.open(tmp_path / 'results/vae_way.gif') as gif:
        assert gif.n_frames >= 1
    with Image.open(tmp_path / 'results/vae_samples.png') as sheet:
        assert min(sheet.size) > 500


@pytest.mark.parametrize('arguments', [(), ('tables',), ('completion', 'generation')])
def test_unknown_tables_are_named(arguments):
    import launch.reproduce

    with pytest.raises(ValueError, match=r"expected one table of \('single_image', .*'all'\), found"):
        launch.reproduce.main(['reproduce', *arguments])
