"""Pages of small networks that were trained for a few steps: what stands in them, not how good they are."""

from itertools import chain

import numpy as np
import pytest
from entry_points import ROOT, launch
from model_configs import small_config
from PIL import Image

from onet_jax import models, reproduce
from onet_jax.configs import onet_embedding, onet_unconditional
from onet_jax.evaluation.evaluate import find_commit
from onet_jax.reproduce import Page, Row


def small(config):
    """Another config with the sizes of `small_config`."""
    other = small_config()
    with config.unlocked():
        for group in ('mesh', 'optim', 'train'):
            config[group] = other[group]
        config.model.decoder_hidden_size = 16
        config.data.update(num_points_per_step=64, num_near_points=32)
        config.eval.update(batch_size=2, targets=('volume_points',))
    return config


@pytest.fixture(autouse=True)
def _few_pictures(monkeypatch):
    """They take longer than all the rest."""
    monkeypatch.setattr(reproduce, 'NUM_SHOWN', 1)


@pytest.mark.slow
def test_a_table_has_its_rows_with_means_over_seeds_and_what_was_published(dataset, tmp_path, monkeypatch):
    configs = {f'small-{seed}': small_config() for seed in range(2)}
    with configs['small-1'].unlocked():
        configs['small-1'].seed = 1
    published = {'iou': 0.778, 'chamfer_l1': 0.079, 'normal_consistency': np.nan}
    seeds = {folder: {folder: config} for folder, config in configs.items()}
    rows = [Row('Input', {'small-0': seeds['small-0']}, {}, inputs=True), Row('ONet', seeds, published)]
    folders = tmp_path / 'results', tmp_path / 'runs', dataset
    path = reproduce.reconstruction(Page('completion', 'Completion of clouds', rows, 'do it'), *folders)
    page = path.read_text()
    assert page.startswith('# Completion of clouds\n')
    assert '* command: `do it`' in page
    assert f'* commit: {(find_commit(ROOT) or "unknown")[:40]}' in page
    lines = [
        [cell.strip() for cell in line.strip('|\n').split('|')] for line in page.splitlines() if line.startswith('|')
    ]
    (header,), (inputs,), (ours,) = ([line for line in lines if line[0] == name] for name in ('', 'Input', 'ONet'))
    assert header[1:5] == ['seeds', 'IoU', 'IoU, published', 'Chamfer-L1 (x10)']
    assert (inputs[1:4], inputs[-6:]) == (['-', '-', '-'], ['-'] * 6)
    assert 0 < float(inputs[4]) < 1, 'thirty points lie near the surface'
    assert (ours[1], ours[3], ours[5], ours[7]) == ('2', '0.778', '0.079', '-')
    assert '±' in ours[2]
    assert {'chair', 'mug', 'table', 'mean'} <= {line[0] for line in lines}
    for picture in ('completion_shapes.png', 'completion_curves.svg'):
        assert f']({picture})' in page
        assert (path.parent / picture).stat().st_size > 500

    monkeypatch.setattr(reproduce, 'calibrate_run', None)
    again = reproduce.reconstruction(Page('completion', 'Completion of clouds', rows, 'do it'), *folders)
    without_times = ([line.split('|')[:-4] for line in text.splitlines()] for text in (page, again.read_text()))
    assert next(without_times) == next(without_times), 'what is trained and calibrated already is not touched'


@pytest.mark.slow
def test_representation_is_a_curve_against_voxels(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce, 'RESOLUTIONS', (16, 64))
    monkeypatch.setattr(reproduce, 'voxel_ious', lambda data_dir, split: iter([('chair', {16: 0.4, 64: 0.8})]))
    config = small(onet_embedding('tiny'))
    with config.unlocked():
        config.model.cond_size = 12
    folders = tmp_path / 'results', tmp_path / 'runs', dataset
    rows = [Row('ONet', {'embedding-0': {'embedding-0': config}}, {})]
    page = reproduce.representation(Page('power', 'Power', rows, 'do it'), *folders).read_text()
    assert '| voxels 64^3 | 0.800 |      2,359,296 |' in page, '9 shapes'
    assert 'power_iou.svg' in page
    assert (tmp_path / 'results/power_iou.svg').exists()


@pytest.mark.slow
def test_generation_shows_samples_and_a_way_between_them(dataset, tmp_path):
    config = small(onet_unconditional('tiny'))
    with config.unlocked():
        config.model.latent_size = 4
    folders = tmp_path / 'results', tmp_path / 'runs', dataset
    page = reproduce.generation(
        Page('vae', 'Samples', [Row('ONet', {'vae-0': {'vae-0': config}}, {})], 'do it'), *folders
    ).read_text()
    assert 'kl ' in page
    with Image.open(tmp_path / 'results/vae_way.gif') as gif:
        assert gif.n_frames >= 1
    with Image.open(tmp_path / 'results/vae_samples.png') as sheet:
        assert min(sheet.size) > 500


@pytest.mark.parametrize('options', [(), ('--tiny', '--seeds=2'), ('--tiny', '--seeds=2', '--num_steps=5000')])
def test_every_row_of_every_table_is_an_experiment(monkeypatch, options):
    pages, experiments = {}, {}

    def keep(page, output, runs, data_dir):
        assert (str(output), str(runs), data_dir) == ('pages', 'there', None)
        pages[page.name] = page

    tables = {name: table._replace(write=keep) for name, table in reproduce.TABLES.items()}
    monkeypatch.setattr(reproduce, 'TABLES', tables)
    done = launch('reproduce', 'all', '--output=pages', '--runs=there', *options)
    assert done.returncode == 0, done.stderr
    assert pages.keys() == tables.keys()
    for name, page in pages.items():
        assert page.command.startswith(f'onet reproduce {name} --output=pages'), 'of this table alone'
        seeds = range((2 if options else 3) if 'ablation' in name else 1)
        for row in page.rows:
            assert [stages[folder].seed for folder, stages in row.seeds.items()] == list(seeds)
            assert set(row.published) <= {*reproduce.PRINTED}
            for folder, config in chain.from_iterable(stages.items() for stages in row.seeds.values()):
                assert ('tiny' in folder) == bool(options)
                assert config.train.num_steps == 5000 or '--num_steps=5000' not in options
                models.build(config)
                assert experiments.setdefault(folder, config.to_json()) == config.to_json(), (
                    'one workdir, one experiment'
                )
    words = (
        'tiny,points=3000,maps=planes-5000steps' if '--num_steps=5000' in options else 'tiny,points=3000,maps=planes'
    )
    assert f'conv_onet-{words if options else "points=3000,maps=planes"}-0' in experiments


@pytest.mark.parametrize('arguments', [(), ('tables',), ('completion', 'generation')])
def test_unknown_tables_are_named(arguments):
    done = launch('reproduce', *arguments)
    assert (done.returncode, done.stderr.count('error: expected one table of')) == (1, 1)
    assert "'single_image', " in done.stderr
    assert f'found {list(arguments)}' in done.stderr
