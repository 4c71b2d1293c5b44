"""Constructive solid geometry (CSG): solids with an exact inside test and a watertight mesh in the colours of their parts.

A primitive is a closed body with three members: `contains(p [T, 3]) -> bool [T]`, exact; `bounds() -> low [3], high [3]`; and
`manifold()`, its tessellation. A `ConstructiveSolid` is the difference of two unions of primitives, normalised to the unit
cube. Round primitives are tessellated to a chord error below CHORD, with polygons of the same area as the circle. Imports no
JAX.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import trimesh
from manifold3d import CrossSection, Manifold, OpType
from numpy.typing import ArrayLike
from scipy.spatial import ConvexHull
from trimesh.visual import ColorVisuals

CHORD = 4e-4  # of shapes about as large as 1
# sRGB in full light; they can be told apart by the colour-blind (Okabe and Ito, 2008), without black.
PALETTE = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)],
    np.uint8,
)
COLOURS_STREAM = 1  # of random numbers; the shape itself draws from another


def count_segments(radius: float) -> int:
    """Sides of a regular polygon whose sides leave a circle by less than CHORD."""
    return int(np.clip(np.ceil(np.pi / np.sqrt(2 * CHORD / max(radius, CHORD))), 8, 128))


def polygon_radius(radius: float, num_segments: int) -> float:
    """Circumradius of the regular polygon with the area of the circle."""
    angle = 2 * np.pi / num_segments
    return radius * np.sqrt(angle / np.sin(angle))


class Primitive(Protocol):
    """What solids are made of."""

    def contains(self, p: np.ndarray, /) -> np.ndarray:
        """points [T, 3] -> [T] bool."""

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest corner [3] of a box around it."""

    def manifold(self) -> Manifold:
        """Its surface: round parts become polygons."""


class Box(NamedTuple):
    """Axis-aligned, from its centre and its edges."""

    centre: tuple[float, float, float]
    size: tuple[float, float, float]

    def contains(self, p: np.ndarray) -> np.ndarray:
        return np.all(np.abs(p - self.centre) <= np.divide(self.size, 2), axis=1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.subtract(self.centre, np.divide(self.size, 2)), np.add(self.centre, np.divide(self.size, 2))

    def manifold(self) -> Manifold:
        return Manifold.cube(self.size, True).translate(self.centre)


class Hull(NamedTuple):
    """Convex hull of points [n, 3]: tapered legs, wings, slanted backs."""

    points: tuple[tuple[float, float, float], ...]

    def contains(self, p: np.ndarray) -> np.ndarray:
        planes = ConvexHull(self.points).equations
        return (p @ planes[:, :3].T + planes[:, 3] <= 1e-12).all(axis=1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.min(self.points, axis=0), np.max(self.points, axis=0)

    def manifold(self) -> Manifold:
        return Manifold.hull_points(np.asarray(self.points))


class Frustum(NamedTuple):
    """A round rod from a to b with the radii at both ends: cylinders, cones, discs."""

    a: tuple[float, float, float]
    b: tuple[float, float, float]
    radius_a: float
    radius_b: float

    def contains(self, p: np.ndarray) -> np.ndarray:
        axis = np.subtract(self.b, self.a)
        length = np.linalg.norm(axis)
        offset = p - self.a
        along = offset @ axis / length
        across = np.linalg.norm(offset - along[:, None] * (axis / length), axis=1)
        radius = self.radius_a + (self.radius_b - self.radius_a) * along / length
        return (along >= 0) & (along <= length) & (across <= radius)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        axis = np.subtract(self.b, self.a)
        reach = np.sqrt(np.maximum(1 - np.square(axis / np.linalg.norm(axis)), 0))
        ends = [
            np.add(c, s * r * reach) for c, r in ((self.a, self.radius_a), (self.b, self.radius_b)) for s in (-1, 1)
        ]
        return np.min(ends, axis=0), np.max(ends, axis=0)

    def manifold(self) -> Manifold:
        axis = np.subtract(self.b, self.a)
        n = count_segments(max(self.radius_a, self.radius_b))
        radii = [polygon_radius(r, n) for r in (self.radius_a, self.radius_b)]
        return _place(Manifold.cylinder(np.linalg.norm(axis), *radii, n), axis, self.a)


class Ellipsoid(NamedTuple):
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]

    def contains(self, p: np.ndarray) -> np.ndarray:
        return np.square((p - self.centre) / self.radii).sum(axis=1) <= 1

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return np.subtract(self.centre, self.radii), np.add(self.centre, self.radii)

    def manifold(self) -> Manifold:
        sphere = Manifold.sphere(1.0, max(24, count_segments(max(self.radii))))
        return sphere.scale(np.multiply(self.radii, (4 / 3 * np.pi / sphere.volume()) ** (1 / 3))).translate(
            self.centre
        )


class Torus(NamedTuple):
    """A ring around an axis: `radius` to the middle of a tube of radius `tube`."""

    centre: tuple[float, float, float]
    axis: tuple[float, float, float]
    radius: float
    tube: float

    def contains(self, p: np.ndarray) -> np.ndarray:
        axis = np.divide(self.axis, np.linalg.norm(self.axis))
        offset = p - self.centre
        along = offset @ axis
        across = np.linalg.norm(offset - along[:, None] * axis, axis=1)
        return np.square(across - self.radius) + np.square(along) <= self.tube**2

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        axis = np.divide(self.axis, np.linalg.norm(self.axis))
        reach = self.radius * np.sqrt(np.maximum(1 - axis**2, 0)) + self.tube
        return self.centre - reach, self.centre + reach

    def manifold(self) -> Manifold:
        n = count_segments(self.tube)
        circle = CrossSection.circle(polygon_radius(self.tube, n), n).translate((self.radius, 0))
        return _place(circle.revolve(count_segments(self.radius + self.tube)), self.axis, self.centre)


class Revolution(NamedTuple):
    """A body of revolution around the vertical line through `centre`, hollow where the inner radius is positive.

    profile: (height above the centre, inner radius, outer radius) in rising order of height, linear in between; a height
    that stands twice is a step.
    """

    centre: tuple[float, float, float]
    profile: tuple[tuple[float, float, float], ...]

    def contains(self, p: np.ndarray) -> np.ndarray:
        heights, inner, outer = np.transpose(self.profile)
        offset = p - self.centre
        up, across = offset[:, 1], np.hypot(offset[:, 0], offset[:, 2])
        between = (across >= np.interp(up, heights, inner)) & (across <= np.interp(up, heights, outer))
        return between & (up >= heights[0]) & (up <= heights[-1])

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        heights, _, outer = np.transpose(self.profile)
        reach = outer.max()
        return np.add(self.centre, (-reach, heights[0], -reach)), np.add(self.centre, (reach, heights[-1], reach))

    def manifold(self) -> Manifold:
        heights, inner, outer = np.transpose(self.profile)
        n = count_segments(outer.max())
        inner, outer = polygon_radius(1.0, n) * inner, polygon_radius(1.0, n) * outer
        outline = [*zip(outer, heights, strict=True), *zip(inner[::-1], heights[::-1], strict=True)]
        return _place(CrossSection([outline]).revolve(n), (0, 1, 0), self.centre)


def _place(manifold: Manifold, axis: ArrayLike, origin: ArrayLike) -> Manifold:
    """Turn a body around z to lie around `axis`, and move it to `origin`."""
    z = np.divide(axis, np.linalg.norm(axis))
    x = np.cross((0.0, 1.0, 0.0) if abs(z[1]) < 0.9 else (1.0, 0.0, 0.0), z)
    x /= np.linalg.norm(x)
    return manifold.transform(np.column_stack([x, np.cross(z, x), z, origin]))


# A colour [3] uint8 of all of a primitive; or of what has several, by places on it: points and normals [F, 3] -> [F, 3] uint8.
Colour = np.ndarray | Callable[[np.ndarray, np.ndarray], np.ndarray]


def draw_colours(entropy: Sequence[int], count: int) -> np.ndarray:
    """Colours of PALETTE, [count, 3] uint8. A function of the arguments, from a stream of random numbers of its own."""
    rng = np.random.default_rng(np.random.SeedSequence([*entropy, COLOURS_STREAM]))
    return PALETTE[rng.integers(len(PALETTE), size=count)]


class ConstructiveSolid:
    """The union of `parts` less the union of `cuts`, normalised: longest edge of the bounding box 1, centre 0.

    colours: of the parts, then of the cuts. The surface that a cut leaves has the colour of the cut, so that the inside of
    a mug can be told from its outside.
    """

    def __init__(self, parts: Sequence[Primitive], cuts: Sequence[Primitive], colours: Iterable[Colour]):
        self.parts, self.cuts, self.colours = tuple(parts), tuple(cuts), tuple(colours)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """points [T, 3] in object coordinates -> [T] bool, exact."""
        _, _, centre, scale = self._body
        p = np.asarray(points, np.float64) * scale + centre
        return _in_any(self.parts, p) & ~_in_any(self.cuts, p)

    def mesh(self) -> trimesh.Trimesh:
        """Its surface in object coordinates with face colours: watertight and oriented outwards."""
        body, firsts, centre, scale = self._body
        mesh = body.to_mesh()
        vertices = (np.asarray(mesh.vert_properties, np.float64)[:, :3] - centre) / scale
        result = trimesh.Trimesh(vertices, np.asarray(mesh.tri_verts, np.int64), process=False)
        # A boolean operation keeps of each face of which operand it is.
        owners = np.searchsorted(firsts, np.repeat(mesh.run_original_id, np.diff(mesh.run_index) // 3)) - 1
        places, colours = result.triangles_center * scale + centre, np.empty(result.faces.shape, np.uint8)
        for owner, colour in enumerate(self.colours):
            rows = owners == owner
            colours[rows] = colour(places[rows], result.face_normals[rows]) if callable(colour) else colour
        result.visual = ColorVisuals(result, face_colors=colours)
        return result

    @cached_property
    def _body(self) -> tuple[Manifold, list[int], np.ndarray, float]:
        """The difference, the first number of those that each primitive gives its faces, centre and longest edge."""
        firsts, operands = [], []
        for primitive in (*self.parts, *self.cuts):
            # They rise. To ask an operand for its own would change the last bits of the result.
            firsts.append(Manifold.reserve_ids(1))
            operands.append(primitive.manifold())
        body = Manifold.batch_boolean(operands[: len(self.parts)], OpType.Add)
        if self.cuts:
            body -= Manifold.batch_boolean(operands[len(self.parts) :], OpType.Add)
        low, high = np.reshape(body.bounding_box(), (2, 3))
        return body, firsts, (low + high) / 2, float((high - low).max())


def _in_any(primitives: tuple[Primitive, ...], p: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(p), bool)
    for primitive in primitives:
        low, high = primitive.bounds()
        near = np.flatnonzero(((p >= low) & (p <= high)).all(axis=1))
        inside[near] |= primitive.contains(p[near])
    return inside
