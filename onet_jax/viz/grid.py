"""The shapes of the viewer in rows and columns of a scene: side by side or at one place, hidden, and at a time of sequences."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from onet_jax.geometry.sequences import SEQUENCES, frames_of
from onet_jax.viz.display import Shown
from onet_jax.viz.nodes import add_shape, is_flat

PITCH, TALL = 1.25, 1.45  # distances of columns and of rows
ABOVE, BELOW = 0.62, 0.64  # of a label from the middle of a shape


class Cell(NamedTuple):
    """A shape in the scene."""

    shape: Any
    node: Any
    frames: Sequence[Any]  # nodes of the frames of a sequence


class Grid:
    """The nodes of what is shown, below the root of a scene: `viser.SceneApi`."""

    def __init__(self, scene: Any):
        self._scene, self._count = scene, 0
        self._shown = Shown((), [])
        self.cells: dict[tuple[int, str], Cell] = {}  # by row and title
        self._titles: dict[str, Any] = {}  # labels of columns
        self._names: list[Any] = []  # labels of rows

    def fill(self, shown: Shown) -> None:
        """Show other shapes in place of those before; one that is the same object stays where it is."""
        self._shown, before, self.cells = shown, self.cells, {}
        for row, item in enumerate(shown.items):
            for title, shape in zip(shown.titles, item.shapes, strict=True):
                cell = before.get((row, title))
                if cell is not None and cell.shape is shape:
                    self.cells[row, title] = before.pop((row, title))
                    continue
                self._count += 1
                node = self._scene.add_frame(f'/{self._count}', show_axes=False)
                self.cells[row, title] = Cell(shape, node, add_shape(self._scene, f'/{self._count}', shape))
        for node in [*(cell.node for cell in before.values()), *self._titles.values(), *self._names]:
            node.remove()
        several = len(shown.titles) > 1 and len(shown.items) > 0
        self._titles = {title: self._add_label(title, 'bottom-center') for title in shown.titles if several}
        texts = [': '.join(filter(None, (item.name, item.caption))) for item in shown.items]
        self._names = [self._add_label(text, 'top-center') for text in texts if len(texts) > 1]

    def arrange(self, titles: Sequence[str], beside: bool, time: float) -> None:
        """Show the columns of some titles, side by side or at one place, and sequences at a time in [0, 1].

        Pictures are always beside the other shapes, in whose frame they have no place.
        """
        places = {title: PITCH * (column - (len(titles) - 1) / 2) for column, title in enumerate(titles)}
        middle = (len(self._shown.items) - 1) / 2
        for (row, title), cell in self.cells.items():
            cell.node.visible = title in places
            if title in places:
                x = places[title] if beside or is_flat(cell.shape) else 0
                cell.node.position = (x, TALL * (middle - row), 0)
                current = round(time * (len(cell.frames) - 1))
                for k, frame in enumerate(cell.frames):
                    frame.visible = k == current
        for title, label in self._titles.items():
            label.visible = beside and title in places
            label.position = (places.get(title, 0), TALL * middle + ABOVE, 0)
        for row, label in enumerate(self._names):
            label.position = (0, TALL * (middle - row) - BELOW, 0)

    def num_frames(self) -> int:
        """Of the longest sequence; 0 where nothing moves."""
        return max(
            (len(frames_of(cell.shape)) for cell in self.cells.values() if isinstance(cell.shape, SEQUENCES)), default=0
        )

    def _add_label(self, text: str, anchor: str) -> Any:
        self._count += 1
        return self._scene.add_label(f'/{self._count}', text, anchor=anchor)
