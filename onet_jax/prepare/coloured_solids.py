"""Solid textures of embedded solids: part colours and patterns that are functions of the place in object coordinates.

The parts of a solid that are alike, as four legs are, have one colour; its largest part has a pattern of two (stripes, checks,
spots or a gradient). A family has one scheme; which of its colours and patterns a solid has, one view shows. Patterns depend on
place and part, not on triangles: they are looked up where a ray hits. Same (seed, family, index), same colours. Imports no JAX.
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import trimesh
from trimesh.visual import ColorVisuals

from onet_jax.prepare.constructive_solids import ConstructiveSolid, Primitive

X, Y, Z = range(3)
PAINT_STREAM = 2  # of random numbers; the shape itself and its plain colours draw from others
PERIODS = (0.3, 0.42)  # of a pattern, in longest edges: 20 to 35 px of a view
SPOT = 0.36  # radius of a spot, in periods
JITTER = 0.05  # of a colour of a scheme


class Scheme(NamedTuple):
    """The colours of a family, sRGB in hexadecimal digits, and the patterns of the main part; a solid draws one of each."""

    main: str
    accent: str  # second colour of the pattern
    second: str  # of the second largest part
    detail: str  # of smaller parts
    inside: str  # of the surface that a difference creates
    patterns: tuple[tuple[str, int], ...]  # name of `PATTERNS` and axis


ANY = Scheme(
    'e69f00 56b4e9 009e73 d55e00 cc79a7', 'f4f1e8 2b3a55', 'f0e442 0072b2 e9e4d8', '4a4f5a 8c6d4f', 'f2e6d0',
    (('stripes', X), ('stripes', Y), ('stripes', Z), ('checks', Y), ('spots', Y), ('gradient', Y)),
)  # fmt: skip
SCHEMES = {
    'airplane': Scheme(
        'eef2f6 dbe7f3 f3ead2', 'c8372d 1f5fae 1b8a5a e08a1e', '6f86a3 c8372d 1f5fae e2b33c', '3c4450 8b95a1', 'f2e6d0',
        (('stripes', Z), ('gradient', Z), ('checks', Z)),
    ),
    'bench': Scheme(
        'c1813f 8a5a33 4f8a5b b5433c', 'f0e2c4 3b2a1d', '5d6670 2f3d46', '30343a 7a5230', 'f2e6d0',
        (('stripes', X), ('gradient', X), ('checks', X)),
    ),
    'bottle': Scheme(
        '2f8f5b 8a4b1f 3a7fc1 b8436a', 'f4ecd6 f6c445', 'd0342c 2b2b33 f2c230', '2b2b33 d8d2c4', '20313a',
        (('stripes', Y), ('gradient', Y), ('spots', Y)),
    ),
    'car': Scheme(
        'c8372d 1f5fae e8b923 2e8b57 e6e6e2', 'f7f5ee 22262e', '9fc4dc 6d93ad', '2a2a2e 3d3f45', '8a8f98',
        (('stripes', X), ('gradient', Z), ('checks', Z)),
    ),
    'chair': Scheme(
        'b5433c 2f6f8f d99a2b 5c8a4a 8d5a8f', 'f3e9d2 2c3142', 'c99a63 7a4a2a e2cfa6', '5a3a22 2f3338', '6b4a30',
        (('stripes', X), ('checks', X), ('spots', X)),
    ),
    'lamp': Scheme(
        'f3d27a f1b27c e9e2c8 a8cfd6', 'b5433c 3b6ea5 6a8f4e', '3a3d44 a9793f 7c8791', 'b08d4c 4a4f5a', 'fff3c9',
        (('stripes', Y), ('gradient', Y), ('spots', Y)),
    ),
    'mug': Scheme(
        'd64f3c 2d77b5 3f9b6c f0c23b 7d5ba6', 'fbf6e9 2b3a55', 'd64f3c 2d77b5 fbf6e9', 'e8dcc2 4a4f5a', 'fbf3e0',
        (('stripes', Y), ('stripes', X), ('checks', Y), ('spots', Y), ('gradient', Y)),
    ),
    'shelf': Scheme(
        'a9713c d8b483 6f4a2d e5e0d5', '5b3a22 f3ead6', 'c9a26b 3f5a6b 7d8f5a', 'e9e4d8 6b4a30', 'f2e6d0',
        (('stripes', Y), ('gradient', Y), ('checks', Y)),
    ),
    'sofa': Scheme(
        '3f6b8f 8f3f4a 6b7f4f b98a4a 55506b', 'efe5cf 23283a', '5f8fb5 b5656f 8fa36b d6b07a', 'e9dfc8 3a2d22', 'f2e6d0',
        (('checks', X), ('stripes', X), ('spots', X)),
    ),
    'table': Scheme(
        'b07a45 d9b98a 7a4a2a 8fa9b5', 'e8d3ae 4a2f1d', '5a3a22 c0c6cc 2f3338', '2f3338 9a6b3d', 'f2e6d0',
        (('stripes', X), ('checks', X), ('gradient', X)),
    ),
}  # fmt: skip


def stripes(places: np.ndarray, axis: int) -> np.ndarray:
    return np.cos(2 * np.pi * places[:, axis]) < 0


def checks(places: np.ndarray, axis: int) -> np.ndarray:
    return np.cos(2 * np.pi * places).prod(axis=1) < 0


def spots(places: np.ndarray, axis: int) -> np.ndarray:
    """Balls on a body-centred cubic lattice, of which every plane meets some."""
    nearest = (np.linalg.norm((places + shift) % 1 - 0.5, axis=1) for shift in (0.0, 0.5))
    return np.minimum(*nearest) < SPOT


# Places [N, 3] in periods -> share [N] of the second colour.
PATTERNS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {'stripes': stripes, 'checks': checks, 'spots': spots}


class Paint(NamedTuple):
    """The colour of a part: of two colours a pattern, or the first alone."""

    colours: np.ndarray  # [2, 3] float32, sRGB in [0, 1]
    pattern: str = ''  # of `PATTERNS`, or 'gradient'; '' is none
    axis: int = Y
    period: float = 1.0

    def at(self, places: np.ndarray) -> np.ndarray:
        """Places [N, 3] in object coordinates -> [N, 3] float32."""
        share = np.zeros(len(places))
        if self.pattern == 'gradient':
            share = (places[:, self.axis] + 0.5).clip(0, 1)
        elif self.pattern:
            share = PATTERNS[self.pattern](places / self.period, self.axis)
        return (self.colours[0] + share[:, None] * (self.colours[1] - self.colours[0])).astype(np.float32)


class ColouredSolid:
    """A `ConstructiveSolid` whose parts, then cuts, have `paints`."""

    def __init__(self, solid: ConstructiveSolid, paints: tuple[Paint, ...]):
        # In place of a colour a part has its number, by which its faces are told apart.
        numbers = [np.array([number % 256, number // 256, 0], np.uint8) for number in range(len(paints))]
        self.paints, self._solid = paints, ConstructiveSolid(solid.parts, solid.cuts, numbers)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """points [T, 3] in object coordinates -> [T] bool, exact."""
        return self._solid.contains(points)

    def mesh(self) -> trimesh.Trimesh:
        """Its surface in object coordinates, watertight and oriented outwards; a face has the colour of its centre."""
        mesh, colours_at = self.surface()
        centres = colours_at(np.arange(len(mesh.faces)), np.full((len(mesh.faces), 3), 1 / 3))
        mesh.visual = ColorVisuals(mesh, face_colors=np.round(255 * centres).astype(np.uint8))
        return mesh

    def surface(self) -> tuple[trimesh.Trimesh, Callable[[np.ndarray, np.ndarray], np.ndarray]]:
        """The mesh, without colours, and the function (faces [N], barycentric coordinates [N, 3]) -> colours [N, 3] float32,
        sRGB in [0, 1]."""
        mesh = self._solid.mesh()
        numbers = np.asarray(mesh.visual.face_colors, int) @ [1, 256, 0, 0]  # type: ignore[union-attr]  # of `ColorVisuals`
        mesh.visual = ColorVisuals(mesh)
        corners = np.asarray(mesh.vertices)[mesh.faces]

        def colours_at(faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
            places, owners = np.einsum('ni,nik->nk', weights, corners[faces]), numbers[faces]
            colours = np.empty((len(faces), 3), np.float32)
            for owner in np.unique(owners):
                colours[owners == owner] = self.paints[owner].at(places[owners == owner])
            return colours

        return mesh, colours_at


def paint_solid(solid: ConstructiveSolid, seed: int, family: str, index: int) -> ColouredSolid:
    """Number `index` of a family in colours of the scheme of the family."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(family.encode()), index, PAINT_STREAM]))
    scheme = SCHEMES.get(family, ANY)

    def draw(colours: str) -> np.ndarray:
        rgb = bytes.fromhex(colours.split()[rng.integers(len(colours.split()))])
        return np.clip(np.array([*rgb]) / 255 + rng.uniform(-JITTER, JITTER, 3), 0, 1)

    def plain(colours: str) -> Paint:
        return Paint(np.stack([draw(colours)] * 2).astype(np.float32))

    pattern, axis = scheme.patterns[rng.integers(len(scheme.patterns))]
    two = np.stack([draw(scheme.main), draw(scheme.accent)]).astype(np.float32)
    ranked = [Paint(two, pattern, axis, float(rng.choice(PERIODS))), plain(scheme.second)]
    kinds = _rank_kinds(solid.parts)
    ranked += [plain(scheme.detail) for _ in range(max(kinds) - 1)]
    inside = plain(scheme.inside)
    return ColouredSolid(solid, (*(ranked[kind] for kind in kinds), *(inside for _ in solid.cuts)))


def _rank_kinds(parts: tuple[Primitive, ...]) -> list[int]:
    """The kind of each part, 0 for the one that takes the most room. Parts of one type and one size are of one kind."""
    sizes = [np.subtract(*part.bounds()[::-1]) for part in parts]
    keys = [(type(part).__name__, *np.round(np.sort(size), 3)) for part, size in zip(parts, sizes, strict=True)]
    room: dict[tuple, float] = {}
    for key, size in zip(keys, sizes, strict=True):
        room[key] = room.get(key, 0.0) + float(size.prod())
    order = sorted(room, key=lambda key: -room[key])
    return [order.index(key) for key in keys]
