"""Wavefront OBJ: vertices with or without colours, polygons, and the colours and textures of their MTL files."""

import re
from pathlib import Path

import numpy as np
from PIL import Image
from trimesh.visual.material import SimpleMaterial

from onet_jax.geometry.mesh_files.polygons import GREY_RGBA, Polygons, to_bytes, to_indices
from onet_jax.geometry.mesh_files.text import SLASH, Lines, decode, is_number, parse_rows, without_comments
from onet_jax.geometry.mesh_files.textures import Textures, file_beside, own_colour, split_at_seams, tell_missing
from onet_jax.geometry.ragged import ragged_range

Materials = dict[bytes, tuple[np.ndarray, Image.Image | None]]  # name -> diffuse colour [4] uint8, texture


def read_obj(path: Path) -> list[Polygons]:
    """The polygons of a file, or those of each material where one has a texture; a cloud where there are no polygons."""
    text = decode(path.read_bytes())
    lines = Lines(re.sub(rb'\\[ \t]*\n', b' ', text) if b'\\' in text else text)
    is_vertex, is_face = lines.begin_with(b'v'), lines.begin_with(b'f')
    rows = parse_rows(without_comments(lines.after(b'v', is_vertex)))
    colours = rows.columns(6, 'vertex')[:, 3:] if len(rows.sizes) and rows.sizes.min() >= 6 else None
    corners, textured, sizes = _read_faces(lines, is_vertex, is_face)
    mesh = Polygons(rows.columns(3, 'vertex'), corners, sizes, None if colours is None else to_bytes(colours))
    names, of_face = _materials_of_faces(lines, is_face)
    materials = _read_materials(path, lines) if names else {}
    chosen = [materials.get(name, (GREY_RGBA, None)) for name in names]
    if any(image for _, image in chosen):
        return _textured_parts(mesh, lines, textured, chosen, of_face)
    if colours is None and materials:
        table = np.array([GREY_RGBA, *(colour for colour, _ in chosen)])
        return [mesh._replace(face_colours=table[of_face + 1])]
    return [mesh]


def _read_faces(lines: Lines, is_vertex: np.ndarray, is_face: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vertices [C] and texture coordinates [C] of all corners, counted from 0, -1 where there is none; sizes [F]."""
    text = without_comments(lines.after(b'f', is_face)).replace(b'//', b'/0/')
    rows = parse_rows(text.replace(b'/', b' '), np.int64)
    numbers, sizes = to_indices(rows.values), rows.sizes
    textures = np.zeros(0, np.int64)
    if b'/' in text:
        slashed = np.frombuffer(text, np.uint8)[rows.starts - 1] == SLASH  # a number begins in column 1 or later
        owners = np.repeat(np.arange(len(sizes)), sizes)
        first = np.flatnonzero(~slashed)
        second = np.minimum(first + 1, len(numbers) - 1)
        textures = np.where(slashed[second], numbers[second], 0)
        numbers, sizes = numbers[first], np.bincount(owners[first], minlength=len(sizes))
    corners = _from_zero(numbers, lambda: np.repeat(np.cumsum(is_vertex)[is_face], sizes))
    textures = _from_zero(textures, lambda: np.repeat(np.cumsum(lines.begin_with(b'vt'))[is_face], sizes))
    return corners, textures, sizes


def _from_zero(numbers, counts_before):
    """Indices that count from 1, or backwards from the element before the face with -1, as indices from 0."""
    return np.where(numbers < 0, counts_before() + numbers, numbers - 1) if (numbers < 0).any() else numbers - 1


def _materials_of_faces(lines: Lines, is_face: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    """The names of the materials, and which of them each face has, -1 for none."""
    used = np.flatnonzero(lines.begin_with(b'usemtl'))
    if not len(used):
        return [], np.full(is_face.sum(), -1)
    labels = [_rest(lines, line, b'usemtl') for line in used]
    names = list(dict.fromkeys(labels))
    numbers = {name: number for number, name in enumerate(names)}
    order = np.array([-1, *(numbers[name] for name in labels)])
    return names, order[np.searchsorted(used, np.flatnonzero(is_face))]


def _rest(lines: Lines, line: np.integer, word: bytes) -> bytes:
    start = lines.starts[line]
    return lines.text[start + len(word) : start + lines.lengths[line]].strip()


def _read_materials(path: Path, lines: Lines) -> Materials:
    """Those of the MTL files beside a file that exist."""
    materials: Materials = {}
    textures = Textures()
    libraries = {_rest(lines, line, b'mtllib'): None for line in np.flatnonzero(lines.begin_with(b'mtllib'))}
    names = (name.decode(errors='replace') for several in libraries for name in (several, *several.split()))
    for beside in dict.fromkeys(file_beside(path, name) for name in names):
        if beside:
            materials |= _parse_materials(beside, textures)
    return materials


def _parse_materials(path: Path, textures: Textures) -> Materials:
    materials: Materials = {}
    name, textured = None, set()
    for line in decode(path.read_bytes()).splitlines():
        key, *words = line.split() or [b'']
        if key == b'newmtl':
            name = b' '.join(words)
            materials[name] = GREY_RGBA, None
        elif key == b'Kd' and name is not None and len(words) == 3 and all(map(is_number, words)):
            colour = to_bytes(np.clip(np.array(words, np.float64), 0, 1))
            materials[name] = colour, materials[name][1]
        elif key.lower() == b'map_kd' and name is not None and words:
            whole = line.strip()[len(key) :].strip().decode(errors='replace')
            # Options, such as -s 1 1 1, may stand before the name.
            files = [found for file in dict.fromkeys([whole, whole.split()[-1]]) if (found := file_beside(path, file))]
            if not files:
                tell_missing(path, whole)
            image = next((image for file in files if (image := textures.open(file, path))), None)
            materials[name] = materials[name][0], image
            textured.add(name)
    # Last, for a colour may follow its texture.
    return {
        name: (own_colour(colour) if name in textured and not image else colour, image)
        for name, (colour, image) in materials.items()
    }


def _textured_parts(
    mesh: Polygons, lines: Lines, textured: np.ndarray, materials: list, of_face: np.ndarray
) -> list[Polygons]:
    """The part of a mesh that each material has."""
    rows = parse_rows(without_comments(lines.after(b'vt', lines.begin_with(b'vt'))))
    uv = np.concatenate([rows.columns(2, 'texture coordinate'), np.zeros((1, 2))])  # the last for -1, corners without
    textured = (
        np.where(textured < 0, len(uv) - 1, textured) if len(textured) else np.full(len(mesh.corners), len(uv) - 1)
    )
    starts, parts = np.cumsum(mesh.sizes) - mesh.sizes, []
    for number in np.unique(of_face):
        chosen = of_face == number
        sizes = mesh.sizes[chosen]
        corners = np.repeat(starts[chosen], sizes) + ragged_range(sizes)
        colour, image = materials[number] if number >= 0 else (GREY_RGBA, None)
        part = mesh._replace(corners=mesh.corners[corners], sizes=sizes)
        part = split_at_seams(part, uv, textured[corners])
        parts.append(part._replace(material=SimpleMaterial(image=image, diffuse=colour)))
    return parts
