"""Watertight solids from any triangle mesh (mesh repair): the occupancies of a dataset are theirs.

Closed meshes, in which every edge joins two faces, keep their own surface (method 'exact'). Each connected component is
oriented outwards, and their union is taken, so that overlapping components, such as the boards of a chair, are one solid. A
component that lies within another one and has the opposite orientation in the file is a cavity.

All other meshes, with holes, flipped or duplicate faces, sheets without thickness or internal walls, are rebuilt (method
'votes', by `ray_stabbing.py` and `solidify.py`): faces are oriented by the side from which they are visible, the points of a
lattice are classified by a vote of 26 directions, and the surface between inside and outside goes through the crossings of
the lattice lines with the mesh. A sheet with the outside on both sides becomes `THICKNESS` thick; what is mostly closed is
filled up to its openings; what is hidden counts as solid.

Everything is in object coordinates. N vertices, F faces, T query points, K patches: components that are connected across edges
of two faces. Imports no JAX.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from manifold3d import Error, Manifold, Mesh64, OpType
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from trimesh.ray.ray_pyembree import RayMeshIntersector

from onet_jax.errors import InputError
from onet_jax.geometry import grid, ray_stabbing, solidify
from onet_jax.geometry.mesh_files.polygons import check_mesh
from onet_jax.geometry.ragged import ragged_range

RESOLUTION = 192  # cells of the lattice along an axis of the padded cube
THICKNESS = 0.01  # of a sheet
LEAST_CLOSED = 0.9  # share of the directions from a region that must end on its walls for it to be filled
MIN_VOLUME = 1e-4  # share of the padded cube: 10 of 100,000 uniform points are inside
MIN_PIECE = 1e-9  # least volume of a closed component
WELD = 1e-6  # vertices that are closer are merged
MAX_RIMS = 8  # boundary edges at one vertex: with more of them its holes stay open
FLAT = 1e-3  # least extent of a mesh along its thinnest principal axis
WELL_SEEN = 0.2  # share of the sides: a point seen from more is outside by the rule 'hidden from 80 %'
TWO_SIDED = 0.5  # a patch is a sheet when its less visible side is seen at least this often, relative to the other
NUM_ASKED, MAX_UNSURE = 10_000, 0.01  # points of an exact solid tested twice; share of the inside that may differ
NEGLIGIBLE = 1e-3  # area, or share of the volume, that may be wrong in an exact solid
MAX_FACES, MAX_AREA, MAX_LENGTH = 1_200_000, 50.0, 20_000.0  # of the mesh of an object; they bound time and memory


class Labelled(NamedTuple):
    """A solid made from a mesh."""

    contains: Callable[[np.ndarray], np.ndarray]  # points [T, 3] -> [T] bool, True inside `surface`
    surface: trimesh.Trimesh  # closed, oriented outwards; sample points and normals from it
    method: str  # 'exact' or 'votes'
    ambiguous: float  # share of the volume that other reasonable rules would label otherwise; 0 for 'exact'
    volume: float  # share of the padded cube


def close(
    mesh: trimesh.Trimesh,
    *,
    resolution: int = RESOLUTION,
    thickness: float = THICKNESS,
    least_closed: float = LEAST_CLOSED,
    exact: bool = True,
) -> Labelled:
    """The solid that a mesh in object coordinates describes.

    resolution: cells of the lattice along an axis of the padded cube. thickness: of sheets, 1.5 to 4 cells. least_closed: a
    vessel, or a body without a bottom, is filled when from its points at least this share of all directions ends on its walls;
    1 leaves every opening open, as TSDF fusion does. exact: False rebuilds closed meshes as well.

    Takes about 0.3 s and 0.3 GB, for a million faces 10 s and 1 GB. A Trimesh is in a reference cycle: a loop over many meshes
    should call gc.collect(). Raises InputError, naming the fault, for meshes that are damaged, not normalised, flat, too
    large or without volume.
    """
    cell = grid.BOX / resolution
    if not 1.5 <= thickness / cell <= 4:
        raise InputError(
            f'thickness: expected 1.5 to 4 cells, {1.5 * cell:.3g} to {4 * cell:.3g} at resolution {resolution}, '
            f'found {thickness}'
        )
    as_given = _check(mesh)
    vertices, faces = weld(*as_given)
    _check_size(vertices, faces)
    faces = np.concatenate([faces, _missing_triangles(faces)])
    method, ambiguous, surface = 'exact', 0.0, None
    if exact:
        # First with the vertices of the file: where solids touch, merging vertices would join them.
        surface = _unite(*as_given)
        if surface is None:
            surface = _unite(vertices, faces)
        if surface is not None and not _is_sure(surface):
            surface = None
    if surface is None:
        method = 'votes'
        surface, ambiguous = _rebuild(vertices, faces, resolution, thickness, least_closed)
    volume = float(_signed_volumes(surface.vertices, surface.faces).sum()) / grid.BOX**3
    if volume < MIN_VOLUME:
        raise InputError(
            f'mesh: expected a solid, found one that fills {volume:.2g} of the cube, less than {MIN_VOLUME:g}; '
            'it is open, or too thin for its length'
        )
    return Labelled(_inside_test(surface), surface, method, ambiguous, volume)


def _inside_test(surface: trimesh.Trimesh) -> Callable[[np.ndarray], np.ndarray]:
    # Not `surface.ray`: that would be a reference cycle, which keeps the memory until the garbage is collected.
    rays = RayMeshIntersector(surface)
    return lambda points: rays.contains_points(np.reshape(points, (-1, 3)).astype(np.float64))


def _is_sure(surface: trimesh.Trimesh) -> bool:
    """Whether ray tests in three random directions agree with the first: they do not where faces are folded over each other."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-grid.BOX / 2, grid.BOX / 2, (NUM_ASKED, 3))
    inside, vertices = _inside_test(surface)(points), np.asarray(surface.vertices)
    allowed = MAX_UNSURE * np.count_nonzero(inside) + 1

    def agrees(turn: np.ndarray) -> bool:
        turned = trimesh.Trimesh(vertices @ turn, surface.faces, process=False)
        return bool(np.count_nonzero(inside != _inside_test(turned)(points @ turn)) <= allowed)

    return all(agrees(trimesh.transformations.random_rotation_matrix(rng.random(3))[:3, :3]) for _ in range(3))


def _check(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """Validate a mesh: its vertices [N, 3] float64, unreferenced ones removed, and faces [F, 3] int64.

    Raises InputError for a mesh that is damaged, not normalised or flat.
    """
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3 or not len(faces):
        raise InputError(
            f'mesh: expected vertices [N, 3] and triangles [F, 3], found arrays of shape {list(vertices.shape)} and '
            f'{list(faces.shape)}'
        )
    if len(faces) > MAX_FACES:
        raise InputError(f'faces: expected at most {MAX_FACES:,}, found {len(faces):,}; simplify the mesh')
    vertices = np.asarray(vertices, np.float64)
    check_mesh(vertices, faces)
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    low, high = vertices[used].min(axis=0), vertices[used].max(axis=0)
    if not (np.abs([low, high]).max() <= 0.5 + 1e-3 and (high - low).max() >= 0.5):
        raise InputError(
            f'vertices: expected a mesh whose longest edge is 1 and whose centre is 0, found the box {low.tolist()} to '
            f'{high.tolist()}; normalise it'
        )
    number = np.cumsum(used) - 1
    vertices = vertices[used]
    _, axes = np.linalg.eigh(np.cov(vertices.T))
    size = np.ptp(vertices @ axes, axis=0)
    if size.min() < FLAT:
        raise InputError(
            f'mesh: expected a solid, found a flat one of size {" x ".join(f"{s:.2g}" for s in size[::-1])}'
        )
    return vertices, number[faces]


def weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge vertices in the same place; faces that become degenerate, or duplicate another one, are dropped.

    vertices [N, 3], at most 1 from the origin, and faces [F, 3] -> those that are left.
    """
    cell = np.round(vertices / WELD).astype(np.int64) @ [1 << 42, 1 << 21, 1]
    _, first, new = np.unique(cell, return_index=True, return_inverse=True)
    faces = new[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    return vertices[first], faces[~_repeated(faces)]


def _missing_triangles(faces: np.ndarray) -> np.ndarray:
    """The triangles [., 3] that close holes of three edges, such as a lost face or a T-junction."""
    edges = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2), axis=1)
    num = faces.max(initial=0) + 1
    keys, count = np.unique(edges @ [num, 1], return_counts=True)
    keys = keys[count == 1]  # of boundary edges, sorted
    u, v = keys // num, keys % num
    # Each hole u < v < w is found once: at its edge (u, v), from the edges that begin at v.
    first = np.searchsorted(u, v)
    degree = np.searchsorted(u, v, 'right') - first
    degree[degree > MAX_RIMS] = 0
    edge = np.repeat(np.arange(len(keys)), degree)
    w = v[first[edge] + ragged_range(degree)]
    closing = np.searchsorted(keys, u[edge] * num + w)
    found = keys[np.minimum(closing, len(keys) - 1)] == u[edge] * num + w if len(keys) else np.zeros(0, bool)
    holes = np.stack([u[edge], v[edge], w], axis=1)[found]
    return holes[~_repeated(np.concatenate([faces, holes]))[len(faces) :]]  # a face without neighbours is not a hole


def _repeated(faces: np.ndarray) -> np.ndarray:
    """Which faces are duplicates: they have the corners of an earlier one, in any order. [F] bool."""
    corners = np.sort(faces, axis=1)
    order = np.lexsort(corners.T)
    again = np.zeros(len(faces), bool)
    again[order[1:]] = (corners[order[1:]] == corners[order[:-1]]).all(axis=1)
    return again


def _check_size(vertices: np.ndarray, faces: np.ndarray) -> None:
    areas = _areas(vertices, faces)
    edges = vertices[faces] - vertices[np.roll(faces, 1, axis=1)]
    length = np.linalg.norm(edges, axis=2).max(axis=1, initial=0).sum()
    count = np.count_nonzero(areas)
    if count < 4:
        raise InputError(f'faces: expected at least 4 different triangles with an area, found {count}')
    if areas.sum() > MAX_AREA or length > MAX_LENGTH:
        raise InputError(
            f'mesh: expected the surface of one object in the unit cube, with an area up to {MAX_AREA:g} and edges up to '
            f'{MAX_LENGTH:g} in all, found an area of {areas.sum():.3g} and edges of {length:.3g}; it is a tangle of faces'
        )


def _areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    return np.linalg.norm(_normals(vertices, faces), axis=1) / 2


def _normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals of the faces, of twice the length of their areas: [F, 3]."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.cross(b - a, c - a)


def _signed_volumes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Volumes of the tetrahedra between the faces and the origin, positive where the origin is behind the face: [F]."""
    a, b, c = (np.asarray(vertices)[faces[:, i]] for i in range(3))
    return np.einsum('fi,fi->f', a, np.cross(b, c)) / 6


def _patches(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patches: the components of a mesh that are connected across edges of two faces, consistently oriented.

    Returns patch [F], the number of the patch of each face; flipped [F] bool, the faces whose corners have to be reversed for a
    consistent orientation of the patch; closed [K] bool, orientable patches in which every edge joins two faces.
    """
    num_faces = len(faces)
    edges = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    rising = edges[:, 0] < edges[:, 1]
    key = edges.min(axis=1) * (faces.max() + 1) + edges.max(axis=1)
    order = np.argsort(key, kind='stable')
    start = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    pair = start[np.diff(np.r_[start, len(key)]) == 2]
    a, b = order[pair], order[pair + 1]
    # A graph of each face as it is (0 .. F - 1) and reversed (F ..): connected nodes are consistently oriented.
    f, g = a // 3, b // 3
    turned = (rising[a] == rising[b]) * num_faces
    ends = np.r_[f, f + num_faces], np.r_[g + turned, g + num_faces - turned]
    graph = coo_array((np.ones(2 * len(f), np.int8), ends), (2 * num_faces, 2 * num_faces))
    _, label = connected_components(graph, directed=False)
    plain, reversed_ = label[:num_faces], label[num_faces:]
    _, patch = np.unique(np.minimum(plain, reversed_), return_inverse=True)
    paired = np.zeros(len(key), bool)
    paired[a] = paired[b] = True
    faulty = ~paired.reshape(-1, 3).all(axis=1) | (plain == reversed_)  # the latter is not orientable
    return patch, plain > reversed_, np.bincount(patch, faulty) == 0


def _unite(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh | None:
    """The union of closed patches less their cavities; None where a patch is open or the union overlaps itself."""
    patch, flipped, closed = _patches(faces)
    if not closed.all():
        return None
    faces = np.where(flipped[:, None], faces[:, ::-1], faces)
    volume = np.bincount(patch, _signed_volumes(vertices, faces))
    empty = np.abs(volume) < MIN_PIECE
    if empty.any() and _areas(vertices, faces[empty[patch]]).sum() > NEGLIGIBLE:
        return None
    faces = np.where((volume < 0)[patch, None], faces[:, ::-1], faces)
    if len(volume) == 1:
        surface = trimesh.Trimesh(vertices, faces, process=False)
    else:
        pieces = [
            faces[rows] for rows in np.split(np.argsort(patch, kind='stable'), np.cumsum(np.bincount(patch))[:-1])
        ]
        # 1 where the front is outside in the file, -1 where it is inside, 0 where the file is inconsistent.
        num_flipped = np.bincount(patch, flipped)
        sense = np.sign(volume) * ((num_flipped == 0) * 1 - (num_flipped == np.bincount(patch)))
        cavity = _cavities(vertices, pieces, np.abs(volume), sense)
        # From large to small, so that what lies in a cavity is added after it; a run of solids, or of cavities, at once.
        body = Manifold()
        order = np.argsort(-np.abs(volume), kind='stable')[: np.count_nonzero(~empty)]
        for run in np.split(order, np.flatnonzero(np.diff(cavity[order])) + 1):
            parts = [_manifold(vertices, pieces[piece]) for piece in run]
            if any(part.status() != Error.NoError for part in parts):
                return None
            union = Manifold.batch_boolean(parts, OpType.Add)
            body = body - union if cavity[run[0]] else body + union
        result = body.to_mesh64()
        surface = trimesh.Trimesh(result.vert_properties[:, :3], result.tri_verts.astype(np.int64), process=False)
    return surface if len(surface.faces) and _overlap(surface) <= NEGLIGIBLE else None


def _manifold(vertices: np.ndarray, faces: np.ndarray) -> Manifold:
    used, local = np.unique(faces, return_inverse=True)
    return Manifold(Mesh64(vertices[used], local.reshape(-1, 3).astype(np.uint64)))


def _cavities(vertices: np.ndarray, pieces: list[np.ndarray], volume: np.ndarray, sense: np.ndarray) -> np.ndarray:
    """Which closed patches are cavities: they lie within a larger one, and are oriented against the largest. [K] bool."""
    cavity = np.zeros(len(pieces), bool)
    rule = sense[np.argmax(volume)]
    bounds = np.array([[vertices[piece].min(axis=(0, 1)), vertices[piece].max(axis=(0, 1))] for piece in pieces])
    for inner in np.flatnonzero(sense * rule < 0):
        around = (bounds[:, 0] < bounds[inner, 0]).all(axis=1) & (bounds[:, 1] > bounds[inner, 1]).all(axis=1)
        sample = vertices[np.unique(pieces[inner])[:64]]
        cavity[inner] = any(
            _inside_test(trimesh.Trimesh(vertices, pieces[outer], process=False))(sample).all()
            for outer in np.flatnonzero(around & (sense == rule) & (volume > volume[inner]))
        )
    return cavity


def _overlap(surface: trimesh.Trimesh) -> float:
    """Share of the volume in a closed surface with a winding number that is neither 0 nor 1."""
    lattice = ray_stabbing.enclose(surface.vertices, RESOLUTION)
    hits = ray_stabbing.cross(lattice, lattice.from_world(surface.vertices), surface.faces, (1, 0, 0))
    winding = -np.cumsum(hits.sign)
    length = np.diff(hits.height, append=0) * (winding != 0)
    return float(length[(winding != 1) & (winding != 0)].sum() / max(length.sum(), 1e-9))


def _rebuild(
    vertices: np.ndarray, faces: np.ndarray, resolution: int, thickness: float, least_closed: float
) -> tuple[trimesh.Trimesh, float]:
    """The closed surface by the votes of ray stabbing, and the share of the volume that is ambiguous."""
    patch, flipped, _ = _patches(faces)
    lattice = ray_stabbing.enclose(vertices, resolution)
    steps = lattice.from_world(vertices)
    hits = [ray_stabbing.cross(lattice, steps, faces, direction) for direction in ray_stabbing.DIRECTIONS]

    # The side of a patch that is seen more often is its outer one; a patch that is seen equally from both sides is a sheet.
    front, back = ray_stabbing.seen_from_outside(hits, len(faces))
    front, back = (np.bincount(patch, np.where(flipped, *sides)) for sides in ((back, front), (front, back)))
    orientation = (np.where(flipped, -1, 1) * np.where(front >= back, 1, -1)[patch]).astype(np.int8)
    bounds_a_solid = np.minimum(front, back) < TWO_SIDED * np.maximum(front, back)

    votes = ray_stabbing.vote(lattice, hits, orientation * bounds_a_solid[patch])
    solid, is_open = solidify.fill(lattice, hits, votes, least_closed)
    normals = _normals(vertices, faces)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    depth = solidify.slabs(lattice, hits, solid, normals, orientation, thickness / lattice.spacing)
    inside = solidify.remove_specks(solid | (depth > 0))
    # Winding number and visibility, two rules that are often used alone, contradict each other there.
    unsure = (solid | is_open) & ((votes[0] < solidify.MAJORITY) | (votes[2] > WELL_SEEN * ray_stabbing.NUM_SIDES))
    ambiguous = unsure.sum() / max((inside | is_open).sum(), 1)
    surface = solidify.mesh_boundary(lattice, hits, inside, solid, depth, votes[0] / np.float32(ray_stabbing.NUM_SIDES))
    return surface, float(ambiguous)
