"""Encoder of .glb files (glTF 2.0): meshes and point clouds with colours of vertices, or with a texture. Imports no JAX.

COLOR_0 and the factors of materials are linear in glTF, textures are sRGB. So colours of vertices are converted (`to_linear`),
to float32, which keeps each of the 256 steps of sRGB, and textures are written as they are. The default material of glTF is a
metal, which looks dark: what has colours has a material that is none. It has normals too, smooth ones with sharp creases, for
without them viewers shade each face flat; a vertex at a crease becomes several. V vertices, F faces.
"""

import io
import json
from typing import Any, cast

import numpy as np
import trimesh

from onet_jax.geometry.clouds import longest_edge
from onet_jax.geometry.colours import colours_of, find_texture, has_colours, to_linear
from onet_jax.geometry.mesh_files.gltf import BINARY, COMPONENTS, JSON, POINTS, TRIANGLES, WIDTHS
from onet_jax.geometry.render import face_and_corner_normals

VERTICES, INDICES = 34962, 34963  # what a buffer view is for
NUMBERS = {np.dtype('<' + dtype): code for code, dtype in COMPONENTS.items()}
KINDS = {width: kind for kind, width in WIDTHS.items()}


def encode_glb(geometry: Any, offset: np.ndarray) -> bytes:
    """The file of a Trimesh or a PointCloud, with its colours. offset [3]: the translation of the node."""
    file, attributes = Glb(), {}
    vertices, faces, material = np.asarray(geometry.vertices) - offset, None, None
    if isinstance(geometry, trimesh.Trimesh):
        faces, visual = np.asarray(geometry.faces), cast(Any, geometry.visual)
        paint: dict[str, Any] = {'metallicFactor': 0, 'roughnessFactor': 1}
        if (found := find_texture(geometry)) is not None:
            attributes['TEXCOORD_0'] = found[0] * [1, -1] + [0, 1]  # the origin of glTF is at the top
            paint['baseColorTexture'] = {'index': file.add_texture(found[1])}
        elif visual.kind == 'vertex':
            attributes['COLOR_0'] = _linear(visual.vertex_colors)
        elif visual.kind == 'face':
            vertices, colours = vertices[faces].reshape(-1, 3), np.repeat(visual.face_colors, 3, axis=0)
            faces, attributes['COLOR_0'] = np.arange(len(vertices)).reshape(-1, 3), _linear(colours)
        elif has_colours(geometry):  # of a material
            srgb = colours_of(geometry)(np.zeros(1, int), np.array([[1, 0, 0]]))
            paint['baseColorFactor'] = [*to_linear(srgb)[0].tolist(), 1]
        if has_colours(geometry):
            vertices, faces, attributes = _shade(vertices, faces, attributes)
            material = file.add_material({'pbrMetallicRoughness': paint, 'doubleSided': True})
    elif len(geometry.colors):
        attributes['COLOR_0'] = _linear(geometry.colors)
    file.add_mesh(vertices, faces, material=material, attributes=attributes)
    node = {'mesh': 0} | ({'translation': offset.tolist()} if offset.any() else {})
    return file.encode([node], 0)


def _shade(
    vertices: np.ndarray, faces: np.ndarray, attributes: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """A mesh whose vertices have one unit normal each, 'NORMAL' among their attributes."""
    size = longest_edge(vertices) or 1.0
    _, normals = face_and_corner_normals((vertices - vertices.mean(axis=0)) / size, faces)
    normals = normals.reshape(-1, 3) + np.float32(0)  # no -0
    normals[~normals.any(axis=1)] = [0, 1, 0]  # of faces without area
    keys = np.column_stack([faces.reshape(-1), np.ascontiguousarray(normals).view(np.int32)])
    _, first, numbers = np.unique(keys, axis=0, return_index=True, return_inverse=True)  # in the order of the vertices
    chosen = faces.reshape(-1)[first]
    found = {name: values[chosen] for name, values in attributes.items()}
    return vertices[chosen], numbers.reshape(-1, 3), {**found, 'NORMAL': normals[first]}


def _linear(rgba: np.ndarray) -> np.ndarray:
    """sRGB and alpha [V, 4] uint8 -> linear RGB in [0, 1], [V, 3], and alpha, [V, 4], unless all are opaque."""
    alpha = rgba[:, 3:] / 255
    return np.hstack([to_linear(rgba[:, :3] / 255), *([alpha] if (alpha < 1).any() else [])])


class Glb:
    """The arrays of a document, its meshes, materials and textures."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.tree: dict[str, list[dict]] = {}

    def _append(self, kind: str, item: dict) -> int:
        self.tree.setdefault(kind, []).append(item)
        return len(self.tree[kind]) - 1

    def _add_bytes(self, content: bytes, **purpose: int) -> int:
        view = {'buffer': 0, 'byteOffset': len(self.binary), 'byteLength': len(content), **purpose}
        self.binary += content + bytes(-len(content) % 4)
        return self._append('bufferViews', view)

    def add(self, array: np.ndarray, *, bounds: bool = False, purpose: int | None = None) -> int:
        """Add an array [count, width], in float32 unless it has indices; returns its number. bounds: state its range."""
        array = np.asarray(array, '<f4' if array.dtype.kind == 'f' else array.dtype)
        view = self._add_bytes(array.tobytes(), **({} if purpose is None else {'target': purpose}))
        kind = {'componentType': NUMBERS[array.dtype], 'type': KINDS[array.shape[1]]}
        accessor = {'bufferView': view, 'count': len(array), **kind}
        if bounds:
            accessor |= {'min': array.min(axis=0).tolist(), 'max': array.max(axis=0).tolist()}
        return self._append('accessors', accessor)

    def add_texture(self, image: Any) -> int:
        """Add an image of Pillow, as a PNG."""
        stream = io.BytesIO()
        image.convert('RGBA' if image.has_transparency_data else 'RGB').save(stream, 'png')
        source = self._append('images', {'bufferView': self._add_bytes(stream.getvalue()), 'mimeType': 'image/png'})
        return self._append('textures', {'source': source})

    def add_material(self, material: dict) -> int:
        return self._append('materials', material)

    def add_mesh(
        self,
        vertices: np.ndarray,
        faces: np.ndarray | None,
        *,
        material: int | None = None,
        attributes: dict[str, np.ndarray] | None = None,
        later: np.ndarray | None = None,
    ) -> int:
        """Add vertices [V, 3] with faces [F, 3], or as points, and where they are in later frames [L - 1, V, 3].

        attributes: others of the vertices, by their names in glTF, [V, 2], [V, 3] or [V, 4] each.
        """
        first = vertices.astype('<f4')
        numbers = {'POSITION': self.add(first, bounds=True, purpose=VERTICES)}
        numbers |= {name: self.add(values, purpose=VERTICES) for name, values in (attributes or {}).items()}
        primitive: dict[str, Any] = {'attributes': numbers, 'mode': POINTS if faces is None else TRIANGLES}
        if material is not None:
            primitive['material'] = material
        if faces is not None:
            dtype = '<u2' if len(vertices) < 2**16 else '<u4'  # 2^16 - 1 is no index
            primitive['indices'] = self.add(np.asarray(faces).reshape(-1, 1).astype(dtype), purpose=INDICES)
        mesh: dict[str, Any] = {'primitives': [primitive]}
        if later is not None:
            targets = [self.add(frame - first, bounds=True, purpose=VERTICES) for frame in later]
            primitive['targets'] = [{'POSITION': number} for number in targets]
            mesh['weights'] = [0] * len(targets)
            mesh['extras'] = {'targetNames': [f'frame {k}' for k in range(1, len(targets) + 1)]}
        return self._append('meshes', mesh)

    def encode(self, nodes: list[dict], root: int, animation: dict | None = None) -> bytes:
        """The file of a scene with the node `root`."""
        document = {
            'asset': {'version': '2.0', 'generator': 'onet_jax'},
            'scene': 0,
            'scenes': [{'nodes': [root]}],
            'nodes': nodes,
            **self.tree,
            'buffers': [{'byteLength': len(self.binary)}],
        }
        if animation is not None:
            document['animations'] = [animation]
        text = json.dumps(document, separators=(',', ':')).encode()
        chunks = b''
        for kind, content in ((JSON, text + b' ' * (-len(text) % 4)), (BINARY, bytes(self.binary))):
            chunks += len(content).to_bytes(4, 'little') + kind.to_bytes(4, 'little') + content
        return b'glTF' + (2).to_bytes(4, 'little') + (12 + len(chunks)).to_bytes(4, 'little') + chunks
