"""The viewer without a browser: a server that is real, and controls that are set as a page sets them."""

import socket
import sys
import threading

import numpy as np
import pytest
import trimesh
from browser import wait_for

from onet_jax.errors import InputError
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.viz import viewer as viewer_file
from onet_jax.viz.display import Choice, Display, Shown, Slider
from onet_jax.viz.grid import PITCH
from onet_jax.viz.pictures import FRONT, Item
from onet_jax.viz.viewer import Viewer, find_port, showing

BALL = trimesh.creation.icosphere(subdivisions=1, radius=0.4)
POINTS = np.asarray(BALL.vertices)
SEQUENCE = MeshSequence(np.stack([POINTS, POINTS * 0.9, POINTS * 0.8]), np.asarray(BALL.faces))


def make(level, kind):
    if level > 0.8:
        raise InputError('level: expected at most 0.8, found *more*')
    shapes = {'cloud': (POINTS, SEQUENCE), 'mesh': (POINTS, BALL)}[kind]
    return Shown(('input', 'result'), [Item('a_b', f'level {level:g}', shapes)], {'surface <': FRONT})


DISPLAY = Display((Slider('level', 0.1, 0.9, 0.4, 0.1, plays=True), Choice('kind', ('mesh', 'cloud'), 'mesh')), make)


@pytest.fixture(scope='module', autouse=True)
def _viser():
    pytest.importorskip('viser')


@pytest.fixture
def viewer():
    with Viewer('title', port=0) as opened:
        opened.open(DISPLAY)
        opened.update()
        yield opened


def handles_of(viewer, name):
    """The controls of a name, in the order in which they were made."""
    found = viewer._server.gui._gui_input_handle_from_uuid.values()
    return [handle for handle in found if handle.label == name]


def control(viewer, name):
    (handle,) = handles_of(viewer, name)
    return handle


def test_what_is_shown_is_a_function_of_the_controls(viewer, capsys):
    assert viewer._status.content == '**a\\_b**\n\nlevel 0\\.1'
    assert '<i ' in viewer._legend.content
    assert 'surface &lt;' in viewer._legend.content
    control(viewer, 'level').value = 0.5
    viewer.update()
    assert viewer._status.content.endswith('level 0\\.5')
    control(viewer, 'level').value = 0.9
    viewer.update()
    assert viewer._status.content == '**level: expected at most 0\\.8, found \\*more\\***'
    control(viewer, 'level').value = 0.1
    viewer.update()
    assert viewer._status.content.endswith('level 0\\.1')
    assert capsys.readouterr().out == '', 'the server says nothing of itself'


def test_columns_are_hidden_and_moved(viewer):
    seen, made = (viewer._grid.cells[0, title].node for title in ('input', 'result'))
    assert (seen.position[0], made.position[0]) == (-PITCH / 2, PITCH / 2)
    control(viewer, 'side by side').value = False
    viewer.update()
    assert seen.position[0] == made.position[0] == 0
    control(viewer, 'side by side').value = True
    control(viewer, 'input').value = False
    viewer.update()
    assert (seen.visible, made.visible, made.position[0]) == (False, True, 0)
    control(viewer, 'kind').value = 'cloud'
    viewer.update()
    cells = viewer._grid.cells
    assert cells[0, 'input'].node is seen, 'the same points are not sent again'
    assert cells[0, 'result'].node is not made


def test_sequences_and_sliders_play(viewer):
    assert not viewer._frame.visible
    viewer._toggle(None)
    viewer.update()
    viewer.update(0)
    assert control(viewer, 'level').value == 0.5, 'a step of the slider that plays'
    control(viewer, 'level').value = 0.1
    control(viewer, 'kind').value = 'cloud'
    viewer.update()
    frames = viewer._grid.cells[0, 'result'].frames
    seen = []
    for _ in range(4):
        seen.append([frame.visible for frame in frames].index(True))
        viewer.update(0)
    assert seen == [0, 1, 2, 0]
    assert control(viewer, 'level').value == 0.1
    assert viewer._button.label == viewer_file.STOP


def test_nothing_is_left_of_a_viewer():
    before = set(threading.enumerate())
    with Viewer('title', port=0) as opened:
        port = int(opened.link.rpartition(':')[2])
        serving = threading.Thread(target=opened.serve, args=(DISPLAY,))
        serving.start()
        with socket.create_connection(('127.0.0.1', port)) as page:
            page.sendall(b'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')
            assert page.recv(15) == b'HTTP/1.1 200 OK'
    serving.join(10)
    wait_for(lambda: set(threading.enumerate()) <= before)
    assert find_port('127.0.0.1', port) == port


def test_a_viewer_can_be_closed_while_its_controls_are_made(recwarn):
    """viser warns of what is sent to a server that has ended."""
    with Viewer('title', port=0) as opened:
        closing = threading.Thread(target=opened.close)

        def controls():
            closing.start()
            closing.join(0.2)
            yield from DISPLAY.controls

        opened.serve(Display(controls(), make))
        closing.join()
        opened.serve(DISPLAY)
    assert not recwarn


def test_the_latest_of_several_is_shown(capsys):
    with showing('run', True) as show:
        assert capsys.readouterr().out.startswith('http://127.0.0.1:')
        items = [Item('chair', 'IoU 0.5', (POINTS, BALL)), Item('mug', '', (None, trimesh.Trimesh()))]
        show(Shown(('input', 'reconstruction'), items, caption='step 3'))
        (viewer,) = (cell.cell_contents for cell in show.__closure__ if isinstance(cell.cell_contents, Viewer))
        heights = [0.725, 0.725, -0.725, -0.725]
        wait_for(lambda: [cell.node.position[1] for cell in viewer._grid.cells.values()] == heights)
        assert viewer._status.content == 'step 3'
    with showing('run', False) as show:
        assert show is None


def test_a_port_that_is_taken_is_passed_over():
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        assert port < find_port('127.0.0.1', port) < port + viewer_file.NUM_PORTS
    with pytest.raises(InputError, match='--host: expected a name or an address'):
        find_port('no.such.host.invalid', 8080)
    with pytest.raises(InputError, match=r'--host: expected an address .* found .203\.0'):
        find_port('203.0.113.1', 8080)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'viser', None)
    with pytest.raises(InputError, match=r"viser, found none; .* pip install 'onet_jax\[view\]'"):
        Viewer('title')
