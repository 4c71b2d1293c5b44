"""Polygon meshes as files hold them: the one verification and triangulation for all formats.

N vertices, F polygons, C corners of all polygons, T triangles.
"""

from collections.abc import Sequence
from typing import NamedTuple

import mapbox_earcut
import numpy as np
import trimesh
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import Material

from onet_jax.errors import InputError
from onet_jax.geometry.colours import GREY
from onet_jax.geometry.ragged import ragged_range

GREY_RGBA = np.array([*(round(255 * value) for value in GREY), 255], np.uint8)  # beside parts that have colours
MAX_CLIPPED = (
    20_000  # corners of a polygon: ear clipping of a tangle takes a second, and quadratic time; of all about twice that
)


class Polygons(NamedTuple):
    """What a file holds, before any of it has been verified; a point cloud has no polygons."""

    vertices: np.ndarray  # [N, 3] float64
    corners: np.ndarray = np.zeros(0, np.int64)  # [C] int64, vertices of the polygons, one after the other
    sizes: np.ndarray = np.zeros(0, np.int64)  # [F] int64, how many corners each polygon has
    vertex_colours: np.ndarray | None = None  # [N, 4] uint8
    face_colours: np.ndarray | None = None  # [F, 4] uint8
    uv: np.ndarray | None = None  # [N, 2] float64, of the texture in `material`
    material: Material | None = None
    vertex_normals: np.ndarray | None = None  # [N, 3] float64, of a cloud; those of meshes are not read


def to_indices(values: np.ndarray) -> np.ndarray:
    """Numbers of a file as int64, flat. Raises InputError for those that are not whole."""
    if values.dtype.kind == 'f' and not ((np.abs(values) < 2**53) & (values == np.round(values))).all():
        raise InputError('expected whole numbers as sizes and corners of faces, found others; export the file again')
    return values.astype(np.int64).reshape(-1)


def check_mesh(vertices: np.ndarray, faces: np.ndarray) -> None:
    """Verify vertices [N, 3] and their indices in faces, of any shape; one that no face has may be NaN.

    Raises InputError for an index that is out of range, negative ones included, and for coordinates that are not finite.
    """
    if faces.size and not (faces.min() >= 0 and faces.max() < len(vertices)):
        raise InputError(
            f'expected faces of the vertices 0 to {len(vertices) - 1}, found {faces.min()} to {faces.max()}; the '
            'mesh is damaged'
        )
    if not np.isfinite(vertices).all():
        bad = ~np.isfinite(vertices).all(axis=1)
        used = np.zeros(len(vertices), bool)
        used[faces] = True
        if (bad & used).any():
            raise InputError(
                f'expected finite vertices, found NaN or infinity in {(bad & used).sum()} of {len(vertices)}'
            )


def to_geometry(
    path: object, parts: Sequence[Polygons], complete: bool = False
) -> trimesh.Trimesh | trimesh.PointCloud:
    """Verify and triangulate the parts of a file: one mesh of all that have faces, or else one cloud of all points.

    Points that are not finite, and that no face has, are dropped, and a printed line says how many; complete: InputError is
    raised instead. Raises InputError as `check_mesh`.
    """
    parts = [part for part in parts if (part.sizes >= 3).any()] or parts
    checked = []
    for part in parts:
        check_mesh(part.vertices, part.corners)
        if not np.isfinite(part.vertices).all():
            finite = np.isfinite(part.vertices).all(axis=1)
            if complete:
                raise InputError(f'expected finite points, found NaN or infinity in {(~finite).sum()} of {len(finite)}')
            print(f'{path}: dropped {(~finite).sum()} of {len(finite)} points, which are NaN or infinity', flush=True)
            part = _keep(part, finite)
        checked.append(part)
    if not any(part.material for part in checked):
        checked = [stack(checked)]
    if not (checked[0].sizes >= 3).any():
        return trimesh.PointCloud(checked[0].vertices, checked[0].vertex_colours)
    meshes = [_to_mesh(part) for part in checked]
    return meshes[0] if len(meshes) == 1 else trimesh.util.concatenate(meshes)  # type: ignore[return-value]  # it is a mesh


def triangulate(vertices: np.ndarray, corners: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles [T, 3] int64 with the areas of polygons, and the polygon [T] of each.

    A polygon that is seen whole from its first corner becomes a fan, any other one is cut by ear clipping; what has fewer
    than three corners is dropped. Arguments as in `Polygons`, verified. Raises InputError for polygons of too many corners
    and for too many that cross themselves.
    """
    if (sizes == 3).all():
        return corners.reshape(-1, 3), np.arange(len(sizes))
    num = np.maximum(sizes - 2, 0)
    owners, step = np.repeat(np.arange(len(sizes)), num), ragged_range(num)
    starts = np.cumsum(sizes) - sizes
    first = starts[owners]
    faces = corners[np.stack([first, first + step + 1, first + step + 2], axis=1)]

    # A fan has the area of its polygon where all its triangles face the side that their sum does.
    large = sizes[owners] > 3
    a, b, c = (vertices[faces[large, corner]] for corner in range(3))
    with np.errstate(over='ignore', invalid='ignore'):  # of coordinates such as 1e300
        areas = np.cross(b - a, c - a)
    of_polygon = np.stack([np.bincount(owners[large], areas[:, axis], len(sizes)) for axis in range(3)], axis=1)
    whole = np.einsum('fi,fi->f', of_polygon, of_polygon)
    facing = np.einsum('ti,ti->t', areas, of_polygon[owners[large]])
    concave = np.unique(owners[large][facing < -1e-10 * whole[owners[large]]])
    if not len(concave):
        return faces, owners
    if sizes[concave].max() > MAX_CLIPPED:
        raise InputError(
            f'expected polygons of at most {MAX_CLIPPED} corners, unless convex, found {sizes[concave].max()}; cut them into '
            'triangles'
        )
    clipped, sources, work = [], [], 0
    for polygon in concave:
        ring = corners[starts[polygon] : starts[polygon] + sizes[polygon]]
        ears = _clip(vertices[ring], of_polygon[polygon])
        if ears is None:
            work += len(ring) ** 2
            if work > MAX_CLIPPED**2:
                raise InputError(
                    f'expected polygons that do not cross themselves, or few, found many or large ones, such as polygon '
                    f'{polygon + 1} of {len(ring)} corners; cut them into triangles'
                )
        else:
            clipped.append(ring[ears])
            sources.append(np.full(len(ears), polygon))
    if not clipped:
        return faces, owners
    kept = ~np.isin(owners, [source[0] for source in sources])
    faces, owners = np.concatenate([faces[kept], *clipped]), np.concatenate([owners[kept], *sources])
    order = np.argsort(owners, kind='stable')
    return faces[order], owners[order]


def _clip(ring: np.ndarray, area: np.ndarray) -> np.ndarray | None:
    """Ear clipping of a polygon [K, 3] of a vector area [3] -> its corners, [., 3]; None where it crosses itself."""
    axis = int(np.argmax(np.abs(area)))
    flat = np.delete(ring - ring[0], axis, axis=1)
    ears = mapbox_earcut.triangulate_float64(np.ascontiguousarray(flat), np.array([len(ring)], np.uint32))
    ears = ears.astype(np.int64).reshape(-1, 3)
    (ax, ay), (bx, by) = (flat[ears[:, 1]] - flat[ears[:, 0]]).T, (flat[ears[:, 2]] - flat[ears[:, 0]]).T
    signed = (ax * by - ay * bx) * (-1 if axis == 1 else 1)
    if not np.isclose(np.abs(signed).sum(), np.abs(area[axis]), rtol=1e-6):
        return None
    wrong = signed * area[axis] < 0
    ears[wrong] = ears[wrong, ::-1]
    return ears


def _keep(part: Polygons, kept: np.ndarray) -> Polygons:
    """The part with only some of its vertices, [N] bool, which include those of all its faces."""
    colours, uv = (None if values is None else values[kept] for values in (part.vertex_colours, part.uv))
    corners = (np.cumsum(kept) - 1)[part.corners]
    return part._replace(vertices=part.vertices[kept], corners=corners, vertex_colours=colours, uv=uv)


def stack(parts: Sequence[Polygons]) -> Polygons:
    """Parts as one, without their textures."""
    if len(parts) == 1:
        return parts[0]
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([np.zeros((0, 3)), *(part.vertices for part in parts)])
    corners = np.concatenate([np.zeros(0, np.int64), *(p.corners + n for p, n in zip(parts, offsets, strict=False))])
    sizes = np.concatenate([np.zeros(0, np.int64), *(part.sizes for part in parts)])
    colours = None
    if any(part.vertex_colours is not None for part in parts):
        colours = np.tile(GREY_RGBA, (len(vertices), 1))
        for part, start in zip(parts, offsets, strict=False):
            if part.vertex_colours is not None:
                colours[start : start + len(part.vertices)] = part.vertex_colours
    return Polygons(vertices, corners, sizes, colours)


def _to_mesh(part: Polygons) -> trimesh.Trimesh:
    faces, owners = triangulate(part.vertices, part.corners, part.sizes)
    if part.material is not None:
        visual = TextureVisuals(part.uv, part.material)
    elif part.face_colours is not None:
        visual = ColorVisuals(face_colors=part.face_colours[owners])
    else:
        visual = ColorVisuals(vertex_colors=part.vertex_colours)
    return trimesh.Trimesh(part.vertices, faces, process=False, visual=visual)


def to_bytes(colours: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Colours [..., 3 or 4] times a scale -> [..., 4] uint8; NaN is black. Without a scale they are in [0, 1] or up to 255."""
    colours = np.nan_to_num(np.asarray(colours, np.float64))
    if scale is None:
        scale = 255 if colours.max(initial=0) <= 1 else 1
    rgba = np.full((*colours.shape[:-1], 4), 255, np.uint8)
    rgba[..., : colours.shape[-1]] = np.round(scale * np.clip(colours, 0, 255 / scale))
    return rgba


def strips_to_triangles(vertices: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The triangles [T, 3] of triangle strips, one after the other, of these sizes; -1 begins another strip.

    Those that only turn a strip, with a vertex twice, are dropped.
    """
    strips = np.repeat(np.arange(len(sizes)), sizes) + np.cumsum(vertices == -1)
    strips, vertices = strips[vertices != -1], vertices[vertices != -1]
    step = np.arange(len(strips)) - np.searchsorted(strips, strips)
    faces = np.stack([vertices[:-2], vertices[1:-1], vertices[2:]], axis=1)
    odd = step[:-2] % 2 == 1
    faces[odd] = faces[odd][:, [1, 0, 2]]
    return faces[(strips[2:] == strips[:-2]) & (faces != np.roll(faces, 1, axis=1)).all(axis=1)]
