"""TensorFlow Datasets (TFDS) builder: the training split as TFRecords, of which one is one row of a training batch.

There is one set of records for each `Need`: a record has the columns and the number of chunks that one row reads, so that all
points of a row are distinct. Arrays are stored as raw bytes, so that float16 and packed bits are exact. TFDS shuffles the
records by a hash of their keys: each shard, of 64 to 128 MiB, is a mixture of all shapes. Imports TensorFlow.
"""

import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.records import (
    COLUMNS,
    Need,
    Shape,
    as_stored,
    check_need,
    cut_chunks,
    digest,
    read_index,
    read_shape,
    shape_path,
)
from onet_jax.errors import InputError
from onet_jax.files import cache_folder, one_at_a_time
from onet_jax.progress import working


def describe(need: Need) -> str:
    """The folder of the records of a need, such as 'points_occ_surface-1-2': columns, chunks of points, chunks of samples."""
    return '-'.join(['_'.join(need.columns) or 'index', *map(str, need.chunks.values())])


class OccupancyShapes(tfds.core.GeneratorBasedBuilder):
    """Training records of a dataset, in FOLDER/<need> (see `describe`)."""

    VERSION = tfds.core.Version('2.0.0')

    def __init__(self, *, source: str, need: Need, folder: Path, bad_examples: BadExamples | None = None):
        """source: DATA_DIR (see `records.py`); folder: of the records; bad_examples: how many may be left out, by default none.

        Raises FileNotFoundError or InputError for a dataset that cannot be read or does not have what `need` asks for.
        """
        self._source, self._need, self._bad_examples = Path(source), need, bad_examples or BadExamples()
        self._index = read_index(self._source)
        check_need(self._source, self._index, need)
        super().__init__(data_dir=str(folder / describe(need)))

    def _info(self) -> tfds.core.DatasetInfo:
        bytes_of = partial(tfds.features.Tensor, shape=(None,), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
        features = {name: bytes_of() for name in self._need.columns}
        features['index'] = tfds.features.Scalar(np.int32)  # the shape's position in its split
        return tfds.core.DatasetInfo(
            builder=self,
            description='Columns of solid shapes, as `onet_jax/data/records.py` describes them.',
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(source=digest(self._source), left_out={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {'train': self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[str, dict]]:
        for index, (category, name) in enumerate(self._index.splits['train']):
            path = shape_path(self._source, category, name)
            shape = self._bad_examples.attempt(f'{category}/{name}', partial(read_shape, path, self._index))
            if shape is None:
                self.info.metadata['left_out'] = dict(self._bad_examples.reasons)
                continue
            for k, record in enumerate(cut_records(shape, self._need)):
                arrays = {key: np.frombuffer(content, np.uint8) for key, content in record.items()}
                yield f'{category}/{name}/{k}', {**arrays, 'index': index}


def cut_records(shape: Shape, need: Need) -> Iterator[dict[str, bytes]]:
    """The records of a shape: as many as it has groups of chunks of labelled points, or views where these are more. Whatever
    there is less of is repeated."""
    pieces = {}
    for name in need.columns:
        column, value = COLUMNS[name], getattr(shape, name)
        if column.per == 'shape':
            pieces[name] = [as_stored(name, value).tobytes()]
        elif column.per == 'view':
            pieces[name] = [part if column.is_picture else part.tobytes() for part in value]
        else:
            chunks, size = cut_chunks(shape, name), need.chunks[column.per]
            pieces[name] = [chunks[i : i + size].tobytes() for i in range(0, len(chunks) - size + 1, size)]
    kinds = {COLUMNS[name].per: len(parts) for name, parts in pieces.items()}
    num_records = max(kinds.get('point') or kinds.get('sample', 1), kinds.get('view', 1))
    for k in range(num_records):
        yield {name: parts[k % len(parts)] for name, parts in pieces.items()}


def prepare_tfds(data_dir: str | Path, need: Need, bad_examples: BadExamples | None = None) -> OccupancyShapes:
    """The TFDS builder of DATA_DIR with its records in DATA_DIR/tfds, or in the cache folder where that cannot be written to.

    The records are made on first use, by one process while the others wait, and again when `dataset.json` has changed or a
    shape that was left out has become readable. Raises InputError for a dataset that does not have what `need` asks for, for
    more unreadable shapes than `bad_examples` allows, and where no folder can be written to.
    """
    bad_examples = bad_examples or BadExamples()
    data_dir, own, cached = Path(data_dir), Path(data_dir) / 'tfds', cache_folder() / 'tfds' / digest(data_dir)
    make = partial(OccupancyShapes, source=str(data_dir), need=need, bad_examples=bad_examples)
    for folder in (own, cached):
        if _is_plain(folder) and (_is_writable(folder) or _is_up_to_date(make(folder=folder), data_dir)):
            break
    else:
        raise InputError(
            f'{own}, {cached}: expected one that can be written to, with a path in UTF-8 without * and ?, found none; use '
            '--config.data.feed=resident, which makes no records, or set $ONET_JAX_CACHE to another cache folder'
        )
    builder = make(folder=folder)
    if not _is_up_to_date(builder, data_dir):
        with one_at_a_time(folder / '.lock'):
            builder = make(folder=folder)
            if builder.is_prepared() and not _is_up_to_date(builder, data_dir):
                shutil.rmtree(builder.data_path)
                builder = make(folder=folder)
            if not builder.is_prepared():
                with working('making records for the streaming feed, once for this dataset'):
                    builder.download_and_prepare(file_format='tfrecord')
    for name, reason in _left_out(builder).items():
        bad_examples.add(name, reason)
    return builder


def _is_plain(folder: Path) -> bool:
    """Whether TFDS takes the path of a folder as it is, not for a pattern."""
    return not re.search(r'[*?\ud800-\udfff]', str(folder))  # surrogates stand for bytes that are not UTF-8


def _is_writable(folder: Path) -> bool:
    return os.access(next(path for path in (folder, *folder.absolute().parents) if path.exists()), os.W_OK)


def _is_up_to_date(builder: OccupancyShapes, data_dir: Path) -> bool:
    if not builder.is_prepared() or builder.info.metadata['source'] != digest(data_dir):
        return False
    index, left_out = read_index(data_dir), _left_out(builder)
    still_bad = BadExamples(len(left_out))
    for name in left_out:
        still_bad.attempt(name, partial(read_shape, shape_path(data_dir, *name.split('/', 1)), index))
    return still_bad.reasons.keys() == left_out.keys()


def _left_out(builder: OccupancyShapes) -> dict[str, str]:
    """'category/name' of each shape that was left out -> the reason."""
    return builder.info.metadata.get('left_out') or {}
