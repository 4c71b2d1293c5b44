"""No content of a JSON file ends in a traceback, whatever was done to the file."""

import json
import random
import re
import shutil
from pathlib import Path

import jax
import pytest
from model_configs import small_config

from onet_jax import run
from onet_jax.configs import conv_onet, conv_onet_crops, psgn, r2n2
from onet_jax.data.datasets import open_dataset
from onet_jax.errors import InputError
from onet_jax.files import write_json
from onet_jax.json_files import FLAG, TEXT, is_file_name, read_json, whole
from onet_jax.prepare.store import claim_folder
from onet_jax.training import checkpoints, storage
from onet_jax.training.log import read_log

# Values that take the place of each one of a file, as JSON.
VALUES = (
    *(
        'null',
        'true',
        'false',
        '0',
        '-1',
        '1',
        '2',
        '0.5',
        '-0.0',
        '1e400',
        '-1e400',
        'NaN',
        '1e18',
        '9' * 30,
        '9' * 5000,
    ),
    *(
        '""',
        '"x"',
        '"../x"',
        '"/x"',
        '"\\u0000"',
        '"\\ud800"',
        '"' + 'x' * 300 + '"',
        '[]',
        '[[]]',
        '["x"]',
        '[1, null]',
        '{}',
    ),
    *('{"x": 1}', '[' * 50 + ']' * 50, '[' * 100_000 + ']' * 100_000, '{"x":' * 400 + '1' + '}' * 400),
)


def mutations(content):
    """Texts that differ from a JSON file: every value replaced, renamed, left out and given twice; damaged bytes."""
    text = json.dumps(content)
    places = [()]

    def find(value, place):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, item in items:
            places.append((*place, name))
            find(item, (*place, name))

    find(content, ())

    def change(place, edit):
        if not place:
            return edit(None, None)
        copy = json.loads(text)
        parent = copy
        for name in place[:-1]:
            parent = parent[name]
        edit(parent, place[-1])
        return json.dumps(copy)

    for place in places:
        marked = change(place, lambda parent, name: parent.__setitem__(name, '@') if parent is not None else '"@"')
        yield from (marked.replace('"@"', value, 1) for value in VALUES)
        if place:
            yield change(place, lambda parent, name: parent.pop(name))
        if place and isinstance(place[-1], str):
            yield change(place, lambda parent, name: parent.__setitem__(f'{name}x', parent.pop(name)))
            yield marked.replace(': "@"', f': 1, "{place[-1]}": 2', 1)
    rng, raw = random.Random(0), text.encode()
    for _ in range(300):
        k = rng.randrange(len(raw))
        yield raw[:k]
        yield raw[:k] + bytes([rng.randrange(256)]) + raw[k + 1 :]
        yield raw[:k] + rng.choice((b'\xff', b'\x00', b'"', b'}', b',', b'\\', b'\xef\xbb\xbf')) + raw[k:]
    yield from (b'', b'\xef\xbb\xbf' + raw, raw.decode().encode('utf-16'), raw * 2)


def count_refused(monkeypatch, path, read):
    """Mutations of the file for which `read()` raised InputError, and all; any other exception fails the test."""
    content, messages, num_tried, read_bytes = json.loads(path.read_text()), [], 0, Path.read_bytes
    for mutation in mutations(content):
        mutated = mutation if isinstance(mutation, bytes) else mutation.encode()
        num_tried += 1
        try:
            with monkeypatch.context() as patch:
                # Writing thousands of files takes longer than reading them.
                patch.setattr(Path, 'read_bytes', lambda p, m=mutated: m if p == path else read_bytes(p))
                read()
        except InputError as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f'{mutation[:2000]!r}: {error!r}') from error
    assert [m for m in messages if not re.search(r'(json|config|test_).*: expected .*found', m, re.DOTALL)] == []
    return len(messages), num_tried


@pytest.mark.parametrize(
    'config',
    [small_config, *(pytest.param(c, marks=pytest.mark.slow) for c in (conv_onet, conv_onet_crops, psgn, r2n2))],
)
def test_configs(tmp_path, config, monkeypatch):
    """The workdir is loaded, but for its checkpoint."""
    monkeypatch.setattr(run, 'load_best', lambda _: (4, {'variables': {}}, {}))
    write_json(tmp_path / 'config.json', config().to_dict())
    refused, tried = count_refused(monkeypatch, tmp_path / 'config.json', lambda: run.load_run(tmp_path))
    assert 0.6 * tried < refused < tried


def test_what_a_run_says_of_itself(tmp_path, monkeypatch):
    write_json(tmp_path / 'run.json', {'data_dir': '/x', 'dataset': 'x', 'left_out': ['a/b']})
    refused, tried = count_refused(monkeypatch, tmp_path / 'run.json', lambda: checkpoints.read_run(tmp_path))
    assert 0.6 * tried < refused < tried


def test_calibrations(tmp_path, monkeypatch):
    values = {'threshold': 0.3, 'iou': 0.6, 'default_threshold': 0.4, 'default_iou': 0.5, 'split': 'val'}
    write_json(tmp_path / 'calibration.json', values | {'num_shapes': 3, 'dataset': 'x', 'step': 4})
    refused, tried = count_refused(monkeypatch, tmp_path / 'calibration.json', lambda: run.read_calibration(tmp_path))
    assert 0.6 * tried < refused < tried


def test_the_index_of_a_dataset(dataset, tmp_path, monkeypatch):
    shutil.copy(dataset / 'dataset.json', tmp_path)
    refused, tried = count_refused(
        monkeypatch, tmp_path / 'dataset.json', lambda: open_dataset(tmp_path).names('train')
    )
    assert 0.6 * tried < refused < tried


def test_the_settings_of_a_preparation(tmp_path, monkeypatch):
    source = {'kind': 'procedural', 'families': ['mug'], 'num_points': 4096, 'depth': False, 'seed': 0}
    claim_folder(tmp_path, source)
    refused, tried = count_refused(monkeypatch, tmp_path / 'source.json', lambda: claim_folder(tmp_path, source))
    assert 0.9 * tried < refused < tried


def test_checkpoints(tmp_path, monkeypatch, capsys):
    with storage.Checkpointer(tmp_path, writes=True) as checkpointer:
        checkpointer.save(1, {'weight': jax.numpy.ones(3)}, metrics={'score': 0.5, 'iou': float('nan')})
    for name in ('digest.json', 'metrics/metrics'):
        refused, tried = count_refused(
            monkeypatch, tmp_path / '1' / name, lambda: storage.Checkpointer(tmp_path, writes=False).best
        )
        assert 0.6 * tried < refused < tried


def test_a_message_says_where_and_what(tmp_path):
    path = tmp_path / 'x.json'
    schema = {'version': whole(5, 5), 'groups?': {'': [{'on': FLAG}]}, 'name': TEXT}
    for content, message in [
        ('{"name": 1}', "x.json: expected the key 'version', found none; restore"),
        ('{"name": 1, "version": 6}', 'x.json: version: expected a whole number from 5 to 5, found 6;'),
        ('{"version": true}', 'x.json: version: expected a whole number from 5 to 5, found True;'),
        (
            '{"version": 5, "groups": {"a": [{"on": true}, {"on": 1}]}}',
            r'groups.a\[1\].on: expected true or false, found 1;',
        ),
        ('{"version": 5, "version": 5}', "x.json: expected every key once, found 'version' again;"),
        ('[1]', r'x.json: expected an object, found \[1\];'),
        ('{', r'x.json: expected JSON, found a damaged file \(.*line 1 column 2.*\);'),
    ]:
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            read_json(path, schema)
    path.write_bytes(b'\xef\xbb\xbf{"name": "x", "version": 5, "more": [1]}')
    assert read_json(path, schema) == {'name': 'x', 'version': 5, 'more': [1]}, (
        'a byte order mark, and keys of a later version'
    )


@pytest.mark.parametrize('name', ['chair', 'a b', 'ü', '.x', 'console', 'x.con', 'a' * 240])
def test_names_of_files(name):
    assert is_file_name(name)


@pytest.mark.parametrize(
    'name',
    [
        '',
        '.',
        '..',
        '...',
        '../x',
        '/x',
        'a/b',
        'a\\b',
        'c:x',
        'CON',
        'nul.txt',
        'lpt1',
        'a\n',
        '\x7f',
        'a\0',
        '\udcff',
        'a' * 241,
    ],
)
def test_names_that_are_a_path_a_device_or_nothing(name):
    assert not is_file_name(name)


def test_a_damaged_log_is_named_with_its_line(tmp_path):
    path = tmp_path / 'log.jsonl'
    path.write_bytes(b'{"step": 1, "train/loss": NaN}\n{"step": 2, "train/loss": 0.5}\n{"st')
    assert read_log(tmp_path, 'train/loss')[1:] == [(2, 0.5)], 'a run that was killed leaves half a line'
    for line in (b'{', b'[1]', b'{"step": -1}', b'{"step": 1, "train/loss": "x"}', b'\xff', b''):
        path.write_bytes(b'{"step": 1}\n' + line + b'\n')
        with pytest.raises(InputError, match=r'log.jsonl, line 2: .*expected .*found'):
            read_log(tmp_path, 'train/loss')
