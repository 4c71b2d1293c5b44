"""The notebooks of the documents: stored without outputs, and what they make is like the truth."""

import json

import numpy as np
import pytest
from documents import ROOT, cells

NOTEBOOKS = sorted((ROOT / 'docs' / 'notebooks').glob('*.ipynb'))


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(notebook):
    content = json.loads(notebook.read_text())
    assert (content['nbformat'], content['metadata'].keys()) == (4, {'kernelspec', 'language_info'})
    assert all(
        not cell['outputs'] and cell['execution_count'] is None for cell in content['cells'] if 'outputs' in cell
    )


@pytest.mark.slow
@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_what_it_makes_is_like_the_truth(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, cell in enumerate(cells(notebook.read_text(), 'code')):
        exec(compile(cell, f'{notebook.name}, code cell {number}', 'exec'), names)
    assert np.mean(names['iou']) > 0.75
