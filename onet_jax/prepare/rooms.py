"""Procedural rooms: furniture of `procedural.py` on a floor between thin walls, as in the scenes of Peng et al., 2020.

A family is named after the number of objects, as the official classes are: 'rooms_04' has four. y is up; the whole room has
its longest edge 1 and its centre 0. Same (seed, family, index), same room. Imports no JAX.
"""

import zlib
from typing import NamedTuple

import numpy as np
import trimesh
from manifold3d import Manifold, Mesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from onet_jax.errors import InputError
from onet_jax.prepare.constructive_solids import Box, ConstructiveSolid, draw_colours
from onet_jax.prepare.procedural import make_shape

FAMILIES = tuple(f'rooms_{count:02d}' for count in range(4, 9))
FURNITURE = ('chair', 'sofa', 'table', 'lamp', 'shelf')  # a cabinet is a shelf that is closed
ASPECT = (0.6, 1.0)  # of the floor: depth to width
FLOOR, WALL = (0.02, 0.03), (0.02, 0.03)  # thickness, in widths of the floor
WALL_HEIGHT, WALL_SHARE = (0.25, 0.45), 0.7  # a side of the floor has a wall with this probability
SIZE = (0.5, 0.85)  # longest edge of an object, times the square root of their number
GAP = 0.02  # between objects, and to the walls
TRIES, SHRINK = 60, 0.9  # places that are tried for an object before it is made smaller
RAY_START = 1e-4  # above the surface


def make_room(seed: int, family: str, index: int) -> ConstructiveSolid:
    """Number `index` of a family. Raises InputError for an unknown family."""
    if family not in FAMILIES:
        raise InputError(f'family: expected one of {FAMILIES}, found {family!r}')
    entropy = (seed, zlib.crc32(family.encode()), index)
    rng = np.random.default_rng(np.random.SeedSequence(entropy))
    depth, thickness, wall = rng.uniform(*ASPECT), rng.uniform(*FLOOR), rng.uniform(*WALL)
    boxes = [Box((0, -thickness / 2, 0), (1, thickness, depth)), *_walls(rng, depth, wall)]
    count = int(family.removeprefix('rooms_'))
    taken: list[np.ndarray] = []
    placed = []
    for _ in range(count):
        solid = make_shape(int(rng.integers(2**31)), str(rng.choice(FURNITURE)), 0)
        placed.append(_place(rng, solid, rng.uniform(*SIZE) / np.sqrt(count), (1 - 2 * wall, depth - 2 * wall), taken))
    colours = [*draw_colours(entropy, len(boxes)), *(furniture.colours_at for furniture in placed)]
    return ConstructiveSolid([*boxes, *placed], [], colours)


def _walls(rng: np.random.Generator, depth: float, thickness: float) -> list[Box]:
    height, low = rng.uniform(*WALL_HEIGHT), -FLOOR[0] / 2  # a little into the floor
    centre, size = (height + low) / 2, height - low
    sides = [Box((sign * (1 - thickness) / 2, centre, 0), (thickness, size, depth)) for sign in (-1, 1)] + [
        Box((0, centre, sign * (depth - thickness) / 2), (1, size, thickness)) for sign in (-1, 1)
    ]
    return [side for side in sides if rng.random() < WALL_SHARE]


class Placed(NamedTuple):
    """A solid somewhere: turned around y by `turn` radians, scaled, moved."""

    solid: ConstructiveSolid
    mesh: trimesh.Trimesh  # of the solid, where it stands
    turn: np.ndarray  # [3, 3]
    scale: float
    origin: np.ndarray  # [3]

    def contains(self, points: np.ndarray) -> np.ndarray:
        """points [T, 3] -> [T] bool, exact."""
        return self.solid.contains((points - self.origin) @ self.turn / self.scale)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = self.mesh.bounds
        return low - 1e-3, high + 1e-3  # round parts reach a little beyond the mesh

    def manifold(self) -> Manifold:
        return Manifold(Mesh(np.asarray(self.mesh.vertices, np.float32), np.asarray(self.mesh.faces, np.uint32)))

    def colours_at(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Colours [T, 3] uint8 of points of its surface with the normals there, both [T, 3]."""
        # The first face that a ray meets which enters the solid there.
        faces = RayMeshIntersector(self.mesh).intersects_first(points + RAY_START * normals, -normals)
        return self.mesh.visual.face_colors[faces, :3]  # type: ignore[union-attr]  # as `ConstructiveSolid.mesh` makes it


def _place(
    rng: np.random.Generator, solid: ConstructiveSolid, scale: float, room: tuple[float, float], taken: list[np.ndarray]
) -> Placed:
    """Stand a solid on the floor within a rectangle (x, z) where it touches none of the boxes `taken`, [2, 2]; adds its own."""
    mesh = solid.mesh()
    while True:
        for _ in range(TRIES):
            angle = rng.uniform(0, 2 * np.pi)
            turn = trimesh.transformations.rotation_matrix(angle, (0, 1, 0))[:3, :3]
            low, high = (f(scale * mesh.vertices @ turn.T, axis=0) for f in (np.min, np.max))
            free = np.subtract(room, 2 * GAP) - (high - low)[[0, 2]]
            if (free < 0).any():
                continue
            corner = -np.divide(room, 2) + GAP + rng.random(2) * free
            # It stands a hair in the floor, so that the two are one body.
            origin = np.array([corner[0], -FLOOR[0] / 4, corner[1]]) - low
            box = np.stack([corner - GAP, corner + (high - low)[[0, 2]] + GAP])
            if all(((box[1] <= other[0]) | (other[1] <= box[0])).any() for other in taken):
                taken.append(box)
                mesh.vertices = scale * mesh.vertices @ turn.T + origin
                return Placed(solid, mesh, turn, scale, origin)
        scale *= SHRINK
