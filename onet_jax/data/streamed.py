"""Streaming input pipeline: tf.data over the TFRecords of `tfds_builder.py`. TensorFlow is imported on first use only.

B batch, n records of a shard.
"""

import importlib.util
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.records import CHUNK_POINTS, COLUMNS, Feed, Need, check_need, read_index
from onet_jax.errors import InputError
from onet_jax.progress import working

PREFETCHED_BATCHES = 4
# Streams of random numbers of one seed. Never 0: numpy pads seeds with zeros, and [seed, n] would equal [seed, n, 0].
SHARD_STREAM, RECORD_STREAM = 1, 2


def tfds_feed(
    data_dir: str | Path,
    need: Need,
    *,
    batch_size: int,
    seed: int,
    rows: range | None = None,
    bad_examples: BadExamples | None = None,
) -> Feed:
    """Batches in which each epoch has every record (see `tfds_builder.py`) once, in a new random order.

    An epoch shuffles the shards by (seed, epoch), and the records of each shard by (seed, epoch, shard). No record is dropped:
    a batch may span shards and epochs. A run that starts at a later step does not read the shards before it. rows: which rows
    of each batch to deliver, by default all; the records of the others are skipped undecoded. The records are made on first
    use; shapes that cannot be read are left out as far as `bad_examples` allows, by default none.

    Raises ModuleNotFoundError without TensorFlow, InputError for a dataset that does not have what `need` asks for; a batch
    raises InputError, naming the file, when a shard is damaged.
    """
    index = read_index(data_dir)
    check_need(data_dir, index, need)
    if need.num_views:
        raise InputError(
            "config.data.feed: expected 'resident' for fields of several views of a shape, which are not streamed, found "
            "'tfds'; set --config.data.feed=resident"
        )
    rows = range(batch_size) if rows is None else rows
    with working('loading TensorFlow'):
        tf = _import_tensorflow()
    from onet_jax.data.tfds_builder import prepare_tfds

    train = prepare_tfds(data_dir, need, bad_examples).info.splits['train']
    files, lengths = [str(path) for path in train.filepaths], np.asarray(train.shard_lengths)

    def shards(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards in the order of an epoch, and the number of the first record of each, from the start of the run."""
        order = np.random.default_rng([seed, epoch, SHARD_STREAM]).permutation(len(files))
        return order, epoch * lengths.sum() + np.concatenate([[0], np.cumsum(lengths[order])[:-1]])

    def piece(number: np.ndarray, first_record: np.ndarray) -> tuple[str, np.ndarray]:
        """The file of shard `number` of the run, and the indices [n] of the records to take from it, in this order: those that
        belong to `rows` of a batch and do not come before `first_record`. A batch is `batch_size` consecutive records."""
        epoch, place = divmod(int(number), len(files))
        order, starts = shards(epoch)
        shard = order[place]
        records = np.random.default_rng([seed, epoch, int(shard), RECORD_STREAM]).permutation(int(lengths[shard]))
        numbers = starts[place] + np.arange(len(records))
        wanted = (numbers >= first_record) & (numbers % batch_size >= rows.start) & (numbers % batch_size < rows.stop)
        return files[shard], records[wanted]

    def read(file, order):
        records = tf.data.TFRecordDataset(file).batch(tf.int64.max).get_single_element()
        return tf.data.Dataset.from_tensor_slices(tf.gather(records, order))

    def decode(serialized):
        """Serialized records [B] -> raw batch. Parsing a whole batch makes a few large copies instead of B small ones."""
        features = {name: tf.io.FixedLenFeature([], tf.string) for name in need.columns}
        parsed = tf.io.parse_example(serialized, {**features, 'index': tf.io.FixedLenFeature([], tf.int64)})
        return {
            **{name: decode_column(name, parsed[name]) for name in need.columns},
            'index': tf.cast(parsed['index'], tf.int32),
            'row': tf.range(rows.start, rows.stop, dtype=tf.int32),
        }

    def decode_column(name, content):
        column = COLUMNS[name]
        if column.is_picture:
            return tf.map_fn(partial(decode_picture, column), content, fn_output_signature=column.dtype)
        dims = (*filter(None, [CHUNK_POINTS * need.chunks.get(column.per, 0)]), *column.dims)
        if column.dtype is bool:
            return tf.reshape(tf.io.decode_raw(content, tf.uint8), (-1, int(np.prod(dims)) // 8))
        return tf.reshape(tf.io.decode_raw(content, column.dtype), (-1, *dims))

    def decode_picture(column, file):
        if len(column.dims) == 3:
            # The accurate integer DCT, as Pillow computes it.
            pixels = tf.io.decode_jpeg(file, channels=3, dct_method='INTEGER_ACCURATE', fancy_upscaling=True)
        else:
            pixels = tf.io.decode_png(file, channels=1, dtype=column.dtype)[..., 0]
        return tf.ensure_shape(pixels, column.dims)

    def batches(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        first_record = start_step * batch_size
        epoch = first_record // int(lengths.sum())
        first_piece = epoch * len(files) + np.searchsorted(shards(epoch)[1], first_record, side='right') - 1
        # Not `Dataset.from_generator`: it resets the options of malloc that `launch` sets, and every later step of the training
        # is a fifth slower.
        dataset = tf.data.Dataset.counter(first_piece, dtype=tf.int64)
        dataset = dataset.map(lambda number: tf.numpy_function(piece, (number, first_record), (tf.string, tf.int64)))
        dataset = dataset.flat_map(read).batch(len(rows), drop_remainder=True).map(decode)
        try:
            yield from dataset.prefetch(PREFETCHED_BATCHES).as_numpy_iterator()
        except tf.errors.OpError as error:
            damaged = [file for file, length in zip(files, lengths, strict=True) if not is_sound(file, length)]
            if not damaged:
                raise
            raise InputError(
                f'{", ".join(damaged)}: expected the records that were written, found a damaged file; delete '
                f'{Path(damaged[0]).parent}: the same command makes it again, with the same records in the same order'
            ) from error

    def is_sound(file: str, length: int) -> bool:
        """Whether a shard has all its records; reading verifies their checksums."""
        try:
            return sum(1 for _ in tf.data.TFRecordDataset(file)) == length
        except tf.errors.OpError:
            return False

    return batches


def _import_tensorflow():
    """Import TensorFlow without GPUs, which JAX uses. Raises ModuleNotFoundError that says what to install."""
    for package in ('tensorflow', 'tensorflow_datasets'):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f'config.data.feed=tfds: expected the package {package}, found none; '
                "install it with `pip install -e '.[data]'` or use --config.data.feed=resident"
            )
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')
    return tf
