"""What the site adds to mkdocs: pages that lie beside the code, links to them, and docstrings whose columns stay columns."""

import os
import re
from pathlib import Path

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# File of the repository -> its page of the site. On a code host both are read where they lie.
BESIDE_THE_CODE = {
    'CONTRIBUTING.md': 'contributing.md',
    'CHANGELOG.md': 'changelog.md',
    'benchmarks/README.md': 'benchmarks.md',
    'onet_jax/data/README.md': 'how_to/datasets.md',
    'onet_jax/weights/objects/README.md': 'weights/objects.md',
    'onet_jax/weights/scenes/README.md': 'weights/scenes.md',
}
LINK = re.compile(r'(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))')
COLUMNS = re.compile(r'\s*\S.*?\S {2,}\S')  # a line of two columns


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in BESIDE_THE_CODE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links to files of the repository that are pages of the site, from wherever it lies."""
    source = Path(page.file.abs_src_path or '').resolve().relative_to(ROOT)
    pages = {str(ROOT / there): here for there, here in BESIDE_THE_CODE.items()}

    def follow(link: re.Match) -> str:
        target = os.path.normpath(ROOT / source.parent / link[2])
        inside = pages.get(target) or os.path.relpath(target, config.docs_dir)
        if str(source) not in BESIDE_THE_CODE and target not in pages:
            return link[0]
        return link[1] + os.path.relpath(inside, os.path.dirname(page.file.src_uri)) + link[3]

    return LINK.sub(follow, markdown)


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
    """The text as Markdown: paragraphs in columns or indented are blocks of code, and '<' begins no tag."""
    blocks = re.split(r'\n\s*\n', text)
    return '\n\n'.join(_block(block) for block in blocks)


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
