"""The viewer: a page in the browser with shapes to turn, and controls that change them (by viser).

A server in this process, of this machine alone unless another host is asked for, sends shapes to any number of pages. Whoever
calls `Viewer.serve` computes what is shown, in its own thread: a change of a control is worked on as soon as the one before is
done, and of several changes the last one counts.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from types import TracebackType
from typing import Any

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.sequences import SEQUENCES, frames_of
from onet_jax.viz.display import RGB, Display, Shown, Slider
from onet_jax.viz.nodes import add_shape, as_bytes
from onet_jax.viz.pictures import camera_axes, drawable, is_picture

HOST, PORT, NUM_PORTS = '127.0.0.1', 8080, 100
PITCH, TALL = 1.25, 1.45  # distances of columns and of rows
ABOVE, BELOW = 0.62, 0.64  # of a label from the middle of a shape
AZIMUTH, ELEVATION = 20.0, 15.0  # degrees, of the first view
ANGLE = 0.55  # radians, vertical angle of view
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
        self._status = self._server.gui.add_markdown(INITIAL)
        self._controls: list[Any] = []
        self._visible: dict[str, Any] = {}  # by titles
        self._made: object = None  # values of the controls for which the scene was made
        self._kept: dict[object, Shown] = {}
        self._grid: tuple[int, int] | None = None
        self._columns: dict[tuple[int, str], tuple[Any, list[Any]]] = {}  # (row, title) -> node, those of its frames
        self._generation = 0
        self._playing = False

    def __enter__(self) -> 'Viewer':
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the server, and `serve` in another thread."""
        self._closed.set()
        self._changed.set()
        with _silence():
            self._server.stop()

    def serve(self, display: Display) -> None:
        """Show a display until the viewer is closed, or this thread is interrupted."""
        self.open(display)
        while not self._closed.is_set():
            self.update(FRAME_SECONDS if self._playing else None)

    def open(self, display: Display) -> None:
        """Make the controls of a display; `update` makes the rest."""
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

    def refresh(self) -> None:
        """Make again what is shown, for `Display.make` gives something new; from any thread."""
        self._made = None
        self._changed.set()

    def update(self, seconds: float | None = None) -> None:
        """Wait for a change, for so many seconds, then show it; without a change go on with what plays."""
        changed = self._changed.wait(seconds)
        if self._closed.is_set():
            return
        self._changed.clear()
        if not changed:
            self._advance()
        values = tuple(handle.value for handle in self._controls)
        if values != self._made:
            self._made = values
            self._make(values)
        self._arrange()
        self._server.flush()

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
        self._generation += 1
        scene, old = self._server.scene, [node for node, _ in self._columns.values()]
        with self._server.atomic():
            self._columns = {}
            for row, item in enumerate(shown.items):
                for title, shape in zip(shown.titles, item.shapes, strict=True):
                    name = f'/{self._generation}_{row}_{title}'
                    node = scene.add_frame(name, show_axes=False)
                    if row == 0 and len(shown.titles) > 1:
                        scene.add_label(f'{name}/title', title, position=(0, ABOVE, 0), anchor='bottom-center')
                    if title == shown.titles[0] and len(shown.items) > 1:
                        text = f'{item.name}: {item.caption}' if item.caption else item.name
                        scene.add_label(f'{name}/name', text, position=(0, -BELOW, 0), anchor='top-center')
                    self._columns[row, title] = node, add_shape(scene, name, shape)
            for node in old:
                node.remove()
        self._prepare_frames(shown)
        self._aim((len(shown.titles) if self._beside.value else 1, len(shown.items)))

    def _caption(self) -> str:
        shown = getattr(self, '_shown', None)
        if shown is None:
            return INITIAL
        (first, *others) = shown.items
        return '' if others else '\n\n'.join(filter(None, (f'**{_plain(first.name)}**', _plain(first.caption))))

    def _add_boxes(self, titles: tuple[str, ...]) -> None:
        """A box for each title that was not there before."""
        with self._folder:
            for title in titles:
                if title not in self._visible:
                    self._visible[title] = self._watch(self._server.gui.add_checkbox(title, True))
        self._folder.visible = self._beside.visible = len(self._visible) > 1

    def _prepare_frames(self, shown: Shown) -> None:
        """The slider of the frames, where there is a sequence, and the button that plays."""
        lengths = [len(frames_of(s)) for item in shown.items for s in item.shapes if isinstance(s, SEQUENCES)]
        self._frame.visible = bool(lengths)
        if lengths:
            self._frame.max = max(lengths) - 1
            self._frame.value = min(self._frame.value, self._frame.max)
        plays = any(isinstance(control, Slider) and control.plays for control in self._display.controls)
        self._button.visible = plays or bool(lengths)

    def _arrange(self) -> None:
        """Columns that are shown, side by side or at one place, and the frame of each sequence at this time."""
        if not self._columns:
            return
        titles = [title for title in self._shown.titles if self._visible[title].value]
        num_rows = len(self._shown.items)
        with self._server.atomic():
            for (row, title), (node, frames) in self._columns.items():
                node.visible = title in titles
                if title not in titles:
                    continue
                shape = self._shown.items[row].shapes[self._shown.titles.index(title)]
                beside = self._beside.value or _is_flat(shape)
                column = titles.index(title) - (len(titles) - 1) / 2 if beside else 0
                node.position = (PITCH * column, TALL * ((num_rows - 1) / 2 - row), 0)
                if frames:
                    time = self._frame.value / max(self._frame.max, 1)
                    current = round(time * (len(frames) - 1))
                    for k, frame in enumerate(frames):
                        frame.visible = k == current

    def _aim(self, grid: tuple[int, int]) -> None:
        """Look at a grid of columns and rows from a distance from which it is seen as a whole, where it is another one."""
        if grid == self._grid:
            return
        self._grid = grid
        num_columns, num_rows = grid
        extent = ROOM * max(num_columns * PITCH / ASPECT, num_rows * TALL)
        distance = extent / 2 / np.tan(ANGLE / 2) + 0.5
        eye = distance * camera_axes(AZIMUTH, ELEVATION)[2]
        cameras = [self._server.initial_camera, *(client.camera for client in self._server.get_clients().values())]
        for camera in cameras:
            camera.position, camera.look_at, camera.fov = eye, (0.0, 0.0, 0.0), ANGLE


@contextmanager
def serving(title: str, display: Display) -> Iterator[Viewer]:
    """A viewer that serves a display in a thread of its own; prints its link first."""
    with Viewer(title) as viewer:
        print(viewer.link, flush=True)
        thread = threading.Thread(target=viewer.serve, args=(display,), daemon=True)
        thread.start()
        try:
            yield viewer
        finally:
            viewer.close()
            thread.join()


def find_port(host: str, port: int) -> int:
    """The first of `NUM_PORTS` ports that is free. Raises InputError where none is, and for another machine's host."""
    reason = ''
    for number in range(port, min(port + NUM_PORTS, 1 << 16)):
        try:
            with socket.create_server((host, number)):
                return number
        except socket.gaierror as error:
            raise InputError(
                f'--host: expected a name or an address of this machine, found {host!r}: {error}'
            ) from error
        except OSError as error:
            reason = str(error)
    raise InputError(f'--host, --port: expected a free port of {host}, from {port} on, found none: {reason}')


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


def _is_flat(shape: Any) -> bool:
    """Whether a shape is a picture, which has no place in the frame of the others."""
    if shape is None or isinstance(shape, SEQUENCES):
        return False
    shape = drawable(shape)
    return isinstance(shape, np.ndarray) and is_picture(shape)


def _legend(legend: Any) -> str:
    def css(colour: RGB) -> str:
        return ','.join(map(str, as_bytes(colour)))

    mark = 'display:inline-block;width:.8em;height:.8em;border-radius:50%;margin-right:.5em;background:rgb({})'
    lines = (f'<div><i style="{mark.format(css(c))}"></i>{escape(text)}</div>' for text, c in legend.items())
    return f'<div style="font-size:.8em;padding:.5em .8em">{"".join(lines)}</div>' if legend else ''


def _plain(text: str) -> str:
    """Text as Markdown that shows it as it is."""
    return ''.join(f'\\{letter}' if letter in '\\`*_{}[]()<>#+-.!|$~' else letter for letter in text)
