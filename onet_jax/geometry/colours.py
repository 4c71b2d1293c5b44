"""Colours on the surface of a mesh, from vertex colours, face colours, a texture or a material. Imports no JAX.

N points of the surface, given by their faces [N] and their barycentric coordinates [N, 3]. Colours are sRGB in [0, 1].
"""

from collections.abc import Callable

import numpy as np
import trimesh
from scipy.spatial import KDTree
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.color import uv_to_color
from trimesh.visual.material import PBRMaterial

GREY = (0.80, 0.80, 0.80)  # of a mesh without colours
GAMMA = 2.2  # approximates the transfer function of sRGB
NEIGHBOURS = 4  # points whose colours a vertex averages


def colours_of(mesh: trimesh.Trimesh) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function (faces [N], barycentric coordinates [N, 3]) -> the mesh's own colours there, [N, 3] float32.

    A texture is looked up in the texel nearest to the interpolated UV. GREY where the mesh has no colours.
    """
    visual, colour = mesh.visual, GREY
    if isinstance(visual, TextureVisuals):
        material, uv = visual.material, visual.uv
        image = getattr(material, 'baseColorTexture', None) or getattr(material, 'image', None)
        if image is not None and uv is not None and len(uv) == len(mesh.vertices) and np.isfinite(uv).all():
            image = image.convert('RGBA')
            return lambda faces, weights: _of_bytes(uv_to_color(_interpolate(uv[mesh.faces[faces]], weights), image))
        if isinstance(material, PBRMaterial):
            colour = (material.main_color[:3] / 255) ** (1 / GAMMA)  # factors of glTF are linear, not sRGB
        elif material is not None:
            colour = material.main_color[:3] / 255
    elif isinstance(visual, ColorVisuals) and visual.kind == 'vertex':
        return lambda faces, weights: _interpolate(_of_bytes(visual.vertex_colors[mesh.faces[faces]]), weights)
    elif isinstance(visual, ColorVisuals) and visual.kind == 'face':
        return lambda faces, weights: _of_bytes(visual.face_colors[faces])
    return lambda faces, weights: np.broadcast_to(np.asarray(colour, np.float32), (len(faces), 3))


def has_colours(mesh: trimesh.Trimesh) -> bool:
    """Whether a mesh has colours of its own: of vertices, faces, a texture or a material."""
    visual = mesh.visual
    return isinstance(visual, TextureVisuals) or (
        isinstance(visual, ColorVisuals) and visual.kind in ('vertex', 'face')
    )


def carry_colours(mesh: trimesh.Trimesh, points: np.ndarray, colours: np.ndarray) -> trimesh.Trimesh:
    """A copy of a mesh whose vertices have the mean colour of the `NEIGHBOURS` points that are nearest to each.

    points [P, 3] in the frame of the mesh, colours [P, 3] uint8 sRGB.
    """
    _, nearest = KDTree(points).query(mesh.vertices, k=range(1, min(NEIGHBOURS, len(points)) + 1))
    rgb = np.round(colours[nearest].mean(axis=1)).astype(np.uint8)
    coloured = mesh.copy()
    coloured.visual = ColorVisuals(coloured, vertex_colors=np.column_stack([rgb, np.full(len(rgb), 255, np.uint8)]))
    return coloured


def _interpolate(corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Barycentric interpolation: values at the corners of faces [N, 3, K] -> at points in them [N, K]."""
    return np.einsum('ni,nik->nk', weights, corners)


def _of_bytes(rgba: np.ndarray) -> np.ndarray:
    """[..., 4] uint8 -> [..., 3] float32 in [0, 1]."""
    return rgba[..., :3] / np.float32(255)
