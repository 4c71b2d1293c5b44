import platform
import shutil
import subprocess
import sys
from itertools import islice

import jax
import numpy as np
import pytest
from numbered_shapes import SPLITS, write_numbered_shapes

from onet_jax.data import records
from onet_jax.data.records import Need
from onet_jax.errors import InputError

pytest.importorskip('tensorflow_datasets', reason='the extra `data` is not installed')

import tensorflow as tf

from onet_jax.data import tfds_builder
from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.streamed import tfds_feed
from onet_jax.data.tfds_builder import describe, prepare_tfds

NEED, OTHER = Need(('points', 'occ'), 64), Need(('points', 'occ', 'surface'), 5000, 300)


@pytest.fixture(scope='module')
def numbered(tmp_path_factory):
    return write_numbered_shapes(tmp_path_factory.mktemp('numbered'))


def shards(data_dir, need):
    return sorted((data_dir / 'tfds' / describe(need)).rglob('*-train.tfrecord*'))


def test_records_hold_what_a_step_reads_and_two_needs_lie_side_by_side(numbered):
    assert (describe(NEED), describe(OTHER)) == ('points_occ-1-0', 'points_occ_surface-3-1')
    before = None
    for need, sizes in (
        (NEED, {'points': 12_288, 'occ': 256}),
        (OTHER, {'points': 3 * 12_288, 'occ': 3 * 256, 'surface': 12_288}),
    ):
        builder = prepare_tfds(numbered, need)
        assert builder.info.splits['train'].num_examples == len(SPLITS['train']) * (10 // (sizes['occ'] // 256))
        (path,) = shards(numbered, need)
        for serialized in tf.data.TFRecordDataset(str(path)):
            features = tf.train.Example.FromString(serialized.numpy()).features.feature
            assert {
                name: len(value.bytes_list.value[0]) for name, value in features.items() if name != 'index'
            } == sizes
            assert len(features['index'].int64_list.value) == 1
        before = before or path.stat().st_mtime_ns
    prepare_tfds(numbered, NEED)
    assert shards(numbered, NEED)[0].stat().st_mtime_ns == before, 'made once'


def test_records_are_made_again_when_the_dataset_has_changed_or_a_shape_can_be_read_again(tmp_path):
    data_dir, index = write_numbered_shapes(tmp_path), records.read_index(tmp_path)
    path = records.shape_path(data_dir, *SPLITS['train'][1])
    content = path.read_bytes()
    path.write_bytes(content[:1000])

    def count(max_bad_examples=0):
        bad = BadExamples(max_bad_examples)
        return prepare_tfds(data_dir, NEED, bad).info.splits['train'].num_examples, list(bad.reasons)

    with pytest.raises(InputError, match=rf'{path}: (.|\n)*more bad examples than --max_bad_examples=0'):
        count()
    assert count(1) == count(1) == (40, ['chair/1'])
    with pytest.raises(InputError, match='--max_bad_examples=0'):
        count()
    path.write_bytes(content)
    assert count() == (50, [])
    records.write_index(data_dir, index._replace(splits={**index.splits, 'train': index.splits['train'][:3]}))
    assert count() == (30, [])


@pytest.mark.slow
def test_without_tensorflow_the_feed_says_what_to_install(numbered):
    """TensorFlow hidden from a fresh process: everything imports, and only the tf.data feed complains."""
    program = f"""
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('tensorflow', 'tensorflow_datasets'):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Hidden())
import importlib.util
importlib.util.find_spec = lambda name, find=importlib.util.find_spec: None if name.startswith('tensorflow') else find(name)
import onet_jax
import onet_jax.training.loop, onet_jax.evaluation.evaluate, onet_jax.data.streamed
from onet_jax.data.records import Need
from onet_jax.data.resident import resident_feed
need = Need(('points', 'occ'), 64)
next(resident_feed({str(numbered)!r}, need, batch_size=2, seed=0)(0))
assert not any(name.startswith('tensorflow') for name in sys.modules)
from onet_jax.data.streamed import tfds_feed
try:
    tfds_feed({str(numbered)!r}, need, batch_size=2, seed=0)
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert "pip install -e '.[data]'" in done.stdout
    assert '--config.data.feed=resident' in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='launch sets up the allocator of glibc only')
def test_the_feed_leaves_the_allocator_as_launch_has_set_it(numbered):
    """Parts of TensorFlow set it back; each large block is then taken from the system anew, page by page."""
    program = f"""
import resource
import onet_jax.launch
import numpy as np
from onet_jax.data.records import Need
from onet_jax.data.streamed import tfds_feed
batches = tfds_feed({str(numbered)!r}, Need(('points', 'occ'), 64), batch_size=2, seed=0)(0)
next(batches), next(batches)
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = np.ones(40_000_000, np.uint8)
    del block
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert int(done.stdout.splitlines()[-1]) < 1000, 'faults of a block of 9,800 pages'


def test_a_damaged_shard_is_named_and_comes_back_when_it_is_deleted(numbered, tmp_path):
    """A bit that flipped, a file that was cut off, and none."""
    copy = shutil.copytree(numbered, tmp_path / 'copy')
    feed = tfds_feed(copy, NEED, batch_size=9, seed=0)
    expected = list(islice(feed(0), 3))
    (path,) = shards(copy, NEED)
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], content[:middle], None):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf'{path}: expected the records that were written, found a damaged file'):
            list(islice(feed(0), 12))
        path.touch()
    shutil.rmtree(copy / 'tfds')
    again = list(islice(tfds_feed(copy, NEED, batch_size=9, seed=0)(0), 3))
    jax.tree.map(np.testing.assert_array_equal, expected, again)


def test_records_of_a_dataset_that_cannot_be_written_to_go_to_the_cache(tmp_path, monkeypatch):
    data_dir = write_numbered_shapes(tmp_path / 'star *')
    monkeypatch.setattr(tfds_builder, 'cache_folder', lambda: tmp_path / 'cache')
    prepare_tfds(data_dir, NEED)
    assert not (data_dir / 'tfds').exists(), 'TFDS takes a star for a pattern'
    data_dir = write_numbered_shapes(tmp_path / 'read only')
    monkeypatch.setattr(tfds_builder, '_is_writable', lambda folder: 'cache' in str(folder))
    records_of = prepare_tfds(data_dir, NEED)
    assert records_of.info.splits['train'].num_examples == 10 * len(SPLITS['train'])
    assert not (data_dir / 'tfds').exists()
    files = list((tmp_path / 'cache').rglob('*-train.tfrecord*'))
    assert len(files) == 1, 'the two datasets have the same index'
    monkeypatch.setattr(tfds_builder, '_is_writable', lambda folder: False)
    prepare_tfds(data_dir, NEED)
    with pytest.raises(InputError, match='expected one that can be written to'):
        prepare_tfds(data_dir, OTHER)
