import json
import time

import pytest

from onet_jax.errors import InputError
from onet_jax.inference.manifest import Manifest

DONE = {'status': 'done', 'mesh': 'a.ply', 'vertices': 8, 'faces': 12}
FAILED = {'status': 'failed', 'reason': 'it is flat'}


def begun(output, settings, replaced=(), written=()):
    manifest = Manifest(output)
    manifest.adopt(settings)
    manifest.begin(replaced, written)
    return manifest


def test_what_a_killed_run_has_noted_is_known(tmp_path):
    begun(tmp_path, {'seed': (0,)}, written=['a.ply', 'b.ply']).end()
    killed = begun(tmp_path, {'seed': (0,)}, written=['c.ply'])
    killed.add('a', DONE)
    killed.add('b\udcff', FAILED)
    with (tmp_path / 'manifest.log').open('a') as file:
        file.write('{"c": {"status": "do')
    after = Manifest(tmp_path)
    after.adopt({'seed': [0]})
    assert (after.items, after.written) == ({'a': DONE, 'b\udcff': FAILED}, {'a.ply', 'b.ply', 'c.ply'})
    after.begin(['a'], [])
    assert Manifest(tmp_path).items == {'b\udcff': FAILED}, 'what is to be replaced is not done'
    after.end()
    assert [path.name for path in tmp_path.iterdir()] == ['manifest.json']

    other = Manifest(tmp_path)
    other.adopt({'seed': [1]})
    assert (other.items, len(other.written)) == ({}, 3)
    begun(tmp_path, {'seed': [1]}).add('a', DONE)
    log = (tmp_path / 'manifest.log').read_bytes()
    begun(tmp_path, {'seed': [0]})
    (tmp_path / 'manifest.log').write_bytes(log)  # as after a kill between the two writes
    assert Manifest(tmp_path).items == {}


@pytest.mark.parametrize(
    'content',
    [
        '[]', '{', '[' * 99_999, '\xff', '{"settings": {}, "items": []}', '{"settings": {}, "items": {"a": {}}}',
        json.dumps({'settings': {}, 'items': {'a': DONE | {'vertices': '8'}}}),
        json.dumps({'settings': {}, 'items': {'a': FAILED | {'status': 'done'}}}),
        json.dumps({'settings': {}, 'items': {'a': FAILED | {'status': []}}}),
        json.dumps({'settings': {}, 'items': {'a': DONE}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize('name', ['manifest.json', 'manifest.log'])
def test_a_file_that_is_no_manifest_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode('latin-1') + b'\n')
    with pytest.raises(InputError, match=rf'{name}: .*expected .*, found .*; it is not of a reconstruction'):
        Manifest(tmp_path)


def test_the_time_of_an_item_does_not_grow_with_their_number(tmp_path):
    manifest = begun(tmp_path, {})
    times = []
    for i in range(4000):
        start = time.perf_counter()
        manifest.add(str(i), DONE)
        times.append(time.perf_counter() - start)
    times = [sorted(times[i : i + 1000])[500] for i in (0, 3000)]
    assert times[1] < 3 * times[0]
