"""Mesh and point cloud files, and normalisation to object coordinates. P points of a cloud, N vertices. Imports no JAX."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import trimesh

from onet_jax.errors import InputError
from onet_jax.files import write_atomically, write_json
from onet_jax.geometry.clouds import bounding_box
from onet_jax.geometry.colours import has_colours
from onet_jax.geometry.mesh_files.gltf import read_gltf
from onet_jax.geometry.mesh_files.lidar import read_e57, read_las
from onet_jax.geometry.mesh_files.obj import read_obj
from onet_jax.geometry.mesh_files.off import read_off
from onet_jax.geometry.mesh_files.pcd import read_pcd
from onet_jax.geometry.mesh_files.ply import read_ply
from onet_jax.geometry.mesh_files.point_tables import read_npy, read_npz, read_text
from onet_jax.geometry.mesh_files.polygons import Polygons, check_mesh, stack, to_geometry
from onet_jax.geometry.mesh_files.stl import OFFSET, describe_offset, offset_file, read_stl
from onet_jax.geometry.mesh_files.writers import encode_mesh, encode_texture, find_offset, texture_paths
from onet_jax.geometry.sampling import sample_surface, sample_surface_with_colours
from onet_jax.json_files import read_json

MESH_FORMATS = ('ply', 'obj', 'off', 'stl', 'glb')
READERS = {
    'ply': read_ply,
    'obj': read_obj,
    'off': read_off,
    'stl': read_stl,
    'glb': read_gltf,
    'gltf': read_gltf,
    **dict.fromkeys(('xyz', 'txt', 'csv', 'pts'), read_text),
    'pcd': read_pcd,
    'las': read_las,
    'laz': read_las,
    'e57': read_e57,
    'npy': read_npy,
    'npz': read_npz,
}
MESH_INPUTS = (*MESH_FORMATS, 'gltf')  # from which a mesh is read
CLOUD_FORMATS = tuple(READERS)  # from which a cloud is read
POINT_FORMATS = ('ply', 'obj', 'glb', 'xyz')  # to which a cloud is written
NUM_SAMPLES = 100_000  # drawn from the surface of a file that has faces


# Axis of a user's frame that points up -> the rotation matrix to object coordinates, in which y does.
UPS = {
    'x': np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]),
    'y': np.eye(3, dtype=int),
    'z': np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
}


class Frame(NamedTuple):
    """Where an object lies in the user's frame: turn @ user = turn @ loc + scale * object."""

    loc: np.ndarray  # [3] float64, centre of the bounding box
    scale: float  # longest edge of the bounding box
    turn: np.ndarray = UPS['y']  # one of `UPS`

    def to_object(self, points: np.ndarray) -> np.ndarray:
        """User's frame -> object coordinates, [N, 3] float64."""
        return (np.asarray(points, np.float64) - self.loc) @ self.turn.T / self.scale

    def to_user(self, points: np.ndarray) -> np.ndarray:
        """Object coordinates -> user's frame, [N, 3] float64."""
        return self.loc + self.scale * np.asarray(points, np.float64) @ self.turn


def normalise(points: np.ndarray) -> Frame:
    """The frame in which the longest edge of the bounding box of points [P, 3] is 1 and its centre 0."""
    low, high = bounding_box(points)
    return Frame((low + high) / 2, float((high - low).max()))


def load_cloud(path: str | Path) -> np.ndarray:
    """The points of a file, [P, 3] float64 in the user's frame; of a mesh 100,000 samples of its surface.

    Formats: those of CLOUD_FORMATS. Points that are NaN or infinity are dropped; a printed line says how many. Raises
    FileNotFoundError or InputError, naming the file, for one that is missing, damaged or without two distinct points.
    """
    return load_coloured_cloud(path)[0]


def load_coloured_cloud(path: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The points of `load_cloud`, and their colours [P, 3] uint8 sRGB, None where the file has none. Raises as it does."""
    path = Path(path)
    geometry = _load(path)
    points = np.asarray(geometry.vertices, np.float64)
    if len(points) < 2 or ((points[1] == points[0]).all() and (points == points[0]).all()):
        raise InputError(f'{path}: expected at least 2 distinct points, found {min(len(points), 1)} in {len(points)}')
    if isinstance(geometry, trimesh.PointCloud):
        return points, geometry.colors[:, :3] if len(geometry.colors) else None
    try:
        if not has_colours(geometry):
            return sample_surface(geometry, NUM_SAMPLES, 0)[0], None
        points, _, colours = sample_surface_with_colours(geometry, NUM_SAMPLES, 0)
        return points, colours
    except InputError as error:
        raise InputError(f'{path}: {error}') from error


def load_oriented_cloud(path: str | Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The points of a file and their unit normals, [P, 3] float64 each in the user's frame; None for a file with faces.

    Points are dropped, with a printed line, where they or their normals are not finite or a normal is 0. Raises
    FileNotFoundError, or InputError that names the file, for one that is missing, damaged or without normals, and as
    `load_cloud`.
    """
    path = Path(path)
    with reading(path):
        parts = _read(path)
        if any((part.sizes >= 3).any() for part in parts):
            return None
        if any(part.vertex_normals is None for part in parts):
            raise InputError(
                'expected a mesh, or points with normals (nx, ny, nz of a ply, columns of a table, normals of an npz), found '
                'points without; give the mesh of the object, or estimate normals'
            )
        points = np.concatenate([part.vertices for part in parts])
        normals = np.concatenate([np.asarray(part.vertex_normals) for part in parts])
        lengths = np.linalg.norm(normals, axis=1)
        good = np.isfinite(points).all(axis=1) & np.isfinite(lengths) & (lengths > 0)
        if not good.all():
            print(f'{path}: dropped {(~good).sum()} of {len(good)} points without a place or a normal', flush=True)
        if len(np.unique(points[good][:1000], axis=0)) < 2:
            raise InputError(f'expected at least 2 distinct points with normals, found {good.sum()}')
        return points[good], normals[good] / lengths[good, None]


def load_mesh(path: str | Path) -> trimesh.Trimesh:
    """The triangles of a file (off, obj, ply, stl, glb, gltf) in its own frame, with their colours; vertices are not merged.

    Vertices are float64, as the file has them. All meshes of a scene become one, with the transforms of the scene; polygons
    are cut into triangles. Raises FileNotFoundError, or InputError that names the file, for one that is missing, damaged or
    without triangles.
    """
    geometry = _load(Path(path))
    if not isinstance(geometry, trimesh.Trimesh):
        raise InputError(f'{path}: expected triangles, found none')
    return geometry


def load_frame(path: str | Path) -> trimesh.Trimesh | trimesh.PointCloud:
    """A frame of a sequence: a mesh or a point cloud with all vertices of the file in their order.

    Raises FileNotFoundError, or InputError that names the file, for one that is missing, damaged or empty, and for vertices
    that are not finite: without them the others would be taken for other places of the body.
    """
    geometry = _load(Path(path), complete=True)
    if not len(geometry.vertices):
        raise InputError(f'{path}: expected points, found none')
    return geometry


def load_geometry(path: str | Path) -> trimesh.Trimesh | trimesh.PointCloud:
    """Read a mesh, of which equal vertices are one (stl stores them per face), or a point cloud.

    Raises FileNotFoundError, or InputError that names the file, for one that is missing or damaged.
    """
    return _load(Path(path), merge=True)


def merge_vertices(mesh: trimesh.Trimesh) -> None:
    """Make vertices of the same coordinates one, and drop those that no face has, in place."""
    mesh.remove_unreferenced_vertices()
    bits = (np.asarray(mesh.vertices, np.float64) + 0.0).view(np.int64)  # + 0.0: no -0
    first, numbers = trimesh.grouping.unique_rows(bits, keep_order=True)
    mesh.update_vertices(first, numbers)


def _load(path: Path, merge: bool = False, complete: bool = False) -> trimesh.Trimesh | trimesh.PointCloud:
    """All meshes of a file as one, with the transforms of its scene; a point cloud where it has no mesh."""
    with reading(path):
        geometry = to_geometry(path, _read(path), complete)
        if merge and isinstance(geometry, trimesh.Trimesh):
            merge_vertices(geometry)
        return geometry


def load_polygons(path: str | Path) -> Polygons:
    """The polygons of a mesh file as one mesh, verified, before they are cut into triangles. Raises as `load_mesh`."""
    path = Path(path)
    with reading(path):
        mesh = stack([part for part in _read(path) if (part.sizes >= 3).any()])
        if not len(mesh.sizes):
            raise InputError('expected faces, found none')
        check_mesh(mesh.vertices, mesh.corners)
        return mesh


def _read(path: Path) -> list[Polygons]:
    kind = path.suffix.lower()[1:]
    if kind not in READERS:
        raise InputError(f'expected one of the formats {"|".join(READERS)}, found {kind or "no suffix"!r}')
    return READERS[kind](path)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raises InputError that names the file for whatever is wrong with it, FileNotFoundError for one that is missing."""
    if not path.is_file():
        raise FileNotFoundError(f'{path}: expected a mesh or a point cloud ({"|".join(READERS)}), found no such file')
    try:
        yield
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    except Exception as error:  # of a damaged file anything may be missing
        raise InputError(
            f'{path}: expected a readable {path.suffix} file, found one that is damaged or of another kind '
            f'({type(error).__name__}: {error}); export it again'
        ) from error


def check_format(kind: str) -> None:
    """Raises InputError unless it is one of MESH_FORMATS."""
    if kind not in MESH_FORMATS:
        raise InputError(f'expected one of the formats {"|".join(MESH_FORMATS)} to write meshes in, found {kind!r}')


def save_mesh(geometry: trimesh.Trimesh | trimesh.PointCloud, path: str | Path) -> None:
    """Write a mesh (ply, obj, off, stl, glb) or a point cloud (ply, obj, glb, xyz), by the suffix.

    Vertices keep their places to 1e-6 of the longest edge of the mesh, however far from the origin they are: where float32
    would move them by more, a PLY holds doubles and a GLB a transform. An STL keeps them to 1e-4; where float32 would move them
    by more it is written relative to an offset, with a message: NAME.stl.offset.json has the offset, which `load_mesh` adds.

    A GLB and an OBJ keep a texture, the OBJ in NAME.mtl and NAME.png beside it, which it replaces. Colours of vertices are sRGB
    in PLY and OBJ, and linear in GLB, as its standard wants.

    The file is written atomically. Raises InputError, with nothing written, for a suffix of another format, for coordinates
    that are not finite or that it cannot hold, and where NAME.stl.offset.json is a file of another kind.
    """
    path = Path(path)
    kind = path.suffix.lower()[1:]
    formats = POINT_FORMATS if isinstance(geometry, trimesh.PointCloud) else MESH_FORMATS
    if kind not in formats:
        what = type(geometry).__name__
        raise InputError(f'{path}: expected a format that holds a {what}, {"|".join(formats)}, found {kind!r}')
    try:
        offset = find_offset(np.asarray(geometry.vertices), kind)
        others = encode_texture(geometry, path)
        content = encode_mesh(geometry, kind, offset, texture_paths(path)[0].name if others else '')
        beside = offset_file(path)
    except InputError as error:
        raise InputError(f'{path}: {error}') from error
    has_note = kind == 'stl' and os.path.isfile(beside)  # False also for a name that is too long
    if has_note:
        read_json(beside, OFFSET, f'an offset of {path.name} has this name: move the file, or write to another name')
    if kind == 'stl' and offset.any():
        write_json(beside, describe_offset(content, offset))
        print(
            f'{path}: so far from the origin stl (float32) would move the vertices: written relative to {offset.tolist()}, '
            f'which {beside.name} holds; ply, obj, off and glb need no offset',
            flush=True,
        )
    for companion, its_content in others.items():
        write_atomically(companion, its_content)
    write_atomically(path, content)
    if has_note and not offset.any():
        beside.unlink(missing_ok=True)


class OpenSurface(trimesh.Trimesh):
    """A surface that does not enclose a volume, such as the patches of AtlasNet: it has no inside."""
