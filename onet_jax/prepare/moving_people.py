"""A procedural person: body sizes, and the motions walk, run, squat, jump, wave and jumping jacks.

Angles are in radians, lengths in heights of a body; x is left, y up, z forwards. cycles [L]: the times of the frames in periods
of the motion. Imports no JAX.
"""

import numpy as np

from onet_jax.prepare.skeletons import (
    SIDES,
    TRAVEL,
    Body,
    Bone,
    Moving,
    Turn,
    X,
    Y,
    Z,
    cover,
    lift,
    pose,
    stand,
    swing,
    walk_along,
)  # fmt: skip

DROOP = 0.64  # radians: of the arms of the rest pose, below the horizontal


def human_body(rng: np.random.Generator) -> Body:
    """Body sizes vary; the arms of the rest pose are spread."""
    girth, legs, arms = rng.uniform(0.85, 1.25), rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1)
    hips, shoulders = rng.uniform(0.085, 0.1), rng.uniform(0.15, 0.175)
    hip, chest = 0.5 * legs, 0.5 * legs + 0.23 * rng.uniform(0.95, 1.1)
    head = rng.uniform(0.062, 0.08)
    bones = {
        'pelvis': Bone(None, (-0.5 * hips, hip + 0.03, 0), (0.5 * hips, hip + 0.03, 0), (0.076 * girth,) * 2),
        'waist': Bone('pelvis', (0, hip + 0.06, 0), (0, chest - 0.05, 0.005), (0.08 * girth, 0.078 * girth)),
        'chest': Bone('waist', (-0.55 * shoulders, chest, 0), (0.55 * shoulders, chest, 0), (0.072 * girth,) * 2),
        'neck': Bone('chest', (0, chest + 0.05, 0), (0, chest + 0.12, 0.005), (0.036, 0.034)),
        'head': Bone('neck', (0, chest + 0.19, 0.01), (0, chest + 0.15 + 1.2 * head, 0.012), (0.9 * head, head)),
    }
    for side, sign in SIDES:
        out = np.array([sign * np.cos(DROOP), -np.sin(DROOP), 0])  # along the arm
        places = np.array([shoulders * sign, chest + 0.02, 0]) + np.multiply.outer((0, 0.17 * arms, 0.32 * arms), out)
        hand = places[2] + 0.06 * out
        bones |= {
            f'{side} arm': Bone('chest', places[0], places[1], (0.042 * girth, 0.034 * girth)),
            f'{side} forearm': Bone(f'{side} arm', places[1], places[2], (0.033 * girth, 0.024 * girth)),
            f'{side} hand': Bone(f'{side} forearm', places[2], hand, (0.027, 0.03)),
        }
        x = sign * (hips + 0.005)
        knee, ankle, toe = (1.12 * x, 0.27 * legs, 0.01), (1.2 * x, 0.045, 0), (1.3 * x, 0.03, 0.1)
        bones |= {
            f'{side} thigh': Bone('pelvis', (x, hip, 0), knee, (0.066 * girth, 0.048 * girth)),
            f'{side} shin': Bone(f'{side} thigh', knee, ankle, (0.047 * girth, 0.03 * girth)),
            f'{side} foot': Bone(f'{side} shin', ankle, toe, (0.034, 0.026)),
        }
    return cover(bones, 80)


Motion = tuple[
    list[Turn], np.ndarray, float
]  # the turns, the height of the feet above the floor [L], the way in a cycle


def leg(side: str, hip: np.ndarray, knee: np.ndarray, foot: np.ndarray) -> list[Turn]:
    """A leg: the hip forwards, the knee backwards, and the toes up."""
    return [Turn(f'{side} thigh', -X, hip), Turn(f'{side} shin', X, knee), Turn(f'{side} foot', -X, foot)]


def arm(side: str, sign: int, forwards: np.ndarray, up: np.ndarray, elbow: np.ndarray) -> list[Turn]:
    """An arm: from hanging straight down sideways, and then forwards; and the elbow."""
    flexion = np.array([-np.sin(DROOP), -sign * np.cos(DROOP), 0])  # across the arm of the rest pose
    return [
        Turn(f'{side} arm', -X, forwards),
        Turn(f'{side} arm', sign * Z, up - (np.pi / 2 - DROOP)),
        Turn(f'{side} forearm', flexion, elbow),
    ]


def strides(rng: np.random.Generator, cycles: np.ndarray) -> Motion:
    """Walking or running: arms and legs in opposition."""
    runs = rng.random() < 0.4
    reach = rng.uniform(0.5, 0.7) if runs else rng.uniform(0.3, 0.5)
    bend = rng.uniform(1.1, 1.6) if runs else rng.uniform(0.6, 1.0)
    elbow = rng.uniform(1.2, 1.6) if runs else rng.uniform(0.2, 0.6)
    arms, spread, lean = rng.uniform(0.6, 1.1) * reach, rng.uniform(0.2, 0.35), 0.2 * runs + rng.uniform(0, 0.08)
    still = np.zeros_like(cycles)
    turns = [
        Turn('waist', X, lean + still),
        Turn('waist', Y, swing(cycles, -0.3 * reach, 0.3 * reach)),
        Turn('head', Y, swing(cycles + 0.5, -0.2 * reach, 0.2 * reach)),
    ]
    for side, sign in SIDES:
        phase = cycles + 0.5 * (sign < 0)
        hip = swing(phase, -0.8 * reach, reach)
        knee = 0.1 + bend * lift(phase - 0.05) + 0.15 * runs
        turns += leg(side, hip, knee, np.clip(knee - hip, -0.5, 0.4) * 0.7)
        turns += arm(side, sign, swing(phase + 0.5, -arms, arms), spread + still, elbow + swing(phase + 0.5, -0.2, 0.2))
    height = (0.05 * np.sin(2 * np.pi * (cycles + 0.2)) ** 2 if runs else 0) + still
    return turns, height, 4 * 0.5 * np.sin(0.9 * reach)


def squats(rng: np.random.Generator, cycles: np.ndarray) -> Motion:
    """Squats with the arms forwards, or jumps: a squat, then a flight with the arms up."""
    jumps = rng.random() < 0.5
    depth, spread, rise = rng.uniform(0.6, 1.0), rng.uniform(0.2, 0.4), rng.uniform(0.1, 0.22)
    still = np.zeros_like(cycles)
    flight = lift(cycles) if jumps else still
    down = depth * lift(cycles + 0.5) if jumps else swing(cycles, 0.05, depth)
    forwards = 1.3 * flight + 0.5 * down / depth if jumps else 0.6 + 1.2 * down
    turns = [Turn('waist', X, 0.35 * down), Turn('head', X, -0.25 * down)]
    for side, sign in SIDES:
        turns += leg(side, 1.1 * down, 1.7 * down + 0.1, 0.6 * down + 0.1 - 0.6 * flight)
        turns += arm(side, sign, forwards, spread + still, 0.3 + 0.5 * down * jumps)
    return turns, rise * flight, 0.0


def waves(rng: np.random.Generator, cycles: np.ndarray) -> Motion:
    """A wave of one arm or both, from foot to foot."""
    high, elbow, both = rng.uniform(1.7, 2.2), rng.uniform(0.5, 0.9), rng.random() < 0.3
    sway, first = rng.uniform(0.05, 0.15), rng.integers(2)
    still = np.zeros_like(cycles)
    turns = [Turn('waist', Z, swing(cycles, -sway, sway)), Turn('head', Z, swing(cycles, -sway, sway))]
    for number, (side, sign) in enumerate(SIDES):
        bend = np.maximum(sign * swing(cycles, -2 * sway, 2 * sway), 0)
        turns += leg(side, bend, 2 * bend, bend)
        if both or number == first:
            turns += arm(side, sign, still, swing(2 * cycles, high - 0.25, high + 0.25), still)
            turns.append(Turn(f'{side} forearm', sign * Z, 0.3 + swing(2 * cycles, -elbow, elbow)))
        else:
            turns += arm(side, sign, still, 0.3 + still, 0.3 + still)
    return turns, still, 0.0


def jumping_jacks(rng: np.random.Generator, cycles: np.ndarray) -> Motion:
    """Jumping jacks: arms and legs apart and together."""
    high, apart, still = rng.uniform(1.9, 2.4), rng.uniform(0.3, 0.5), np.zeros_like(cycles)
    turns = []
    for side, sign in SIDES:
        turns.append(Turn(f'{side} thigh', sign * Z, swing(cycles, 0, apart)))
        turns += arm(side, sign, still, swing(cycles, 0.25, high), 0.2 + still)
    return turns, rng.uniform(0.04, 0.1) * np.sin(2 * np.pi * cycles) ** 2, 0.0


MOTIONS = (strides, strides, squats, waves, jumping_jacks)  # people walk more often


def human(rng: np.random.Generator, cycles: np.ndarray) -> Moving:
    body = human_body(rng)
    motion = MOTIONS[rng.integers(len(MOTIONS))]
    turns, flight, speed = motion(rng, cycles)
    vertices = stand(pose(body, turns)) + flight[:, None, None] * Y
    return walk_along(vertices, cycles, speed * rng.uniform(*TRAVEL)), body.faces
