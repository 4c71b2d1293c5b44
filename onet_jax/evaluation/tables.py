"""Rows of an evaluation to the paper's table: means of the classes, and the mean of these means."""

import csv
import io
from pathlib import Path

import numpy as np

from onet_jax.evaluation.evaluate import Result
from onet_jax.files import write_atomically

# name in the scores -> (column with its unit, factor). Distances are given as in the paper: 1/10 of the longest edge.
COLUMNS = {
    'iou': ('IoU', 1),
    'chamfer_l1': ('Chamfer-L1 (x10)', 10),
    'accuracy': ('Accuracy (x10)', 10),
    'completeness': ('Completeness (x10)', 10),
    'normal_consistency': ('Normal consistency', 1),
    'f_score': ('F-score at 1 %', 1),
}


def class_means(results: list[Result], scores: str = 'scores') -> dict[str, dict[str, float]]:
    """{category: {metric: mean}}, in the units of the table, with 'mean' last: the mean of the class means."""
    categories = sorted({r.category for r in results})
    means = {
        category: {
            key: factor * float(np.mean([getattr(r, scores)[key] for r in results if r.category == category]))
            for key, (_, factor) in COLUMNS.items()
        }
        for category in categories
    }
    means['mean'] = {key: float(np.mean([means[c][key] for c in categories])) for key in COLUMNS}
    return means


def make_table(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: the classes, their mean, and the floor (ground truth against itself)."""
    means = class_means(results)
    counts = {c: sum(r.category == c for r in results) for c in means} | {'mean': len(results)}
    empty = {c: sum(r.category == c and not len(r.mesh.faces) for r in results) for c in means}
    empty['mean'] = sum(empty.values())
    rows = [
        [category, str(counts[category]), str(empty[category]), *(f'{values[key]:.3f}' for key in COLUMNS)]
        for category, values in means.items()
    ]
    floor = class_means(results, 'floor')['mean']
    rows.append(['floor (ground truth against itself)', str(len(results)), '0', *(f'{floor[k]:.3f}' for k in COLUMNS)])
    return ['category', 'shapes', 'empty', *(title for title, _ in COLUMNS.values())], rows


def to_markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with aligned columns, the first to the left."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for first, *others in [header, ['-' * w for w in widths], *rows]:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(others, widths[1:], strict=True))]
        lines.append(f'| {" | ".join(cells)} |\n')
    return ''.join(lines)


def write_results(folder: Path, results: list[Result]) -> None:
    """FOLDER/rows.csv, one row for each shape, and FOLDER/table.md, the table, in the same units; squares are unscaled."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    factors = {key: COLUMNS[key][1] if key in COLUMNS else 1 for key in results[0].scores}
    titles = [f'{key} (x{factor})' if factor != 1 else key for key, factor in factors.items()]
    writer.writerow(['category', 'name', 'seconds', 'faces', *titles])
    for r in results:
        scores = [factor * r.scores[key] for key, factor in factors.items()]
        writer.writerow([r.category, r.name, f'{r.seconds:.3f}', len(r.mesh.faces), *scores])
    write_atomically(folder / 'rows.csv', text.getvalue().encode())
    write_atomically(folder / 'table.md', to_markdown(*make_table(results)).encode())


def summary(results: list[Result]) -> dict[str, float]:
    """The headline: means of the class means in the table's units, and the number of shapes and of empty meshes."""
    means = class_means(results)['mean']
    return {
        **means,
        'num_shapes': len(results),
        'num_empty': sum(not len(r.mesh.faces) for r in results),
        'seconds_per_mesh': float(np.median([r.seconds for r in results])),
    }
