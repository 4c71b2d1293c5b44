"""Companion files: materials, textures and buffers that a mesh file names, the cameras of a picture. Imports no JAX."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from onet_jax.geometry.mesh_files.stl import offset_file
from onet_jax.geometry.mesh_files.textures import file_beside

# They begin with the word, which is found fast in a large file; what is in a comment does no harm.
MATERIALS = re.compile(rb'mtllib[ \t]+([^\r\n]+)')
TEXTURES = re.compile(rb'\b(?:map_\w+|bump|disp|decal|refl|norm)[ \t]+([^\r\n]+)', re.IGNORECASE)
PLY_TEXTURES = re.compile(rb'TextureFile[ \t]+([^\r\n]+)')
CAMERAS_FILE = 'cameras.npz'  # of the views beside it, in the official data
HEADER = 65536  # bytes, within which the header of a PLY ends


def find_companions(path: Path) -> list[Path]:
    """The files that the reader of a mesh file or of a picture finds beside it, sorted.

    What cannot be parsed names none: the reader of the file says what is wrong with it. Raises OSError where the file cannot
    be read.
    """
    find = {'.obj': _of_obj, '.gltf': _of_gltf, '.glb': _of_glb, '.ply': _of_ply, '.stl': _of_stl}
    find |= dict.fromkeys(('.jpg', '.jpeg', '.png'), _of_picture)
    found = set(find[path.suffix.lower()](path)) if path.suffix.lower() in find else set()
    return sorted(found - {Path(os.path.abspath(path))})


def _of_obj(path: Path) -> Iterator[Path]:
    for library in set(_beside(path, MATERIALS, path.read_bytes())):
        yield library
        yield from _beside(library, TEXTURES, library.read_bytes())


def _of_ply(path: Path) -> Iterator[Path]:
    with path.open('rb') as file:
        yield from _beside(path, PLY_TEXTURES, file.read(HEADER).partition(b'end_header')[0])


def _beside(path: Path, pattern: re.Pattern, content: bytes) -> Iterator[Path]:
    """Of each name as one, with its spaces, and as several, of which options come first."""
    for line in set(pattern.findall(content)):
        text = line.decode(errors='replace').strip()
        yield from filter(None, (file_beside(path, name) for name in (text, *text.split())))


def _of_stl(path: Path) -> Iterator[Path]:
    yield from filter(os.path.isfile, [offset_file(path)])


def _of_picture(path: Path) -> Iterator[Path]:
    yield from filter(os.path.isfile, [Path(os.path.abspath(path)).with_name(CAMERAS_FILE)])


def _of_glb(path: Path) -> Iterator[Path]:
    with path.open('rb') as file:
        header = file.read(20)
        length = int.from_bytes(header[12:16], 'little')
        yield from _of_json(path, file.read(min(length, path.stat().st_size)))  # it allocates what it is asked for


def _of_gltf(path: Path) -> Iterator[Path]:
    yield from _of_json(path, path.read_bytes())


def _of_json(path: Path, content: bytes) -> Iterator[Path]:
    try:
        tree = json.loads(content)
        uris = [entry['uri'] for key in ('buffers', 'images') for entry in tree.get(key, ()) if 'uri' in entry]
        names = [unquote(uri) for uri in uris if not uri.startswith('data:')]
    except (ValueError, TypeError, AttributeError, RecursionError):
        return
    yield from filter(None, (file_beside(path, name) for name in names))
