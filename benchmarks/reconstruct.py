"""Seconds to mesh one shape at 32 -> 128 with a full-size network, by part, beside a plain matrix product.

The weights are an .npz file with the arrays of an official checkpoint (`param/NAME`), a condition `in/c` and, beside it, the
mesh of the official implementation: by default those of ../shared/golden. The official code takes 2.5 to 3.4 s on two
cores.
"""

import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from scipy.spatial import cKDTree

from benchmarks import report, time_alternately
from benchmarks.golden import SHARED
from configs import onet_points
from onet_jax.convert.official import layouts_of, read_weights, variable_shapes
from onet_jax.geometry.extract import marching_cubes, threshold_to_logit
from onet_jax.geometry.mise import multiresolution_grid
from onet_jax.models import onet

GOLDEN = SHARED / 'golden'
WEIGHTS = flags.DEFINE_string('weights', str(GOLDEN / 'trained' / 'chair_h256_c128.npz'), 'Trained decoder.')
EXPECTED = flags.DEFINE_string('expected', str(GOLDEN / 'mesh/generate_chair_h256_r32_u2.npz'), 'Its official mesh.')
REPEATS = flags.DEFINE_integer('repeats', 7, 'Meshes to take the median of.')
RESOLUTION, UPSAMPLING_STEPS, THRESHOLD = 32, 2, 0.2


def main(_):
    for path in (WEIGHTS.value, EXPECTED.value):
        if not Path(path).exists():
            raise app.UsageError(f'{path} not found: give --weights and --expected')
    with np.load(WEIGHTS.value, allow_pickle=False) as data:
        state = {f'decoder.{k[6:]}': data[k] for k in data.files if k.startswith('param/')}
        cond = jax.numpy.asarray(data['in/c'])
    config = onet_points.get_config()
    with config.unlocked():
        config.model.update(cond_size=cond.shape[1], decoder_hidden_size=state['decoder.fc_p.bias'].size)
    model = onet.occupancy_network(config.model)
    shapes = {
        c: {'decoder': tree['decoder']} for c, tree in variable_shapes(config).items()
    }  # the encoder is not at hand
    params = jax.device_put(read_weights(state, shapes, layouts_of(config, legacy=False)))

    network = []

    def field(points):
        start = time.perf_counter()
        logits = np.asarray(model.occupancy(params, points[None], cond)[0])
        network.append(time.perf_counter() - start)
        return logits

    def mesh_once():
        network.clear()
        start = time.perf_counter()
        grid = multiresolution_grid(
            field, resolution=RESOLUTION, upsampling_steps=UPSAMPLING_STEPS, level=threshold_to_logit(THRESHOLD)
        )
        meshed = time.perf_counter()
        mesh = marching_cubes(grid.values, threshold_to_logit(THRESHOLD))
        stop = time.perf_counter()
        return mesh, grid, np.array([stop - start, sum(network), meshed - start - sum(network), stop - meshed])

    first = mesh_once()[2][0]
    runs = [mesh_once() for _ in range(REPEATS.value)]
    mesh, grid, _ = runs[0]
    total, net, bookkeeping, cubes = np.median([seconds for _, _, seconds in runs], axis=0)
    hidden = config.model.decoder_hidden_size
    left, right = np.ones((4096, hidden), np.float32), np.ones((hidden, hidden), np.float32)
    product = jax.jit(lambda a, b: a @ b)
    matmul = (
        np.median(time_alternately({'product': lambda: [product(left, right) for _ in range(20)]}, 9)['product']) / 20
    )
    ideal = sum(grid.queried_per_round) / 4096 * 10 * matmul

    with np.load(EXPECTED.value, allow_pickle=False) as expected:
        vertices, num_evaluated = expected['out/vertices'], int(expected['out/n_evaluated'])
    deviation = max(cKDTree(vertices).query(mesh.vertices)[0].max(), cKDTree(mesh.vertices).query(vertices)[0].max())
    figures = {
        'seconds_per_mesh': total,
        'seconds_network': net,
        'seconds_mise': bookkeeping,
        'seconds_marching_cubes': cubes,
        'seconds_first_mesh': first,
        'ratio_to_matmul_time': total / ideal,
        'num_evaluated': sum(grid.queried_per_round),
        'num_evaluated_official': num_evaluated,
        'num_vertices': len(mesh.vertices),
        'num_vertices_official': len(vertices),
        'largest_vertex_distance': deviation,
    }
    figures = {k: int(v) if isinstance(v, int) else float(v) for k, v in figures.items()}
    report(
        'one mesh, 32 -> 128',
        {'hidden': hidden, 'cond': cond.shape[1], 'threshold': THRESHOLD, 'repeats': REPEATS.value},
        [
            ('seconds a mesh (median)', f'{total:.3f}'),
            ('  network', f'{net:.3f}'),
            ('  MISE bookkeeping', f'{bookkeeping:.3f}'),
            ('  marching cubes', f'{cubes:.3f}'),
            ('first mesh, with compilation', f'{first:.3f}'),
            ('ratio to the bare matrix products', f'{total / ideal:.2f}'),
            ('points evaluated / official', f'{figures["num_evaluated"]} / {num_evaluated}'),
            ('vertices / official', f'{len(mesh.vertices)} / {len(vertices)}'),
            ('largest distance to the official mesh', f'{deviation:.2e} of the longest edge'),
        ],
        figures,
    )


if __name__ == '__main__':
    app.run(main)
