"""The paper's tables from the results of an evaluation: class means, and the mean of the class means; of sequences by time too.

A metric that is not defined, as the IoU of a point cloud, is NaN: it is left out of means and printed as '-'.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onet_jax.evaluation.evaluate import Result
from onet_jax.evaluation.published import CLASSES, Published
from onet_jax.files import remove_leftovers, write_atomically, write_json
from onet_jax.geometry.views import Pictures
from onet_jax.scores import COLUMNS, METRICS
from onet_jax.viz.plots import write_plot

Table = tuple[list[str], list[list[str]]]  # header and rows
# Of sequences: name of a plot over time -> its metrics.
PLOTS = {'iou_by_time': ('iou',), 'distances_by_time': ('chamfer_l1', 'correspondence_l2')}
FAULTS = ('empty', 'not a solid')  # the columns of `count_faults`


def columns_of(results: Sequence[Result]) -> list[str]:
    """The metrics of a table: those of `scores.COLUMNS` that predictions of this kind have."""
    return [name for name in COLUMNS if name in results[0].scores]


def class_means(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """{category: {metric: mean}} in the units of the table; the last key is 'mean', the mean of the class means."""
    categories = sorted({r.category for r in results})
    columns = columns_of(results)
    means = {
        category: {
            key: METRICS[key].factor * _mean(r.scores[key] for r in results if r.category == category)
            for key in columns
        }
        for category in categories
    }
    means['mean'] = {key: _mean(means[c][key] for c in categories) for key in columns}
    return means


def _mean(values: Iterable[float]) -> float:
    found = [value for value in values if not math.isnan(value)]
    return float(np.mean(found)) if found else math.nan


def format_cell(value: float) -> str:
    """A number of a table, '-' where there is none."""
    return '-' if math.isnan(value) else f'{value:.3f}'


def make_table(results: Sequence[Result]) -> Table:
    """Header and rows of text: the classes, their mean, and the means of `Result.references`.

    Synsets of ShapeNet are shown by the names of their classes. Pictures have no faults.
    """
    means = class_means(results)
    counts = {c: sum(r.category == c for r in results) for c in means} | {'mean': len(results)}
    faults = {category: count_faults([r for r in results if category in (r.category, 'mean')]) for category in means}
    rows = [
        [CLASSES.get(category, category), str(counts[category]), *faults[category], *map(format_cell, values.values())]
        for category, values in means.items()
    ]
    for label in results[0].references:
        values = class_means([r._replace(scores=r.references[label]) for r in results])['mean']
        rows.append([label, str(len(results)), '0', '-', *map(format_cell, values.values())])
    header = ['category', 'shapes', *FAULTS, *(METRICS[key].title for key in columns_of(results))]
    if isinstance(results[0].prediction, Pictures):
        header, *rows = ([*row[:2], *row[2 + len(FAULTS) :]] for row in (header, *rows))
    return header, rows


def means_by_time(results: Sequence[Result]) -> dict[str, list[float]]:
    """Of sequences {metric: the mean of the class means in each frame}, in the units of the table."""
    by_time = [r.by_time for r in results if r.by_time is not None]
    frames = []
    for k in range(len(by_time[0]['correspondence_l2'])):
        scores = [{name: values[k] for name, values in each.items()} for each in by_time]
        frames.append(class_means([r._replace(scores=s) for r, s in zip(results, scores, strict=True)])['mean'])
    return {name: [frame[name] for frame in frames] for name in frames[0]}


def make_time_table(results: Sequence[Result]) -> Table:
    """Header and rows of text of sequences, a row for each of the equidistant times 0 to 1."""
    means = means_by_time(results)
    rows = list(zip(*means.values(), strict=True))
    times = np.linspace(0, 1, len(rows))
    cells = [[format_cell(time), *map(format_cell, row)] for time, row in zip(times, rows, strict=True)]
    return ['time', *(METRICS[name].title for name in means)], cells


def count_faults(results: Sequence[Result]) -> tuple[str, str]:
    """How many predictions are empty, and how many meshes are open, inside out or intersect themselves; '-' without meshes."""
    solid = [r.is_solid for r in results if r.is_solid is not None]
    return str(sum(r.num_faces == 0 for r in results)), str(solid.count(False)) if solid else '-'


def compare(results: list[Result], published: Published, label: str) -> list[Table]:
    """The published table in its own layout, with ours as the last column or row, named `label`.

    Table 1 of the paper gives one table for each metric, of classes and methods; tables 2 and 3 are of methods and metrics.
    """
    ours = {CLASSES.get(category, category): means for category, means in class_means(results).items()}
    if published.has_classes:
        return [
            (
                [METRICS[metric].title, *published.methods, label],
                [
                    [row, *published_cells(published, metric, row), format_cell(means.get(metric, math.nan))]
                    for row, means in ours.items()
                ],
            )
            for metric in published.values
        ]
    columns = [
        [*published_cells(published, metric, 'mean'), format_cell(ours['mean'].get(metric, math.nan))]
        for metric in published.values
    ]
    header = ['mean', *(METRICS[metric].title for metric in published.values)]
    return [(header, [list(row) for row in zip((*published.methods, label), *columns, strict=True)])]


def published_cells(published: Published, metric: str, row: str) -> list[str]:
    """The values of all methods for a class or 'mean'."""
    values = published.values[metric].get(row, {})
    return [format_cell(values.get(method, math.nan)) for method in published.methods]


def describe_comparison(results: list[Result], published: Published, split: str) -> list[str]:
    """The source of the published numbers, and what makes ours not comparable with them."""
    notes = [f'published: {published.source}']
    if split != 'test':
        notes.append(f'not comparable: the published numbers are of the test split, ours of {split!r}')
    ours = sorted({CLASSES.get(r.category, r.category) for r in results})
    if published.classes and set(ours) != set(published.classes):
        what, count = (
            'compare classes, not means' if published.has_classes else 'they do not compare',
            len(published.classes),
        )
        notes.append(f'the published means are over {count} classes, ours over {len(ours)} ({", ".join(ours)}): {what}')
    if published.picture_size and results[0].truth is not None:
        height, width = results[0].truth.rgb.shape[1:3]
        if (width, height) != published.picture_size:
            size = ' x '.join(map(str, published.picture_size))
            notes.append(
                f'not comparable: the published numbers are of pictures of {size} px, ours of {width} x {height}'
            )
    return notes


def append_published(table: Table, published: Published) -> Table:
    """The table of `make_table` with a column for each published metric and method."""
    header, rows = table
    titles = [f'{METRICS[metric].title}, {method}' for metric in published.values for method in published.methods]
    cells = [
        [cell for metric in published.values for cell in published_cells(published, metric, row[0])] for row in rows
    ]
    return [*header, *titles], [row + more for row, more in zip(rows, cells, strict=True)]


def to_markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns, the first to the left. Names in it are text, not markup."""
    header, *rows = ([escape_markdown(cell) for cell in row] for row in [header, *rows])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for first, *others in [header, ['-' * w for w in widths], *rows]:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append(f'| {" | ".join(cells)} |\n')
    return ''.join(lines)


def escape_markdown(text: str) -> str:
    """Text without markup, on one line."""
    return re.sub(r'([\\`|<>\[\]])', r'\\\1', ' '.join(text.split()))


def to_csv(header: Sequence, rows: Iterable[Sequence]) -> str:
    """A comma-separated table; NaN, None and '-' are empty cells. A text is no formula: an apostrophe is put before it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerows(map(_csv_cell, row) for row in [header, *rows])
    return text.getvalue()


def _csv_cell(cell: Any) -> Any:
    if cell == '-' or cell != cell:  # only NaN differs from itself
        return None
    is_formula = isinstance(cell, str) and re.match(r'[=+\-@\t\r]', cell) and not re.fullmatch(r'[+-]?[\d.]+', cell)
    return f"'{cell}" if is_formula else cell


def write_results(
    folder: Path, results: list[Result], protocol: dict[str, str | int | float], published: Published | None = None
) -> None:
    """Print table.md, then write FOLDER/rows.csv, table.csv, table.md and protocol.json.

    rows.csv has a row for each shape, in the units of the table (squared distances are not scaled); table.csv and table.md have
    the means, with the published ones beside them. Of sequences table.md also has the means at each time, as by_time.csv, and
    iou_by_time.svg and distances_by_time.svg have their curves. protocol: as of `describe_protocol`, printed below the table of
    table.md; with published numbers it needs 'split' and 'evaluated' (what was scored: 'reconstructions' or 'inputs').
    """
    factors = {key: METRICS[key].factor for key in results[0].scores}
    titles = [f'{key} (x{factor:g})' if factor != 1 else key for key, factor in factors.items()]
    rows = to_csv(
        ['category', 'name', 'seconds', 'faces', *titles],
        [
            [r.category, r.name, f'{r.seconds:.3f}', r.num_faces, *(f * r.scores[key] for key, f in factors.items())]
            for r in results
        ],
    )
    table, compared, notes = make_table(results), [], []
    wide = table
    if published and published.values.keys() & results[0].scores.keys():  # not of pictures where shapes were published
        wide = append_published(table, published)
        compared = compare(results, published, f'our {protocol["evaluated"]}')
        notes = describe_comparison(results, published, str(protocol['split']))
    by_time = [make_time_table(results)] if results[0].by_time else []
    lines = [*notes, *(escape_markdown(f'{key.replace("_", " ")}: {value}') for key, value in protocol.items())]
    tables = [to_markdown(*each) for each in (table, *compared, *by_time)]
    markdown = '\n'.join([*tables, ''.join(f'* {line}\n' for line in lines)])
    print(markdown, flush=True)  # first: the folder may not be writable
    remove_leftovers(folder)
    write_atomically(folder / 'rows.csv', rows.encode())
    write_atomically(folder / 'table.csv', to_csv(*wide).encode())
    write_atomically(folder / 'table.md', markdown.encode())
    write_json(folder / 'protocol.json', protocol | ({'notes': notes} if notes else {}))
    for header, cells in by_time:
        write_atomically(folder / 'by_time.csv', to_csv(header, cells).encode())
        _plot_by_time(folder, means_by_time(results))


def _plot_by_time(folder: Path, means: dict[str, list[float]]) -> None:
    """Write the `PLOTS` of the metrics that are defined."""
    for file, names in PLOTS.items():
        times = np.linspace(0, 1, len(means['iou'])).tolist()
        known = [name for name in names if np.isfinite(means[name]).all()]
        if known:
            curves = {METRICS[name].title: list(zip(times, means[name], strict=True)) for name in known}
            write_plot(folder / f'{file}.svg', 'over time', curves)


def summary(results: list[Result]) -> dict[str, float]:
    """Means of the class means in the units of the table, numbers of shapes and of empty meshes, median time of a mesh."""
    means = class_means(results)['mean']
    return {
        **means,
        'num_shapes': len(results),
        'num_empty': sum(r.num_faces == 0 for r in results),
        'seconds_per_mesh': float(np.median([r.seconds for r in results])),
    }
