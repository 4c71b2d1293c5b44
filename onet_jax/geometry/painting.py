"""Colouring of meshes by a color field: colours of vertices, or a texture that is baked.

A color field is any function, points [T, 3] -> sRGB [T, 3] in [0, 1], in the frame of the mesh. T query points, N vertices.
"""

from collections.abc import Callable

import numpy as np
import trimesh
from PIL import Image
from trimesh.triangles import points_to_barycentric
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from onet_jax.errors import InputError
from onet_jax.geometry.atlas import fill, rasterise, unwrap
from onet_jax.geometry.colours import colours_of, interpolate
from onet_jax.geometry.field import check_finite, evaluate
from onet_jax.geometry.subdivide import subdivide

SIZES = (16, 4096)  # texels along each side of a texture, at least and at most

ColorField = Callable[[np.ndarray], np.ndarray]


def paint_vertices(mesh: trimesh.Trimesh, color: ColorField, max_edge: float | None = None) -> trimesh.Trimesh:
    """The mesh with the colours of a field at its vertices, subdivided first so that no edge is longer than `max_edge`.

    Raises InputError as `subdivide`, and for a field whose values are no colours.
    """
    shape = mesh if max_edge is None else subdivide(mesh, max_edge)[0]
    colours = _evaluate(color, np.asarray(shape.vertices))
    return _with_colours(shape, colours)


def bake_texture(mesh: trimesh.Trimesh, color: ColorField, size: int) -> trimesh.Trimesh:
    """The mesh with texture coordinates and a texture of `size` x `size` texels with the colours of a field.

    Vertices at the seams of the charts become several; faces keep their order. Raises InputError for a size out of range, for a
    mesh without area and as `unwrap`.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f'texture_size: expected {SIZES[0]} to {SIZES[1]} texels, found {size}')
    if not mesh.area > 0:
        raise InputError(f'mesh: expected a surface to colour, found {len(mesh.faces)} faces of area zero')
    unwrapped = unwrap(mesh, size)
    texels = rasterise(unwrapped.uv[unwrapped.faces], size)
    points = interpolate(np.asarray(mesh.triangles)[texels.faces], texels.weights)
    texture = Image.fromarray(fill(texels.places, _evaluate(color, points), size))
    material = PBRMaterial(baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0)
    visual = TextureVisuals(unwrapped.uv, material)
    return trimesh.Trimesh(mesh.vertices[unwrapped.vertices], unwrapped.faces, process=False, visual=visual)


def own_vertex_colours(mesh: trimesh.Trimesh, max_edge: float) -> trimesh.Trimesh:
    """A mesh with colours of any kind as one with colours of vertices, subdivided as by `paint_vertices`."""
    small, origins = subdivide(mesh, max_edge)
    face = np.zeros(len(small.vertices), int)
    face[small.faces] = origins[:, None]
    weights = _find_weights(mesh, face, np.asarray(small.vertices))
    return _with_colours(small, _to_bytes(colours_of(mesh)(face, weights)))


def _find_weights(mesh: trimesh.Trimesh, faces: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The barycentric coordinates [T, 3] of points on faces [T]; the centre of a face without area."""
    with np.errstate(divide='ignore', invalid='ignore'):
        weights = points_to_barycentric(np.asarray(mesh.triangles)[faces], points)
    return np.where(np.isfinite(weights).all(axis=1, keepdims=True), weights, 1 / 3).clip(0, 1)


def _with_colours(mesh: trimesh.Trimesh, colours: np.ndarray) -> trimesh.Trimesh:
    """A mesh of the same vertices and faces with colours [N, 3] uint8."""
    painted = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    painted.visual = ColorVisuals(painted, vertex_colors=np.pad(colours, ((0, 0), (0, 1)), constant_values=255))
    return painted


def _evaluate(color: ColorField, points: np.ndarray) -> np.ndarray:
    """The colours of a field at points [T, 3], [T, 3] uint8. Raises InputError for values that are no colours."""
    if not len(points):
        return np.zeros((0, 3), np.uint8)
    colours = evaluate(color, points)
    if colours.shape != points.shape:
        raise InputError(f'color: expected colours {list(points.shape)}, found the shape {list(colours.shape)}')
    check_finite(colours, 'color')
    return _to_bytes(colours)


def _to_bytes(colours: np.ndarray) -> np.ndarray:
    return np.round(255 * colours.clip(0, 1)).astype(np.uint8)
