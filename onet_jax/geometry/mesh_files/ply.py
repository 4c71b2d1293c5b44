"""PLY, the polygon file format of Stanford: ASCII and binary of both byte orders, any elements, properties and lists.

ASCII is read as if it were binary with a float64 for each number. R rows of an element.
"""

import re
import struct
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from trimesh.visual.material import SimpleMaterial

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.polygons import Polygons, strips_to_triangles, to_bytes, to_indices
from onet_jax.geometry.mesh_files.text import decode, parse_rows
from onet_jax.geometry.mesh_files.textures import Textures, file_beside, split_at_seams, tell_missing
from onet_jax.geometry.ragged import ragged_range

TYPES = {
    'char': 'i1', 'uchar': 'u1', 'short': 'i2', 'ushort': 'u2', 'int': 'i4', 'uint': 'u4', 'float': 'f4', 'double': 'f8',
    'int8': 'i1', 'uint8': 'u1', 'int16': 'i2', 'uint16': 'u2', 'int32': 'i4', 'uint32': 'u4', 'float32': 'f4',
    'float64': 'f8', 'int64': 'i8', 'uint64': 'u8',
}  # fmt: skip
ORDERS = {'ascii': '=', 'binary_little_endian': '<', 'binary_big_endian': '>'}
COLOURS = ('red', 'green', 'blue', 'alpha')
NORMALS = ('nx', 'ny', 'nz')
TEXTURES = (('texture_u', 'texture_v'), ('u', 'v'), ('s', 't'))  # names of texture coordinates of vertices


class Property(NamedTuple):
    name: str
    dtype: str  # as NumPy names it
    length: str | None  # the type of the number before a list; None for a scalar


class Element(NamedTuple):
    num: int
    properties: list[Property]


class Lists(NamedTuple):
    """A property of lists."""

    values: np.ndarray  # of all rows, one after the other, in any shape
    sizes: np.ndarray  # [R] int64


Columns = dict[str, np.ndarray | Lists]  # property -> its values, [R] or lists
NO_LISTS = Lists(np.zeros(0, np.int64), np.zeros(0, np.int64))


def read_ply(path: Path) -> list[Polygons]:
    """The polygons of a file, or its points."""
    elements, images, body, is_text = _read_header(path.read_bytes())
    found: dict[str, Columns] = {}
    for name, element in elements.items():
        found[name], body = _read_element(name, element, body, is_text)
    if is_text and len(body):
        raise InputError(
            f'expected the numbers of the properties in the header, found {len(body) // 8} more; the header does not fit '
            'the rows, export it again'
        )
    vertex, face = found.get('vertex', {}), found.get('face', {})
    if not all(isinstance(vertex.get(axis), np.ndarray) for axis in 'xyz'):
        raise InputError(
            f"expected an element 'vertex' with x, y and z, found { ({k: list(v) for k, v in found.items()}) }"
        )
    lists = face.get('vertex_indices', face.get('vertex_index', NO_LISTS))
    strips = found.get('tristrips', {}).get('vertex_indices')
    if isinstance(strips, Lists):
        faces = strips_to_triangles(to_indices(strips.values), strips.sizes)
        lists = Lists(faces.reshape(-1), np.full(len(faces), 3))
    if not isinstance(lists, Lists) or ('face' in elements and len(lists.sizes) < elements['face'].num):
        raise InputError(f'expected lists vertex_indices of the faces, found the properties {list(face)}')
    vertices = _stack(vertex, 'xyz').astype(np.float64, copy=False)
    mesh = Polygons(vertices, to_indices(lists.values), lists.sizes, _colours(vertex, elements['vertex']))
    if not len(lists.sizes) and all(isinstance(vertex.get(axis), np.ndarray) for axis in NORMALS):
        mesh = mesh._replace(vertex_normals=_stack(vertex, NORMALS).astype(np.float64))
    if 'face' in elements:
        mesh = mesh._replace(face_colours=_colours(face, elements['face']))
    files = [file_beside(path, name) for name in images]
    for name, file in zip(images, files, strict=True):
        if file is None:
            tell_missing(path, name)
    image = next((image for file in files if (image := Textures().open(file, path))), None)
    return [mesh if image is None else _textured(mesh, SimpleMaterial(image=image), vertex, face)]


def _read_header(content: bytes) -> tuple[dict[str, Element], list[str], memoryview, bool]:
    """The elements, the names of textures, what follows the header, and whether that is text."""
    start = re.match(rb'ply[ \t]*(\r\n|\n|\r)', content)
    end = content.find(start[1] + b'end_header') + 1 if start else 0
    if not start or not end:
        raise InputError(f'expected a PLY header from ply to end_header, found {content[:20]!r}')
    elements: dict[str, Element] = {}
    images: list[str] = []
    properties: list[Property] = []
    kind = ''
    for line in content[:end].decode(errors='replace').splitlines()[1:]:
        match line.split():
            case ['format', kind, *_]:
                pass
            case ['comment', word, *name] if word.lower() == 'texturefile':
                images.append(' '.join(name))
            case ['element', name, count]:
                properties = []
                elements[name] = Element(int(count), properties)
            case ['property', 'list', length, dtype, name]:
                properties.append(Property(name, TYPES[dtype], TYPES[length]))
            case ['property', dtype, name]:
                properties.append(Property(name, TYPES[dtype], None))
    if kind not in ORDERS or any(element.num < 0 for element in elements.values()):
        raise InputError(
            f'expected a format among {list(ORDERS)} and numbers of elements, found {kind!r} and {elements}'
        )
    body = memoryview(content)[content.index(start[1], end) + len(start[1]) :]
    if kind == 'ascii':
        return elements, images, memoryview(parse_rows(decode(bytes(body))).values.tobytes()), True
    order = ORDERS[kind]
    elements = {
        name: Element(count, [Property(p.name, order + p.dtype, p.length and order + p.length) for p in properties])
        for name, (count, properties) in elements.items()
    }
    return elements, images, body, False


def _read_element(name: str, element: Element, body: memoryview, is_text: bool) -> tuple[Columns, memoryview]:
    """The columns of an element, and what follows it. Allocates no more than the bytes that there are can fill."""
    num, properties = element
    # As stored: the types of a scalar, or of the items of a list, and of its length.
    items = [np.dtype('f8' if is_text else p.dtype) for p in properties]
    lengths = [p.length and np.dtype('f8' if is_text else p.length) for p in properties]
    least = sum((length or item).itemsize for item, length in zip(items, lengths, strict=True))
    if num * least > len(body):
        raise InputError(
            f'expected {num} rows of the element {name!r}, which take {num * least} bytes at least, found {len(body)}; '
            'the file is cut off, export it again'
        )
    if not num or not least:
        return {p.name: NO_LISTS if p.length else NO_LISTS.values for p in properties}, body

    # Lists of one length in all rows, as triangles are, make rows of one size.
    sizes, _ = _places(body, 1, items, lengths)
    fields: list[tuple] = []
    for number, (item, length) in enumerate(zip(items, lengths, strict=True)):
        fields += (
            [(f'length {number}', length), (f'{number}', item, (sizes[0, number],))]
            if length
            else [(f'{number}', item)]
        )
    dtype = np.dtype(fields)
    if num * dtype.itemsize <= len(body):
        rows = np.frombuffer(body, dtype, num)
        if all((rows[f'length {n}'] == sizes[0, n]).all() for n, length in enumerate(lengths) if length):
            return {
                p.name: Lists(rows[f'{n}'], np.full(num, sizes[0, n])) if p.length else rows[f'{n}']
                for n, p in enumerate(properties)
            }, body[num * dtype.itemsize :]

    sizes, starts = _places(body, num, items, lengths)
    letters = np.frombuffer(body, np.uint8)
    columns: Columns = {}
    for number, (p, item) in enumerate(zip(properties, items, strict=True)):
        places, size = starts[:, number], sizes[:, number]
        if p.length:
            places = np.repeat(places, size) + item.itemsize * ragged_range(size)
        values = letters[places[:, None] + np.arange(item.itemsize)].view(item).reshape(-1)
        columns[p.name] = Lists(values, size) if p.length else values
    return columns, body[int(starts[-1, -1] + sizes[-1, -1] * items[-1].itemsize) :]


def _places(body: memoryview, num: int, items: list, lengths: list) -> tuple[np.ndarray, np.ndarray]:
    """How many items each property has in each row, and where they begin, [R, properties]: a walk from list to list."""
    walk, gap = [], 0  # of each list: bytes before its length, how to read that, bytes of an item
    for item, length in zip(items, lengths, strict=True):
        if length:
            reader = struct.Struct(('=' if length.isnative else '>') + length.char)
            walk.append((gap, reader.unpack_from, length.itemsize, item.itemsize))
        gap = 0 if length else gap + item.itemsize
    found, place, end = array('q'), 0, len(body)
    try:
        for _ in range(num):
            for before, read, length_size, itemsize in walk:
                place += before
                size = int(read(body, place)[0])
                place += length_size + size * itemsize
                if size < 0 or place > end:
                    left = end - place + size * itemsize
                    raise InputError(f'expected a list of {size} numbers, found bytes for {left}; export it again')
                found.append(size)
            place += gap
    except struct.error:
        place = end + 1
    if place > end:
        raise InputError('expected the length of a list or a number, found the end of the file; export it again')
    sizes = np.ones((num, len(items)), np.int64)
    sizes[:, [length is not None for length in lengths]] = np.reshape(found, (num, -1))
    before = np.array([length.itemsize if length else 0 for length in lengths])
    widths = before + sizes * [item.itemsize for item in items]
    return sizes, (np.cumsum(widths) - widths.reshape(-1)).reshape(widths.shape) + before


def _colours(columns: Columns, element: Element) -> np.ndarray | None:
    """Colours of vertices or faces, [R, 4] uint8."""
    kinds = {p.name: p.dtype[-2:] for p in element.properties if p.length is None}
    for prefix in ('', 'diffuse_'):
        names = [prefix + colour for colour in COLOURS if prefix + colour in kinds]
        if len(names) >= 3:
            scale = {'u1': 1, 'u2': 255 / 65535}.get(kinds[names[0]])
            return to_bytes(_stack(columns, names), scale)
    return None


def _stack(columns: Columns, names: Iterable[str]) -> np.ndarray:
    return np.stack([np.asarray(columns[name]) for name in names], axis=1)


def _textured(mesh: Polygons, material: SimpleMaterial, vertex: Columns, face: Columns) -> Polygons:
    """The mesh with a texture, whose coordinates are lists of the faces or properties of the vertices."""
    coordinates = face.get('texcoord')
    if isinstance(coordinates, Lists) and (coordinates.sizes == 2 * mesh.sizes).all():
        uv, numbers = np.unique(coordinates.values.reshape(-1, 2).astype(np.float64), axis=0, return_inverse=True)
        return split_at_seams(mesh, uv, numbers.reshape(-1))._replace(material=material)
    for u, v in TEXTURES:
        if u in vertex and v in vertex:
            return mesh._replace(uv=_stack(vertex, (u, v)).astype(np.float64), material=material)
    return mesh
