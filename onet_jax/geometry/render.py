"""Rendering of meshes by ray casting (Embree), deterministic: no display, no OpenGL, no compiler.

`render_views` makes renderings like those of R2N2 for a mesh that has none; `trace` is for other images too. V views, S pixels
along each side, N vertices, F faces, R rays, H rays that hit. Imports no JAX.

The light is that of the R2N2 renderings, measured on the 24 of a car: one hemisphere light without shadows, fixed to the
object, of linear intensity (1 + n . l) / 2, with colours in sRGB. Ours is oblique to all three axes, so that no two faces of a
box are equally bright. Normals are flipped towards the eye: surfaces are two-sided, so that polygon soups with inconsistently
oriented faces look like solids.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene

from onet_jax.geometry.cameras import IMAGE_SIZE, Camera, object_camera, project, rays
from onet_jax.geometry.colours import GAMMA, colours_of
from onet_jax.geometry.mesh_files.polygons import check_mesh
from onet_jax.geometry.ragged import ragged_range

LAMP = (0.37, 0.92, 0.12)  # direction towards the light, in the axes of the mesh: y is up
FLOOR = 0.04  # linear intensity on the side away from the light, which is black in the R2N2 renderings
CREASE = np.cos(np.radians(40.0))  # faces that meet at a sharper angle keep their edge
# Supersampling: the rays of a pixel, in sixteenths right and down, no two in one row or column (n-rooks).
SAMPLES = ((9, 5), (7, 11), (13, 9), (5, 3), (3, 13), (1, 7), (11, 15), (15, 1))

_SAME = np.cos(np.radians(20.0))  # faces this close to a common one are within CREASE of each other
_MAX_VALENCE = 64  # a corner at a crease of more faces keeps the normal of its face: the tip of a cone
_BLOCK = 1 << 14  # corners at creases that are compared with their neighbours at a time: bounds the memory


class Surface(NamedTuple):
    """A mesh prepared for ray casting."""

    scene: EmbreeScene
    flat: np.ndarray  # [F, 3] float32, unit normals of the faces
    corners: np.ndarray  # [F, 3, 3] float32, unit normals at their corners: see `face_and_corner_normals`


class RayHits(NamedTuple):
    """The rays that met a surface, and where."""

    rays: np.ndarray  # [H] int, which
    faces: np.ndarray  # [H] int
    weights: np.ndarray  # [H, 3] float32, barycentric
    distances: np.ndarray  # [H, 1] float32, in lengths of the ray's direction
    front: np.ndarray  # [H, 1] bool, the ray hits the front of the face, whose corners are counterclockwise
    flat: np.ndarray  # [H, 3] float32, unit normal of the face, towards the eye
    normals: np.ndarray  # [H, 3] float32, interpolated unit normal, towards the eye


class View(NamedTuple):
    """A rendered image, or several with a leading axis V."""

    rgb: np.ndarray  # [..., S, S, 3] uint8, on white
    alpha: np.ndarray  # [..., S, S] uint8, 255 where the object fills the pixel, 0 is background
    depth: np.ndarray  # [..., S, S] float32, nearest in the pixel, along the camera's axis; inf at alpha 0


def render_views(
    mesh: trimesh.Trimesh,
    cameras: Camera,
    *,
    size: int = IMAGE_SIZE,
    colour: tuple[float, float, float] | Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> View:
    """Render a mesh for cameras [V] in its own frame, whose pixels are those of a 137 px image whatever `size` is.

    colour: sRGB in [0, 1], or a function as `colours.colours_of` gives; by default the mesh's own colours. An empty mesh gives
    white images. Raises InputError for vertices that are not finite and for faces of vertices that do not exist.
    """
    vertices, faces = np.asarray(mesh.vertices, np.float64).reshape(-1, 3), np.asarray(mesh.faces).reshape(-1, 3)
    check_mesh(vertices, faces)  # Embree reads whatever memory a wrong index points to
    num_views = len(cameras.world_mat)
    views = View(
        np.full((num_views, size, size, 3), 255, np.uint8),
        np.zeros((num_views, size, size), np.uint8),
        np.full((num_views, size, size), np.inf, np.float32),
    )
    used, faces = np.unique(faces, return_inverse=True)
    vertices, faces = vertices[used], faces.reshape(-1, 3)
    extents = np.ptp(vertices, axis=0) if len(faces) else np.zeros(3)
    if not extents.any():
        return views
    # Rays are float32: normalised, so that coordinates are of the order of 1.
    loc, scale = vertices.min(axis=0) + extents / 2, extents.max()
    cameras, vertices = object_camera(cameras, loc, scale), (vertices - loc) / scale
    surface = prepare(vertices, faces)
    if callable(colour):
        colours_at = colour
    else:
        colours_at = colours_of(mesh) if colour is None else lambda *_: np.asarray(colour, np.float32)
    for view in range(num_views):
        camera = Camera(cameras.world_mat[view], cameras.camera_mat[view])
        _draw(surface, colours_at, camera, _window(camera, vertices, size), View(*(array[view] for array in views)))
    return views


def prepare(vertices: np.ndarray, faces: np.ndarray) -> Surface:
    """Prepare a mesh for ray casting: vertices [N, 3], of the order of 1 (rays are float32); faces [F, 3], at least one."""
    vertices, faces = np.asarray(vertices, np.float32), np.asarray(faces, np.int32)
    scene = EmbreeScene(robust=True)  # else some rays slip through between two faces
    TriangleMesh(scene, vertices, faces)
    return Surface(scene, *face_and_corner_normals(vertices, faces))


def trace(surface: Surface, origins: np.ndarray, directions: np.ndarray) -> RayHits:
    """Cast rays; the first face that each of them hits, from either side.

    origins [R, 3] or [3], directions [R, 3] float32, of any length.
    """
    found = surface.scene.run(np.broadcast_to(np.float32(origins), directions.shape).copy(), directions, output=1)
    rays = np.flatnonzero(found['primID'] != -1)
    faces, u, v, distances = (found[key][rays] for key in ('primID', 'u', 'v', 'tfar'))
    weights = np.stack([1 - u - v, u, v], axis=-1)
    flat = surface.flat[faces]
    front = np.sum(flat * directions[rays], axis=-1, keepdims=True) < 0
    facing = np.where(front, 1, -1).astype(np.float32)
    normals = unit(np.einsum('hi,hic->hc', weights, surface.corners[faces]))
    return RayHits(rays, faces, weights, distances[:, None], front, facing * flat, facing * normals)


def face_and_corner_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals of faces [F, 3] and of their corners [F, 3, 3], float32: smooth shading with sharp creases.

    The normal of a corner is the mean, weighted by area, of the normals of all faces at its point in space that are within
    CREASE of its own face. Neighbours of the opposite orientation are flipped, so that the normal has the orientation of its
    own face.
    """
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    areas = np.cross(b - a, c - a)
    sizes = np.linalg.norm(areas, axis=-1)
    flat = unit(areas)

    # Corners sorted by their point, with the largest face of each point first, the reference of the others.
    points, owners = _number_places(vertices)[faces.ravel()], np.repeat(np.arange(len(faces)), 3)
    order = np.lexsort((-sizes[owners], points))
    owners, points = owners[order], points[order]
    starts = np.flatnonzero(np.diff(points, prepend=-1))
    valences = np.diff(starts, append=len(points))
    cosines = np.sum(flat[owners] * np.repeat(flat[owners[starts]], valences, axis=0), axis=-1)
    sums = np.add.reduceat(np.sign(cosines)[:, None] * areas[owners], starts)
    normals = np.sign(cosines)[:, None] * np.repeat(unit(sums), valences, axis=0)

    # At a crease each corner is compared with all its neighbours; most meshes have few creases.
    smooth = np.minimum.reduceat(np.where(sizes[owners] > 0, np.abs(cosines), 1), starts) > _SAME
    creased = np.flatnonzero(np.repeat(~smooth, valences))
    normals[creased] = flat[owners[creased]]
    creased = creased[np.repeat(valences, valences)[creased] <= _MAX_VALENCE]
    firsts, counts = (np.repeat(numbers, valences)[creased] for numbers in (starts, valences))
    for block in range(0, len(creased), _BLOCK):
        rows, first, count = (array[block : block + _BLOCK] for array in (creased, firsts, counts))
        neighbours = owners[np.repeat(first, count) + ragged_range(count)]
        cosines = np.sum(np.repeat(flat[owners[rows]], count, axis=0) * flat[neighbours], axis=-1)
        joined = np.where(np.abs(cosines) > CREASE, np.sign(cosines), 0)[:, None] * areas[neighbours]
        normals[rows] = unit(np.add.reduceat(joined, np.cumsum(count) - count))
    corners = np.empty((len(owners), 3), np.float32)
    corners[order] = normals
    return flat, corners.reshape(-1, 3, 3)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Normalise vectors [..., 3] to length 1; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-20)


def _number_places(vertices: np.ndarray) -> np.ndarray:
    """Number the distinct points: [N] int, equal for vertices [N, 3] with the same coordinates."""
    order = np.lexsort(vertices.T)
    moves = (np.diff(vertices[order], axis=0) != 0).any(axis=1)
    numbers = np.empty(len(vertices), np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(moves)])
    return numbers


def _window(camera: Camera, vertices: np.ndarray, size: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels that can show the vertices [N, 3]; the others need no rays."""
    pixels, depth = project(camera, vertices)
    if not (depth > 0).any():
        return 0, 0, 0, 0
    if not (depth > 0).all():
        return 0, 0, size, size
    # One pixel more on each side, against rounding.
    low = np.clip(np.floor(pixels.min(axis=0) * size / IMAGE_SIZE) - 1, 0, size)
    high = np.clip(np.ceil(pixels.max(axis=0) * size / IMAGE_SIZE) + 1, 0, size)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _draw(
    surface: Surface, colours_at: Callable, camera: Camera, window: tuple[int, int, int, int], view: View
) -> None:
    """Render into the window of a view, which is blank: `rgb` [S, S, 3], `alpha` and `depth` [S, S]."""
    left, top, right, bottom = window
    if left >= right or top >= bottom:
        return
    shape = (bottom - top, right - left, len(SAMPLES))
    steps, zoom = np.array(SAMPLES) / 16, IMAGE_SIZE / len(view.rgb)
    pixels = np.empty((*shape, 2))
    pixels[..., 0] = zoom * (np.arange(left, right)[:, None] + steps[:, 0])
    pixels[..., 1] = zoom * (np.arange(top, bottom)[:, None, None] + steps[:, 1])
    origins, directions = rays(camera, pixels.reshape(-1, 2))
    # Rays are float32: directions are of length about 1, whatever the unit of depth is.
    unit_depth = np.linalg.norm(camera.world_mat[2, :3])
    directions = (unit_depth * directions).astype(np.float32)

    hits = trace(surface, origins, directions)
    lamp = unit(np.array(LAMP, np.float32))
    light = FLOOR + (1 - FLOOR) * (1 + hits.normals @ lamp[:, None]) / 2
    samples = np.ones((len(directions), 3), np.float32)
    samples[hits.rays] = colours_at(hits.faces, hits.weights) * light ** (1 / GAMMA)
    covered, depth = np.zeros(len(directions), np.float32), np.full(len(directions), np.inf, np.float32)
    covered[hits.rays], depth[hits.rays] = 1, unit_depth * hits.distances[:, 0]

    part = slice(top, bottom), slice(left, right)
    view.rgb[part] = np.round(255 * samples.reshape(*shape, 3).mean(axis=2).clip(0, 1))
    view.alpha[part] = np.round(255 * covered.reshape(shape).mean(axis=2))
    view.depth[part] = depth.reshape(shape).min(axis=2)
