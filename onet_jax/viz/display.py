"""What the viewer shows: shapes in rows and columns, and the controls (sliders, choices) that they are a function of.

Shapes are in object coordinates, in the cube of edge 1 around the origin with y up. Beside those of `pictures.Item` they are
sequences, the cameras of posed views and line segments. Colours are sRGB, uint8. V views, S segments.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from onet_jax.viz.pictures import RGB, Item


class Cameras(NamedTuple):
    """Pinhole cameras, drawn as frustums with their pictures; axes right, down, forward."""

    eyes: np.ndarray  # [V, 3]
    rotations: np.ndarray  # [V, 3, 3], camera axes -> object coordinates: their columns are the axes
    angles: np.ndarray  # [V] radians, vertical angle of view
    pictures: Sequence[np.ndarray]  # V of [H, W, 3] uint8, small ones
    colours: np.ndarray  # [V, 3] uint8, of the edges
    size: float  # of a frustum


class Segments(NamedTuple):
    """Line segments, such as parts of rays."""

    ends: np.ndarray  # [S, 2, 3]
    colours: np.ndarray  # [S, 3] uint8


class Slider(NamedTuple):
    """A control: a number in [low, high]."""

    name: str
    low: float
    high: float
    step: float
    value: float
    plays: bool = False  # a button lets it run from low to high, again and again


class Choice(NamedTuple):
    """A control: one of some words."""

    name: str
    options: tuple[str, ...]
    value: str


class Shown(NamedTuple):
    """What is shown at some values of the controls."""

    titles: tuple[str, ...]  # of the columns, each of which can be hidden
    items: Sequence[Item]  # the rows, with a shape for each title; None is nothing
    legend: Mapping[str, RGB] = {}  # meaning -> colour
    caption: str = ''  # of all items


class Display(NamedTuple):
    """What the viewer shows, as a function of controls."""

    controls: tuple[Slider | Choice, ...]
    make: Callable[
        ..., Shown
    ]  # (*values of the controls, in their order) -> what is shown; raises InputError, which is shown
    beside: bool = True  # columns are side by side at first, or else all at one place
