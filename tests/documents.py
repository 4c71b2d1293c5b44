"""What is in the documents: links, commands, Python. Of a notebook that is what its text has: its code is executed."""

import ast
import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ('*.md', 'docs/**/*.md', 'docs/notebooks/*.ipynb', 'benchmarks/*.md', 'onet_jax/**/*.md')
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
INLINE = re.compile(r'`([^`\n]+)`')


def read(document: str) -> str:
    text = (ROOT / document).read_text()
    return '\n\n'.join(cells(text, 'markdown')) if document.endswith('.ipynb') else text


def cells(notebook: str, kind: str) -> list[str]:
    """The contents of its cells of one kind: 'markdown' or 'code'."""
    return [''.join(cell['source']) for cell in json.loads(notebook)['cells'] if cell['cell_type'] == kind]


def blocks(text: str, *languages: str) -> list[str]:
    """The contents of the fenced blocks of some languages."""
    return [content for language, content in FENCE.findall(text) if language in languages]


def prose(text: str) -> str:
    """The text without its fenced blocks."""
    return FENCE.sub('', text)


def spans(text: str) -> list[str]:
    """What is set as code within the lines."""
    return INLINE.findall(prose(text))


def links(text: str) -> list[str]:
    """Where its links and pictures lead."""
    return re.findall(r'\]\(([^)\s]+)\)', INLINE.sub('', prose(text)))


def named_links(text: str) -> list[tuple[str, str]]:
    """(name, file) of each link [`name`](file.py), which says that the file defines the name."""
    return re.findall(r'\[`([\w.]+)(?<!\.py)`\]\(([^)\s#]+\.py)\)', prose(text))


def anchors(text: str) -> set[str]:
    """The anchors of its headings, as code hosts and the site make them."""
    titles = re.findall(r'^#+ (.*)$', prose(text), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', title.lower()).strip().replace(' ', '-') for title in titles}


def simple_commands(script: str) -> Iterator[list[str]]:
    """The words of each command of a shell script; also of scripts that it quotes, as for another machine. $NAME is 0."""
    script = re.sub(r'(^|\s)#[^\n]*', r'\1', script).replace('\\\n', ' ')
    lexer = shlex.shlex(re.sub(r'\$\w+', '0', script), posix=True, punctuation_chars=';&|()<>\n')
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = ' \t', True, ''
    words: list[str] = []
    for word in [*lexer, '\n']:
        if set(word) <= set(';&|()<>\n'):
            if words:
                yield words
            words = []
        elif re.search(r'\bonet ', word):
            yield from simple_commands(word)
        else:
            words.append(word)


def commands(script: str) -> Iterator[list[str]]:
    """[verb, flag, ...] of each `onet` or `python -m launch.` of a shell script."""
    for words in simple_commands(script):
        for at, word in enumerate(words[:-1]):
            if word == 'onet' or word.endswith('/bin/onet'):
                yield words[at + 1 :]
            elif words[at : at + 2] == ['python', '-m'] and words[at + 2].startswith('launch.'):
                yield [words[at + 2].removeprefix('launch.'), *words[at + 3 :]]


def config_files(text: str) -> dict[str, str]:
    """The files of configs that a document shows: the name that it mentions last before a block with `get_config`."""
    found = {}
    for block in FENCE.finditer(text):
        if 'def get_config' in block[2]:
            names = re.findall(r'(?:`|--config=)([\w/]+\.py)', text[: block.start()])
            found[Path(names[-1]).name] = block[2]
    return found


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
