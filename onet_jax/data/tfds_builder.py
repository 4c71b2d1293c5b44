"""The TFDS form of a dataset: TFRecords that a training step reads as they are. Imports TensorFlow Datasets.

A record of the train split is one chunk of one shape (see `records.Chunks`), about 29 KB and a view; one of 'val' or
'test' is a whole shape. Every array is stored as its bytes, so that float16 and packed bits come back exactly. TFDS orders
the records by a hash of their keys, hence each shard is a mixture of all shapes; it makes shards of 64 to 128 MiB.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.records import count_chunks, digest, read_index, read_shape, shape_path, split_chunks
from onet_jax.files import one_at_a_time

# The arrays of a record: dtype and shape of one row; None is CHUNK_POINTS in 'train' and all points elsewhere.
ARRAYS = {
    'points': (np.float16, (None, 3)),
    'occ': (np.uint8, (None,)),  # np.packbits
    'surface': (np.float16, (None, 3)),
    'normals': (np.float16, (None, 3)),  # empty in 'train', which has no use for them
    'voxels': (np.uint8, (None,)),  # np.packbits
    'view': (np.uint8, (None,)),  # a JPEG file; empty where there are no views
}


class OccupancyShapes(tfds.core.GeneratorBasedBuilder):
    """Occupancy samples of a folder of shape files; the records lie in its subfolder `tfds`."""

    VERSION = tfds.core.Version('1.2.0')

    def __init__(self, *, source: str, bad_examples: BadExamples | None = None):
        """source: a folder with a `dataset.json` (see `records.py`); bad_examples: how many may be left out."""
        self._source, self._bad_examples = Path(source), bad_examples or BadExamples()
        self._index = read_index(self._source)
        count_chunks(self._source, self._index)
        super().__init__(data_dir=str(self._source / 'tfds'))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            key: tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)
            for key, (dtype, shape) in ARRAYS.items()
        }
        features |= {
            'category': tfds.features.Text(),
            'name': tfds.features.Text(),
            'index': tfds.features.Scalar(np.int32),  # the shape's position in its split
            'chunk': tfds.features.Scalar(np.int32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description='Points in the padded cube with their occupancy, surface points and voxels of solid shapes.',
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(source=digest(self._source), left_out={}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split, shapes in self._index.splits.items() if shapes}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        for index, (category, name) in enumerate(self._index.splits[split]):
            path = shape_path(self._source, category, name)
            shape = self._bad_examples.attempt(f'{category}/{name}', partial(read_shape, path, self._index))
            if shape is None:
                self.info.metadata['left_out'] = dict(self._bad_examples.reasons)
                continue
            labels = {'category': category, 'name': name, 'index': index}
            voxels = np.packbits(shape.voxels)
            if split != 'train':
                arrays = {key: getattr(shape, key) for key in ('points', 'surface', 'normals')}
                arrays |= {'occ': np.packbits(shape.occ), 'voxels': voxels}
                view = _as_array(shape.views.jpegs[0] if shape.views else b'')
                yield f'{category}/{name}', {**arrays, 'view': view, **labels, 'chunk': 0}
                continue
            chunks = split_chunks(shape)
            for k in range(len(chunks.points)):
                yield (
                    f'{category}/{name}/{k}',
                    {
                        'points': chunks.points[k],
                        'occ': chunks.occ[k],
                        'surface': chunks.surface[k % len(chunks.surface)],
                        'normals': np.empty((0, 3), np.float16),
                        'voxels': voxels,
                        'view': _as_array(chunks.jpegs[k % len(chunks.jpegs)] if chunks.jpegs else b''),
                        **labels,
                        'chunk': k,
                    },
                )


def _as_array(content: bytes) -> np.ndarray:
    return np.frombuffer(content, np.uint8)


def prepare_tfds(data_dir: str | Path, bad_examples: BadExamples | None = None) -> OccupancyShapes:
    """The TFDS builder of DATA_DIR with its records in DATA_DIR/tfds.

    They are made on first use, by one process while the others wait, and made again when `dataset.json` has changed or a shape
    that was left out can be read now. Raises ValueError for shapes too small to train on, and for more bad ones, of all
    splits, than `bad_examples` allows.
    """
    bad_examples = bad_examples or BadExamples()
    builder = OccupancyShapes(source=str(data_dir), bad_examples=bad_examples)
    if not _is_up_to_date(builder, Path(data_dir)):
        with one_at_a_time(Path(data_dir) / 'tfds' / '.lock'):
            builder = OccupancyShapes(source=str(data_dir), bad_examples=bad_examples)
            if builder.is_prepared() and not _is_up_to_date(builder, Path(data_dir)):
                shutil.rmtree(builder.data_path)
                builder = OccupancyShapes(source=str(data_dir), bad_examples=bad_examples)
            if not builder.is_prepared():
                builder.download_and_prepare(file_format='tfrecord')
    for name, reason in _left_out(builder).items():
        bad_examples.add(name, reason)
    return builder


def _is_up_to_date(builder: OccupancyShapes, data_dir: Path) -> bool:
    if not builder.is_prepared() or builder.info.metadata['source'] != digest(data_dir):
        return False
    index, left_out = read_index(data_dir), _left_out(builder)
    still_bad = BadExamples(len(left_out))
    for name in left_out:
        still_bad.attempt(name, partial(read_shape, shape_path(data_dir, *name.split('/', 1)), index))
    return still_bad.reasons.keys() == left_out.keys()


def _left_out(builder: OccupancyShapes) -> dict[str, str]:
    """'category/name' of the shapes that are in no record -> why."""
    return builder.info.metadata.get('left_out') or {}
