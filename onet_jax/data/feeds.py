"""Training input pipelines (feeds) by name, and the fallback to streaming for a dataset that does not fit into memory."""

import importlib.util
from pathlib import Path
from typing import Any

from onet_jax.data.records import Feed, Need
from onet_jax.data.resident import DoesNotFitError, resident_feed
from onet_jax.data.streamed import tfds_feed
from onet_jax.parallel import any_process, tell

FEEDS = {'tfds': tfds_feed, 'resident': resident_feed}


def open_feed(name: str, data_dir: str | Path, need: Need, **options: Any) -> Feed:
    """The feed of the train split that `config.data.feed` = name asks for.

    A split too large for the resident feed is streamed instead, with a message, where TensorFlow is installed; else
    DoesNotFitError, an InputError, is raised. The two feeds differ in the order of their batches: if the split is too large
    for one process, all processes stream it. Every process has to call this. options: `batch_size`, `seed`, `rows` and
    `bad_examples`, as of both feeds.
    """
    feed: Feed | None = None
    too_large: DoesNotFitError | None = None
    try:
        feed = FEEDS[name](data_dir, need, **options)
    except DoesNotFitError as error:
        too_large = error
    elsewhere = any_process(too_large is not None)
    if feed is not None and not elsewhere:
        return feed
    too_large = too_large or DoesNotFitError(f'{data_dir}: the split does not fit into the memory of another process')
    packages = ('tensorflow', 'tensorflow_datasets')
    if need.num_views or any(importlib.util.find_spec(package) is None for package in packages):
        raise too_large
    tell(f'{too_large}\nIt is streamed instead, as with --config.data.feed=tfds.')
    return tfds_feed(data_dir, need, **options)
