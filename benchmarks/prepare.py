"""Seconds and memory that a mesh takes on its way into a dataset, in one process: with and without pictures.

python -m benchmarks.prepare --meshes=DIR [--num_meshes=60]
"""

import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks import report
from onet_jax.errors import InputError
from onet_jax.prepare.own_meshes import find_meshes, prepare_mesh

MESHES = flags.DEFINE_string('meshes', None, 'Folder tree of mesh files.', required=True)
NUM_MESHES = flags.DEFINE_integer('num_meshes', 60, 'How many of them, drawn with seed 0.', lower_bound=1)
NUM_POINTS, NUM_VIEWS = 100_000, 24


def main(_):
    files = find_meshes(Path(MESHES.value))
    keys = list(files)
    chosen = np.random.default_rng(0).permutation(len(keys))[: NUM_MESHES.value]
    seconds, rejected = {0: [], NUM_VIEWS: []}, 0
    for key in (keys[i] for i in chosen):
        with tempfile.TemporaryDirectory() as folder:
            for num_views, measured in seconds.items():
                sizes = {'data_dir': Path(folder) / str(num_views), 'num_points': NUM_POINTS, 'num_views': num_views}
                start = time.perf_counter()
                try:
                    prepare_mesh(*key, str(files[key]), 'uniform', seed=0, up='y', **sizes)
                except InputError:
                    rejected += num_views == 0
                else:
                    measured.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    figures = {'accepted': len(seconds[0]), 'rejected': rejected, 'peak_gigabytes': peak}
    rows = [('accepted / rejected', f'{len(seconds[0])} / {rejected}')]
    for num_views, values in seconds.items():
        median, most = (float(np.quantile(values, q)) for q in (0.5, 0.9))
        figures |= {f'median_seconds_{num_views}_views': median, f'quantile_90_seconds_{num_views}_views': most}
        rows.append((f'seconds a mesh, {num_views} views', f'{median:.2f} median, {most:.2f} for 90 % of them'))
    rows.append(('peak memory', f'{peak:.2f} GB'))
    figures['ratio_views_to_none'] = figures[f'median_seconds_{NUM_VIEWS}_views'] / figures['median_seconds_0_views']
    report('meshes to shapes, one process', {'points': NUM_POINTS, 'meshes': len(chosen)}, rows, figures)


if __name__ == '__main__':
    app.run(main)
