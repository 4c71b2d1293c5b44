"""Encoder of sequences as animated .glb files (glTF 2.0): morph targets, whose weights move. Imports no JAX.

The frames are morph targets of the first one, so that a viewer interpolates linearly between them. Meshes without common faces
are nodes, of which one at a time has a scale other than 0. Without normals, as here, viewers shade each face flat. L frames, V
vertices, F faces.
"""

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from onet_jax.errors import InputError
from onet_jax.geometry.mesh_files.glb import Glb
from onet_jax.geometry.mesh_files.writers import find_offset
from onet_jax.geometry.sequences import ChangingMeshes, CloudSequence, MeshSequence

SECONDS = 2.0  # from the first frame to the last
GREY = {'pbrMetallicRoughness': {'baseColorFactor': [0.5, 0.6, 0.8, 1], 'metallicFactor': 0, 'roughnessFactor': 0.8}}


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
    file, num = Glb(), len(meshes)
    grey = file.add_material(GREY)
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
        file.add_mesh(np.asarray(mesh.vertices) - offset, mesh.faces, material=grey)
        samplers.append({'input': times, 'output': file.add(shown[:, None].repeat(3, axis=1)), 'interpolation': 'STEP'})
        channels.append({'sampler': len(samplers) - 1, 'target': {'node': len(nodes) - 1, 'path': 'scale'}})
    nodes.append({'children': list(range(len(nodes))), 'translation': offset.tolist()})
    return file.encode(nodes, len(nodes) - 1, {'name': 'motion', 'channels': channels, 'samplers': samplers})


def _encode_morph(vertices: np.ndarray, faces: np.ndarray | None, seconds: float) -> bytes:
    offset = _check(vertices)
    file, num = Glb(), len(vertices)
    file.add_mesh(vertices[0] - offset, faces, material=file.add_material(GREY), later=vertices[1:] - offset)
    times = file.add(np.linspace(0, seconds, num)[:, None], bounds=True)
    weights = file.add(np.eye(num)[:, 1:].reshape(-1, 1))
    animation = {
        'name': 'motion',
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
