"""The documents on papers: what their links name is there, their commands, flags and configs exist, and the notebooks run."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from onet_jax.configs import load_config

ROOT = Path(__file__).resolve().parents[1]
DOCS, LAUNCH = ROOT / 'docs', ROOT / 'launch'
NOTEBOOKS = sorted((DOCS / 'notebooks').glob('*.ipynb'))
PAGES = [DOCS / 'slides.md', *sorted((DOCS / 'papers').glob('*.md')), *NOTEBOOKS]
LINK = re.compile(r'\[([^\]]+)\]\(([^)\s#]+)(?:#[^)]*)?\)')
COMMAND = re.compile(r'\bonet ([a-z]+)\b([^`\n]*)')


def name_of(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


def cells_of(notebook: Path, kind: str) -> list[str]:
    return [''.join(cell['source']) for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == kind]


def text_of(page: Path) -> str:
    return '\n\n'.join(cells_of(page, 'markdown')) if page.suffix == '.ipynb' else page.read_text()


@cache
def names_in(path: Path) -> set[str]:
    """What a source file defines: functions, classes and constants, and 'Class.member'."""

    def names_of(nodes, prefix=''):
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from names_of(node.body, f'{node.name}.')
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (prefix + target.id for target in targets if isinstance(target, ast.Name))

    return set(names_of(ast.parse(path.read_text()).body))


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_a_link_leads_to_a_file_and_a_name_in_code_is_in_it(page):
    """[`name`](path.py) says that the file defines the name."""
    found = [(text, (page.parent / path).resolve()) for text, path in LINK.findall(text_of(page)) if '://' not in path]
    missing = [str(path) for _, path in found if not path.exists()]
    missing += [
        f'{text} in {path}'
        for text, path in found
        if path.suffix == '.py' and path.exists() and text.startswith('`') and not text.endswith('.py`')
        if text.strip('`') not in names_in(path)
    ]
    assert not missing


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_commands_flags_and_configs_exist(page):
    for verb, rest in COMMAND.findall(text_of(page)):
        source = (LAUNCH / f'{verb}.py').read_text()
        for flag in re.findall(r'--(\w+)(?=[= ]|$)', rest):
            assert f"'{flag}'" in source, f'onet {verb} --{flag}'
    for name in set(re.findall(r'--config=([\w:,=]+)', text_of(page))):
        load_config(name.rstrip(',:'))


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name_of)
def test_a_notebook_is_stored_without_outputs(notebook):
    content = json.loads(notebook.read_text())
    assert (content['nbformat'], content['metadata'].keys()) == (4, {'kernelspec', 'language_info'})
    assert all(
        not cell['outputs'] and cell['execution_count'] is None for cell in content['cells'] if 'outputs' in cell
    )


@pytest.mark.slow
@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name_of)
def test_a_notebook_runs_and_what_it_makes_is_like_the_truth(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for number, cell in enumerate(cells_of(notebook, 'code')):
        exec(compile(cell, f'{notebook.name}, code cell {number}', 'exec'), names)
    assert np.mean(names['iou']) > 0.75
