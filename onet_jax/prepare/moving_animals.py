"""A procedural four-legged animal that walks, trots or gallops.

Angles are in radians, lengths in those of the animal; x is left, y up, z forwards. cycles [L]: the times of the frames in
periods of the gait. Imports no JAX.
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
    cover,
    lift,
    pose,
    stand,
    swing,
    walk_along,
)  # fmt: skip


def quadruped_body(rng: np.random.Generator) -> tuple[Body, float, float]:
    """An animal that stands on four legs, the height of its back, and the distance of the fore legs from the hind legs."""
    length, height, girth = rng.uniform(0.42, 0.58), rng.uniform(0.34, 0.52), rng.uniform(0.8, 1.2)
    width, chest, rump = 0.075 * girth, 0.105 * girth, 0.095 * girth
    front, back = length / 2, -length / 2
    rise, neck = rng.uniform(0.3, 1.2), rng.uniform(0.12, 0.26)
    head, muzzle, droop = rng.uniform(0.055, 0.07), rng.uniform(0.1, 0.16), rng.uniform(0.2, 0.7)
    nape = np.array([0, height + 0.05, front + 0.03])
    skull = nape + (neck + 0.06) * np.array([0, np.sin(rise), np.cos(rise)])
    nose = skull + muzzle * np.array([0, -np.sin(droop), np.cos(droop)])
    tail, hang = rng.uniform(0.12, 0.3), rng.uniform(-0.9, 0.6)
    dock = np.array([0, height + 0.04, back - 0.06])
    tip = dock + tail * np.array([0, np.sin(hang), -np.cos(hang)])
    bones = {
        'rump': Bone(None, (0, height, 0), (0, height, back), (chest * 0.9, rump)),
        'chest': Bone('rump', (0, height, 0), (0, height + 0.01, front), (chest * 0.9, chest)),
        'neck': Bone('chest', nape, skull, (0.07 * girth, 0.048)),
        'head': Bone('neck', skull, nose, (head, 0.55 * head)),
        'tail': Bone('rump', dock, tip, (0.03, 0.02)),
    }
    thick, hock = rng.uniform(0.026, 0.036), rng.uniform(0.02, 0.06)
    for side, sign in SIDES:
        x = sign * width
        bones[f'{side} ear'] = Bone(
            'head', np.add(skull, (0.04 * sign, 0.05, -0.01)), np.add(skull, (0.06 * sign, 0.1, -0.02)), (0.02, 0.015)
        )
        for end, z, parent, knee_z in (('front', front - 0.01, 'chest', 0.0), ('back', back - 0.01, 'rump', 0.02)):
            hip, knee = (x, height - 0.05, z), (x, 0.5 * height, z + knee_z)
            ankle = (x, 0.04, z - hock * (end == 'back'))
            hoof = np.add(ankle, (0, -0.01, 0.035))
            bones |= {
                f'{side} {end} leg': Bone(parent, hip, knee, (thick * (1.6 if end == 'front' else 1.9), thick * 1.15)),
                f'{side} {end} shank': Bone(f'{side} {end} leg', knee, ankle, (thick * 1.1, thick * 0.85)),
                f'{side} {end} hoof': Bone(f'{side} {end} shank', ankle, hoof, (0.8 * thick, 0.9 * thick)),
            }
    return cover(bones, 90), height, length


# When each leg is at its foremost, in cycles: left and right in front, left and right behind.
GAITS = {
    'walk': (0.25, 0.75, 0.0, 0.5),
    'trot': (0.5, 0.0, 0.0, 0.5),
    'gallop': (0.45, 0.6, 0.0, 0.12),
}


def quadruped(rng: np.random.Generator, cycles: np.ndarray) -> Moving:
    body, height, length = quadruped_body(rng)
    gait = str(rng.choice(list(GAITS)))
    gallops = gait == 'gallop'
    reach = rng.uniform(0.45, 0.65) if gallops else rng.uniform(0.25, 0.45)
    reach = min(reach, np.arcsin((length / 2 - 0.07) / height))  # a hind hoof does not step on a fore hoof
    bend, nod, wag = rng.uniform(0.7, 1.2), rng.uniform(0.03, 0.15), rng.uniform(0.1, 0.5)
    turns = [
        Turn('chest', X, swing(cycles, -0.15, 0.15) * gallops),
        Turn('neck', X, swing((2 - gallops) * cycles, -nod, nod) + rng.uniform(-0.2, 0.3)),
        Turn('head', X, swing((2 - gallops) * cycles + 0.2, -nod, nod)),
        Turn('tail', Y, swing(cycles + 0.1, -wag, wag)),
        Turn('tail', X, swing(2 * cycles, -0.1, 0.1) - 0.3 * gallops),
    ]
    legs = [(side, end) for end in ('front', 'back') for side, _ in SIDES]
    for (side, end), begin in zip(legs, GAITS[gait], strict=True):
        phase = cycles - begin
        hip = swing(phase, -reach, reach)
        knee = bend * lift(phase - 0.03)
        # A leg that moves forwards folds; the hoof of one that stands stays level.
        turns += [
            Turn(f'{side} {end} leg', -X, hip + 0.3 * knee),
            Turn(f'{side} {end} shank', X, knee),
            Turn(f'{side} {end} hoof', X, 0.5 * knee - 0.6 * hip),
        ]
    vertices = stand(pose(body, turns))
    flight = gallops * rng.uniform(0.03, 0.08) * lift(cycles + 0.3)
    vertices = vertices + flight[:, None, None] * Y
    return walk_along(vertices, cycles, 4 * height * np.sin(reach) * rng.uniform(*TRAVEL)), body.faces
