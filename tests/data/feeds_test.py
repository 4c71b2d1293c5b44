import importlib.util

import jax
import numpy as np
import pytest

from onet_jax.data import feeds, resident
from onet_jax.data.feeds import open_feed
from onet_jax.data.streamed import tfds_feed


def test_what_fits_is_resident(dataset, capsys):
    rows = next(open_feed('resident', dataset, batch_size=4, seed=1).batches(2))
    expected = next(resident.resident_feed(dataset, batch_size=4, seed=1).batches(2))
    jax.tree.map(np.testing.assert_array_equal, rows, expected)
    assert not capsys.readouterr().out


def test_what_does_not_fit_is_streamed_and_a_message_says_so(dataset, monkeypatch, capsys):
    pytest.importorskip('tensorflow_datasets')
    monkeypatch.setattr(resident, '_free_bytes', lambda: 1000)
    rows = next(open_feed('resident', dataset, batch_size=4, seed=1).batches(2))
    expected = next(tfds_feed(dataset, batch_size=4, seed=1).batches(2))
    jax.tree.map(np.testing.assert_array_equal, rows, expected)
    told = capsys.readouterr().out
    assert 'fits into the memory of the device' in told
    assert 'streamed instead' in told


def test_without_tensorflow_what_does_not_fit_is_an_error(dataset, monkeypatch):
    monkeypatch.setattr(resident, '_free_bytes', lambda: 1000)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(resident.DoesNotFitError, match='fits into the memory of the device'):
        open_feed('resident', dataset, batch_size=4, seed=1)


def test_what_does_not_fit_into_another_process_is_streamed_in_this_one_too(dataset, monkeypatch, capsys):
    pytest.importorskip('tensorflow_datasets')
    monkeypatch.setattr(feeds, 'any_process', lambda flag: True)
    rows = next(open_feed('resident', dataset, batch_size=4, seed=1, rows=range(2)).batches(2))
    expected = next(tfds_feed(dataset, batch_size=4, seed=1, rows=range(2)).batches(2))
    jax.tree.map(np.testing.assert_array_equal, rows, expected)
    assert 'does not fit into the memory of another process' in capsys.readouterr().out
