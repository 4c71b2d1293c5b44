"""Procedural mechanisms: a desk lamp with joints, a chest with a lid, scissors, a pendulum in a frame.

Lengths are in sizes of the object, about; y is up. cycles [L]: the times of the frames in periods of the motion.
Imports no JAX.
"""

from itertools import product

import numpy as np
from manifold3d import Manifold, OpType
from numpy.typing import ArrayLike

from onet_jax.prepare.constructive_solids import Box, Frustum, Hull, Torus
from onet_jax.prepare.skeletons import SIDES, Bone, Moving, Turn, X, Y, Z, cover, join, pose, stand, swing

GAP = 0.012  # between rigid parts


def beam(a: ArrayLike, b: ArrayLike, thickness: float) -> Hull:
    """A square bar from a to b, both [3]."""
    corners = thickness / 2 * np.array(list(product((-1, 1), repeat=3)))
    return Hull(tuple(map(tuple, np.concatenate([np.add(corners, end) for end in (a, b)]))))


def lamp(rng: np.random.Generator, cycles: np.ndarray) -> Moving:
    """A desk lamp that looks around, on three feet."""
    lower, upper = rng.uniform(0.3, 0.42, 2)
    thick, shade = rng.uniform(0.022, 0.032), rng.uniform(0.08, 0.11)
    elbow, tip = np.array([0, 0.06 + lower, 0]), np.array([0, 0.06 + lower + upper, 0])
    bones = {}
    for number in range(3):
        angle = 2 * np.pi * number / 3
        toe = rng.uniform(0.13, 0.17) * np.array([np.sin(angle), 0, np.cos(angle)])
        bones[f'foot {number}'] = Bone(None, (0, 0.05, 0), toe + 0.03 * Y, (0.045, 0.03))
    bones |= {
        'lower': Bone('foot 0', (0, 0.08, 0), elbow, (thick, thick)),
        'upper': Bone('lower', elbow, tip, (1.15 * thick, thick)),
        'shade': Bone('upper', tip, tip + 0.16 * Z, (1.3 * thick, shade)),
    }
    body = cover(bones, 70)
    lean, bow, look = rng.uniform(0.2, 0.6), rng.uniform(0.7, 1.3), rng.uniform(0.2, 0.7)
    turns = [
        Turn('lower', Y, swing(0.5 * cycles, -look, look)),
        Turn('lower', -X, swing(cycles, lean - 0.3, lean + 0.25)),
        Turn('upper', X, swing(cycles + 0.2, lean + bow - 0.4, lean + bow + 0.3)),
        Turn('shade', X, swing(cycles + 0.4, -0.6, 0.4)),
    ]
    return pose(body, turns), body.faces


def chest(rng: np.random.Generator, cycles: np.ndarray) -> Moving:
    """A box with a lid that opens and closes."""
    width, height, depth = rng.uniform(0.6, 1.0), rng.uniform(0.25, 0.5), rng.uniform(0.45, 0.7)
    wall, thickness, over = rng.uniform(0.04, 0.06), rng.uniform(0.04, 0.1), rng.uniform(0, 0.02)
    cavity = Box((0, height / 2 + wall, 0), (width - 2 * wall, height, depth - 2 * wall))
    case = Box((0, height / 2, 0), (width, height, depth)).manifold() - cavity.manifold()
    lid = Box((0, height + GAP + thickness / 2, 0), (width + 2 * over, thickness, depth + 2 * over)).manifold()
    if rng.random() < 0.5:  # a vaulted one
        half = depth / 2
        vault = Frustum((-width / 2, 0, 0), (width / 2, 0, 0), half, half).manifold()
        vault = vault.scale((1, rng.uniform(0.3, 0.6), 1)).trim_by_plane((0, 1, 0), 0)
        lid = lid + vault.translate((0, height + GAP + thickness / 2, 0))
    # The hinge is above and behind the case, so that the lid never enters it.
    body = join({'case': case, 'lid': lid}, {'lid': (0, height + GAP / 2, -depth / 2 - over)})
    widest = rng.uniform(0.8, 1.7)
    return pose(body, [Turn('lid', -X, swing(cycles, rng.uniform(0, 0.2), widest))]), body.faces


def scissors(rng: np.random.Generator, cycles: np.ndarray) -> Moving:
    """Scissors that cut, on the floor: two blades one above the other."""
    thick, blade, handle = rng.uniform(0.05, 0.075), rng.uniform(0.5, 0.65), rng.uniform(0.2, 0.32)
    ring, broad = rng.uniform(0.1, 0.13), rng.uniform(0.07, 0.1)
    parts = {}
    for (side, sign), low in zip(SIDES, (0.0, thick + GAP), strict=True):
        high = low + thick
        # On its side of the axis z, with the edge on it, behind the pivot on the other side.
        outline = [(0, -0.03), (sign * broad, 0.05), (0.9 * sign * broad, 0.6 * blade), (0.1 * sign * broad, blade)]
        grip = np.array([-1.05 * sign * ring, -handle - 0.8 * ring])
        bar = [
            (sign * 0.5 * broad, 0.06),
            (-sign * 0.5 * broad, 0),
            (grip[0] - 0.02 * sign, grip[1] + ring),
            (grip[0] + 0.06 * sign, grip[1] + ring),
        ]
        hulls = [Hull(tuple((x, y, z) for x, z in points for y in (low, high))) for points in (outline, bar)]
        loop = Torus((grip[0], (low + high) / 2, grip[1]), (0, 1, 0), ring, thick / 2)
        parts[side] = Manifold.batch_boolean([*(hull.manifold() for hull in hulls), loop.manifold()], OpType.Add)
    body = join(parts, dict.fromkeys(parts, np.zeros(3)))
    open_ = swing(cycles, rng.uniform(0, 0.05), rng.uniform(0.3, 0.5))
    return stand(pose(body, [Turn(side, sign * Y, open_) for side, sign in SIDES])), body.faces


def pendulum(rng: np.random.Generator, cycles: np.ndarray) -> Moving:
    """A bob on a rod that swings in a frame."""
    height, width, thick = rng.uniform(0.8, 1.0), rng.uniform(0.3, 0.45), rng.uniform(0.025, 0.04)
    splay, long = rng.uniform(0.2, 0.3), rng.uniform(0.55, 0.75) * height
    beams = [beam((-width, height, 0), (width, height, 0), 2 * thick)]
    beams += [beam((x, 0, z), (0.97 * x, height, 0), 2 * thick) for x in (-width, width) for z in (-splay, splay)]
    top = height - 2 * thick - GAP  # below the corners of the bar at any angle
    bob = rng.uniform(0.08, 0.13)
    rod = Frustum((0, top, 0), (0, height - long, 0), 0.7 * thick, 0.7 * thick)
    ball = Manifold.sphere(bob, 32).translate((0, height - long, 0))
    frame = Manifold.batch_boolean([part.manifold() for part in beams], OpType.Add)
    body = join({'frame': frame, 'rod': rod.manifold() + ball}, {'rod': height * Y})
    far = rng.uniform(0.4, 0.8)
    return stand(pose(body, [Turn('rod', X, swing(cycles, -far, far))])), body.faces


def mechanism(rng: np.random.Generator, cycles: np.ndarray) -> Moving:
    """One of them."""
    return (lamp, chest, scissors, pendulum)[rng.integers(4)](rng, cycles)
