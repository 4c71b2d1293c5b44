"""Encoders of mesh and point cloud files that keep the digits of coordinates far from the origin. Imports no JAX.

A georeferenced chair is at 4,600,000 m, where neighbouring float32 numbers are half a metre apart. PLY takes doubles there, and
OBJ, OFF and XYZ take decimals. GLB and STL hold float32 alone: their vertices are written relative to an offset, which in a GLB
is the transform of the node, and for an STL is in a file beside it. N vertices, F faces.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.geometry.clouds import bounding_box, longest_edge
from onet_jax.geometry.colours import find_texture
from onet_jax.geometry.mesh_files.glb import encode_glb

# How far float32 may move a vertex, in longest edges of the bounding box; 1e-6 is 1e-3 of a cell of which 1,000 are along it.
# An STL tolerates more, for other programs do not know of its offset.
MAX_MOVE, MAX_MOVE_STL = 1e-6, 1e-4
# The largest coordinates, and the largest and the smallest longest edge that keeps its digits in float32.
LARGEST, LARGEST_SINGLE, SMALLEST_SINGLE = 1e300, 3e38, 1e-37
# Of a texture as it is, whose colours a viewer multiplies by Kd; the name is the one that trimesh gives to a material.
MATERIAL = 'newmtl material_0\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nmap_Kd {}\n'


def encode_mesh(geometry: Any, kind: str, offset: np.ndarray, material: str = '') -> bytes:
    """The file of a Trimesh or a PointCloud in the format `kind`. offset: that of `find_offset`, which an STL lacks.

    material: the name of the MTL file of an OBJ with a texture.

    Raises InputError for what the format cannot hold.
    """
    vertices = np.asarray(geometry.vertices, np.float64) - offset
    size, largest = longest_edge(vertices) if len(vertices) else 0, np.abs(vertices).max(initial=0)
    fits = largest <= LARGEST_SINGLE and not 0 < size < SMALLEST_SINGLE
    if kind in ('glb', 'obj') and isinstance(geometry, trimesh.PointCloud) and not len(vertices):
        raise InputError(f'expected points, found none, which {kind} cannot hold; write ply or xyz')
    if kind == 'ply':
        return _encode_ply(geometry, '<f4' if fits and not offset.any() else '<f8')
    if kind in ('glb', 'stl'):
        if not fits:
            raise InputError(
                f'expected coordinates of at most {LARGEST_SINGLE:g} and a longest edge of at least {SMALLEST_SINGLE:g}, as '
                f'{kind} (float32) holds, found {largest:g} and {size:g}; scale the mesh, or write ply or obj'
            )
        if kind == 'glb':
            return encode_glb(geometry, offset)
        moved = geometry.copy()
        moved.vertices = vertices
        return moved.export(file_type=kind)
    decimals = find_decimals(np.asarray(geometry.vertices))
    if kind == 'xyz':
        colours = geometry.colors if len(geometry.colors) else np.zeros((len(geometry.vertices), 0))
        return trimesh.util.array_to_string(np.hstack([geometry.vertices, colours]), digits=decimals).encode()
    beside = {'mtl_name': material} if material else {}
    return geometry.export(file_type=kind, digits=decimals, **beside).encode()


def encode_texture(geometry: Any, path: Path) -> dict[Path, bytes]:
    """The files beside an OBJ that has a texture: NAME.png, and NAME.mtl, the last; {} for any other file."""
    texture = find_texture(geometry) if path.suffix.lower() == '.obj' else None
    if texture is None:
        return {}
    stream = io.BytesIO()
    texture[1].save(stream, 'png')
    material, picture = texture_paths(path)
    return {picture: stream.getvalue(), material: MATERIAL.format(picture.name).encode()}


def texture_paths(path: Path) -> tuple[Path, Path]:
    """The MTL file and the texture beside an OBJ. Many readers end a name at a space, so there is none."""
    stem = '_'.join(path.stem.split())
    return path.with_name(f'{stem}.mtl'), path.with_name(f'{stem}.png')


def find_offset(vertices: np.ndarray, kind: str) -> np.ndarray:
    """What vertices [N, 3] are written relative to, near their centre, where float32 would move them too far; else 0: [3].

    Raises InputError for vertices that are NaN, infinite or beyond `LARGEST`.
    """
    if not len(vertices):
        return np.zeros(3)
    low, high = bounding_box(vertices)
    largest = np.abs([low, high]).max()
    if not largest <= LARGEST:
        raise InputError(f'expected coordinates that are finite, of at most {LARGEST:g}, found {largest:g}')
    size = (high - low).max()
    if 0 < size < SMALLEST_SINGLE or largest * 2.0**-24 <= (MAX_MOVE_STL if kind == 'stl' else MAX_MOVE) * size:
        return np.zeros(3)
    return np.round((low + high) / 2, -_magnitude(vertices))  # a number that people can read


def find_decimals(vertices: np.ndarray) -> int:
    """How many decimals of vertices [N, 3] tell them apart: 1e-9 of the longest edge of their bounding box, or 1e-8."""
    return max(8, 9 - _magnitude(vertices))


def _magnitude(vertices: np.ndarray) -> int:
    """The power of ten of the longest edge of the bounding box of vertices [N, 3]; that of 1 where it is 0."""
    size = longest_edge(vertices) if len(vertices) else 0
    return int(np.floor(np.log10(size))) if size > 0 else 0


def _encode_ply(geometry: Any, dtype: str) -> bytes:
    """A binary PLY, with the colours of vertices or of faces where there are some. dtype: of the coordinates."""
    kind, colour = geometry.visual.kind, [('rgba', '<u1', 4)]
    if kind == 'vertex' and not len(geometry.visual.vertex_colors):  # a cloud without colours
        kind = None
    vertices = np.zeros(len(geometry.vertices), [('position', dtype, 3), *(colour if kind == 'vertex' else [])])
    layout = [('count', '<u1'), ('corners', '<i4', 3), *(colour if kind == 'face' else [])]
    faces = np.zeros(len(getattr(geometry, 'faces', ())), layout)
    vertices['position'] = geometry.vertices
    if len(faces):
        faces['count'], faces['corners'] = 3, geometry.faces
    if kind == 'vertex':
        vertices['rgba'] = geometry.visual.vertex_colors
    elif kind == 'face':
        faces['rgba'] = geometry.visual.face_colors
    name = {'<f4': 'float', '<f8': 'double'}[dtype]
    painted = [f'property uchar {channel}' for channel in ('red', 'green', 'blue', 'alpha')]
    header = ['ply', 'format binary_little_endian 1.0', f'element vertex {len(vertices)}']
    header += [*(f'property {name} {axis}' for axis in 'xyz'), *(painted if kind == 'vertex' else ())]
    if isinstance(geometry, trimesh.Trimesh):
        header += [f'element face {len(faces)}', 'property list uchar int vertex_indices']
        header += painted if kind == 'face' else ()
    return '\n'.join([*header, 'end_header\n']).encode() + vertices.tobytes() + faces.tobytes()
