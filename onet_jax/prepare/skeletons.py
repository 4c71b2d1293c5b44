"""Skinning: closed meshes around a skeleton of bones or of rigid parts, and their poses by rotations of the joints.

A joint is at the start of a bone and rotates all that lies beyond it. A place of the skin follows it by a weight w from 0 to 1
and is rotated by w times the angle, so that no joint loses volume as in linear blend skinning. V vertices, F faces, L frames.
Imports no JAX.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
import trimesh
from manifold3d import Manifold
from numpy.typing import ArrayLike

from onet_jax.geometry.smoothing import smooth_mesh
from onet_jax.prepare.random_solids import Blend

SMOOTHING = 3  # steps: the triangles of marching cubes become even, which the diffusion of weights needs
SOFTNESS = 0.8  # standard deviation of the weights across a joint, in radii of its bone: with less a bent knee folds
EDGE = 0.045  # longest edge of rigid parts
TRAVEL = (0.0, 0.25)  # share of the way that its steps would carry a walker, so that it stays near its first frame
X, Y, Z = np.eye(3)
SIDES = (('left', 1), ('right', -1))  # and the sign of x there

Moving = tuple[np.ndarray, np.ndarray]  # vertices [L, V, 3], faces [F, 3]


class Bone(NamedTuple):
    """A round rod in the rest pose; its parent is None for what stays."""

    parent: str | None
    start: ArrayLike  # [3], the joint
    end: ArrayLike  # [3]
    radii: tuple[float, float]  # at both ends


class Turn(NamedTuple):
    """A rotation of a bone around an axis of the rest pose [3], by an angle in radians for each frame [L]."""

    bone: str
    axis: ArrayLike
    angles: np.ndarray


class Body(NamedTuple):
    """A closed mesh in the rest pose that can be posed."""

    vertices: np.ndarray  # [V, 3]
    faces: np.ndarray  # [F, 3]
    joints: Mapping[str, np.ndarray]  # the place [3] of each, ancestors first
    weights: Mapping[str, np.ndarray]  # by which the vertices follow each joint, [V]


def cover(bones: Mapping[str, Bone], sharpness: float) -> Body:
    """A skin around bones, ancestors first: a smooth union of them, with weights that are smooth along the surface.

    sharpness: of the union, in units of 1 / length.
    """
    ends = np.array([(bone.start, bone.end) for bone in bones.values()], np.float64)
    radii = np.array([bone.radii for bone in bones.values()])
    mesh = smooth_mesh(_to_mesh(Blend(ends, radii, sharpness).manifold()), SMOOTHING)
    vertices = np.asarray(mesh.vertices)
    nearest = np.argmin([_distances(vertices, *rod) for rod in zip(ends, radii, strict=True)], axis=0)
    a, b = mesh.edges_unique.T
    adjacent = scipy.sparse.coo_array((np.ones(len(a)), (a, b)), (len(vertices),) * 2)
    adjacent = (adjacent + adjacent.T).tocsr()
    mean = scipy.sparse.diags_array(1 / adjacent.sum(axis=1)) @ adjacent
    length = float(mesh.edges_unique_length.mean())
    weights = {}
    for name, bone in bones.items():
        beyond = [number for number, other in enumerate(bones) if name in _ancestors(bones, other)]
        weight = np.isin(nearest, beyond).astype(np.float64)
        # The mean of the neighbours, n times, is a Gaussian of variance n length^2 / 2.
        for _ in range(round(2 * (SOFTNESS * bone.radii[0] / length) ** 2)):
            weight = mean @ weight
        weights[name] = weight
    return Body(vertices, np.asarray(mesh.faces), {name: np.asarray(b.start) for name, b in bones.items()}, weights)


def _distances(points: np.ndarray, ends: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """How far points [V, 3] are from a round rod, negative inside: [V]. ends [2, 3], radii [2] there."""
    axis = ends[1] - ends[0]
    along = ((points - ends[0]) @ axis / (axis @ axis)).clip(0, 1)
    return np.linalg.norm(points - ends[0] - along[:, None] * axis, axis=1) - radii[0] - np.diff(radii) * along


def _ancestors(bones: Mapping[str, Bone], name: str | None) -> list[str]:
    """A bone and those that it hangs on."""
    return [] if name is None else [name, *_ancestors(bones, bones[name].parent)]


def join(parts: Mapping[str, Manifold], joints: Mapping[str, ArrayLike]) -> Body:
    """Rigid parts that do not touch each other; a part has the name of the joint that it follows, or another one and stays.

    joints: their places [3].
    """
    meshes = [_to_mesh(part.refine_to_length(EDGE)) for part in parts.values()]
    owners = np.repeat(np.arange(len(meshes)), [len(mesh.vertices) for mesh in meshes])
    whole: trimesh.Trimesh = trimesh.util.concatenate(meshes)  # type: ignore[assignment]  # of meshes
    weights = {name: (owners == list(parts).index(name)).astype(np.float64) for name in joints}
    places = {name: np.asarray(place, np.float64) for name, place in joints.items()}
    return Body(np.asarray(whole.vertices), np.asarray(whole.faces), places, weights)


def pose(body: Body, turns: Sequence[Turn]) -> np.ndarray:
    """The vertices in each frame [L, V, 3]. Of several turns of a bone the first is the outermost."""
    frames = np.tile(body.vertices, (len(turns[0].angles), 1, 1))
    order = list(body.joints)
    # From the tips inwards: what a joint rotates is then still around its place of the rest pose.
    for bone, axis, angles in sorted(turns, key=lambda turn: order.index(turn.bone))[::-1]:
        moved = np.flatnonzero(body.weights[bone] > 0)
        axis = np.divide(axis, np.linalg.norm(axis))
        offset = frames[:, moved] - body.joints[bone]
        angle = (angles[:, None] * body.weights[bone][moved])[..., None]
        along = (offset @ axis)[..., None] * axis
        frames[:, moved] += np.sin(angle) * np.cross(axis, offset) + (np.cos(angle) - 1) * (offset - along)
    return frames


def swing(cycles: np.ndarray, low: float, high: float) -> np.ndarray:
    """From `low` to `high` and back in each cycle, which begins at `high`."""
    return (high + low) / 2 + (high - low) / 2 * np.cos(2 * np.pi * cycles)


def lift(cycles: np.ndarray) -> np.ndarray:
    """A smooth rise to 1 and back in the second half of each cycle, else 0: of a leg that moves forwards."""
    return np.sin(2 * np.pi * np.maximum(cycles % 1, 0.5)) ** 2


def stand(vertices: np.ndarray) -> np.ndarray:
    """Vertices [L, V, 3] of which the lowest is on the floor in every frame."""
    return vertices - vertices[..., 1].min(axis=1)[:, None, None] * Y


def walk_along(vertices: np.ndarray, cycles: np.ndarray, speed: float) -> np.ndarray:
    """Vertices that move along z by `speed` in a cycle."""
    return vertices + (speed * (cycles - cycles[0]))[:, None, None] * Z


def _to_mesh(manifold: Manifold) -> trimesh.Trimesh:
    mesh = manifold.to_mesh()
    vertices = np.asarray(mesh.vert_properties, np.float64)[:, :3]
    return trimesh.Trimesh(vertices, np.asarray(mesh.tri_verts, np.int64), process=False)
