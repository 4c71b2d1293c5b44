"""Companion files of a mesh file: materials, textures and buffers that it names. Imports no JAX."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

# They begin with the word, which is found fast in a large file; what is in a comment does no harm.
MATERIALS = re.compile(rb'mtllib[ \t]+([^\r\n]+)')
TEXTURES = re.compile(rb'(?:map_\w+|bump|disp|decal|refl|norm)[ \t]+([^\r\n]+)', re.IGNORECASE)
PLY_TEXTURES = re.compile(rb'TextureFile[ \t]+([^\r\n]+)')
HEADER = 65536  # bytes, within which the header of a PLY ends


def find_companions(path: Path) -> list[Path]:
    """The files that a mesh file names and that exist, sorted; also those of its own name with the suffixes .mtl and .bin.

    What cannot be parsed names none: the reader of the file says what is wrong with it. Raises OSError where the file cannot
    be read.
    """
    names = {'.obj': _of_obj, '.gltf': _of_gltf, '.glb': _of_glb, '.ply': _of_ply}.get(
        path.suffix.lower(), lambda _: ()
    )
    found = {path.parent / name for name in names(path)} | {path.with_suffix(suffix) for suffix in ('.mtl', '.bin')}
    return sorted(file for file in found - {path} if _is_file(file))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # such as a name that is too long, or has a zero byte
        return False


def _of_obj(path: Path) -> Iterator[str]:
    for name in _names(MATERIALS, path.read_bytes()):
        yield name
        library = path.parent / name
        if _is_file(library):
            for texture in _names(TEXTURES, library.read_bytes()):
                yield texture
                yield str(Path(name).parent / texture)


def _of_ply(path: Path) -> Iterator[str]:
    with path.open('rb') as file:
        yield from _names(PLY_TEXTURES, file.read(HEADER).partition(b'end_header')[0])


def _names(pattern: re.Pattern, content: bytes) -> Iterator[str]:
    """Each name as one, with its spaces, and as several, of which options come first."""
    for line in pattern.findall(content):
        text = line.decode(errors='surrogateescape').strip()
        yield text
        yield from text.split()


def _of_glb(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    yield from _of_json(content[20 : 20 + struct.unpack_from('<I', content, 12)[0]] if len(content) >= 20 else b'')


def _of_gltf(path: Path) -> Iterator[str]:
    yield from _of_json(path.read_bytes())


def _of_json(content: bytes) -> Iterator[str]:
    try:
        tree = json.loads(content)
        for entry in [*tree.get('buffers', ()), *tree.get('images', ())]:
            if 'uri' in entry and not entry['uri'].startswith('data:'):
                yield unquote(entry['uri'])
    except (ValueError, TypeError, AttributeError, RecursionError):
        return
