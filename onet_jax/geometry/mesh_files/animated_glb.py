"""Encoder of sequences as animated .glb files (glTF 2.0): morph targets, whose weights move. Imports no JAX.

The frames are morph targets of the first one, so that a viewer interpolates linearly between them. Meshes without common faces
are nodes, of which one at a time has a scale other than 0. Without normals, as here, viewers shade each face flat. L frames, V
vertices, F faces.
"""

import json
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.gltf import BINARY, COMPONENTS, JSON, POINTS, TRIANGLES, WIDTHS
from onet_jax.geometry.mesh_files.writers import find_offset
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence

SECONDS = 2.0  # from the first frame to the last
VERTICES, INDICES = 34962, 34963  # what a buffer view is for
GREY = {'pbrMetallicRoughness': {'baseColorFactor': [0.5, 0.6, 0.8, 1], 'metallicFactor': 0, 'roughnessFactor': 0.8}}
NUMBERS = {np.dtype('<' + dtype): code for code, dtype in COMPONENTS.items()}
KINDS = {width: kind for kind, width in WIDTHS.items()}


@singledispatch
def encode_animation(sequence: Any, seconds: float = SECONDS) -> bytes:
    """The file of a sequence of at least two frames, in the frame of its coordinates, `seconds` long.

    Raises InputError for fewer frames, for coordinates that are not finite, and for an empty shape.
    """
    raise TypeError(f'expected a sequence, found {type(sequence)}')


@encode_animation.register
def _(sequence: MeshSequence, seconds: float = SECONDS) -> bytes:
    return _encode_morph(sequence.vertices, sequence.faces, seconds)


@encode_animation.register
def _(sequence: CloudSequence, seconds: float = SECONDS) -> bytes:
    return _encode_morph(sequence.points, None, seconds)


@encode_animation.register
def _(sequence: ChangingMeshes, seconds: float = SECONDS) -> bytes:
    meshes = sequence.meshes
    offset = _check([np.asarray(mesh.vertices) for mesh in meshes])
    file, num = _File(), len(meshes)
    times = file.add(
        np.arange(num + 1)[:, None] * seconds / (num - 1), bounds=True
    )  # the last one is seen for a while, too
    nodes: list[dict] = []
    channels, samplers = [], []
    for k, mesh in enumerate(meshes):
        if not len(mesh.faces):
            continue
        shown = np.eye(num)[k, [*range(num), num - 1]]
        nodes.append({'mesh': len(nodes), 'scale': [float(k == 0)] * 3})
        file.add_mesh(np.asarray(mesh.vertices) - offset, mesh.faces)
        samplers.append({'input': times, 'output': file.add(shown[:, None].repeat(3, axis=1)), 'interpolation': 'STEP'})
        channels.append({'sampler': len(samplers) - 1, 'target': {'node': len(nodes) - 1, 'path': 'scale'}})
    nodes.append({'children': list(range(len(nodes))), 'translation': offset.tolist()})
    return file.encode(nodes, len(nodes) - 1, {'channels': channels, 'samplers': samplers})


def _encode_morph(vertices: np.ndarray, faces: np.ndarray | None, seconds: float) -> bytes:
    offset = _check(vertices)
    file, num = _File(), len(vertices)
    file.add_mesh(vertices[0] - offset, faces, vertices[1:] - offset)
    times = file.add(np.linspace(0, seconds, num)[:, None], bounds=True)
    weights = file.add(np.eye(num)[:, 1:].reshape(-1, 1))
    animation = {
        'channels': [{'sampler': 0, 'target': {'node': 0, 'path': 'weights'}}],
        'samplers': [{'input': times, 'output': weights, 'interpolation': 'LINEAR'}],
    }
    return file.encode([{'mesh': 0, 'translation': offset.tolist()}], 0, animation)


def _check(clouds: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The offset [3] that vertices [V, 3] of all frames are written relative to. Raises InputError for what cannot be shown."""
    vertices = np.concatenate(list(clouds))
    if len(clouds) < 2 or not len(vertices):
        raise InputError(
            f'expected at least 2 frames of a shape, found {len(clouds)} of {len(vertices)} vertices in all'
        )
    return find_offset(vertices, 'glb')


class _File:
    """The arrays of a document, and its meshes."""

    def __init__(self) -> None:
        self.binary = bytearray()
        self.views: list[dict] = []
        self.accessors: list[dict] = []
        self.meshes: list[dict] = []

    def add(self, array: np.ndarray, *, bounds: bool = False, purpose: int | None = None) -> int:
        """Add an array [count, width], in float32 unless it has indices; returns its number. bounds: state its range."""
        array = np.asarray(array, '<f4' if array.dtype.kind == 'f' else array.dtype)
        view = {'buffer': 0, 'byteOffset': len(self.binary), 'byteLength': array.nbytes}
        self.views.append(view if purpose is None else view | {'target': purpose})
        self.binary += array.tobytes() + bytes(-array.nbytes % 4)
        kind = {'componentType': NUMBERS[array.dtype], 'type': KINDS[array.shape[1]]}
        accessor = {'bufferView': len(self.views) - 1, 'count': len(array), **kind}
        if bounds:
            accessor |= {'min': array.min(axis=0).tolist(), 'max': array.max(axis=0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def add_mesh(self, vertices: np.ndarray, faces: np.ndarray | None, later: np.ndarray | None = None) -> None:
        """Add vertices [V, 3] with faces [F, 3], or as points, and where they are in later frames [L - 1, V, 3]."""
        first = vertices.astype('<f4')
        primitive: dict[str, Any] = {
            'attributes': {'POSITION': self.add(first, bounds=True, purpose=VERTICES)},
            'mode': POINTS if faces is None else TRIANGLES,
            'material': 0,
        }
        if faces is not None:
            dtype = '<u2' if len(vertices) < 2**16 else '<u4'  # 2^16 - 1 is no index
            primitive['indices'] = self.add(np.asarray(faces).reshape(-1, 1).astype(dtype), purpose=INDICES)
        mesh: dict[str, Any] = {'primitives': [primitive]}
        if later is not None:
            targets = [self.add(frame - first, bounds=True, purpose=VERTICES) for frame in later]
            primitive['targets'] = [{'POSITION': number} for number in targets]
            mesh['weights'] = [0] * len(targets)
            mesh['extras'] = {'targetNames': [f'frame {k}' for k in range(1, len(targets) + 1)]}
        self.meshes.append(mesh)

    def encode(self, nodes: list[dict], root: int, animation: dict) -> bytes:
        """The .glb."""
        document = {
            'asset': {'version': '2.0', 'generator': 'onet_jax'},
            'scene': 0,
            'scenes': [{'nodes': [root]}],
            'nodes': nodes,
            'meshes': self.meshes,
            'materials': [GREY],
            'animations': [{'name': 'motion', **animation}],
            'accessors': self.accessors,
            'bufferViews': self.views,
            'buffers': [{'byteLength': len(self.binary)}],
        }
        text = json.dumps(document, separators=(',', ':')).encode()
        chunks = b''
        for kind, content in ((JSON, text + b' ' * (-len(text) % 4)), (BINARY, bytes(self.binary))):
            chunks += len(content).to_bytes(4, 'little') + kind.to_bytes(4, 'little') + content
        return b'glTF' + (2).to_bytes(4, 'little') + (12 + len(chunks)).to_bytes(4, 'little') + chunks
