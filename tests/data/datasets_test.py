import json

import numpy as np
import pytest
from model_configs import small_config
from numbered_shapes import NUM_POINTS, SPLITS, decode, make_shape, write_numbered_shapes

from onet_jax.data import records
from onet_jax.data.datasets import examples_of, open_dataset
from onet_jax.data.fields import find_need
from onet_jax.data.resident import resident_feed
from onet_jax.errors import InputError


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    return open_dataset(write_numbered_shapes(tmp_path_factory.mktemp('numbered')))


def make_config(**data):
    config = small_config()
    with config.unlocked():
        config.data.update(noise_std=0.0, **data)
    return config


def which(examples):
    """The numbers of the shapes of all rows, by their points."""
    shapes, numbers = decode(examples.batch['targets']['points'])
    assert (shapes == shapes[:, :1]).all()
    assert (numbers == np.arange(NUM_POINTS)).all(), 'whole shapes'
    return shapes[:, 0].tolist()


@pytest.mark.parametrize(
    'options, batches, rows',
    [
        ({'batch_size': 2}, [[5, 6], [7, 7]], [[0, 1], [2, 2]]),
        ({'batch_size': 4}, [[5, 6, 7, 5]], [[0, 1, 2, 0]]),
        ({'every': 2}, [[5, 7]], [[0, 2]]),
        ({'positions': [2, 0]}, [[7, 5]], [[2, 0]]),
        ({'left_out': {('mug', '3')}}, [[5, 7]], [[0, 2]]),
        ({'left_out': set(SPLITS['val'][:2]), 'every': 1, 'batch_size': 1}, [[7]], [[2]]),
    ],
)
def test_whole_examples_come_in_order_and_padding_is_masked(dataset, options, batches, rows):
    """Of the three of validation, which are shapes 5 to 7; by default two at a time, as the config says."""
    found = list(dataset.evaluation_batches(make_config(), 'val', **options))
    assert [which(examples) for examples in found] == batches
    names = [name for examples in found for name in examples.names]
    assert names == [SPLITS['val'][row] for row in dict.fromkeys(row for batch in rows for row in batch)]
    for examples, expected in zip(found, rows, strict=True):
        batch = examples.batch
        assert batch.keys() == {'inputs', 'targets', 'row', 'mask'}
        assert batch['row'].tolist() == expected
        assert batch['mask'].tolist() == [i < len(examples.names) for i in range(len(expected))]


def test_the_input_of_an_example_does_not_depend_on_who_stands_beside_it(dataset):
    config = small_config()
    (together,) = dataset.evaluation_batches(config, 'val', batch_size=3)
    for row in range(3):
        (alone,) = dataset.evaluation_batches(config, 'val', positions=[row], batch_size=1)
        np.testing.assert_array_equal(alone.batch['inputs']['cloud'][0], together.batch['inputs']['cloud'][row])
        one = examples_of(together.batch, row)
        assert one.keys() == {'inputs', 'targets'}
        for group in one:
            for name, array in one[group].items():
                np.testing.assert_array_equal(array, alone.batch[group][name])


def test_targets_inputs_and_views_are_those_that_are_asked_for(dataset):
    config = make_config(inputs=('index',))
    options = {'targets': ('surface_samples', 'depth'), 'batch_size': 5}
    (train,) = dataset.evaluation_batches(config, 'train', view=3, **options)
    assert train.batch['inputs'].keys() == {'index'}
    assert train.batch['inputs']['index'].tolist() == [0, 1, 2, 3, 4]
    assert train.batch['targets'].keys() == {'surface', 'normals', 'depth'}
    np.testing.assert_array_equal(train.batch['targets']['depth'], np.full((5, 137, 137), 0.75, np.float32))
    (test,) = dataset.evaluation_batches(config, 'test', **options)
    assert test.batch['inputs'].keys() == {'labels'}, 'the network knows no number of it'
    assert test.batch['mask'].tolist() == [True] + 4 * [False]
    assert (test.batch['targets']['depth'] == 0).all(), 'of the first view'
    default = next(dataset.evaluation_batches(make_config(), 'val'))
    assert default.batch['targets'].keys() == {'points', 'occ', 'subset'}


def test_the_feed_is_that_of_the_config(dataset):
    config = make_config()
    feed = dataset.feed(config.data, batch_size=4, seed=3)
    expected = resident_feed(dataset.data_dir, find_need(config.data), batch_size=4, seed=3)
    for name, value in next(feed(7)).items():
        np.testing.assert_array_equal(value, next(expected(7))[name])


def test_what_a_dataset_lacks_is_named(dataset, tmp_path):
    def refused(message, dataset=dataset, split='val', **options):
        with pytest.raises(InputError, match=message):
            next(dataset.evaluation_batches(make_config(), split, **options))

    refused(r"expected a split of \['test', 'train', 'val'\], found 'dev'", split='dev')
    refused('batch_size: expected at least 1, found -1', batch_size=-1)
    refused(r"config\.eval\.targets: expected some of \['alpha', .*found \('smell',\)", targets=('smell',))
    columns = tuple(name for name in dataset.index.columns if name != 'depth')
    flat = open_dataset(write_numbered_shapes(tmp_path, columns=columns))
    refused(r"expected the columns \['depth'\], which the fields .*--depth for depth", flat, targets=('depth',))


def test_one_example_is_read_and_checked(tmp_path):
    dataset = open_dataset(write_numbered_shapes(tmp_path))
    np.testing.assert_array_equal(dataset.read('mug', '3').points, make_shape(6).points)
    assert dataset.check('mug', '3')
    path = records.shape_path(tmp_path, 'mug', '3')
    shape = make_shape(6)
    records.write_shape(path, shape._replace(image=(b'no picture', *shape.image[1:])))
    dataset.read('mug', '3')
    with pytest.raises(InputError, match=rf'{path}: image: expected a JPEG file, found 10 bytes that are damaged'):
        dataset.check('mug', '3')
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf'{path}: expected a shape file, found none'):
        dataset.check('mug', '3')


def test_the_layout_decides_who_reads_a_folder(tmp_path):
    write_numbered_shapes(tmp_path)
    content = json.loads((tmp_path / 'dataset.json').read_text())
    assert content['layout'] == 'shapes'
    (tmp_path / 'dataset.json').write_text(json.dumps({**content, 'layout': 'smells'}))
    with pytest.raises(
        InputError, match=rf"{tmp_path}/dataset\.json: expected a layout of \[.*'shapes'.*found 'smells'"
    ):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match='expected the folder of a dataset, found none'):
        open_dataset(tmp_path / 'nowhere')
