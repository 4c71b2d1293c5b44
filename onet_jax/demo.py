"""The demonstration: shapes from the weights that come with the package, then a network that is trained for a stated time.

All shapes are procedural, and held out from every training.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from onet_jax import ready_made
from onet_jax.data.datasets import open_dataset
from onet_jax.errors import InputError
from onet_jax.evaluation import tables
from onet_jax.evaluation.evaluate import evaluate
from onet_jax.evaluation.report import write_report
from onet_jax.files import write_json
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.inside import contains
from onet_jax.geometry.meshes import save_mesh
from onet_jax.geometry.quality import measure_support
from onet_jax.geometry.sampling import sample_surface
from onet_jax.metrics import iou
from onet_jax.prepare.embedded import embedded_dataset, embedded_solid
from onet_jax.progress import track
from onet_jax.run import load_run
from onet_jax.training.checkpoints import read_config
from onet_jax.training.log import read_log
from onet_jax.training.loop import train
from onet_jax.training.portable import PACKAGED
from onet_jax.viz.page import write_page
from onet_jax.viz.pictures import Item, contact_sheet

# Family and number of solids that are in the test splits of `objects` and `scenes`; points of their clouds, and their noise in
# units of the longest edge.
OBJECTS = (('chair', 159), ('airplane', 159), ('limbs', 159), ('cut_compositions', 158), ('mug', 159), ('vessels', 157))
SCENE = ('rooms_06', 49)
OBJECT_POINTS, ROOM_POINTS, NOISE = 3000, 40_000, 0.005
NUM_LABELLED = 20_000  # points of the cube with which the IoU is measured
NUM_MEASURED = 24  # steps whose speed says how many can be made in a time
NOTES = {
    'ground truth': 'the solid that the points were sampled from',
    'reconstruction': 'a feature volume of an object, a sliding window over the room (Peng et al., ECCV 2020)',
}


def show_ready_made(output: Path) -> dict[str, float]:
    """Reconstruct noisy clouds of held-out solids with the weights of the package; returns the IoU of each.

    Writes OUTPUT/index.html, OUTPUT/contact_sheet.png and OUTPUT/meshes/NAME.ply.
    """
    items, found, rng = [], {}, np.random.default_rng(0)
    (output / 'meshes').mkdir(parents=True, exist_ok=True)
    solids = [(*name, 'objects', OBJECT_POINTS) for name in OBJECTS] + [(*SCENE, 'scenes', ROOM_POINTS)]
    for family, number, weights, num_points in track(solids, 'reconstructing point clouds', 'shapes'):
        solid = embedded_solid(0, family, number)
        truth = solid.mesh()
        cloud, _ = sample_surface(truth, num_points, 0)
        cloud = cloud + NOISE * rng.normal(size=cloud.shape)
        mesh = ready_made.reconstruct(cloud, str(PACKAGED / weights))
        points = rng.uniform(-BOX / 2, BOX / 2, (NUM_LABELLED, 3))
        name = f'{family} {number}'
        found[name] = float(iou(contains(mesh, points), solid.contains(points)))
        quality = measure_support(mesh, cloud)
        save_mesh(mesh, output / 'meshes' / f'{family}_{number}.ply')
        caption = f'IoU {found[name]:.2f}; half of the points within {quality.median / quality.longest_edge:.1%}'
        links = (None, f'meshes/{family}_{number}.ply', None)
        items.append(Item(name, caption, (cloud, mesh, truth), links=links))
    columns = ('input', 'reconstruction', 'ground truth')
    contact_sheet(items, columns, output / 'contact_sheet.png')
    write_page(
        output / 'index.html',
        title='Point clouds to meshes, without training',
        lead='Solids that no network here was trained on, by the weights that come with the package.',
        summary={'mean IoU': f'{np.mean([*found.values()]):.3f}', 'shapes': str(len(items))},
        items=items,
        column_titles=columns,
        notes=NOTES,
    )
    return found


def count_steps(config: ConfigDict, minutes: float) -> int:
    """Training steps of a config that this machine makes in a time, measured by a few of them."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.update(num_steps=NUM_MEASURED, log_every_steps=NUM_MEASURED // 2)
        config.optim.warmup_steps = 0  # which a schedule wants shorter than the training
    with tempfile.TemporaryDirectory() as workdir:
        train(config, workdir)
        speed = read_log(Path(workdir), 'train/steps_per_second')[-1][1]
    return max(10, 10 * round(6 * minutes * speed))


def train_and_show(config: ConfigDict, output: Path, num_steps: int, num_shown: int) -> dict[str, float]:
    """Train a network of clouds on its embedded dataset, and evaluate it; returns the means of the scores.

    Writes OUTPUT with the page, the meshes and the contact sheet of `write_report`, and the workdir OUTPUT/run.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.train.update(
            num_steps=num_steps, eval_every_steps=-(-num_steps // 4), checkpoint_every_steps=-(-num_steps // 4)
        )
        config.optim.learning_rate = 5e-3  # few steps, at a high rate
        config.optim.warmup_steps = min(config.optim.warmup_steps, num_steps // 4)
    workdir = output / 'run'
    train(config, workdir)
    # From the log: a demo that is run again resumes the training that it finds.
    seconds = sum(seconds for _, seconds in read_log(workdir, 'train/seconds'))
    run = load_run(workdir)
    results = list(evaluate(run.method, run.params, run.config, open_dataset(embedded_dataset(config.data)), 'test'))
    write_report(
        output,
        {'feature planes': results},
        lambda result: embedded_solid(config.data.dataset_seed, result.category, int(result.name)).mesh(),
        title=f'Occupancy networks from {config.data.num_input_points} noisy points',
        lead=f'{len(results)} shapes that the network has never seen, after {num_steps} steps in {seconds:.0f} seconds.',
        num_shown=num_shown,
        curves=[
            ('training loss (nats a shape)', read_log(workdir, 'train/loss'), True),
            ('validation IoU', read_log(workdir, 'val/iou'), False),
        ],
        notes={'feature planes': 'three planes of features and U-Nets (Peng et al., ECCV 2020)'},
    )
    print(tables.to_markdown(*tables.make_table(results)))
    return {**tables.summary(results), 'num_steps': num_steps, 'seconds_train': seconds}


def show(config: ConfigDict, output: Path, minutes: float, num_steps: int | None, num_shown: int) -> None:
    """Both parts. config: of the network that is trained. num_steps: by default as many as `minutes` allow, or as an earlier
    run has begun.

    Writes OUTPUT/index.html and OUTPUT/metrics.json, and OUTPUT/trained.
    """
    earlier = output / 'trained' / 'run'
    if (earlier / 'config.json').exists():
        begun = read_config(earlier).train.num_steps
        if num_steps not in (None, begun):
            raise InputError(
                f'--num_steps: expected {begun}, with which {earlier} was begun, found {num_steps}; choose another --output'
            )
        num_steps = begun
    began = time.monotonic()
    found = show_ready_made(output)
    seconds = time.monotonic() - began
    print(
        f'{output / "index.html"}: {len(found)} shapes in {seconds:.0f} s, mean IoU {np.mean([*found.values()]):.3f}',
        flush=True,
    )
    num_steps = num_steps or count_steps(config, minutes)
    print(f'training {num_steps} steps; --num_steps={num_steps} repeats this, on any machine', flush=True)
    means = train_and_show(config, output / 'trained', num_steps, num_shown)
    write_json(output / 'metrics.json', {**means, 'ready_made': found, 'seconds_ready_made': seconds})
