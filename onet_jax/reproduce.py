"""The paper's tables on the dataset at hand: every row trained and evaluated, and the whole written as one page.

OUTPUT/NAME.md is the page, OUTPUT/NAME_*.{png,svg,gif} its pictures. Each row has one workdir in RUNS for each seed, and one
for each stage where its training has several. What is trained already is not trained again.
"""

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.datasets import open_dataset
from onet_jax.data.fields import input_names, show
from onet_jax.evaluation.comparison import by_class, draw_figure, explain_dashes, published_by_others
from onet_jax.evaluation.evaluate import Result, evaluate, find_commit, return_inputs
from onet_jax.evaluation.published import find_table
from onet_jax.evaluation.representation import RESOLUTIONS, voxel_ious
from onet_jax.evaluation.tables import FAULTS, class_means, count_faults, make_table, to_markdown
from onet_jax.files import write_atomically
from onet_jax.inference.generate import interpolate_files, sample_files
from onet_jax.prepare.embedded import embedded_dataset
from onet_jax.progress import track
from onet_jax.run import Run, calibrate_run, load_run
from onet_jax.scores import METRICS, headline
from onet_jax.training.log import read_log
from onet_jax.training.loop import train
from onet_jax.viz.pictures import Item, contact_sheet
from onet_jax.viz.plots import write_plot

PRINTED = ('iou', 'chamfer_l1', 'normal_consistency', 'f_score')  # of the paper's tables, of `scores.METRICS`
NUM_SHOWN = 3  # of the best shapes, of the median ones and of the worst
NUM_COMPARED = 8  # shapes in the figure of all methods
NUM_SCORED = 100_000  # points inside and outside, and surface samples, of an embedded shape: the protocol of the paper
MAX_CURVES = 4


class Row(NamedTuple):
    """One row of a table."""

    label: str
    # Folder in RUNS -> the stages of the training, one after the other, of one seed: {folder: the experiment}; the last has the
    # folder of the row.
    seeds: dict[str, dict[str, ConfigDict]]
    published: dict[str, float]  # of PRINTED, on ShapeNet, in the units of the table; NaN or no key where there is none
    inputs: bool = False  # the inputs themselves are scored


class Page(NamedTuple):
    """A table of the paper with the experiments that its rows take."""

    name: str  # of its files
    title: str
    rows: Sequence[Row]
    command: str  # that makes it


class Trained(NamedTuple):
    """A row with one of its seeds."""

    workdir: Path
    run: Run
    data_dir: Path  # of the results
    results: list[Result]
    seconds: float  # of training


def reconstruction(page: Page, output: Path, runs: Path, data_dir: Path | None) -> Path:
    """The page of a table of reconstructions; returns its path. Thresholds are calibrated on the validation split."""
    name, rows = page.name, page.rows
    trained = {
        row.label: [_train_and_score(row, key, runs, data_dir) for key in row.seeds]
        for row in track(rows, name, 'rows')
    }
    means = to_markdown(
        [
            '',
            'seeds',
            *(f'{METRICS[m].title}{by}' for m in PRINTED for by in ('', ', published')),
            *FAULTS,
            'shapes seen',
            'training (s)',
            'seconds a mesh',
            'threshold',
        ],
        [_summarise(row, trained[row.label]) for row in rows],
    )
    methods = {row.label: trained[row.label][0] for row in rows if not row.inputs}
    chosen = methods.get('ONet') or next(iter(methods.values()), trained[rows[0].label][0])
    _show(output / f'{name}_shapes.png', chosen)
    curves = {label: read_log(one.workdir, 'val/iou') for label, one in methods.items()}
    curves = {label: curve for label, curve in curves.items() if curve}
    if curves:
        plotted = dict(list(curves.items())[:MAX_CURVES])
        write_plot(output / f'{name}_curves.svg', 'validation IoU of the network by step', plotted)
    return _write_page(
        page,
        output,
        chosen.run,
        [
            'Means of the class means on the test split; for several seeds mean and standard deviation. The published numbers '
            'are for ShapeNet and full-size networks: compare the order of the rows, not the values. A mesh that is open, is '
            'inside out or intersects itself is not a solid.',
            means,
            explain_dashes({label: seeds[0].results for label, seeds in trained.items()}),
            _compare_order(rows, trained),
            *_compare_methods(output, name, methods),
            f'![validation IoU]({name}_curves.svg)' if curves else '',
            *_quote_others(methods),
            f'## {chosen.workdir.name}',
            to_markdown(*make_table(chosen.results)),
            f'Its {NUM_SHOWN} best shapes, {NUM_SHOWN} of the middle and the {NUM_SHOWN} worst:',
            f'![shapes]({name}_shapes.png)',
        ],
    )


def _train_and_score(row: Row, name: str, runs: Path, data_dir: Path | None) -> Trained:
    workdir, seconds = runs / name, 0.0
    for folder, config in row.seeds[name].items():
        source = data_dir or embedded_dataset(config.data)
        train(config, runs / folder, source)
        seconds += sum(seconds for _, seconds in read_log(runs / folder, 'train/seconds'))
    run = load_run(workdir)
    if row.inputs:
        run = run._replace(method=run.method._replace(predict=return_inputs(run.config)))
    elif run.threshold_from == 'config' and 'threshold' in run.config.eval:
        run = calibrate_run(run, source)
    # Representation power is measured on the training shapes.
    split = 'train' if config.eval.split == 'train' else 'test'
    if split == 'test' and not data_dir and config.data.num_points < NUM_SCORED:
        source = embedded_dataset(config.data, num_points=NUM_SCORED, splits=[split])
    results = list(evaluate(run.method, run.params, run.config, open_dataset(source), split))
    return Trained(workdir, run, source, results, seconds)


def _summarise(row: Row, seeds: Sequence[Trained]) -> list[str]:
    cells = [row.label, '-' if row.inputs else str(len(seeds))]
    for metric in PRINTED:
        values = [class_means(trained.results)['mean'][metric] for trained in seeds]
        spread = f' ± {np.std(values, ddof=1):.3f}' if len(values) > 1 else ''
        cells += ['-' if np.isnan(values).any() else f'{np.mean(values):.3f}{spread}']
        published = row.published.get(metric, np.nan)
        cells += ['-' if np.isnan(published) else f'{published:.3f}']
    if row.inputs:
        return [*cells, *'------']
    num_shapes = sum(
        config.train.num_steps * config.train.batch_size for config in row.seeds[seeds[0].workdir.name].values()
    )
    thresholds = sorted({f'{t.run.config.eval.threshold:g}' for t in seeds if 'threshold' in t.run.config.eval}) or [
        '-'
    ]
    mesh_seconds = np.median([result.seconds for trained in seeds for result in trained.results])
    seconds = np.mean([trained.seconds for trained in seeds])
    faults = count_faults([result for trained in seeds for result in trained.results])
    return [*cells, *faults, f'{num_shapes:,}', f'{seconds:.0f}', f'{mesh_seconds:.2f}', ', '.join(thresholds)]


def _compare_methods(output: Path, name: str, methods: Mapping[str, Trained]) -> list[str]:
    """The figure of shapes by all methods, and the classes by methods; nothing for a single method."""
    if len(methods) < 2:
        return []
    first, results = next(iter(methods.values())), {label: one.results for label, one in methods.items()}
    draw_figure(results, open_dataset(first.data_dir), NUM_COMPARED, output / f'{name}_methods.png')
    tables = by_class(results, find_table(input_names(first.run.config.data)))
    return [f'![shapes by all methods]({name}_methods.png)', *(to_markdown(*table) for table in tables)]


def _quote_others(methods: Mapping[str, Trained]) -> list[str]:
    """What later papers publish of their own methods, from clouds of the sizes that the rows have."""
    sizes = {
        one.run.config.data.num_input_points for one in methods.values() if 'cloud' in input_names(one.run.config.data)
    }
    return [
        f'Other papers, their own numbers on ShapeNet ({quoted[1]}):\n\n{to_markdown(*quoted[0])}'
        for quoted in map(published_by_others, sorted(sizes))
        if quoted
    ]


def _compare_order(rows: Sequence[Row], trained: Mapping[str, Sequence[Trained]]) -> str:
    """The rows from the best IoU to the worst, here and in the paper; empty where fewer than two are published."""
    published = {row.label: row.published['iou'] for row in rows if row.published.get('iou', np.nan) > 0}
    ours = {label: np.mean([class_means(t.results)['mean']['iou'] for t in trained[label]]) for label in published}
    if len(published) < 2:
        return ''
    here, there = (' > '.join(sorted(ious, key=ious.__getitem__, reverse=True)) for ious in (ours, published))
    return f'By IoU, here: {here}. Published: {there}.'


def _show(path: Path, trained: Trained) -> None:
    """A contact sheet of the best, the median and the worst shapes, with their inputs."""
    ranked = sorted(trained.results, key=lambda r: (-np.nan_to_num(r.scores['iou']), r.scores['chamfer_l1']))
    middle = max(0, len(ranked) // 2 - NUM_SHOWN // 2)
    shown = list(dict.fromkeys([*range(len(ranked))[:NUM_SHOWN], *range(len(ranked))[middle : middle + NUM_SHOWN]]))
    shown = list(dict.fromkeys([*shown, *range(len(ranked))[-NUM_SHOWN:]]))
    # The index of a shape, the input of an embedding, cannot be shown.
    titles = ('reconstruction',) if show(ranked[0].inputs) is None else ('input', 'reconstruction')
    items = [
        Item(f'{r.category} {r.name}', headline(r.scores), (show(r.inputs), r.prediction)[-len(titles) :])
        for r in (ranked[i] for i in shown)
    ]
    contact_sheet(items, titles, path)


def representation(page: Page, output: Path, runs: Path, data_dir: Path | None) -> Path:
    """The page of representation power (section 4.1): the network against voxels of several resolutions."""
    name, (row,) = page.name, page.rows
    ((run_name, stages),) = row.seeds.items()
    config = stages[run_name]
    source = data_dir or embedded_dataset(config.data)
    with config.unlocked():
        config.model.num_shapes = len(open_dataset(source).names('train'))
    trained = _train_and_score(row, run_name, runs, source)
    size = sum(array.size for array in jax.tree.leaves(trained.run.params['params']))
    ours = class_means(trained.results)['mean']['iou']
    ious_of: dict[str, list[list[float]]] = {}
    ious_of_shapes = voxel_ious(open_dataset(source), 'train')
    for category, ious in track(ious_of_shapes, 'measuring voxels', 'shapes', len(trained.results)):
        ious_of.setdefault(category, []).append([ious[n] for n in RESOLUTIONS])
    voxels = np.mean([np.mean(values, axis=0) for values in ious_of.values()], axis=0)
    curves = {'ONet': [(n, ours) for n in RESOLUTIONS], 'voxels': list(zip(RESOLUTIONS, voxels, strict=True))}
    write_plot(output / f'{name}_iou.svg', 'IoU by voxel resolution, training shapes', curves, log_x=True)
    num_shapes = len(trained.results)
    voxel_rows = [
        [f'voxels {n}^3', f'{iou:.3f}', f'{n**3 * num_shapes:,}'] for n, iou in zip(RESOLUTIONS, voxels, strict=True)
    ]
    _show(output / f'{name}_shapes.png', trained)
    return _write_page(
        page,
        output,
        trained.run,
        [
            f'{num_shapes} training shapes, each reconstructed from its learned code, and as voxels whose centres are labelled '
            'exactly. Published for the 4,746 chairs of ShapeNet: IoU about 0.89 with 6 million parameters.',
            to_markdown(['', 'IoU', 'numbers stored'], [['ONet', f'{ours:.3f}', f'{size:,}'], *voxel_rows]),
            f'![IoU by resolution]({name}_iou.svg)',
            to_markdown(*make_table(trained.results)),
            f'![shapes]({name}_shapes.png)',
        ],
    )


def generation(page: Page, output: Path, runs: Path, data_dir: Path | None) -> Path:
    """The page of unconditional generation (section 4.5): samples of the prior, and an interpolation between two of them."""
    name, ((run_name, stages),) = page.name, page.rows[0].seeds.items()
    workdir, config = runs / run_name, stages[run_name]
    train(config, workdir, data_dir or embedded_dataset(config.data))
    run = load_run(workdir)
    folder = workdir / 'samples'
    for made in (folder, workdir / 'way'):  # by an earlier run
        shutil.rmtree(made, ignore_errors=True)
    sample_files(run.method.model, run.params, run.config, 18, 0, folder, 'ply')
    interpolate_files(
        run.method.model,
        run.params,
        run.config,
        '0',
        '1',
        num_steps=8,
        seed=0,
        data_dir=None,
        output=workdir / 'way',
        file_format='ply',
    )
    pictures = {
        'samples.png': folder / 'contact_sheet.png',
        'way.png': workdir / 'way' / 'strip.png',
        'way.gif': workdir / 'way' / 'strip.gif',
    }
    for ending, path in pictures.items():
        write_atomically(output / f'{name}_{ending}', path.read_bytes())
    terms = {term: read_log(workdir, f'val/{term}') for term in ('loss', 'reconstruction', 'kl')}
    write_plot(output / f'{name}_curves.svg', 'validation: nats a shape, by step', terms)
    last = ', '.join(f'{term} {values[-1][1]:.1f}' for term, values in terms.items())
    return _write_page(
        page,
        output,
        run,
        [
            f'Negative evidence lower bound on the validation split, in nats per shape: {last}. The paper gives no figures.',
            f'![terms]({name}_curves.svg)',
            'Samples of the prior:',
            f'![samples]({name}_samples.png)',
            'Linear interpolation of the latent code, from the first to the second:',
            f'![strip]({name}_way.png)',
            f'![morph]({name}_way.gif)',
        ],
    )


def _describe_dataset(data_dir: Path) -> str:
    return f'{data_dir.name}, {open_dataset(data_dir).index.source.get("kind")}'


def _write_page(page: Page, output: Path, run: Run, parts: Sequence[str]) -> Path:
    device, path, steps = jax.devices()[0], output / f'{page.name}.md', run.config.train
    facts = {
        'command': f'`{page.command}`',
        **({'steps': f'{steps.num_steps:,} of batches of {steps.batch_size}'} if len(page.rows) == 1 else {}),
        'dataset': _describe_dataset(run.data_dir) if run.data_dir else 'unknown',
        'machine': f'{jax.device_count()} x {device.device_kind}, {os.cpu_count()} cores ({platform.machine()})',
        'versions': f'JAX {jax.__version__}, Python {platform.python_version()}',
        'date': datetime.now(UTC).date().isoformat(),
        'commit': find_commit(Path(__file__).resolve().parents[1]) or 'unknown',
    }
    lines = [f'# {page.title}', *filter(None, parts), '\n'.join(f'* {key}: {value}' for key, value in facts.items())]
    write_atomically(path, ('\n\n'.join(line.rstrip() for line in lines) + '\n').encode())
    return path


class Stage(NamedTuple):
    """A training run of a row."""

    config: str  # FILE:VARIANT, or the variant of the file of the table
    tiny_steps: int | None = None  # of small networks; None: as many as the config says


class Table(NamedTuple):
    """How a table of the paper is made."""

    title: str
    configs: tuple[str, ...]  # of two the first for small networks, the second for full-size ones
    rows: dict[str, tuple[Stage, ...]]  # label -> the stages of its training
    write: Callable[[Page, Path, Path, Path | None], Path] = reconstruction


TABLES = {
    'single_image': Table(
        'Single image 3D reconstruction',
        ('onet_image',),
        {
            '3D-R2N2': (Stage('r2n2:', 980),),
            'PSGN': (Stage('psgn:', 1800),),
            'Pixel2Mesh': (Stage('pixel2mesh:'),),
            'AtlasNet': (Stage('atlasnet:points', 400), Stage('atlasnet:', 400), Stage('atlasnet:finetune', 400)),
            'ONet': (Stage('', 2900),),
        },
    ),
    'completion': Table(
        'Point cloud completion',
        ('onet_points',),
        {
            'Input': (Stage('', 3750),),
            '3D-R2N2': (Stage('r2n2:points', 980),),
            'PSGN': (Stage('psgn:points', 1800),),
            'DMC': (Stage('dmc:'),),
            'ONet': (Stage('', 3750),),
            'ConvONet': (Stage('conv_onet:points=300,maps=planes', 1200),),
        },
    ),
    'local_features': Table(
        'Point cloud completion: a global code, or local features',
        ('onet_points',),
        {
            'Planes': (Stage('conv_onet:points=3000,maps=planes'),),
            'One code': (Stage('onet_points:points=3000'),),
            'Planes of 300 points': (Stage('conv_onet:points=300,maps=planes'),),
            'One code of 300 points': (Stage('points=300', 7500),),
        },
    ),
    'super_resolution': Table(
        'Voxel super-resolution', ('onet_voxels',), {'Input': (Stage(''),), 'ONet': (Stage(''),)}
    ),
    'representation': Table('Representation power', ('onet_embedding',), {'ONet': (Stage(''),)}, representation),
    'generation': Table('Unconditional generation', ('onet_unconditional',), {'ONet': (Stage(''),)}, generation),
    'ablation_sampling': Table(
        'Ablation: sampling of training points',
        ('onet_points', 'onet_image'),
        {
            name: (Stage(f'sampling={name.lower().replace(" ", "")}', 1200),)
            for name in ('Uniform', 'Uniform 64', 'Equal', 'Surface')
        },
    ),
    'ablation_architecture': Table(
        'Ablation: architecture',
        ('onet_points', 'onet_image'),
        {
            'Full': (Stage('sampling=uniform', 1200),),
            'No ResNet': (Stage('sampling=uniform,noresnet', 1200),),
            'No CBN': (Stage('sampling=uniform,nocbn', 1200),),
        },
    ),
}
