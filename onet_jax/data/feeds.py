"""The training feeds by name, and what happens where a dataset does not fit into memory."""

import importlib.util
from pathlib import Path

from onet_jax.data.pipeline import tfds_feed
from onet_jax.data.records import Feed
from onet_jax.data.resident import DoesNotFitError, resident_feed

FEEDS = {'tfds': tfds_feed, 'resident': resident_feed}


def open_feed(name: str, data_dir: str | Path, *, batch_size: int, seed: int) -> Feed:
    """The feed `config.data.feed` = name of the train split.

    Where TensorFlow is installed a split too large for the resident feed is streamed instead, and a message says so; without
    it DoesNotFitError, a ValueError, is raised. The two draw their batches in different orders.
    """
    try:
        return FEEDS[name](data_dir, batch_size=batch_size, seed=seed)
    except DoesNotFitError as error:
        if any(importlib.util.find_spec(package) is None for package in ('tensorflow', 'tensorflow_datasets')):
            raise
        print(f'{error}\nIt is streamed instead, as with --config.data.feed=tfds.', flush=True)
        return tfds_feed(data_dir, batch_size=batch_size, seed=seed)
