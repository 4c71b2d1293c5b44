"""Line plots as SVG: for a page that has their styles, or as a file of its own."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from onet_jax.files import write_atomically

WIDTH, HEIGHT, MARGIN = 520, 250, (44, 16, 34, 58)  # px of a plot; margins top, right, bottom, left
COLOURS = ('#2f6bb3', '#d9822b', '#3f8f5f', '#a24c8f')

Points = Sequence[tuple[float, float]]


def plot(title: str, curves: Mapping[str, Points], *, log_x: bool = False, log_y: bool = False) -> str:
    """An SVG of curves {style: [(x, y)]} with ticks on both axes.

    The x axis starts at 0, or at the smallest x where it is logarithmic. y has to be finite, and values on a logarithmic axis
    positive.
    """
    top, right, bottom, left = MARGIN
    x, y = np.array([point for points in curves.values() for point in points], float).reshape(-1, 2).T
    to_x, x_ticks = _axis(x if log_x else np.r_[0.0, max(x.max(initial=1), 1)], log_x, left, WIDTH - right)
    to_y, y_ticks = _axis(y, log_y, HEIGHT - bottom, top)
    marks = [f'<text x="{left}" y="24">{escape(title)}</text>']
    for tick in y_ticks:
        h = f'{to_y(tick):.1f}'
        marks.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{h}" y2="{h}"/>')
        marks.append(f'<text x="{left - 8}" y="{h}" dy="4" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        marks.append(f'<text x="{to_x(tick):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{tick:g}</text>')
    for style, points in curves.items():
        line = ' '.join(f'{to_x(a):.1f},{to_y(b):.1f}' for a, b in points)
        marks.append(f'<polyline class="{style}" points="{line}"/>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(marks)}</svg>'


def write_plot(path: str | Path, title: str, curves: Mapping[str, Points], **axes: bool) -> None:
    """Write at most four curves {name: [(x, y)]} as an SVG file with a legend; axes: log_x and log_y, as of `plot`."""
    styles = dict(zip('abcd', curves, strict=False))
    svg = plot(title, {style: curves[name] for style, name in styles.items()}, **axes)
    css = 'text{font:12px sans-serif;fill:#333}.grid{stroke:#ddd}polyline{fill:none;stroke-width:2}'
    css += ''.join(f'.{style}{{stroke:{colour}}}' for style, colour in zip(styles, COLOURS, strict=False))
    legend = ''.join(
        f'<polyline class="{style}" points="{WIDTH - 200},{18 + 16 * i} {WIDTH - 180},{18 + 16 * i}"/>'
        f'<text x="{WIDTH - 174}" y="{22 + 16 * i}">{escape(name)}</text>'
        for i, (style, name) in enumerate(styles.items())
    )
    size = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
    white = f'<style>{css}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    head, body = svg.replace('<svg ', size, 1).split('>', 1)
    write_atomically(path, (head + '>' + white + body.removesuffix('</svg>') + legend + '</svg>\n').encode())


def _axis(values: np.ndarray, logarithmic: bool, start: float, stop: float) -> tuple[Callable, np.ndarray]:
    """A function from values to px between start and stop, and the ticks [K] of the axis."""
    if not len(values):
        values = np.array([1.0, 10.0] if logarithmic else [0.0, 1.0])
    ticks = _ticks(values.min(), values.max(), logarithmic)
    scale = np.log10 if logarithmic else np.asarray
    low, high = scale(min(ticks[0], values.min())), scale(max(ticks[-1], values.max()))
    return lambda value: start + (stop - start) * (scale(value) - low) / max(high - low, 1e-12), ticks


def _ticks(low: float, high: float, logarithmic: bool) -> np.ndarray:
    """Round numbers between low and high: 1, 2 or 5 times powers of ten, or their multiples; low alone where none fits."""
    if logarithmic:
        decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        ticks = (10.0 ** decades[:, None] * [1, 2, 5]).ravel()
        inside = ticks[(ticks >= low) & (ticks <= high)]
        return inside if len(inside) else np.array([low])
    if high - low < 1e-9:
        return np.array([low])
    power = 10 ** np.floor(np.log10(high - low))
    step = next(s * power for s in (0.2, 0.5, 1, 2) if (high - low) / (s * power) <= 6)
    return np.round(np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step, 12)
