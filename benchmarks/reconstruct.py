"""Seconds to mesh one shape with a full-size network, by part, and to refine the mesh, beside plain matrix products.

The weights are an .npz file with the arrays of an official checkpoint (`param/NAME`) and a condition `in/c`: by default those
of a chair in $ONET_JAX_SHARED/golden, or in shared/golden beside the checkout. With them the official code takes 2.5 to 3.4 s
for 32 -> 128 and refines 2.6 steps a second on two cores. `--guaranteed` adds the extraction that equals the dense grid, beside
the dense grid (minutes on a CPU); `--batch=64` adds that many shapes at once, end to end on the device, for accelerators.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from scipy.spatial import cKDTree

from benchmarks import report, time_alternately
from onet_jax import metrics
from onet_jax.convert.names import FAMILIES
from onet_jax.convert.official import read_weights
from onet_jax.geometry.batched_extraction import extract_meshes
from onet_jax.geometry.extract import extract_mesh, marching_cubes, threshold_to_logit
from onet_jax.geometry.field import evaluate
from onet_jax.geometry.guaranteed import guaranteed_grid
from onet_jax.geometry.mise import dense_grid
from onet_jax.geometry.predicted_signs import predicted_grid
from onet_jax.geometry.refine import refine_mesh
from onet_jax.geometry.sampling import sample_surface
from onet_jax.geometry.simplify import simplify_mesh
from onet_jax.models import onet

GOLDEN = Path(os.environ.get('ONET_JAX_SHARED', Path(__file__).resolve().parents[2] / 'shared')) / 'golden'
WEIGHTS = flags.DEFINE_string('weights', str(GOLDEN / 'trained' / 'chair_h256_c128.npz'), 'Trained decoder.')
EXPECTED = flags.DEFINE_string('expected', str(GOLDEN / 'mesh/generate_chair_h256_r32_u2.npz'), 'Its official mesh.')
REPEATS = flags.DEFINE_integer('repeats', 7, 'Meshes to take the median of.')
GUARANTEED = flags.DEFINE_bool('guaranteed', False, 'Also measure guaranteed extraction.')
BATCH = flags.DEFINE_integer('batch', 0, 'Also mesh this many shapes at once, on the device.', lower_bound=0)
THRESHOLD, NUM_FACES, STEPS, NUM_SAMPLES = 0.2, 5000, 30, 100_000
GENTLE = 1e-5  # learning rate, for meshes that are close to the surface
LEVEL = threshold_to_logit(THRESHOLD)


def load_field(path: str, dtype=jnp.float32):
    """The bound decoder of a file of weights, with matrix products of a precision."""
    with np.load(path, allow_pickle=False) as data:
        state = {f'decoder.{k[6:]}': data[k] for k in data.files if k.startswith('param/')}
        cond = jax.numpy.asarray(data['in/c'])
    model = onet.make_model(cond_size=cond.shape[1], decoder_hidden_size=state['decoder.fc_p.bias'].size)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 2, 3)))
    # The encoder is not at hand.
    shapes = {name: {'decoder': tree['decoder']} for name, tree in shapes.items()}
    params = jax.device_put(read_weights(state, shapes, {'decoder': FAMILIES['onet'].decoders['cbatchnorm']}))
    return model.bind(params, cond, None, dtype)


def time_mesh(field: Callable, upsampling_steps: int):
    """The mesh, its grid, and seconds: total, network, MISE bookkeeping, marching cubes, of all cores together."""
    network = []

    def timed(points):
        start = time.perf_counter()
        logits = np.asarray(field(points))
        network.append(time.perf_counter() - start)
        return logits

    start, start_cpu = time.perf_counter(), time.process_time()
    grid = predicted_grid(timed, resolution=32, upsampling_steps=upsampling_steps, level=LEVEL)
    meshed = time.perf_counter()
    mesh = marching_cubes(grid.values, LEVEL)
    stop = time.perf_counter()
    seconds = stop - start, sum(network), meshed - start - sum(network), stop - meshed, time.process_time() - start_cpu
    return mesh, grid, np.array(seconds)


def time_matmul(hidden: int) -> float:
    """Seconds of a product [4096, H] x [H, H]."""
    left, right = np.ones((4096, hidden), np.float32), np.ones((hidden, hidden), np.float32)
    product = jax.jit(lambda a, b: a @ b)
    seconds = time_alternately({'product': lambda: [product(left, right) for _ in range(20)]}, 9)['product']
    return float(np.median(seconds)) / 20


def measure_mesh(field, upsampling_steps: int, repeats: int) -> tuple[dict, list]:
    first = time_mesh(field, upsampling_steps)[2][0]
    runs = [time_mesh(field, upsampling_steps) for _ in range(repeats)]
    mesh, grid, _ = runs[0]
    total, net, bookkeeping, cubes, cpu = np.median([seconds for _, _, seconds in runs], axis=0)
    num_evaluated = sum(grid.queried_per_round)
    ideal = num_evaluated / 4096 * 10 * time_matmul(len(field.scale))
    name = f'32 -> {32 << upsampling_steps}'
    figures = {
        'seconds_per_mesh': total,
        'cpu_seconds': cpu,
        'seconds_network': net,
        'seconds_mise': bookkeeping,
        'seconds_marching_cubes': cubes,
        'seconds_first_mesh': first,
        'share_of_matmul': ideal / total,
        'network_share_of_matmul': ideal / net,
        'num_evaluated': num_evaluated,
        'num_vertices': len(mesh.vertices),
    }
    rows = [
        (f'{name}: seconds a mesh (median)', f'{total:.3f} ({cpu:.2f} CPU seconds)'),
        ('  network', f'{net:.3f}'),
        ('  MISE bookkeeping', f'{bookkeeping:.3f}'),
        ('  marching cubes', f'{cubes:.3f}'),
        ('  first time', f'{first:.3f}'),
        ('  share of the bare matrix products', f'{ideal / total:.2f} ({ideal / net:.2f} in the network)'),
        ('  points evaluated, vertices', f'{num_evaluated}, {len(mesh.vertices)}'),
    ]
    return figures, rows


def measure_seeds(field) -> tuple[dict, list]:
    """What 300 points of the surface cost as seeds."""
    mesh, grid, _ = time_mesh(field, 2)
    seeds, _ = sample_surface(mesh, 300, 0)
    seeded = predicted_grid(field, resolution=32, upsampling_steps=2, level=LEVEL, seeds=seeds)
    more = sum(seeded.queried_per_round) / sum(grid.queried_per_round) - 1
    return {'more_evaluations_with_seeds': more}, [('300 seeds: more evaluations', f'{more:.2%}')]


def measure_refinement(field) -> tuple[dict, list]:
    """Steps a second, and distances to the surface of the grid of 512 cells before and after, and of its own second sample."""
    fine = extract_mesh(field, resolution=32, upsampling_steps=4, threshold=THRESHOLD)
    coarse = simplify_mesh(time_mesh(field, 2)[0], NUM_FACES)
    key = jax.random.key(0)
    refined = refine_mesh(coarse, field, key, steps=STEPS, threshold=THRESHOLD)
    start = time.perf_counter()
    refine_mesh(coarse, field, key, steps=STEPS, threshold=THRESHOLD)
    speed = STEPS / (time.perf_counter() - start)
    target = sample_surface(fine, NUM_SAMPLES, 0)
    figures, rows = (
        {'refine_steps_per_second': speed},
        [(f'refinement, {len(coarse.faces)} faces: steps/s', f'{speed:.2f}')],
    )
    gently = refine_mesh(coarse, field, key, steps=STEPS, threshold=THRESHOLD, learning_rate=GENTLE)
    for name, mesh in (
        ('of_the_target_itself', fine),
        ('before', coarse),
        ('after', refined),
        ('after_gently', gently),
    ):
        scores = metrics.surface_metrics(*sample_surface(mesh, NUM_SAMPLES, 1), *target)
        chamfer, normals = scores['chamfer_l1'], scores['normal_consistency']
        figures |= {f'chamfer_l1_{name}': chamfer, f'normal_consistency_{name}': normals}
        name = name.replace('_', ' ')
        rows.append((f'  {name}: Chamfer-L1 (x10), normal consistency', f'{10 * chamfer:.5f}, {normals:.4f}'))
    return figures, rows


def measure_bfloat16(field) -> tuple[dict, list]:
    """What products of bfloat16 change: the logits of points in the cube, and the surface."""
    rough = load_field(WEIGHTS.value, jnp.bfloat16)
    points = np.random.default_rng(0).uniform(-0.55, 0.55, (20_480, 3)).astype(np.float32)
    error = np.abs(evaluate(rough, points) - evaluate(field, points))
    samples = [
        sample_surface(extract_mesh(f, resolution=32, upsampling_steps=2, threshold=THRESHOLD), NUM_SAMPLES, i)
        for i, f in enumerate((rough, field, field))
    ]
    chamfer, floor = (metrics.surface_metrics(*samples[i], *samples[2])['chamfer_l1'] for i in (0, 1))
    figures = {'bfloat16_logit_error_mean': error.mean(), 'bfloat16_logit_error_max': error.max()}
    figures |= {'bfloat16_chamfer_l1': chamfer, 'float32_chamfer_l1': floor}
    rows = [
        ('bfloat16: error of logits, mean and largest', f'{error.mean():.4f}, {error.max():.3f}'),
        ('  Chamfer-L1 (x10) to the float32 mesh, its floor', f'{10 * chamfer:.5f}, {10 * floor:.5f}'),
    ]
    return figures, rows


def measure_guaranteed(field) -> tuple[dict, list]:
    """The extraction that equals the dense grid, and that grid, in alternation; for 257^3 points that grid is scaled."""
    extract = partial(guaranteed_grid, field, resolution=32, level=LEVEL)
    works = {cells: partial(extract, upsampling_steps=steps) for cells, steps in (('128', 2), ('256', 3))}
    works |= {'dense': partial(dense_grid, field, num_points=129)}
    found, expected = (marching_cubes(values, LEVEL) for values in (works['128']().values, works['dense']()))
    if not (np.array_equal(found.faces, expected.faces) and np.array_equal(found.vertices, expected.vertices)):
        raise AssertionError('guaranteed extraction and the dense grid differ')
    seconds = {name: float(np.median(runs)) for name, runs in time_alternately(works, 3).items()}
    figures, rows = {'seconds_dense_128': seconds['dense']}, []
    for cells in ('128', '256'):
        of_dense = seconds['dense'] * ((int(cells) + 1) / 129) ** 3
        share = seconds[cells] / of_dense
        figures |= {f'seconds_guaranteed_{cells}': seconds[cells], f'guaranteed_share_of_dense_{cells}': share}
        scaled = '' if cells == '128' else ' scaled'
        name = f'{cells}: dense grid{scaled}, guaranteed extraction (s)'
        rows.append((name, f'{of_dense:.1f}, {seconds[cells]:.1f} (share {share:.2f})'))
    return figures, rows


def measure_batch(field, num_shapes: int) -> tuple[dict, list]:
    """Meshes a second at 32 -> 128, from the bound fields to arrays on the host."""
    fields = jax.tree.map(lambda array: jnp.stack([array] * num_shapes), field)

    def mesh_all():
        start = time.perf_counter()
        meshes = extract_meshes(fields, num_shapes, resolution=32, upsampling_steps=2, threshold=THRESHOLD)
        return time.perf_counter() - start, meshes

    first, meshes = mesh_all()
    speed = num_shapes / np.median([mesh_all()[0] for _ in range(3)])
    memory = (jax.local_devices()[0].memory_stats() or {}).get('peak_bytes_in_use', 0) / 1e9
    figures = {
        'batch': num_shapes,
        'batch_meshes_per_second': speed,
        'batch_peak_gb': memory,
        'batch_seconds_first': first,
    }
    rows = [
        (f'{num_shapes} shapes on the device: meshes/s', f'{speed:.2f} (first time {first:.1f} s)'),
        ('  peak memory of the device (GB), vertices', f'{memory:.2f}, {len(meshes[0].vertices)}'),
    ]
    return figures, rows


def main(_):
    for path in (WEIGHTS.value, EXPECTED.value):
        if not Path(path).exists():
            raise app.UsageError(f'{path} not found: give --weights and --expected')
    field = load_field(WEIGHTS.value)
    figures, rows = measure_mesh(field, 2, REPEATS.value)
    with np.load(EXPECTED.value, allow_pickle=False) as expected:
        vertices, num_evaluated = expected['out/vertices'], int(expected['out/n_evaluated'])
    mesh = time_mesh(field, 2)[0]
    deviation = max(cKDTree(vertices).query(mesh.vertices)[0].max(), cKDTree(mesh.vertices).query(vertices)[0].max())
    figures |= {'num_evaluated_official': num_evaluated, 'num_vertices_official': len(vertices)}
    figures |= {'largest_vertex_distance': deviation}
    rows += [
        ('  official: points evaluated, vertices', f'{num_evaluated}, {len(vertices)}'),
        ('  largest distance to the official mesh', f'{deviation:.2e} of the longest edge'),
    ]
    figures_256, rows_256 = measure_mesh(field, 3, 3)
    parts = [({f'{name}_256': value for name, value in figures_256.items()}, rows_256)]
    parts += [measure_seeds(field), measure_refinement(field), measure_bfloat16(field)]
    parts += [measure_guaranteed(field)] if GUARANTEED.value else []
    parts += [measure_batch(field, BATCH.value)] if BATCH.value else []
    for more, more_rows in parts:
        figures, rows = figures | more, rows + more_rows
    report(
        'meshes of one shape',
        {'hidden': len(field.scale), 'threshold': THRESHOLD, 'repeats': REPEATS.value},
        rows,
        {k: int(v) if isinstance(v, int) else float(v) for k, v in figures.items()},
    )


if __name__ == '__main__':
    app.run(main)
