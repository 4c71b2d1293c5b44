"""Procedural shapes that move: people, four-legged animals and mechanisms, as meshes with common faces (see `skeletons.py`).

A family is a function (rng, cycles [L]) -> vertices [L, V, 3], faces [F, 3]; `cycles` are the times of the frames in periods of
the motion. y is up, and the floor at 0. Who walks looks along z; at the end the whole is turned around y. Bodies are about 1
high or long. Same (seed, family, index), same motion; fewer frames are the first of more. Imports no JAX.
"""

import zlib
from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from onet_jax.errors import InputError
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.prepare.moving_animals import quadruped
from onet_jax.prepare.moving_mechanisms import mechanism
from onet_jax.prepare.moving_people import human
from onet_jax.prepare.skeletons import Moving

NUM_FRAMES = 50
CYCLES_PER_FRAME = (0.025, 0.04)  # 17 frames show 0.4 to 0.7 of a cycle
MAKERS: dict[str, Callable[[np.random.Generator, np.ndarray], Moving]] = {
    'human': human,
    'mechanism': mechanism,
    'quadruped': quadruped,
}
FAMILIES = tuple(MAKERS)


def make_moving(seed: int, family: str, index: int, num_frames: int = NUM_FRAMES) -> MeshSequence:
    """Number `index` of a family, in `num_frames` frames of a motion that goes on. Raises InputError for an unknown family."""
    if family not in MAKERS:
        raise InputError(f'family: expected one of {FAMILIES}, found {family!r}')
    rng = np.random.default_rng(np.random.SeedSequence((seed, zlib.crc32(family.encode()), index)))
    heading = Rotation.from_rotvec(rng.uniform(0, 2 * np.pi) * np.array([0, 1, 0])).as_matrix()
    cycles = rng.random() + rng.uniform(*CYCLES_PER_FRAME) * np.arange(num_frames)
    vertices, faces = MAKERS[family](rng, cycles)
    return MeshSequence(vertices @ heading.T, faces)
