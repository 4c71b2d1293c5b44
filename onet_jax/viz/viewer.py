"""The interactive 3D viewer (by viser): a page in the browser with shapes to turn, and controls that change them.

A server in this process, of this machine alone unless another host is asked for, sends shapes to any number of pages. Whoever
calls `Viewer.serve` computes what is shown, in its own thread: a change of a control is worked on as soon as the one before is
done, and of several changes the last one counts.
"""

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import Any

import numpy as np

from onet_jax.errors import InputError
from onet_jax.viz.display import Display, Shown, Slider
from onet_jax.viz.grid import PITCH, TALL, Grid
from onet_jax.viz.nodes import as_bytes
from onet_jax.viz.pictures import RGB, camera_axes

HOST, PORT, NUM_PORTS = '127.0.0.1', 8080, 100
AZIMUTH, ELEVATION = 20.0, 15.0  # degrees, of the first view
ANGLE = 0.55  # radians, vertical angle of view
ALONE = 1.2  # height of a single row
ASPECT, ROOM = 1.2, 1.15  # width over height of the part of the page beside the panel; of what is left around shapes
FRAME_SECONDS = 0.08  # that a frame of a sequence, or a step of a slider that plays, is shown at least
NUM_KEPT = 200  # values of the controls whose shapes are kept, while something plays
LAST = 1e9  # place of a control below the others
INITIAL = 'preparing what is shown ...'
PLAY, STOP = 'Play', 'Stop'


class Viewer:
    """A server of pages. Use it in a `with` statement; `link` is the address of a page."""

    def __init__(self, title: str, host: str = HOST, port: int = PORT):
        """Start the server, on the next free port where this one is taken.

        Raises InputError without the package viser, for a host that is not of this machine, and where no port is free.
        """
        viser, port = _import_viser(), find_port(host, port)
        with _silence():
            self._server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        name = socket.gethostname() if host in ('0.0.0.0', '::') else host
        self.link = f'http://{name}:{self._server.get_port()}'
        self._server.scene.set_up_direction('+y')
        self._server.gui.configure_theme(show_logo=False, show_share_button=False)
        self._server.gui.main_panel.dock_right()
        self._changed, self._closed = threading.Event(), threading.Event()
        self._busy = threading.Lock()  # while something is sent, which takes a server
        self._status = self._server.gui.add_markdown(INITIAL)
        self._controls: list[Any] = []
        self._visible: dict[str, Any] = {}  # by titles
        self._made: object = None  # values of the controls for which the scene was made
        self._kept: dict[object, Shown] = {}
        self._shown: Shown | None = None
        self._grid = Grid(self._server.scene)
        self._size: tuple[int, int] | None = None  # columns and rows that the camera looks at
        self._playing = False

    def __enter__(self) -> 'Viewer':
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the server, and `serve` in another thread."""
        self._closed.set()
        self._changed.set()
        with self._busy, _silence():
            self._server.stop()

    def serve(self, display: Display) -> None:
        """Show a display until the viewer is closed, or this thread is interrupted."""
        self.open(display)
        while not self._closed.is_set():
            self.update(FRAME_SECONDS if self._playing else None)

    def open(self, display: Display) -> None:
        """Make the controls of a display, unless the viewer is closed; `update` makes the rest."""
        with self._busy:
            if not self._closed.is_set():
                self._add_controls(display)

    def refresh(self) -> None:
        """Make again what is shown, for `Display.make` gives something new; from any thread."""
        self._made = None
        self._changed.set()

    def update(self, seconds: float | None = None) -> None:
        """Wait for a change, for so many seconds, then show it; without a change go on with what plays."""
        changed = self._changed.wait(seconds)
        with self._busy:
            if self._closed.is_set():
                return
            if not changed:
                self._advance()
            self._changed.clear()
            values = tuple(handle.value for handle in self._controls)
            if values != self._made:
                self._made = values
                self._make(values)
            titles = [title for title in self._shown.titles if self._visible[title].value] if self._shown else []
            with self._server.atomic():
                self._grid.arrange(titles, self._beside.value, self._frame.value / max(self._frame.max, 1))
            self._server.flush()

    def _add_controls(self, display: Display) -> None:
        self._display, gui = display, self._server.gui
        for control in display.controls:
            if isinstance(control, Slider):
                limits = float(control.low), float(control.high), float(control.step), float(control.value)
                handle = gui.add_slider(control.name, *limits)
            else:
                handle = gui.add_dropdown(control.name, control.options, initial_value=control.value)
            self._controls.append(self._watch(handle))
        self._frame = self._watch(gui.add_slider('frame', 0, 1, 1, 0, visible=False))
        self._button = gui.add_button(PLAY, visible=False)
        self._button.on_click(self._toggle)
        self._folder = gui.add_folder('Show', visible=False)
        with self._folder:
            self._beside = self._watch(gui.add_checkbox('side by side', display.beside, order=LAST))
        self._legend = gui.add_html('')
        self._changed.set()

    def _watch(self, handle: Any) -> Any:
        handle.on_update(lambda _: self._changed.set())
        return handle

    def _toggle(self, _: object) -> None:
        self._playing = not self._playing
        self._button.label = STOP if self._playing else PLAY
        self._changed.set()

    def _advance(self) -> None:
        """The next frame of a sequence, or the next value of the slider that plays."""
        if self._frame.visible:
            self._frame.value = (self._frame.value + 1) % (self._frame.max + 1)
            return
        for control, handle in zip(self._display.controls, self._controls, strict=True):
            if isinstance(control, Slider) and control.plays:
                following = round(handle.value + control.step, 6)
                handle.value = following if following <= control.high else control.low

    def _make(self, values: tuple) -> None:
        """The shapes at some values of the controls, in place of those before."""
        shown = self._kept.get(values) if self._playing else None
        if shown is None:
            self._status.content = f'{self._caption()}\n\n*working ...*'
            self._server.flush()
            try:
                shown = self._display.make(*values)
            except InputError as error:  # of these values; others may do
                self._status.content = f'**{_plain(str(error))}**'
                return
            self._kept = {**self._kept, values: shown} if self._playing and len(self._kept) < NUM_KEPT else {}
        self._shown = shown
        self._status.content = self._caption()
        self._legend.content = _legend(shown.legend)
        self._add_boxes(shown.titles)
        with self._server.atomic():
            self._grid.fill(shown)
        self._prepare_frames(self._grid.num_frames())
        self._aim(len(shown.titles) if self._beside.value else 1, len(shown.items))

    def _caption(self) -> str:
        """Of a single item its name and its caption, which several have in the scene."""
        shown = self._shown
        if shown is None:
            return INITIAL
        lines = [_plain(shown.caption)]
        if len(shown.items) == 1:
            lines += [f'**{_plain(shown.items[0].name)}**', _plain(shown.items[0].caption)]
        return '\n\n'.join(filter(None, lines))

    def _add_boxes(self, titles: tuple[str, ...]) -> None:
        """A box for each title that was not there before."""
        with self._folder:
            for title in titles:
                if title not in self._visible:
                    self._visible[title] = self._watch(self._server.gui.add_checkbox(title, True))
        self._folder.visible = self._beside.visible = len(self._visible) > 1

    def _prepare_frames(self, num_frames: int) -> None:
        """The slider of the frames, where there is a sequence, and the button that plays."""
        self._frame.visible = num_frames > 0
        if num_frames:
            self._frame.max = num_frames - 1
            self._frame.value = min(self._frame.value, num_frames - 1)
        plays = any(isinstance(control, Slider) and control.plays for control in self._display.controls)
        self._button.visible = plays or num_frames > 0

    def _aim(self, num_columns: int, num_rows: int) -> None:
        """Look at a grid from a distance from which it is seen as a whole, where it is another one than before."""
        if (num_columns, num_rows) == self._size:
            return
        self._size = num_columns, num_rows
        extent = ROOM * max(num_columns * PITCH / ASPECT, num_rows * TALL if num_rows > 1 else ALONE)
        distance = extent / 2 / np.tan(ANGLE / 2) + 0.5
        eye = distance * camera_axes(AZIMUTH, ELEVATION)[2]
        cameras = [self._server.initial_camera, *(client.camera for client in self._server.get_clients().values())]
        for camera in cameras:
            camera.position, camera.look_at, camera.fov = eye, (0.0, 0.0, 0.0), ANGLE


@contextmanager
def showing(title: str, wanted: bool) -> Iterator[Callable[[Shown], None] | None]:
    """A function that shows something new, in a viewer that another thread serves; None unless it is wanted.

    Prints the link. What is being computed elsewhere is shown while it goes on.
    """
    if not wanted:
        yield None
        return
    latest = Shown((), [], caption='nothing yet: the first shapes are shown as soon as they are made')
    with Viewer(title) as viewer:
        print(f'{viewer.link} shows the latest shapes', flush=True)
        display = Display((), lambda: latest)
        thread = threading.Thread(target=viewer.serve, args=(display,), daemon=True)
        thread.start()

        def show(shown: Shown) -> None:
            nonlocal latest
            latest = shown
            viewer.refresh()

        try:
            yield show
        finally:
            viewer.close()
            thread.join()


def find_port(host: str, port: int) -> int:
    """The first of `NUM_PORTS` ports that is free. Raises InputError where none is, and for another machine's host."""
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise InputError(f'--host: expected a name or an address of this machine, found {host!r}: {error}') from error
    for number in range(port, min(port + NUM_PORTS, 1 << 16)):
        try:
            with socket.create_server((host, number)):
                return number
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise InputError(f'--host: expected an address of this machine, found {host!r}: {error}') from error
    raise InputError(f'--port: expected a free port among the {NUM_PORTS} from {port} on, found none')


def _import_viser() -> Any:
    try:
        import viser
    except ModuleNotFoundError as error:
        raise InputError(
            "the viewer: expected the package viser, found none; install it by pip install 'onet_jax[view]', or in the root of "
            "the repository by pip install -e '.[view]'"
        ) from error
    return viser


@contextmanager
def _silence() -> Iterator[None]:
    """What viser prints of itself, by the console of rich, is left out."""
    import rich

    console = rich.get_console()
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


def _legend(legend: Any) -> str:
    def css(colour: RGB) -> str:
        return ','.join(map(str, as_bytes(colour)))

    mark = 'display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.5em;background:rgb({})'
    lines = (f'<div><i style="{mark.format(css(c))}"></i>{escape(text)}</div>' for text, c in legend.items())
    return f'<div style="font-size:.8em;padding:.5em .8em">{"".join(lines)}</div>' if legend else ''


def _plain(text: str) -> str:
    """Text as Markdown that shows it as it is."""
    return ''.join(f'\\{letter}' if letter in '\\`*_{}[]()<>#+-.!|$~' else letter for letter in text)
