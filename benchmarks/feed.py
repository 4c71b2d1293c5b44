"""Batches a second of the feeds alone, for points, without a network; the files lie in the page cache.

python -m benchmarks.feed [--batch_size=64] [--views]
"""

import importlib.util
import tempfile
import time
from itertools import islice

import jax
import numpy as np
from absl import app, flags

from benchmarks import report
from onet_jax.configs import onet_image, onet_points
from onet_jax.data.fields import find_need
from onet_jax.data.resident import resident_feed
from onet_jax.data.streamed import tfds_feed
from onet_jax.prepare.embedded import prepare_procedural
from onet_jax.prepare.runners import in_this_process

BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Records in a batch.', lower_bound=1)
NUM_BATCHES = flags.DEFINE_integer('num_batches', 300, 'Batches of one measurement.', lower_bound=1)
VIEWS = flags.DEFINE_bool('views', False, 'What the image network reads: records with a view.')
REPEATS = 5


def measure(feed) -> np.ndarray:
    """Batches a second, a few times; the first batches, which fill the pipeline, are not counted."""
    speeds = []
    for _ in range(REPEATS):
        batches = feed(0)
        jax.block_until_ready(list(islice(batches, 10)))
        start = time.perf_counter()
        for raw in islice(batches, NUM_BATCHES.value):
            jax.block_until_ready(raw)
        speeds.append(NUM_BATCHES.value / (time.perf_counter() - start))
        batches.close()  # or its threads outlive the interpreter
    return np.asarray(speeds)


def main(_):
    feeds = {'resident': resident_feed}
    if importlib.util.find_spec('tensorflow') is not None:
        feeds['tfds'] = tfds_feed
    need = find_need((onet_image if VIEWS.value else onet_points)().data)
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as data_dir:
        prepare_procedural(
            data_dir,
            families=('chair', 'mug', 'table'),
            num_shapes_per_family=12,
            num_points=32_768,
            num_views=4 if VIEWS.value else 0,
            seed=0,
            val_fraction=0.1,
            test_fraction=0.1,
            run=in_this_process,
        )
        for name, make in feeds.items():
            speeds = measure(make(data_dir, need, batch_size=BATCH_SIZE.value, seed=0))
            figures[f'{name}_batches_per_second'] = float(np.median(speeds))
            rows.append((f'{name}: batches a second', f'{np.median(speeds):.0f} (at most {speeds.max():.0f})'))
    report(
        'feeds alone', {'batch': BATCH_SIZE.value, 'views': VIEWS.value, 'batches': NUM_BATCHES.value}, rows, figures
    )


if __name__ == '__main__':
    app.run(main)
