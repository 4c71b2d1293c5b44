"""Weights that travel on shapes that they were never trained on, beside screened Poisson reconstruction.

    python -m benchmarks.ready_made --meshes=DIR
    python -m benchmarks.ready_made --scans=DIR --output=docs/results

Clouds of several densities and noises are drawn from the closed meshes of a folder and reconstructed, by the weights and, where
pymeshlab is installed, by screened Poisson reconstruction (Kazhdan and Hoppe, 2013) with estimated normals. Scores are the mean
over the meshes, with 100,000 labelled points and surface samples of each; `floor` is the ground truth against itself.

Of scans, which have no ground truth, the table has the distances of the points to the meshes and the share of the surface that
no point supports; OUTPUT/scans.png shows a scan in a row.
Poisson reconstruction has one thread: its default of 16 wait for each other on few cores, 25 times as long.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import trimesh
from absl import app, flags

from benchmarks import report
from onet_jax import ready_made
from onet_jax.data.fields import find_clouds
from onet_jax.data.scans import load_bulk
from onet_jax.data.sources import find_files
from onet_jax.geometry.grid import BOX
from onet_jax.geometry.meshes import MESH_INPUTS, UPS, load_mesh, normalise
from onet_jax.geometry.quality import measure_support, thin
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.solid import make_solid
from onet_jax.geometry.upright import find_up
from onet_jax.inference.gallery import paint
from onet_jax.scores import Target, floor, score
from onet_jax.viz.pictures import Item, contact_sheet

MESHES = flags.DEFINE_string('meshes', None, 'Folder of closed meshes.')
SCANS = flags.DEFINE_string('scans', None, 'Folder of point clouds, or one.')
OUTPUT = flags.DEFINE_string('output', 'docs/results', 'Folder of the picture of scans.')
WEIGHTS = flags.DEFINE_list('weights', ['objects'], 'Names of weights, or workdirs.')
NUM_POINTS = flags.DEFINE_list('num_points', ['300', '3000', '10000'], 'Points of the clouds.')
NOISE = flags.DEFINE_list('noise', ['0.005'], 'Standard deviations of their noise, in units of the longest edge.')
MOST = flags.DEFINE_integer('most', 20, 'Meshes, evenly spaced over the sorted ones.', lower_bound=1)
NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 100_000, 'Labelled points and surface samples of a mesh.', lower_bound=1
)
SHOWN = ('iou', 'chamfer_l1', 'normal_consistency', 'f_score')
DEPTH, DEPTH_OF_SCANS, NEAREST = 7, 9, 16  # of screened Poisson: levels of the octree, neighbours of estimated normals


def make_target(mesh: trimesh.Trimesh, num: int) -> Target:
    """The ground truth of a mesh in object coordinates."""
    points = np.random.default_rng(0).uniform(-BOX / 2, BOX / 2, (num, 3)).astype(np.float32)
    surface, normals = sample_surface(mesh, num, 0)
    occ = make_solid(mesh).contains(points.astype(np.float64))
    return Target(points, occ, surface.astype(np.float32), normals.astype(np.float32))


def screened_poisson(cloud: np.ndarray, depth: int = DEPTH) -> trimesh.Trimesh:
    """Screened Poisson reconstruction of a cloud [P, 3], with normals that are estimated and oriented."""
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(vertex_matrix=cloud))
    meshes.compute_normal_for_point_clouds(k=NEAREST, smoothiter=2)
    meshes.generate_surface_reconstruction_screened_poisson(depth=depth, threads=1)
    mesh = meshes.current_mesh()
    result = trimesh.Trimesh(mesh.vertex_matrix(), mesh.face_matrix(), process=False)
    return result if result.volume > 0 else trimesh.Trimesh(result.vertices, result.faces[:, ::-1], process=False)


def methods(weights: Sequence[str], depth: int = DEPTH) -> dict[str, Callable]:
    found: dict[str, Callable] = {}
    for name in weights:
        found[name] = lambda cloud, name=name: ready_made.reconstruct(cloud, name)
    return found | ({'screened Poisson': partial(screened_poisson, depth=depth)} if find_spec('pymeshlab') else {})


def measure_closed_meshes(folder: str) -> None:
    sources = find_files(folder, MESH_INPUTS)
    chosen = [sources[i] for i in np.unique(np.linspace(0, len(sources) - 1, MOST.value).astype(int))]
    rows, figures = [], {}
    scores: dict[tuple, list] = {}
    for source in chosen:
        mesh = load_mesh(source.path)
        if not mesh.is_watertight:
            print(f'{source.path}: not closed, left out')
            continue
        mesh.vertices = normalise(mesh.vertices).to_object(mesh.vertices)
        target = make_target(mesh, NUM_SAMPLES.value)
        scores.setdefault(('floor', '', ''), []).append((floor(target), 0.0))
        for num_points in map(int, NUM_POINTS.value):
            for noise in map(float, NOISE.value):
                rng = np.random.default_rng([num_points, round(1e6 * noise)])
                cloud, _ = sample_surface(mesh, num_points, 1)
                cloud = cloud + noise * rng.normal(size=cloud.shape)
                for name, method in methods(WEIGHTS.value).items():
                    start = time.perf_counter()
                    made = method(cloud)
                    seconds = time.perf_counter() - start
                    scores.setdefault((name, num_points, noise), []).append((score(made, target), seconds))
    for (name, num_points, noise), found in scores.items():
        means = {key: float(np.mean([each[key] for each, _ in found])) for key in SHOWN}
        means['seconds'] = float(np.median([seconds for _, seconds in found]))
        rows.append((f'{name} {num_points} {noise}'.strip(), '  '.join(f'{k} {v:.4f}' for k, v in means.items())))
        figures[f'{name}/{num_points}/{noise}'] = means
    num_meshes = len(scores[('floor', '', '')])
    report('Shapes never trained on', {'meshes': num_meshes, 'samples': NUM_SAMPLES.value}, rows, figures)


def measure_scans(inputs: str) -> None:
    rows, figures, items = [], {}, []
    for source in find_clouds(inputs):
        cloud = load_bulk(source.path, keep_outliers=False)
        chosen = ready_made.choose_weights(cloud).name
        turn, made = UPS[find_up(cloud)].T, {}
        for name, method in {chosen: ready_made.reconstruct, **methods((), DEPTH_OF_SCANS)}.items():
            start = time.perf_counter()
            mesh = method(cloud)
            seconds = time.perf_counter() - start
            quality = measure_support(mesh, cloud)
            figures[f'{source.name}/{name}'] = {**quality._asdict(), 'seconds': seconds, 'faces': len(mesh.faces)}
            median, high = (f'{100 * d / quality.longest_edge:.3f}' for d in (quality.median, quality.high))
            row = (
                f'{source.name} ({len(cloud)} points) {name}',
                f'median {median} %, 95 % {high} % of the longest edge; unsupported {quality.unsupported:.1%}; '
                f'{len(mesh.faces)} faces; {seconds:.1f} s',
            )
            print(*row, flush=True)  # the next one may take minutes
            rows.append(row)
            frame = normalise(cloud)
            made[name] = trimesh.Trimesh(frame.to_object(mesh.vertices) @ turn, mesh.faces, process=False)
        ours, *others = made.values()
        seen = frame.to_object(cloud[thin(len(cloud))]) @ turn
        items.append(
            Item(source.name, f'weights {chosen}', (seen, paint(ours, seen), *(paint(o, seen) for o in others)))
        )
    columns = ('input', 'weights of the package', 'screened Poisson')[: len(items[0].shapes)]
    contact_sheet(items, columns, Path(OUTPUT.value) / 'scans.png')
    report('Scans', {'scans': len(items)}, rows, figures)


def main(_) -> None:
    if MESHES.value:
        measure_closed_meshes(MESHES.value)
    if SCANS.value:
        measure_scans(SCANS.value)
    if not (MESHES.value or SCANS.value):
        raise app.UsageError('expected --meshes or --scans')


if __name__ == '__main__':
    app.run(main)
