import platform
import shutil
import subprocess
import sys
from itertools import islice

import jax
import numpy as np
import pytest

from onet_jax.data import records

tfds = pytest.importorskip('tensorflow_datasets', reason='the extra `data` is not installed')

from onet_jax.data.resident import resident_feed
from onet_jax.data.streamed import tfds_feed
from onet_jax.data.tfds_builder import prepare_tfds
from onet_jax.prepare.embedded import prepare_procedural
from onet_jax.prepare.runners import in_this_process


@pytest.fixture(scope='module')
def stored(dataset):
    """Bytes of every training record -> (category, name, chunk)."""
    prepare_tfds(dataset)
    found = {}
    for name in records.read_index(dataset).splits['train']:
        chunks = records.split_chunks(records.read_shape(records.shape_path(dataset, *name)))
        for k in range(2):
            record = (chunks.points[k], chunks.occ[k], chunks.surface[k], chunks.voxels)
            found[b''.join(a.tobytes() for a in record)] = (*name, k)
    return found


def identify(stored, batches):
    keys = ('points', 'occ', 'surface', 'voxels')
    return [stored[b''.join(raw[k][i].tobytes() for k in keys)] for raw in batches for i in range(len(raw['row']))]


@pytest.mark.parametrize('batch_size', [4, 7])
def test_an_epoch_has_every_record_once_and_content_as_stored(dataset, stored, batch_size):
    feed = tfds_feed(dataset, batch_size=batch_size, seed=0)
    found = identify(stored, islice(feed.batches(0), -(-36 // batch_size)))[:36]
    assert sorted(found[:18]) == sorted(found[18:]) == sorted(stored.values())
    assert found[:18] != found[18:]


def test_views_are_those_of_the_resident_feed(dataset, stored):
    """The two decoders of JPEG differ by rounding."""
    feeds = tfds_feed(dataset, batch_size=9, seed=0), resident_feed(dataset, batch_size=9, seed=0)
    found, expected = ({}, {})
    for views, feed in zip((found, expected), feeds, strict=True):
        for raw in islice(feed.batches(0), 8):
            raw = jax.tree.map(np.asarray, raw)
            assert raw['view'].dtype == np.uint8
            views |= dict(zip(identify(stored, [raw]), raw['view'].astype(int), strict=True))
    assert len(found) == len(expected) == 18
    for name, view in found.items():
        np.testing.assert_allclose(view, expected[name], rtol=0, atol=2)
    assert len({view.tobytes() for view in found.values()}) == 18


def test_without_views_there_are_none(tmp_path):
    settings = {'families': ('mug',), 'num_shapes_per_family': 1, 'num_points': 2100, 'num_views': 0, 'seed': 0}
    prepare_procedural(tmp_path, **settings, val_fraction=0, test_fraction=0, run=in_this_process)
    for make_feed in (tfds_feed, resident_feed):
        raw = next(make_feed(tmp_path, batch_size=2, seed=0).batches(0))
        assert set(raw) == {'points', 'occ', 'surface', 'voxels', 'index', 'row'}


def test_a_batch_is_a_function_of_seed_and_step(dataset, stored):
    whole = list(islice(tfds_feed(dataset, batch_size=4, seed=1).batches(0), 10))
    later = list(islice(tfds_feed(dataset, batch_size=4, seed=1).batches(6), 4))
    jax.tree.map(np.testing.assert_array_equal, whole[6:], later)
    assert identify(stored, whole) != identify(stored, islice(tfds_feed(dataset, batch_size=4, seed=2).batches(0), 10))
    np.testing.assert_array_equal(whole[0]['row'], np.arange(4))


@pytest.mark.parametrize('start', [0, 5])
def test_the_parts_of_a_batch_make_the_whole(dataset, stored, start):
    """What each of three processes is given of batches that span epochs."""
    whole = list(islice(tfds_feed(dataset, batch_size=6, seed=1).batches(start), 7))
    feeds = [tfds_feed(dataset, batch_size=6, seed=1, rows=range(first, first + 2)) for first in (0, 2, 4)]
    parts = [list(islice(feed.batches(start), 7)) for feed in feeds]
    for raw, *pieces in zip(whole, *parts, strict=True):
        assert [piece['row'].tolist() for piece in pieces] == [[0, 1], [2, 3], [4, 5]]
        assert [len(piece['view']) for piece in pieces] == [2, 2, 2]
        joined = jax.tree.map(lambda *arrays: np.concatenate(arrays), *pieces)
        jax.tree.map(np.testing.assert_array_equal, raw, joined)


def test_evaluation_records_hold_whole_shapes(dataset, stored):
    source = prepare_tfds(dataset).as_dataset(split='test')
    shapes = {(r['category'].decode(), r['name'].decode()): r for r in tfds.as_numpy(source)}
    assert sorted(shapes) == sorted(records.read_index(dataset).splits['test'])
    for name, record in shapes.items():
        shape = records.read_shape(records.shape_path(dataset, *name))
        np.testing.assert_array_equal(record['points'], shape.points)
        np.testing.assert_array_equal(np.unpackbits(record['occ'], count=5000), shape.occ)
        assert record['view'].tobytes() == shape.views.jpegs[0]


def test_records_are_made_again_when_the_dataset_has_changed(dataset, stored, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(dataset, copy)
    index = records.read_index(copy)
    shorter = {**index.splits, 'train': index.splits['train'][:4]}
    records.write_index(copy, index._replace(splits=shorter))
    assert prepare_tfds(copy).info.splits['train'].num_examples == 8


def test_without_tensorflow_the_feed_says_what_to_install(dataset):
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
from onet_jax.data.resident import resident_feed
next(resident_feed({str(dataset)!r}, batch_size=2, seed=0).batches(0))
assert not any(name.startswith('tensorflow') for name in sys.modules)
from onet_jax.data.streamed import tfds_feed
try:
    tfds_feed({str(dataset)!r}, batch_size=2, seed=0)
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert "pip install -e '.[data]'" in done.stdout
    assert '--config.data.feed=resident' in done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='launch sets up the allocator of glibc only')
def test_the_feed_leaves_the_allocator_as_launch_has_set_it(dataset, stored):
    """Parts of TensorFlow set it back; each large block is then taken from the system anew, page by page."""
    program = f"""
import launch
import resource
import numpy as np
from onet_jax.data.streamed import tfds_feed
batches = tfds_feed({str(dataset)!r}, batch_size=2, seed=0).batches(0)
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
    assert int(done.stdout) < 1000, 'faults of a block of 9,800 pages'


@pytest.mark.parametrize('change', ['flip', 'truncate', 'remove'])
def test_a_damaged_shard_is_named(dataset, stored, tmp_path, change):
    copy = shutil.copytree(dataset, tmp_path / 'copy')
    feed = tfds_feed(copy, batch_size=9, seed=0)
    (path,) = (copy / 'tfds').rglob('*-train.tfrecord*')
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if change != 'remove':
        path.write_bytes(content if change == 'flip' else content[: len(content) // 2])
    with pytest.raises(
        ValueError, match=rf'{path}: expected the records that were written, found a damaged file; delete'
    ):
        list(islice(feed.batches(0), 4))
    shutil.rmtree(copy / 'tfds')
    again = islice(tfds_feed(copy, batch_size=9, seed=0).batches(0), 2)
    assert identify(stored, again) == identify(stored, islice(tfds_feed(dataset, batch_size=9, seed=0).batches(0), 2))
