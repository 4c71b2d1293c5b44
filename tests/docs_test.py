"""The documents: links lead somewhere, commands and configs exist, Python compiles and imports what there is.

`docs_run_test.py` executes commands, `notebooks_test.py` notebooks.
"""

import ast
import re
from functools import cache
from types import ModuleType

import pytest
from documents import (
    DOCUMENTS,
    ROOT,
    anchors,
    blocks,
    commands,
    config_files,
    links,
    named_links,
    names_in,
    read,
    simple_commands,
    spans,
)
from entry_points import launch
from ml_collections import ConfigDict

import onet_jax
from onet_jax.configs import FILES, load_config

VERBS = {path.stem: path for path in (ROOT / 'launch').glob('[!_]*.py')}
OTHER_CONFIGS = {'list', 'ball'}  # the list of them, and the one that a page adds
OTHER_FLAGS = {'runner', 'requeue', 'gpus-per-task', 'gpu-bind'}  # of other programs: Beam, SLURM, pytest


def of_type(*languages):
    return [document for document in DOCUMENTS if blocks(read(document), *languages)]


@pytest.mark.parametrize('document', DOCUMENTS)
def test_links_lead_somewhere(document):
    for link in links(read(document)):
        path, _, anchor = link.partition('#')
        if re.match('[a-z]+:', link):
            continue
        target = (ROOT / document).parent / path if path else ROOT / document
        assert target.exists(), f'{document}: {link}'
        assert not anchor or anchor in anchors(target.read_text()), f'{document}: {link}'
    for name, path in named_links(read(document)):
        target = (ROOT / document).parent / path
        assert name in names_in(target.resolve()), f'{document}: {name} in {path}'


@pytest.mark.parametrize('document', of_type('bash', 'console'))
def test_commands_are_parsed(document, tmp_path):
    """The verb, every flag and every key and value of a config."""
    text = read(document)
    for name, content in config_files(text).items():
        (tmp_path / name).write_text(content)
    for block in blocks(text, 'bash', 'console'):
        for verb, *words in commands(block):
            assert verb in VERBS, f'{document}: onet {verb}'
            done = launch(verb, *words, folder=tmp_path, run=False)
            assert done.returncode == 0, f'{document}: onet {verb} {" ".join(words)}: {done.stderr}'
        for words in simple_commands(block):
            if words[:2] == ['python', '-m'] and words[2].startswith('benchmarks.'):
                assert (ROOT / f'{words[2].replace(".", "/")}.py').exists(), f'{document}: {words[2]}'


@cache
def known_flags() -> set[str]:
    files = [*VERBS.values(), *ROOT.glob('benchmarks/*.py')]
    defined = r"""DEFINE_\w+\(\s*'(\w+)'|'--(\w+)'"""  # by absl or argparse
    names = {name for path in files for pair in re.findall(defined, path.read_text()) for name in pair}
    return names | OTHER_FLAGS | {'help', 'helpfull', 'version'}


@cache
def known_keys() -> set[str]:
    def keys(values: ConfigDict, path: str):
        for key, value in values.items():
            yield f'{path}.{key}'
            if isinstance(value, ConfigDict):
                yield from keys(value, f'{path}.{key}')

    variants = [f'{name}{variant}' for name in FILES for variant in ('', ':tiny')]
    return {key for name in variants for key in keys(load_config(name), 'config')} | {'config'}


@pytest.mark.parametrize('document', [name for name in DOCUMENTS if name != 'CHANGELOG.md'])
def test_flags_and_keys_in_the_text_exist(document):
    for span in spans(read(document)):
        verb = re.match(r'onet ([a-z]+)', span)
        assert verb is None or verb[1] in VERBS, f'{document}: {span}'
        for flag in re.findall(r'(?<!\S)--([\w-]+(?:\.\w+)*)', span if verb or span.startswith('--') else ''):
            is_key = flag.startswith('config.')
            assert flag in (known_keys() if is_key else known_flags()), f'{document}: {span}'
        for name in re.findall(r'--config=([a-z][\w:,=.]*)', span):
            assert '.py' in name or name in OTHER_CONFIGS or load_config(name), f'{document}: {span}'
        if re.fullmatch(r'config(?!\.json)(\.\w+)+', span):
            assert span in known_keys(), f'{document}: {span}'


@pytest.mark.parametrize('document', of_type('python'))
def test_python_compiles_and_imports_what_there_is(document):
    names: dict = {}
    for block in blocks(read(document), 'python'):
        tree = ast.parse(block)
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), document, 'exec'), names)
        for node in ast.walk(tree):
            path = ast.unparse(node).split('.') if isinstance(node, ast.Attribute) else []
            found = names.get(path[0]) if path else None
            for name in path[1:]:
                if not isinstance(found, ModuleType) or not name.isidentifier():
                    break
                assert hasattr(found, name), f'{document}: {".".join(path)}'
                found = getattr(found, name)


def test_the_citation_is_of_this_version():
    assert f'\nversion: {onet_jax.__version__}\n' in read('CITATION.cff')


def test_the_readme_is_short():
    assert read('README.md').count('\n') <= 120


def test_the_reference_has_every_module():
    """Of packages it finds them by itself."""
    pages = ''.join(path.read_text() for path in (ROOT / 'docs' / 'api').glob('*.md'))
    there = {
        path.stem
        for path in (ROOT / 'onet_jax').glob('[!_]*')
        if path.suffix == '.py' or (path / '__init__.py').exists()
    }
    assert there == set(re.findall(r'^::: onet_jax\.(\w+)$', pages, re.MULTILINE))
