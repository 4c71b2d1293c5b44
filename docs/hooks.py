"""What the site adds to mkdocs: pages beside the code, formulas without scripts, and docstrings that keep their columns.

On a code host the documents are read where they lie: links lead to files. Here those to sources lead to the reference, those to
notebooks and to other documents of the repository to their pages.
"""

import ast
import html
import json
import os
import re
from functools import cache
from pathlib import Path

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# File of the repository -> its page of the site.
BESIDE_THE_CODE = {
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'benchmarks/README.md': 'benchmarks.md',
    'onet_jax/data/README.md': 'how_to/datasets.md',
    'onet_jax/weights/objects/README.md': 'weights/objects.md',
    'onet_jax/weights/scenes/README.md': 'weights/scenes.md',
}
LINK = re.compile(r'(?P<before>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)')
FENCE = re.compile(r'(^```.*?^```)', re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
COLUMNS = re.compile(r'\s*\S.*?\S {2,}\S')  # a line of two columns


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in BESIDE_THE_CODE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for notebook in sorted(DOCS.glob('notebooks/*.ipynb')):
        files.append(File.generated(config, f'notebooks/{notebook.stem}.md', content=notebook_to_markdown(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links to pages of the site, from wherever its file lies."""
    source = Path(page.file.abs_src_path) if page.file.abs_src_path else DOCS / page.file.src_uri

    def follow(link: re.Match) -> str:
        target = Path(os.path.normpath(source.parent / link['path']))
        found, anchor = page_of(target, link['text'].strip('`'))
        if found is None:
            return link['text']
        path = os.path.relpath(found, os.path.dirname(page.file.src_uri))
        return f'{link["before"]}[{link["text"]}]({path}{anchor or link["anchor"] or ""})'

    parts = FENCE.split(markdown)
    return ''.join(part if part.startswith('```') else LINK.sub(follow, part) for part in parts)


def page_of(target: Path, name: str) -> tuple[str | None, str]:
    """The page of the site for a file of the repository, and the anchor of a name that it defines; None where there is none."""
    path = os.path.relpath(target, ROOT)
    if path in BESIDE_THE_CODE:
        return BESIDE_THE_CODE[path], ''
    if target.suffix == '.ipynb':
        return f'notebooks/{target.stem}.md', ''
    if target.is_relative_to(DOCS):
        return os.path.relpath(target, DOCS), ''
    module = path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')
    covering = [covered for covered in reference() if f'{module}.'.startswith(f'{covered}.')]
    if target.suffix != '.py' or not covering:
        return None, ''
    anchor = f'#{module}.{name}' if name in documented(target) else f'#{module}'
    return reference()[max(covering, key=len)], anchor


@cache
def reference() -> dict[str, str]:
    """Module or package -> the page of the reference that has it."""
    pages = {f'api/{path.name}': path.read_text() for path in DOCS.glob('api/*.md')}
    return {name: page for page, text in pages.items() for name in re.findall(r'^::: (\S+)$', text, re.MULTILINE)}


@cache
def documented(source: Path) -> set[str]:
    """The functions and classes of a file that have docstrings: those are in the reference."""
    nodes = ast.parse(source.read_text()).body
    kinds = ast.FunctionDef | ast.ClassDef
    return {node.name for node in nodes if isinstance(node, kinds) and ast.get_docstring(node) and node.name[0] != '_'}


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its formulas as MathML, which browsers show without a script."""

    def formula(found: re.Match) -> str:
        tex, is_block = html.unescape(found[2]), found[1] == 'div'
        return f'<div class="formula">{convert(tex, display="block")}</div>' if is_block else convert(tex)

    return FORMULA.sub(formula, content)


def notebook_to_markdown(notebook: Path) -> str:
    cells = json.loads(notebook.read_text())['cells']
    texts = [(cell['cell_type'], ''.join(cell['source'])) for cell in cells]
    return '\n\n'.join(f'```python\n{text}\n```' if kind == 'code' else text for kind, text in texts)


class PlainText(griffe.Extension):
    """Docstrings of this project are plain text with aligned columns; what a field means is a comment beside or above it."""

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.is_attribute and obj.parent and obj.parent.is_class and not obj.docstring and (text := _comment(obj)):
            obj.docstring = griffe.Docstring(text, parent=obj)
        if obj.docstring:
            obj.docstring.value = keep_columns(obj.docstring.value)


def _comment(field: griffe.Object) -> str:
    """The comment on the line of a field, or the lines of comment above it; '' where there is none."""
    lines = field.lines_collection[field.filepath]
    _, _, beside = lines[field.endlineno - 1].partition('  # ')
    above = [line.strip() for line in lines[: field.lineno - 1]]
    start = len(above)
    while start and above[start - 1].startswith('#'):
        start -= 1
    return beside or ' '.join(line.lstrip('# ') for line in above[start:])


def keep_columns(text: str) -> str:
    """The text as Markdown: paragraphs in columns or indented are blocks of code, and brackets and '<' are what they are."""
    return '\n\n'.join(map(_block, re.split(r'\n\s*\n', text)))


def _block(block: str) -> str:
    lines = block.splitlines()
    table = [bool(COLUMNS.match(line)) or line.startswith(' ') for line in lines]
    if sum(table) >= 2 or all(line.startswith('    ') for line in lines):
        start = table.index(True)  # a sentence may stand before the columns
        before, after = '\n'.join(lines[:start]), '\n'.join(lines[start:])
        return f'{_escape(before)}\n\n```text\n{after}\n```'
    return _escape(block)


def _escape(text: str) -> str:
    parts = re.split(r'(`[^`]*`)', text)
    return ''.join(
        part if part.startswith('`') else re.sub(r'([\[*])', r'\\\1', part).replace('<', '&lt;') for part in parts
    )
