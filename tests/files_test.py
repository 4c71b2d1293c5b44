import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onet_jax.errors import InputError
from onet_jax.files import ignores_case, one_at_a_time, refuse_replacing, remove_leftovers, write_atomically

WRITE = """
import os, signal, sys
from pathlib import Path
from onet_jax.files import write_atomically
Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(sys.argv[1], b'content')
"""


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path):
    """A name may be as long as the file system allows."""
    path = tmp_path / ('n' * 255)
    subprocess.run([sys.executable, '-c', WRITE, path])
    (left,) = tmp_path.iterdir()
    own, alive, mine = (
        left.with_name(left.name.replace(left.suffixes[-2][1:], str(n))) for n in (os.getpid(), 1, 'mine')
    )
    for file in (own, alive, mine, tmp_path / '.notes.99999', tmp_path / 'scene.unfinished'):
        file.touch()
    remove_leftovers(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {alive.name, mine.name, '.notes.99999', 'scene.unfinished'}
    write_atomically(path, b'content')
    assert path.read_bytes() == b'content'


def test_an_input_is_known_under_every_name(tmp_path):
    scan, other = tmp_path / 'a.ply', tmp_path / 'b.ply'
    scan.touch()
    other.touch()
    (tmp_path / 'hard.ply').hardlink_to(scan)
    (tmp_path / 'soft.ply').symlink_to('a.ply')
    (tmp_path / 'broken.ply').symlink_to('nowhere')
    for inputs, target in (
        (scan, scan),
        (scan, 'hard.ply'),
        (scan, 'soft.ply'),
        ('soft.ply', scan),
        ('broken.ply',) * 2,
    ):
        with pytest.raises(InputError, match='expected a new file, found the input'):
            refuse_replacing([tmp_path / inputs], [other, tmp_path / target])
    refuse_replacing([scan], [other, tmp_path / 'broken.ply', tmp_path / 'new.ply'])
    assert ignores_case(scan) == (tmp_path / 'A.PLY').exists()


def test_a_lock_leaves_nothing_behind(tmp_path, monkeypatch):
    path, opened = tmp_path / 'folder' / '.lock', Path.open
    found = [path.parent]

    def lose(path, *arguments, **options):  # another process leaves between `mkdir` and `open`
        if found:
            found.pop().rmdir()
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, 'open', lose)
    with one_at_a_time(path):
        message = rf'\.lock: expected nobody, found process {os.getpid()} on .*; wait'
        with pytest.raises(InputError, match=message), one_at_a_time(path, 'expected nobody, found {}; wait'):
            pass
        assert path.exists()
    assert not path.parent.exists()
    tmp_path.joinpath('folder').mkdir()
    with one_at_a_time(path, 'no'):
        pass
    assert list(path.parent.iterdir()) == []
    path.symlink_to('/dev/full')
    with pytest.raises(OSError, match=r'\.lock') as error, one_at_a_time(path):
        pass
    assert error.value.errno in (errno.EINVAL, errno.ENOSPC)
