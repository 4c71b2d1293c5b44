"""Random solids: compositions of random primitives in random poses, so that a network learns surfaces rather than categories.

Each family is a function rng -> (parts, cuts), as in `procedural.py`: constructive solid geometry of random primitives, with
and without cuts; thin sheets; rods; vessels and shells with a thin wall; bent tubes; smooth blends of limbs and of balls. The
whole is turned at random: no direction is up. Same (seed, family, index), same solid. Imports no JAX.
"""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from manifold3d import Manifold, Mesh
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation
from skimage.measure import marching_cubes

from onet_jax.errors import InputError
from onet_jax.prepare.constructive_solids import (
    Box,
    ConstructiveSolid,
    Ellipsoid,
    Frustum,
    Hull,
    Primitive,
    Revolution,
    Torus,
    draw_colours,
)

Parts = tuple[Sequence[Primitive], Sequence[Primitive]]
BLEND_CELLS = 72  # along the longest edge, of the grid on which a blend is tessellated


def make_random_solid(seed: int, family: str, index: int) -> ConstructiveSolid:
    """Number `index` of a family. Raises InputError for an unknown family."""
    if family not in MAKERS:
        raise InputError(f'family: expected one of {FAMILIES}, found {family!r}')
    entropy = (seed, zlib.crc32(family.encode()), index)
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    turn = Rotation.random(random_state=rng).as_matrix()
    parts, cuts = ([Posed(body, turn, np.zeros(3)) for body in bodies] for bodies in MAKERS[family](rng))
    return ConstructiveSolid(parts, cuts, draw_colours(entropy, len(parts) + len(cuts)))


class Posed(NamedTuple):
    """A primitive that is turned around the origin, then moved."""

    body: Primitive
    turn: np.ndarray  # rotation matrix [3, 3]
    origin: np.ndarray  # [3]

    def contains(self, p: np.ndarray) -> np.ndarray:
        return self.body.contains((p - self.origin) @ self.turn)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        corners = np.stack(np.meshgrid(*np.transpose(self.body.bounds())), axis=-1).reshape(-1, 3) @ self.turn.T
        return corners.min(axis=0) + self.origin, corners.max(axis=0) + self.origin

    def manifold(self) -> Manifold:
        return self.body.manifold().transform(np.column_stack([self.turn, self.origin]))


class Blend(NamedTuple):
    """A smooth union of round rods: the level set of the smooth minimum of their distances (log-sum-exp)."""

    ends: np.ndarray  # [n, 2, 3]; equal ends make a ball
    radii: np.ndarray  # [n, 2], at the ends
    sharpness: float  # of the smooth minimum, in units of 1 / length

    def contains(self, p: np.ndarray) -> np.ndarray:
        return self._level(p) <= 0

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        # The smooth minimum lies below the minimum by log(n) / sharpness at most.
        reach = (self.radii + np.log(len(self.ends)) / self.sharpness)[..., None]
        return (self.ends - reach).min(axis=(0, 1)), (self.ends + reach).max(axis=(0, 1))

    def manifold(self) -> Manifold:
        low, high = self.bounds()
        cell = (high - low).max() / BLEND_CELLS
        axes = [np.arange(a - cell, b + 2 * cell, cell) for a, b in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes, indexing='ij'), axis=-1)
        levels = self._level(grid.reshape(-1, 3)).reshape(grid.shape[:3])
        vertices, faces, _, _ = marching_cubes(levels.astype(np.float32), 0.0, gradient_direction='descent')
        places = np.array([axis[0] for axis in axes]) + cell * vertices
        return Manifold(Mesh(places.astype(np.float32), faces.astype(np.uint32)))

    def _level(self, p: np.ndarray) -> np.ndarray:
        total = np.zeros(len(p))
        for (a, b), (first, last) in zip(self.ends, self.radii, strict=True):
            axis = b - a
            along = ((p - a) @ axis / max(axis @ axis, 1e-12)).clip(0, 1)
            distance = np.linalg.norm(p - a - along[:, None] * axis, axis=1)
            total += np.exp(np.minimum(-self.sharpness * (distance - first - (last - first) * along), 500.0))
        return -np.log(np.maximum(total, 1e-300)) / self.sharpness


def draw_primitive(rng: np.random.Generator, size: float) -> Primitive:
    """A random primitive around the origin, about as large as `size`."""
    edges = size * rng.uniform(0.25, 1.0, 3)
    x, y, z = map(float, edges)
    kind = rng.integers(6)
    if kind == 0:
        return Box((0, 0, 0), (x, y, z))
    if kind == 1:
        return Ellipsoid((0, 0, 0), (x / 2, y / 2, z / 2))
    if kind == 2:
        return Frustum((0, -y / 2, 0), (0, y / 2, 0), x / 2, float(x / 2 * rng.uniform(0.1, 1.0)))
    if kind == 3:
        return Torus((0, 0, 0), (0, 1, 0), x / 2, float(x / 2 * rng.uniform(0.15, 0.45)))
    if kind == 4:
        points = rng.normal(size=(rng.integers(5, 12), 3))
        points *= edges / 2 / np.linalg.norm(points, axis=1, keepdims=True)
        return Hull(tuple(map(tuple, points)))
    heights = np.linspace(-y / 2, y / 2, rng.integers(3, 6))
    return Revolution((0, 0, 0), tuple((float(h), 0.0, float(x / 2 * rng.uniform(0.2, 1.0))) for h in heights))


def draw_pose(rng: np.random.Generator, body: Primitive, origin: np.ndarray, upright: float = 0.4) -> Posed:
    """The primitive at `origin`, turned at random; with probability `upright` by multiples of a right angle only."""
    turn = Rotation.random(random_state=rng).as_matrix()
    if rng.random() < upright:
        turn = np.eye(3)[rng.permutation(3)]
        turn[0] *= np.linalg.det(turn)
    return Posed(body, turn, origin)


def attach(rng: np.random.Generator, parts: Sequence[Posed]) -> np.ndarray:
    """A random place [3] within one of the parts, at which another one hangs together with it."""
    part = parts[int(rng.integers(len(parts)))]
    low, high = part.bounds()
    for _ in range(200):
        places = rng.uniform(low, high, (64, 3))
        inside = places[part.contains(places)]
        if len(inside):
            return inside[0]
    return part.origin  # a very thin one


def compose(rng: np.random.Generator, draw: Callable[[], Primitive], most: int, fewest: int = 1) -> list[Posed]:
    """`fewest` to `most` random primitives that hang together."""
    count = rng.integers(fewest, most + 1)
    parts = [draw_pose(rng, draw(), np.zeros(3))]
    while len(parts) < count:
        parts.append(draw_pose(rng, draw(), attach(rng, parts)))
    return parts


def composition(rng: np.random.Generator) -> Parts:
    return compose(rng, lambda: draw_primitive(rng, rng.uniform(0.3, 1.0)), 6), []


def cut_composition(rng: np.random.Generator) -> Parts:
    parts = compose(rng, lambda: draw_primitive(rng, rng.uniform(0.5, 1.0)), 3)
    count = rng.integers(1, 4)
    return parts, [draw_pose(rng, draw_primitive(rng, rng.uniform(0.2, 0.6)), attach(rng, parts)) for _ in range(count)]


def sheets(rng: np.random.Generator) -> Parts:
    def sheet():
        x, y = rng.uniform(0.3, 1.0, 2)
        thickness = rng.uniform(0.02, 0.06)
        if rng.random() < 0.3:
            return Frustum((0, -thickness / 2, 0), (0, thickness / 2, 0), x / 2, x / 2)
        return Box((0, 0, 0), (x, thickness, y))

    return compose(rng, sheet, 5), []


def rods(rng: np.random.Generator) -> Parts:
    def rod():
        length, radius = rng.uniform(0.3, 1.0), rng.uniform(0.012, 0.05)
        kind = rng.integers(3)
        if kind == 0:
            return Torus((0, 0, 0), (0, 1, 0), length / 2, radius)
        if kind == 1:
            return Box((0, 0, 0), (2 * radius, length, 2 * radius * rng.uniform(0.5, 2)))
        return Frustum((0, -length / 2, 0), (0, length / 2, 0), radius, radius * rng.uniform(0.4, 1.0))

    if rng.random() < 0.5:
        return compose(rng, rod, 8, fewest=2), []
    body = draw_pose(rng, draw_primitive(rng, 0.6), np.zeros(3))
    return [body, *(draw_pose(rng, rod(), attach(rng, [body])) for _ in range(rng.integers(2, 9)))], []


def vessel(rng: np.random.Generator) -> Parts:
    """A body of revolution with a thin wall and a smooth outline, open above, perhaps also below."""
    wall, count = rng.uniform(0.02, 0.07), rng.integers(4, 9)
    rise = np.linspace(0, 1, 40)
    radii = np.interp(rise, np.linspace(0, 1, count), rng.uniform(0.12, 0.5, count))
    radii = np.convolve(np.pad(radii, 6, 'edge'), np.full(13, 1 / 13), 'valid')
    heights = rise * rng.uniform(0.3, 1.2)
    floor = -0.1 if rng.random() < 0.3 else wall
    inside = [(floor, radii[0]), *((h, r) for h, r in zip(heights, radii, strict=True) if h > floor), (2.0, radii[-1])]
    cup = Revolution((0, 0, 0), tuple((float(h), 0.0, float(r)) for h, r in zip(heights, radii, strict=True)))
    return [cup], [Revolution((0, 0, 0), tuple((float(h), 0.0, float(r - wall)) for h, r in inside))]


def shell(rng: np.random.Generator) -> Parts:
    """A hollow box or ellipsoid with an opening."""
    wall, (x, y, z), is_box = rng.uniform(0.02, 0.07), rng.uniform(0.25, 0.5, 3), rng.random() < 0.5
    bodies: list[Primitive] = [
        Box((0, 0, 0), (2 * (x - w), 2 * (y - w), 2 * (z - w)))
        if is_box
        else Ellipsoid((0, 0, 0), (x - w, y - w, z - w))
        for w in (0, wall)
    ]
    opening = draw_pose(rng, draw_primitive(rng, rng.uniform(0.3, 0.8)), np.array([x, 0, 0]))
    return bodies[:1], [bodies[1], opening]


def tubes(rng: np.random.Generator) -> Parts:
    """Bent tubes: rods along smooth random curves, with balls at the joints."""
    parts: list[Primitive] = []
    joints: list[np.ndarray] = []
    for _ in range(rng.integers(1, 4)):
        knots = np.cumsum(rng.normal(scale=0.3, size=(rng.integers(3, 6), 3)), axis=0)
        times = np.linspace(0, len(knots) - 1, 4 * len(knots))
        curve = CubicSpline(np.arange(len(knots)), knots)(times)
        if joints:  # it begins on an earlier one
            curve += joints[int(rng.integers(len(joints)))] - curve[0]
        joints += [*curve]
        radii = np.linspace(rng.uniform(0.02, 0.09), rng.uniform(0.02, 0.09), len(curve))
        parts += [Ellipsoid(tuple(place), (r, r, r)) for place, r in zip(curve, radii, strict=True)]
        parts += [
            Frustum(tuple(a), tuple(b), first, last)
            for a, b, first, last in zip(curve, curve[1:], radii, radii[1:], strict=False)
        ]
    return parts, []


def limbs(rng: np.random.Generator) -> Parts:
    """A body with limbs, as of an animal: a smooth blend of tapered rods."""
    body = np.stack([rng.normal(scale=0.12, size=3), rng.normal(scale=0.3, size=3)])
    ends, radii = [body], [rng.uniform(0.08, 0.22, 2)]
    for _ in range(rng.integers(2, 8)):
        # From a point of what is there already to somewhere outside.
        parent = rng.integers(len(ends)) if rng.random() < 0.4 else 0
        share = rng.random()
        start = ends[parent][0] + share * (ends[parent][1] - ends[parent][0])
        thick = radii[parent][0] + share * (radii[parent][1] - radii[parent][0])
        ends.append(np.stack([start, start + rng.normal(scale=0.3, size=3)]))
        radii.append(thick * np.array([rng.uniform(0.4, 0.8), rng.uniform(0.2, 0.7)]))
    return [Blend(np.stack(ends), np.stack(radii).clip(0.018), rng.uniform(25, 80))], []


def blobs(rng: np.random.Generator) -> Parts:
    """Balls that melt into each other."""
    count = rng.integers(2, 9)
    centres, radii = [np.zeros(3)], [rng.uniform(0.12, 0.3)]
    while len(centres) < count:
        other = rng.integers(len(centres))
        way = rng.normal(size=3)
        radius = rng.uniform(0.06, 0.3)
        reach = rng.uniform(0.6, 1.05) * (radius + radii[other])
        centres.append(centres[other] + way / np.linalg.norm(way) * reach)
        radii.append(radius)
    ends = np.repeat(np.stack(centres)[:, None], 2, axis=1)
    return [Blend(ends, np.repeat(np.stack(radii)[:, None], 2, axis=1), rng.uniform(12, 60))], []


MAKERS: dict[str, Callable[[np.random.Generator], Parts]] = {
    'blobs': blobs,
    'compositions': composition,
    'cut_compositions': cut_composition,
    'limbs': limbs,
    'rods': rods,
    'sheets': sheets,
    'shells': shell,
    'tubes': tubes,
    'vessels': vessel,
}
FAMILIES = tuple(MAKERS)
