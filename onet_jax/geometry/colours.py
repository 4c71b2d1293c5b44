"""Colours on the surface of a mesh, from vertex colours, face colours, a texture or a material. Imports no JAX.

N points of the surface, given by their faces [N] and their barycentric coordinates [N, 3]. Colours are sRGB in [0, 1].
"""

from collections.abc import Callable

import numpy as np
import trimesh
from PIL import Image
from scipy.spatial import KDTree
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

GREY = (0.80, 0.80, 0.80)  # of a mesh without colours
GAMMA = 2.2  # approximates the transfer function of sRGB, for light
NEIGHBOURS = 4  # points whose colours a vertex averages


def colours_of(mesh: trimesh.Trimesh) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function (faces [N], barycentric coordinates [N, 3]) -> the mesh's own colours there, [N, 3] float32.

    A texture is looked up in the texel that has the interpolated UV. GREY where the mesh has no colours.
    """
    visual, colour = mesh.visual, GREY
    if isinstance(visual, TextureVisuals):
        material = visual.material
        if (found := find_texture(mesh)) is not None:
            uv, texels = found[0], np.asarray(found[1].convert('RGBA'))
            return lambda faces, weights: _of_bytes(_look_up(texels, interpolate(uv[mesh.faces[faces]], weights)))
        if isinstance(material, PBRMaterial):
            colour = to_srgb(material.main_color[:3] / 255)  # factors of glTF are linear
        elif material is not None:
            colour = material.main_color[:3] / 255
    elif isinstance(visual, ColorVisuals) and visual.kind == 'vertex':
        return lambda faces, weights: interpolate(_of_bytes(visual.vertex_colors[mesh.faces[faces]]), weights)
    elif isinstance(visual, ColorVisuals) and visual.kind == 'face':
        return lambda faces, weights: _of_bytes(visual.face_colors[faces])
    return lambda faces, weights: np.broadcast_to(np.asarray(colour, np.float32), (len(faces), 3))


def find_texture(mesh: trimesh.Trimesh) -> tuple[np.ndarray, Image.Image] | None:
    """The texture coordinates [N, 2] of the vertices and the texture; None for a mesh that lacks either."""
    if not isinstance(mesh.visual, TextureVisuals):
        return None
    material, uv = mesh.visual.material, mesh.visual.uv
    image = getattr(material, 'baseColorTexture', None) or getattr(material, 'image', None)
    if image is None or uv is None or len(uv) != len(mesh.vertices) or not np.isfinite(uv).all():
        return None
    return uv, image


def to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> linear intensities in [0, 1], by the transfer function of the standard (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: np.ndarray) -> np.ndarray:
    """The inverse of `to_linear`; values outside of [0, 1] are clipped."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


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


def interpolate(corners: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Barycentric interpolation: values at the corners of faces [N, 3, K] -> at points in them [N, K]."""
    return np.einsum('ni,nik->nk', weights, corners)


def _look_up(texels: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The texels [H, W, 4] that have the coordinates uv [N, 2]: a texture repeats, and (0, 0) is its lower left corner."""
    height, width = texels.shape[:2]
    columns, rows = (np.floor(share * size).astype(int) for share, size in zip(uv.T, (width, height), strict=True))
    return texels[(height - 1 - rows) % height, columns % width]


def _of_bytes(rgba: np.ndarray) -> np.ndarray:
    """[..., 4] uint8 -> [..., 3] float32 in [0, 1]."""
    return rgba[..., :3] / np.float32(255)
