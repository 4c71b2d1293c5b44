"""Scenes of any size with a network of windows: held-out rooms and scans, seams, memory and time by the number of points.

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
from configs import conv_onet
from onet_jax import models
from onet_jax.data.records import read_index, read_shape, shape_path
from onet_jax.evaluation.evaluate import evaluate_mesh
from onet_jax.evaluation.tables import COLUMNS, to_markdown
from onet_jax.files import write_atomically
from onet_jax.geometry.extract import extract_mesh, threshold_to_logit
from onet_jax.geometry.meshes import CLOUD_FORMATS, load_cloud, normalise
from onet_jax.inference import scenes
from onet_jax.metrics import sampling_floor
from onet_jax.prepare.rooms import make_room
from onet_jax.training.checkpoints import Run, load_run
from onet_jax.viz.pictures import Item, contact_sheet, encode_png, render_mesh, render_points

ROOT = Path(__file__).resolve().parents[1]
PARTS = ('pictures', 'seams', 'same', 'growing', 'decoder')
WORKDIR = flags.DEFINE_string('workdir', None, 'Of configs/conv_onet.py:crops or tiny,crops.', required=True)
CHOSEN = flags.DEFINE_multi_enum('part', ['seams', 'same'], PARTS, 'What to measure.')
SCANS = flags.DEFINE_string('scans', None, 'Folder of clouds to show, y up.')
CELLS = flags.DEFINE_multi_string('cell', [], 'NAME=LENGTH of the cells of a scan, in its unit.')
OUTPUT = flags.DEFINE_string('output', 'docs/results', 'Folder of the pictures.')
SIZES = flags.DEFINE_multi_integer('size', [10_000, 100_000, 1_000_000], 'Points of the clouds.')
METRICS = ('iou', 'chamfer_l1', 'normal_consistency', 'f_score')
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


def measure_command(run: Run, cloud: np.ndarray, workdir: str) -> dict[str, float]:
    """Seconds, peak memory and windows of `launch.reconstruct` with a cloud."""
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
        layout = scenes.layout_of(run.config)
        boxes = scenes.find_boxes((cloud - cloud.min(axis=0)) / run.config.model.unit_size + 1.5 * layout.step, layout)
        return {
            'points': len(cloud),
            'windows': len(boxes),
            'seconds': time.perf_counter() - began,
            'peak GB': usage.ru_maxrss / 1e6,
            'faces': len(mesh.faces),
        }


def measure_seams(run: Run) -> dict[str, float]:
    """How far windows disagree where their boxes meet, near the level: logits, and the surface in cells.

    And what is left of it once they are blended: angles between neighbouring faces, in degrees, in the bands, and in bands
    as wide that are moved by quarters of a box, where nothing is blended.
    """
    level, layout = threshold_to_logit(run.config.eval.threshold), scenes.layout_of(run.config)
    n, band = layout.step * scenes.SAMPLES, layout.band * scenes.SAMPLES
    jumps, moves, bends = [], [], {moved: [] for moved in (0, 0.25, 0.5, 0.75)}
    cell = run.config.model.unit_size
    with tempfile.TemporaryDirectory() as folder:
        for i in range(4):
            place = Path(folder) / str(i)
            cloud = room_cloud(4 * POINTS_OF_ROOM, 4) if i == 0 else room_cloud(POINTS_OF_ROOM * (i + 1), i + 1)
            mesh = scenes.reconstruct_scene(run.params, run.config, cloud, place, cell)
            middles = mesh.vertices[mesh.face_adjacency_edges].mean(axis=1)
            steps = (middles - scenes.find_origin(cloud, layout, cell)) / (layout.step * cell)
            for moved, angles in bends.items():
                # Within a band of the nearest border, along some axis.
                distance = np.abs(steps + moved - np.round(steps + moved)).min(axis=1) * layout.step
                angles.append(np.degrees(mesh.face_adjacency_angles[distance < layout.band]))
            found = {tuple(map(int, p.stem.split('_')[1:])): p for p in place.glob('window_*')}
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
                    moves.append((np.abs(here - there) / np.maximum(slope, 1e-6))[near] / scenes.SAMPLES)
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
    """Seconds of a room at resolution 256 with a network of whole rooms, as `launch.reconstruct` makes it.

    The weights are random, so that the network is asked at the points of a true room and its answers are not used.
    """
    config = conv_onet.get_config(variant)
    model = models.occupancy_network(config.model)
    params = model.init(jax.random.key(0), models.example_batch(config.model))
    room, cloud = make_room(1, 'rooms_05', 0), room_cloud(config.data.num_input_points, 1).astype(np.float32)[None]
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
    index, items, rows, floors = read_index(run.data_dir), [], [], []
    some = {category: (category, name) for category, name in index.splits['test']}
    for category, name in some.values():
        shape = read_shape(shape_path(run.data_dir, category, name), index)
        rng = np.random.default_rng(0)
        cloud = shape.surface[:POINTS_OF_ROOM].astype(np.float64)
        cloud = cloud + rng.normal(scale=NOISE, size=cloud.shape)
        with tempfile.TemporaryDirectory() as folder:
            mesh = scenes.reconstruct_scene(run.params, run.config, cloud, folder, run.config.model.unit_size)
        points, surface, normals = (getattr(shape, k).astype(np.float32) for k in ('points', 'surface', 'normals'))
        scores = evaluate_mesh(mesh, points, shape.occ, surface, normals, seed=0)
        floors.append({'iou': 1.0, **sampling_floor(surface, normals)})
        room = make_room(index.source['seed'], category, int(name)).mesh()
        items.append(Item(f'{category} {name}', f'IoU {scores["iou"]:.2f}', tuple(map(picture, (cloud, mesh, room)))))
        rows.append([category, scores])
    mean = {m: np.mean([scores[m] for _, scores in rows]) for m in METRICS}
    rows += [['mean', mean], ['floor', {m: np.mean([floor[m] for floor in floors]) for m in METRICS}]]
    return items, [[title, *(f'{scores[m] * COLUMNS[m][1]:.3f}' for m in METRICS)] for title, scores in rows]


def show_scans(run: Run, folder: str, cells: dict[str, float]) -> tuple[list[Item], list[list[str]]]:
    """The clouds of a folder: pictures, and rows of a table."""
    items, rows = [], []
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix[1:] in CLOUD_FORMATS):
        cloud = load_cloud(path)
        cell = cells.get(path.stem) or scenes.choose_cell(cloud, run.config)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as windows:
            mesh = scenes.reconstruct_scene(run.params, run.config, cloud, windows, cell)
            count = len(list(Path(windows).glob('window_*')))
        seconds, longest = time.perf_counter() - began, np.ptp(cloud, axis=0).max()
        frame = normalise(np.quantile(cloud, (0.02, 0.98), axis=0))  # a few far points would make the picture small
        mesh.vertices = frame.to_object(mesh.vertices)
        shown = np.random.default_rng(0).permutation(frame.to_object(cloud))
        items.append(Item(path.stem, f'{len(cloud):,} points', (picture(shown), picture(mesh))))
        rows.append([path.stem, f'{len(cloud):,}', f'{longest:.1f}', f'{cell:.3f}', str(count), f'{seconds:.0f}'])
    return items, rows


def write_sheet(items: list[Item], titles: tuple[str, ...], path: Path) -> None:
    """A contact sheet in few colours: a small file."""
    contact_sheet(items, titles, path, size=SIZE)
    write_atomically(path, encode_png(np.asarray(Image.open(path).convert('RGB'))))


def show(run: Run, output: Path) -> None:
    """Pictures OUTPUT/rooms_held_out.png and OUTPUT/rooms_scans.png; prints the tables beside them."""
    items, rows = show_rooms(run)
    write_sheet(items, ('input', 'reconstruction', 'ground truth'), output / 'rooms_held_out.png')
    print(to_markdown(['class', *(COLUMNS[m][0] for m in METRICS)], rows))
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
            figures |= {v: measure_decoder(v) for v in ('tiny,rooms', 'rooms', 'rooms,maps=grid', 'rooms,grid64')}
        else:
            for size in SIZES.value:
                num_rooms = 1 if part == 'same' else max(1, size // POINTS_OF_ROOM)
                figures[f'{part}, {size:,} points'] = measure_command(run, room_cloud(size, num_rooms), WORKDIR.value)
    rows = [(name, ', '.join(f'{k} {v:.4g}' for k, v in values.items())) for name, values in figures.items()]
    if rows:
        report('scenes', {'workdir': WORKDIR.value, 'step': run.step}, rows, figures)


if __name__ == '__main__':
    app.run(main)
