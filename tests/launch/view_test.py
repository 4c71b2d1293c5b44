"""`onet view` as a user runs it; what serves the page is cut short."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import trimesh
from entry_points import ROOT, launch

from onet_jax import progress
from onet_jax.geometry.meshes import save_mesh
from onet_jax.viz.viewer import Viewer

BALL = trimesh.creation.icosphere(subdivisions=2)
LINK = r'http://127\.0\.0\.1:\d+ shows '


@pytest.fixture(autouse=True)
def _viser(monkeypatch):
    pytest.importorskip('viser')
    yield
    progress.mute(False)


@pytest.fixture
def served(monkeypatch):
    """The displays that are served, each for a moment."""
    displays = []

    def serve(self, display):
        displays.append(display)
        self.open(display)
        self.update()

    monkeypatch.setattr(Viewer, 'serve', serve)
    return displays


@pytest.fixture
def pair(tmp_path):
    save_mesh(BALL, tmp_path / 'ball.ply')
    np.save(tmp_path / 'cloud.npy', np.asarray(BALL.vertices))
    return tmp_path / 'ball.ply', tmp_path / 'cloud.npy'


def test_the_first_line_has_the_link(pair, served, workdir):
    mesh, cloud = pair
    names = []
    for flags in ([mesh], [mesh, f'--input={cloud}'], [workdir], [workdir, f'--input={cloud}']):
        done = launch('view', *flags, '--up=y')
        assert (done.returncode, done.stderr) == (0, '')
        assert re.match(f'{LINK}{flags[0]}; control-C ends it\n', done.stdout)
        names.append([control.name for control in served[-1].controls])
    levels = ['level', 'resolution', 'colours']
    assert names == [[], ['colours'], ['shape', *levels], levels]


@pytest.mark.parametrize(
    'flags, message',
    [
        ([], 'expected one file, folder or network to view, found none'),
        (['a', 'b'], "expected one file, folder or network to view, found ['a', 'b']"),
        (['none.ply'], 'none.ply: expected a mesh or a cloud'),
        (['objects'], '--input: expected a file, from which cloud can be read'),
        (['objects', '--input=none.ply'], 'none.ply: expected a file or a folder with ply|'),
        (['objects', '--port=70000'], 'port'),
        (['objects', '--host=203.0.113.1'], '--host: expected an address of this machine'),
    ],
)
def test_wrong_arguments_are_named(served, flags, message):
    done = launch('view', *flags)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count('error:') == 1
    assert not served


@pytest.mark.slow
def test_control_c_ends_the_viewer(pair):
    """The command as a whole: the link comes first, a page is served, and exit code and words are those of others."""
    argv = [sys.executable, '-c', 'import sys; from onet_jax.launch.__main__ import main; main()', 'view', str(pair[0])]
    environment = os.environ | {'PYTHONUNBUFFERED': '1'}
    with subprocess.Popen(
        argv,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        assert re.match(LINK, run.stdout.readline())
        os.kill(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (130, '')
    assert err.endswith('\nstopped by a signal; what was finished is kept\n')
