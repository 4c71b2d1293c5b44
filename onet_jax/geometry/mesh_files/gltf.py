"""glTF 2.0, as .gltf with its files and as .glb: the scene with its transforms, instances and colours.

Colours of vertices and factors of materials are linear in glTF, textures are sRGB; what is returned is sRGB.

Accessors may be quantised, normalised, interleaved or sparse. What a file requires beyond that, such as compression, is refused
by its name. Skins and animations are ignored here, shapes are in their bind pose: see `gltf_animations.py`.
"""

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image
from trimesh.visual.material import PBRMaterial

from onet_jax.errors import InputError
from onet_jax.geometry.colours import to_srgb
from onet_jax.geometry.mesh_files.polygons import Polygons, strips_to_triangles, to_bytes
from onet_jax.geometry.mesh_files.textures import Textures, file_beside, own_colour, tell_missing

JSON, BINARY = 0x4E4F534A, 0x004E4942  # types of the chunks of a .glb
COMPONENTS = {5120: 'i1', 5121: 'u1', 5122: 'i2', 5123: 'u2', 5125: 'u4', 5126: 'f4'}
WIDTHS = {'SCALAR': 1, 'VEC2': 2, 'VEC3': 3, 'VEC4': 4, 'MAT4': 16}
POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6  # modes of primitives; the others are lines
INSTANCING = 'EXT_mesh_gpu_instancing'
UNDERSTOOD = (
    INSTANCING, 'KHR_mesh_quantization', 'EXT_texture_webp', 'KHR_texture_transform', 'KHR_materials_', 'KHR_lights_',
)  # fmt: skip
MAX_CORNERS = 1 << 25  # of all instances: meshes may be used many times


def read_gltf(path: Path) -> list[Polygons]:
    """The primitives of the scene with triangles, or else those with points, in the frame of the scene."""
    return list(Document(path).primitives())


class Document:
    """A file, with the numbers of its buffers."""

    def __init__(self, path: Path):
        self.path, content, self.binary = path, path.read_bytes(), b''
        if content[:4] == b'glTF':
            content, self.binary = _split_chunks(content)
        self.tree: dict[str, Any] = json.loads(content.decode('utf-8-sig'))
        unknown = [name for name in self.tree.get('extensionsRequired', []) if not name.startswith(UNDERSTOOD)]
        if unknown:
            raise InputError(
                f'expected geometry as glTF itself stores it, found a file that requires {", ".join(unknown)}; export it '
                'without (a compressed mesh: without compression)'
            )
        self.size = len(content) + len(self.binary)  # grows with the buffers that are read
        self.buffers: dict[int, bytes] = {}
        self.textures = Textures()
        self.images: dict[int, Image.Image | None] = {}

    def item(self, kind: str, index: Any) -> dict:
        """An element of one of the arrays of the document."""
        items = self.tree.get(kind, [])
        if type(index) is not int or not 0 <= index < len(items):
            raise InputError(f'expected one of {len(items)} {kind}, found number {index}; export the file again')
        return items[index]

    def primitives(self) -> Iterator[Polygons]:
        num_corners = 0
        for _, node, world in self.nodes():
            if 'mesh' not in node:
                continue
            mesh = self.item('meshes', node['mesh'])
            worlds = world @ self.instances(node)
            weights = node.get('weights', mesh.get('weights', []))
            for primitive in mesh['primitives']:
                part = self.primitive(primitive, weights)
                if part is not None:
                    num_corners += len(worlds) * max(len(part.corners), len(part.vertices))
                    if num_corners > MAX_CORNERS:
                        raise InputError(
                            f'expected at most {MAX_CORNERS} corners in all instances, found more; simplify it'
                        )
                    yield _place(part, worlds)

    def nodes(self, pose: Callable[[int, dict], np.ndarray] | None = None) -> Iterator[tuple[int, dict, np.ndarray]]:
        """The nodes of the scene with their numbers and their transforms [..., 4, 4] to its frame, parents first.

        pose: the transform [..., 4, 4] of a node to its parent; by default the one that it has in the file.
        """
        nodes = self.tree.get('nodes', [])
        if 'scenes' in self.tree:
            roots = self.item('scenes', self.tree.get('scene', 0)).get('nodes', [])
        else:
            roots = sorted(set(range(len(nodes))) - {child for node in nodes for child in node.get('children', [])})
        waiting, seen = [(root, np.eye(4)) for root in reversed(roots)], set()
        while waiting:
            index, above = waiting.pop()
            node = self.item('nodes', index)
            if index in seen:
                raise InputError(f'expected a tree of nodes, found node {index} twice; export the file again')
            seen.add(index)
            world = above @ (pose(index, node) if pose else local_transform(node))
            waiting += [(child, world) for child in reversed(node.get('children', []))]
            yield index, node, world

    def instances(self, node: dict) -> np.ndarray:
        """The transforms of the instances of a node's mesh, [K, 4, 4]."""
        attributes = node.get('extensions', {}).get(INSTANCING, {}).get('attributes', {})
        keys = 'TRANSLATION', 'ROTATION', 'SCALE'
        values = [self.accessor(attributes[key]) if key in attributes else None for key in keys]
        num = {len(value) for value in values if value is not None}
        if not num:
            return np.eye(4)[None]
        if len(num) > 1:
            raise InputError(f'expected attributes of {INSTANCING} of one length, found {sorted(num)}')
        return transforms(num.pop(), *values)

    def primitive(self, primitive: dict, weights: list[float]) -> Polygons | None:
        """Vertices and triangles in the mesh's own frame; None for lines."""
        mode, attributes = primitive.get('mode', TRIANGLES), primitive['attributes']
        if mode not in (POINTS, TRIANGLES, STRIP, FAN) or 'POSITION' not in attributes:
            return None
        extensions = ', '.join(primitive.get('extensions', {})) or 'none'
        vertices = self.accessor(attributes['POSITION'], extensions)
        for weight, target in zip(weights, primitive.get('targets', []), strict=False):  # morph targets
            if weight and 'POSITION' in target:
                vertices = vertices + weight * self.accessor(target['POSITION'])
        if vertices.shape[1] != 3:
            raise InputError(f'expected positions of 3 numbers, found {vertices.shape[1]}')
        colours = self.accessor(attributes['COLOR_0']) if 'COLOR_0' in attributes else None
        colours = None if colours is None or len(colours) != len(vertices) else _to_srgb_bytes(colours)
        if mode == POINTS:
            return Polygons(vertices, vertex_colours=colours)

        if 'indices' in primitive:
            accessor = self.item('accessors', primitive['indices'])
            whole = COMPONENTS.get(accessor['componentType'], 'f')[0] != 'f' and not accessor.get('normalized')
            if accessor['type'] != 'SCALAR' or not whole:
                raise InputError(
                    f'expected whole numbers as indices, found accessor {primitive["indices"]}, of vectors, normalized or of '
                    'floats; export the file again'
                )
            numbers = self.accessor(primitive['indices'], extensions)[:, 0].astype(np.int64)
        else:
            numbers = np.arange(len(vertices))
        if mode == STRIP:
            numbers = strips_to_triangles(numbers, np.array([len(numbers)])).reshape(-1)
        elif mode == FAN:
            last = numbers[2:]
            numbers = np.stack([np.full(len(last), numbers[0]), numbers[1:-1], last], axis=1).reshape(-1)
        elif len(numbers) % 3:
            raise InputError(
                f'expected three indices of each triangle, found {len(numbers)} in all; export the file again'
            )
        part = Polygons(vertices, numbers, np.full(len(numbers) // 3, 3), colours)
        return self.with_material(part, primitive) if 'material' in primitive else part

    def with_material(self, part: Polygons, primitive: dict) -> Polygons:
        """A part with the texture of its material or, where it has no colours of its own, the material's colour."""
        material = self.item('materials', primitive['material'])
        glossy = material.get('extensions', {}).get('KHR_materials_pbrSpecularGlossiness', {})
        metallic = material.get('pbrMetallicRoughness', {})
        factor = np.array(metallic.get('baseColorFactor', glossy.get('diffuseFactor', [1, 1, 1, 1])), np.float64)
        texture = metallic.get('baseColorTexture', glossy.get('diffuseTexture', {}))
        image = self.texture(texture['index']) if texture else None
        move = texture.get('extensions', {}).get('KHR_texture_transform', {})
        coordinates = f'TEXCOORD_{move.get("texCoord", texture.get("texCoord", 0))}'
        if image is not None and coordinates in primitive['attributes']:
            angle, scale = move.get('rotation', 0.0), np.array(move.get('scale', [1, 1]))
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            uv = (scale * self.accessor(primitive['attributes'][coordinates])) @ turn.T + move.get('offset', [0, 0])
            uv = uv * [1, -1] + [0, 1]  # the origin of glTF is at the top
            return part._replace(uv=uv, material=PBRMaterial(baseColorTexture=image, baseColorFactor=factor))
        if part.vertex_colours is not None:
            return part
        colour = _to_srgb_bytes(factor)
        if texture and image is None:
            colour = own_colour(colour)
        return part._replace(vertex_colours=np.tile(colour, (len(part.vertices), 1)))

    def texture(self, index: int) -> Image.Image | None:
        texture = self.item('textures', index)
        source = texture.get('extensions', {}).get('EXT_texture_webp', texture).get('source')
        if source is None:
            return None
        if source not in self.images:
            image = self.item('images', source)
            content = self.view(image['bufferView'])[0] if 'bufferView' in image else self.read(image.get('uri', ''))
            if content is None:
                tell_missing(self.path, image.get('uri', ''))
            self.images[source] = None if content is None else self.textures.open(bytes(content), self.path)
        return self.images[source]

    def accessor(self, index: Any, extensions: str = 'none') -> np.ndarray:
        """An array [count, width] float64; `extensions` are named where its values are elsewhere."""
        accessor = self.item('accessors', index)
        num, width = accessor['count'], WIDTHS[accessor['type']]
        dtype = np.dtype('<' + COMPONENTS[accessor['componentType']])
        sparse = accessor.get('sparse')
        if 'bufferView' in accessor:
            values = self.numbers(accessor, dtype, num, width)
        elif sparse:
            if not 0 <= num * width <= self.size:
                raise InputError(
                    f'accessor {index}: expected at most {self.size} numbers, as the file has bytes, found {num}'
                )
            values = np.zeros((num, width), dtype)
        else:
            raise InputError(
                f'accessor {index}: expected a bufferView with its values, found none (extensions of the primitive: '
                f'{extensions}); export the file without compression'
            )
        if sparse:
            indices = sparse['indices']
            dtype_of = np.dtype('<' + COMPONENTS[indices['componentType']])
            rows = self.numbers(indices, dtype_of, sparse['count'], 1)[:, 0]
            if len(rows) and rows.max() >= num:
                raise InputError(f'accessor {index}: expected sparse indices below {num}, found {rows.max()}')
            values = values.copy()
            values[rows] = self.numbers(sparse['values'], dtype, sparse['count'], width)
        found = values.astype(np.float64)
        if accessor.get('normalized') and dtype.kind != 'f':
            found = np.maximum(found / np.iinfo(dtype).max, -1)
        return found

    def numbers(self, source: dict, dtype: np.dtype, num: int, width: int) -> np.ndarray:
        """[num, width] numbers of a buffer view, which are a view of its bytes."""
        content, stride = self.view(source['bufferView'])
        start, size = source.get('byteOffset', 0), dtype.itemsize * width
        stride = stride or size
        if min(num, start) < 0 or stride < size or (num and start + stride * (num - 1) + size > len(content)):
            raise InputError(
                f'expected {num} x {width} numbers in a buffer view, found {len(content)} bytes; export again'
            )
        return np.ndarray((num, width), dtype, content, start if num else 0, (stride, dtype.itemsize))

    def view(self, index: Any) -> tuple[memoryview, int]:
        """The bytes of a buffer view, and its stride, 0 for none."""
        view = self.item('bufferViews', index)
        if 'buffer' not in view:
            raise InputError(f'expected a buffer of buffer view {index}, found {sorted(view)}')
        start, length = view.get('byteOffset', 0), view['byteLength']
        content = self.buffer(view['buffer'])
        if min(start, length) < 0 or start + length > len(content):
            names = ', '.join(view.get('extensions', {})) or 'none'
            raise InputError(
                f'buffer view {index}: expected {length} bytes from {start}, found {len(content)} (its extensions: {names}); '
                'export the file again, without compression'
            )
        return memoryview(content)[start : start + length], view.get('byteStride', 0)

    def buffer(self, index: Any) -> bytes:
        if index not in self.buffers:
            uri = self.item('buffers', index).get('uri')
            content = self.binary if uri is None else self.read(uri)
            if content is None:
                raise InputError(
                    f'expected the file {str(uri)[:200]!r} in its folder, found none; keep the files of a .gltf together'
                )
            self.buffers[index] = content
            self.size += len(content) if uri else 0
        return self.buffers[index]

    def read(self, uri: str) -> bytes | None:
        """The bytes of a data URI or of a file in the document's folder; None where there is none."""
        if uri.startswith('data:'):
            return base64.b64decode(uri.partition(',')[2])
        file = file_beside(self.path, unquote(uri))
        return file.read_bytes() if file else None


def _to_srgb_bytes(linear: np.ndarray) -> np.ndarray:
    """Linear colours [..., 3 or 4] in [0, 1] -> sRGB [..., 4] uint8; alpha, where there is one, stays as it is."""
    return to_bytes(np.concatenate([to_srgb(linear[..., :3]), linear[..., 3:]], axis=-1), 255)


def _split_chunks(content: bytes) -> tuple[bytes, bytes]:
    """The JSON and the binary chunk of a .glb."""
    version = int.from_bytes(content[4:8], 'little')
    if version != 2:
        raise InputError(f'expected glTF 2.0, found version {version}; export it as glTF 2.0')
    chunks: dict[int, bytes] = {}
    place = 12
    while place + 8 <= len(content):
        length, kind = (int.from_bytes(content[place + n : place + n + 4], 'little') for n in (0, 4))
        if place + 8 + length > len(content):
            raise InputError(
                f'expected a chunk of {length} bytes, found {len(content) - place - 8}; the file is cut off'
            )
        chunks.setdefault(kind, content[place + 8 : place + 8 + length])
        place += 8 + length
    if JSON not in chunks:
        raise InputError('expected a JSON chunk, found none; export the file again')
    return chunks[JSON], chunks.get(BINARY, b'')


def local_transform(node: dict) -> np.ndarray:
    """The transform [4, 4] of a node to its parent."""
    if 'matrix' in node:
        return np.array(node['matrix'], np.float64).reshape(4, 4).T
    values = (node.get(key) for key in ('translation', 'rotation', 'scale'))
    return transforms(1, *(None if value is None else np.array([value], np.float64) for value in values))[0]


def transforms(
    num: int, translations: np.ndarray | None, rotations: np.ndarray | None, scales: np.ndarray | None
) -> np.ndarray:
    """Transforms [K, 4, 4] of translations [K, 3], unit quaternions x, y, z, w [K, 4] and scales [K, 3]."""
    found = np.tile(np.eye(4), (num, 1, 1))
    if rotations is not None:
        x, y, z, w = (rotations / np.maximum(np.linalg.norm(rotations, axis=1, keepdims=True), 1e-30)).T
        rows = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        found[:, :3, :3] = np.moveaxis(np.array(rows), 2, 0)
    if scales is not None:
        found[:, :3, :3] *= scales[:, None, :]
    if translations is not None:
        found[:, :3, 3] = translations
    return found


def _place(part: Polygons, worlds: np.ndarray) -> Polygons:
    """All instances of a part: transforms [K, 4, 4]. Those that mirror turn the faces, so that they still face outwards."""
    num, count = len(worlds), len(part.vertices)
    vertices = part.vertices @ worlds[:, :3, :3].transpose(0, 2, 1) + worlds[:, None, :3, 3]
    faces = part.corners.reshape(-1, 3)
    mirrored = np.linalg.det(worlds[:, :3, :3]) < 0
    corners = np.where(mirrored[:, None, None], faces[:, ::-1], faces) + count * np.arange(num)[:, None, None]
    colours, uv = (None if values is None else np.tile(values, (num, 1)) for values in (part.vertex_colours, part.uv))
    sizes = np.tile(part.sizes, num)
    return Polygons(vertices.reshape(-1, 3), corners.reshape(-1), sizes, colours, None, uv, part.material)
