"""Scenes of any size with a sliding-window network: held-out rooms and scans, seams, memory and time by the number of points.

    python -m benchmarks.scenes --workdir=runs/crops --part=seams --part=same --part=growing --part=decoder
    python -m benchmarks.scenes --workdir=runs/crops --part=pictures --scans=FOLDER --output=docs/results

`pictures` draws held-out rooms and the clouds of a folder, y up, into OUTPUT, and prints their tables. `seams` is how far
neighbouring windows disagree where they meet, and how much the surface bends where they are blended. `same` and `growing` are
clouds of more points in one room, and of more rooms. `decoder` is a full-size network of whole rooms at resolution 256, of
which only the time counts: its weights are random.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import trimesh
from absl import app, flags
from PIL import Image

from benchmarks import report
from onet_jax import models
from onet_jax.configs import conv_onet_rooms
from onet_jax.data.datasets import examples_of, open_dataset
from onet_jax.data.fields import find_sources, read_inputs
from onet_jax.evaluation.tables import to_markdown
from onet_jax.files import write_atomically
from onet_jax.geometry.extract import extract_mesh, threshold_to_logit
from onet_jax.geometry.meshes import normalise
from onet_jax.geometry.sliding_window import SAMPLES_PER_CELL, Layout, find_origin, find_scales
from onet_jax.networks.sliding_window import window_cells
from onet_jax.prepare.rooms import make_room
from onet_jax.run import Run, change, load_run
from onet_jax.scores import METRICS, floor, score, target_of
from onet_jax.viz.pictures import Item, contact_sheet, encode_png, render_mesh, render_points

ROOT = Path(__file__).resolve().parents[1]
PARTS = ('pictures', 'seams', 'same', 'growing', 'decoder')
WORKDIR = flags.DEFINE_string('workdir', None, 'Of configs/conv_onet_crops.py.', required=True)
CHOSEN = flags.DEFINE_multi_enum('part', ['seams', 'same'], PARTS, 'What to measure.')
SCANS = flags.DEFINE_string('scans', None, 'Folder of clouds to show, y up.')
CELLS = flags.DEFINE_multi_string('cell', [], 'NAME=LENGTH of the cells of a scan, in its unit.')
OUTPUT = flags.DEFINE_string('output', 'docs/results', 'Folder of the pictures.')
SIZES = flags.DEFINE_multi_integer('size', [10_000, 100_000, 1_000_000], 'Points of the clouds.')
SHOWN = ('iou', 'chamfer_l1', 'normal_consistency', 'f_score')
POINTS_OF_ROOM, NOISE, ELEVATION, SIZE = 10_000, 0.005, 45.0, 300


def room_cloud(num_points: int, num_rooms: int) -> np.ndarray:
    """Noisy points [N, 3] of as many rooms, side by side on a square."""
    rng, side = np.random.default_rng(0), int(np.ceil(np.sqrt(num_rooms)))
    clouds = []
    for i in range(num_rooms):
        points, _ = trimesh.sample.sample_surface(make_room(1, 'rooms_05', i).mesh(), num_points // num_rooms, seed=i)
        clouds.append(points + np.array([1.1 * (i // side), 0, 1.1 * (i % side)]))
    cloud = np.concatenate(clouds)
    return cloud + rng.normal(scale=NOISE, size=cloud.shape)


def layout_of(run: Run) -> Layout:
    """Of the windows that `predict` takes, on whose corners the U-Net is equivariant to shifts."""
    model = run.config.model
    halvings = 1 << (model.unet3d_levels - 1)
    return Layout(window_cells(model.query_cells, model.unet3d_levels), model.query_cells // halvings * halvings)


def reconstruct(run: Run, cloud: np.ndarray, folder: str | Path) -> trimesh.Trimesh:
    """The mesh of a cloud [N, 3] in the unit of the training rooms, its windows in a folder."""
    (mesh,) = run.method.predict(run.params, {'scene': cloud[None]}, jax.random.key(0), Path(folder))
    return mesh


def measure_command(run: Run, cloud: np.ndarray, workdir: str) -> dict[str, float]:
    """Seconds, peak memory and windows of `onet reconstruct` with a cloud."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f'{folder}/cloud.npy', cloud)
        command = [sys.executable, '-m', 'launch.reconstruct', f'--workdir={workdir}', f'--input={folder}/cloud.npy']
        command += [f'--output={folder}/out', f'--cell={run.config.model.unit_size}']
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f'{command}: expected success, found status {status}')
        mesh = trimesh.load(f'{folder}/out/cloud.ply', process=False)
        unit, layout = run.config.model.unit_size, layout_of(run)
        scales = find_scales((cloud - find_origin(cloud, layout, unit)) / unit, layout)
        return {
            'points': len(cloud),
            'windows': sum(len(scale.boxes) for scale in scales),
            'seconds': time.perf_counter() - began,
            'peak GB': usage.ru_maxrss / 1e6,
            'faces': len(mesh.faces),
        }


def measure_seams(run: Run) -> dict[str, float]:
    """How far windows disagree where their boxes meet, near the level: logits, and the surface in cells.

    And what is left of it once they are blended: angles between neighbouring faces, in degrees, in the bands, and in bands
    as wide that are moved by quarters of a box, where nothing is blended.
    """
    level, layout = threshold_to_logit(run.config.eval.threshold), layout_of(run)
    n, band = layout.step * SAMPLES_PER_CELL, layout.band * SAMPLES_PER_CELL
    jumps, moves, bends = [], [], {moved: [] for moved in (0, 0.25, 0.5, 0.75)}
    cell = run.config.model.unit_size
    with tempfile.TemporaryDirectory() as folder:
        for i in range(4):
            place = Path(folder) / str(i)
            cloud = room_cloud(4 * POINTS_OF_ROOM, 4) if i == 0 else room_cloud(POINTS_OF_ROOM * (i + 1), i + 1)
            mesh = reconstruct(run, cloud, place)
            middles = mesh.vertices[mesh.face_adjacency_edges].mean(axis=1)
            steps = (middles - find_origin(cloud, layout, cell)) / (layout.step * cell)
            for moved, angles in bends.items():
                # Within a band of the nearest border, along some axis.
                distance = np.abs(steps + moved - np.round(steps + moved)).min(axis=1) * layout.step
                angles.append(np.degrees(mesh.face_adjacency_angles[distance < layout.band]))
            found = {tuple(map(int, p.stem.split('_')[2:])): p for p in place.glob('window_1_*')}
            for box, path in found.items():
                for axis in range(3):
                    other = tuple(np.add(box, np.eye(3, dtype=int)[axis]))
                    if other not in found:
                        continue
                    a, b = (
                        np.moveaxis(
                            np.fromfile(p, np.float16).astype(np.float32).reshape((layout.num_values,) * 3), axis, 0
                        )
                        for p in (path, found[other])
                    )
                    inner = (slice(band, -band),) * 2
                    here, there = a[n + band][inner], b[band][inner]
                    slope = np.linalg.norm(np.stack(np.gradient(a), axis=-1)[n + band][inner], axis=-1)
                    near = (np.abs(here - level) < slope) & (slope > 0)
                    jumps.append(np.abs(here - there)[near])
                    moves.append((np.abs(here - there) / np.maximum(slope, 1e-6))[near] / SAMPLES_PER_CELL)
    jumps, moves = np.concatenate(jumps), np.concatenate(moves)
    bends = {f'bend, bands moved by {moved:g}': np.concatenate(angles) for moved, angles in bends.items()}
    return {
        'places': len(jumps),
        'logits median': float(np.median(jumps)),
        'logits 95 %': float(np.quantile(jumps, 0.95)),
        'surface median': float(np.median(moves)),
        'surface 95 %': float(np.quantile(moves, 0.95)),
        'noise': NOISE / cell,
        **{f'{name}, median': float(np.median(angles)) for name, angles in bends.items()},
        **{f'{name}, 95 %': float(np.quantile(angles, 0.95)) for name, angles in bends.items()},
    }


def measure_decoder(variant: str) -> dict[str, float]:
    """Seconds of a room at resolution 256 with a network of whole rooms, as `onet reconstruct` makes it.

    The weights are random, so that the network is asked at the points of a true room and its answers are not used.
    """
    config = conv_onet_rooms(variant)
    model = models.build(config).model
    room, cloud = make_room(1, 'rooms_05', 0), room_cloud(config.data.num_input_points, 1).astype(np.float32)[None]
    params = model.init(jax.random.key(0), cloud)
    spent = {'room': 0.0}

    def encode():
        return jax.block_until_ready(model.bind(params, model.encode(params, cloud)))

    def field_of(bound):
        def field(points):
            jax.block_until_ready(bound(points))
            began = time.perf_counter()
            values = np.where(room.contains(points), 5.0, -5.0)
            spent['room'] += time.perf_counter() - began
            return values

        return field

    def mesh(bound):
        return extract_mesh(field_of(bound), resolution=32, upsampling_steps=3, threshold=0.5, seeds=cloud[0])

    mesh(encode())
    spent['room'], began = 0.0, time.perf_counter()
    bound = encode()
    encoded = time.perf_counter()
    found = mesh(bound)
    total = time.perf_counter() - began - spent['room']
    return {'seconds': total, 'encoder': encoded - began, 'faces': len(found.faces)}


def picture(shape: trimesh.Trimesh | np.ndarray) -> np.ndarray:
    """Of a mesh or points, in object coordinates, from above."""
    draw = render_mesh if isinstance(shape, trimesh.Trimesh) else render_points
    return draw(shape, size=SIZE, elevation=ELEVATION)


def show_rooms(run: Run) -> tuple[list[Item], list[list[str]]]:
    """Held-out rooms, one of each class: pictures, and rows of a table."""
    dataset, items, rows, floors = open_dataset(run.data_dir), [], [], []
    some = {category: i for i, (category, _) in enumerate(dataset.names('test'))}
    options = {'targets': dataset.scored_fields(run.config.data), 'batch_size': 1, 'positions': list(some.values())}
    for batch, ((category, name),) in dataset.evaluation_batches(run.config, 'test', **options):
        inputs, targets = examples_of(batch, 0).values()
        cloud, target = inputs['scene'][0], target_of(targets)
        with tempfile.TemporaryDirectory() as folder:
            mesh = reconstruct(run, cloud, folder)
        scores = score(mesh, target)
        floors.append(floor(target))
        room = make_room(dataset.index.source['seed'], category, int(name)).mesh()
        items.append(Item(f'{category} {name}', f'IoU {scores["iou"]:.2f}', tuple(map(picture, (cloud, mesh, room)))))
        rows.append([category, scores])
    mean = {m: np.mean([scores[m] for _, scores in rows]) for m in SHOWN}
    rows += [['mean', mean], ['floor', {m: np.mean([scores[m] for scores in floors]) for m in SHOWN}]]
    return items, [[title, *(f'{scores[m] * METRICS[m].factor:.3f}' for m in SHOWN)] for title, scores in rows]


def show_scans(run: Run, folder: str, cells: dict[str, float]) -> tuple[list[Item], list[list[str]]]:
    """The clouds of a folder: pictures, and rows of a table."""
    items, rows = [], []
    for source in find_sources(run.config.data, folder):
        began = time.perf_counter()
        data = change(run, 'data', scan_cell=cells.get(source.name, 0.0)).config.data
        seen, scan = read_inputs(data, source, run.config.seed)
        with tempfile.TemporaryDirectory() as windows:
            mesh = reconstruct(run, seen['scene'], windows)
            count = len(list(Path(windows).glob('window_*')))
        cloud, mesh.vertices = scan.to_user(seen['scene']), scan.to_user(mesh.vertices)
        seconds, longest = time.perf_counter() - began, np.ptp(cloud, axis=0).max()
        frame = normalise(np.quantile(cloud, (0.02, 0.98), axis=0))  # a few far points would make the picture small
        mesh.vertices = frame.to_object(mesh.vertices)
        shown = np.random.default_rng(0).permutation(frame.to_object(cloud))
        cell = scan.scale * run.config.model.unit_size
        items.append(Item(source.name, f'{len(cloud):,} points', (picture(shown), picture(mesh))))
        rows.append([source.name, f'{len(cloud):,}', f'{longest:.1f}', f'{cell:.3f}', str(count), f'{seconds:.0f}'])
    return items, rows


def write_sheet(items: list[Item], titles: tuple[str, ...], path: Path) -> None:
    """A contact sheet in few colours: a small file."""
    contact_sheet(items, titles, path, size=SIZE)
    write_atomically(path, encode_png(np.asarray(Image.open(path).convert('RGB'))))


def show(run: Run, output: Path) -> None:
    """Pictures OUTPUT/rooms_held_out.png and OUTPUT/rooms_scans.png; prints the tables beside them."""
    items, rows = show_rooms(run)
    write_sheet(items, ('input', 'reconstruction', 'ground truth'), output / 'rooms_held_out.png')
    print(to_markdown(['class', *(METRICS[m].title for m in SHOWN)], rows))
    if SCANS.value:
        items, rows = show_scans(run, SCANS.value, {k: float(v) for k, v in (c.split('=') for c in CELLS.value)})
        write_sheet(items, ('scan', 'reconstruction'), output / 'rooms_scans.png')
        print(to_markdown(['scan', 'points', 'longest edge', 'cell', 'windows', 'seconds'], rows))


def main(_):
    run, figures, rows = load_run(WORKDIR.value), {}, []
    for part in CHOSEN.value:
        if part == 'pictures':
            show(run, Path(OUTPUT.value))
        elif part == 'seams':
            figures[part] = measure_seams(run)
        elif part == 'decoder':
            figures |= {v: measure_decoder(v) for v in ('tiny', '', 'maps=grid', 'grid64')}
        else:
            for size in SIZES.value:
                num_rooms = 1 if part == 'same' else max(1, size // POINTS_OF_ROOM)
                figures[f'{part}, {size:,} points'] = measure_command(run, room_cloud(size, num_rooms), WORKDIR.value)
    rows = [(name, ', '.join(f'{k} {v:.4g}' for k, v in values.items())) for name, values in figures.items()]
    if rows:
        report('scenes', {'workdir': WORKDIR.value, 'step': run.step}, rows, figures)


if __name__ == '__main__':
    app.run(main)
