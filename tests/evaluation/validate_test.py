import shutil

import jax
import numpy as np
import pytest
from model_configs import small_config

from onet_jax.data import records
from onet_jax.data.bad_examples import BadExamples
from onet_jax.data.datasets import open_dataset
from onet_jax.evaluation.validate import unreadable_examples, validate


@pytest.fixture
def batches(dataset):
    """A function () -> those of the validation split, two shapes at a time."""
    config, dataset = small_config(), open_dataset(dataset)
    with config.unlocked():
        config.eval.targets = ('volume_points',)
    return lambda **options: [batch for batch, _ in dataset.evaluation_batches(config, 'val', **options)]


def test_validation_leaves_the_padding_out(batches):
    """Three shapes in batches of two, scored by their position in the split."""
    batches = batches()
    assert [batch['mask'].tolist() for batch in batches] == [[True, True], [True, False]]
    means = validate(lambda params, batch: {'iou': batch['row'], 'loss': 2 * batch['row']}, {}, batches)
    assert means == {'iou': 1.0, 'loss': 2.0}
    undefined = validate(lambda params, batch: {'iou': np.where(batch['row'] == 1, np.nan, 4.0)}, {}, batches)
    assert undefined == {'iou': 4.0}


def test_validation_sees_the_same_noise_each_time_whatever_the_batch_size(batches):
    first, again, alone = batches(), batches(), batches(batch_size=1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    np.testing.assert_array_equal(alone[1]['inputs']['cloud'][0], first[0]['inputs']['cloud'][1])


def test_what_cannot_be_read_is_left_out_as_far_as_that_is_allowed(dataset, tmp_path):
    copy = open_dataset(shutil.copytree(dataset, tmp_path / 'copy', ignore=shutil.ignore_patterns('tfds')))
    names = copy.names('val')
    assert unreadable_examples(copy, 'val', BadExamples()) == frozenset()
    records.shape_path(copy.data_dir, *names[1]).write_bytes(b'damaged')
    with pytest.raises(ValueError, match=r'more bad examples than --max_bad_examples=0'):
        unreadable_examples(copy, 'val', BadExamples())
    assert unreadable_examples(copy, 'val', BadExamples(1)) == {names[1]}
    for name in names:
        records.shape_path(copy.data_dir, *name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"expected shapes in the split 'val', found none that can be read"):
        unreadable_examples(copy, 'val', BadExamples(3))
