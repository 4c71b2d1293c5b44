"""The notebooks of the documents: stored without outputs, and what they make is like the truth."""

import json
import os
import subprocess
import sys

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
def test_a_notebook_runs_and_what_it_makes_is_like_the_truth(notebook, tmp_path):
    """In a process of its own: its programs run for longer than they compile, so XLA optimises them, as it does for users."""
    code = '\n\n'.join(cells(notebook.read_text(), 'code'))
    (tmp_path / 'notebook.py').write_text(f'{code}\nimport numpy\nassert numpy.mean(iou) > 0.75, iou\n')
    environment = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    done = subprocess.run(
        [sys.executable, 'notebook.py'], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Warning' not in done.stderr, done.stderr
