"""What is in the documents: links, commands, Python."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ('*.md', 'docs/**/*.md', 'benchmarks/*.md', 'onet_jax/**/*.md')
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)
INLINE = re.compile(r'`([^`\n]+)`')


def read(document: str) -> str:
    return (ROOT / document).read_text()


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
