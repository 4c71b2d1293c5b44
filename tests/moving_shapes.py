"""Sequences in closed form, for tests: an egg that turns about y and rises; its volume and its surface at each time."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import trimesh

from onet_jax.data.datasets import Examples
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.scores import SequenceTarget

NUM_FRAMES, ANGLE, RISE = 5, np.pi / 2, 0.3
AXES = np.array([0.4, 0.2, 0.15])  # half of them, of the egg


def at_time(points, time):
    """Where points [N, 3] of time 0 are at a time in [0, 1]."""
    a = ANGLE * time
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    return points @ turn.T + [0, RISE * time, 0]


def moved(points, num_frames=NUM_FRAMES):
    """[L, N, 3] of points [N, 3] of time 0."""
    return np.stack([at_time(points, time) for time in np.linspace(0, 1, num_frames)])


def moving_egg(num_frames=NUM_FRAMES, subdivisions=3):
    ball = trimesh.creation.icosphere(subdivisions)
    return MeshSequence(moved(ball.vertices * AXES, num_frames), np.asarray(ball.faces))


def egg_target(num_points=2000, num_samples=2000, num_frames=NUM_FRAMES):
    """Points of each time and whether the egg has them, and corresponding surface samples."""
    rng = np.random.default_rng(0)
    at_rest = rng.uniform(-0.5, 0.5, (num_points, 3))
    directions = rng.normal(size=(num_samples, 3))
    surface = directions / np.linalg.norm(directions, axis=1, keepdims=True) * AXES
    occ = (np.square(at_rest / AXES).sum(axis=1) < 1)[None].repeat(num_frames, axis=0)
    return SequenceTarget(
        *(a.astype(np.float32) for a in (moved(at_rest, num_frames),)), occ, moved(surface, num_frames)
    )


class EggDataset:
    """A stand-in for a dataset of sequences: eggs of two categories, of which nothing is stored."""

    shapes = (('egg', 'a'), ('egg', 'b'), ('other', 'a'))

    def scored_fields(self, data):
        return 'volume_clip', 'trajectories'

    def examples(self, config, split):
        return dict(enumerate(self.shapes))

    def evaluation_batches(self, config, split, *, targets=None, batch_size=None, positions=None):
        target = egg_target(500, 500)
        for row, shape in enumerate(self.shapes):
            arrays = {'points': target.points, 'occ': target.occ, 'trajectories': target.surface}
            batch = {
                'inputs': {'clip': target.surface[None, :, :100]},
                'targets': {name: array[None] for name, array in arrays.items()},
                'row': np.array([row]),
            }
            yield Examples(batch, (shape,))


class EggModel(NamedTuple):
    """A stand-in for a network of shapes that move, in closed form: an egg as large as its code says, and where it goes."""

    encode: Callable
    advect: Callable
    interpolate: Callable
    bind: Callable
    prior: Callable
    posterior: Callable
    latent_size: int


def make_egg_model(latent_size=1):
    """Of codes (size [B, 1], way [B, 3]): latent ones, or without these the condition."""

    def codes(cond, latent):
        return cond if latent is None else latent

    def posterior(params, clip, cond=None):
        clip = np.asarray(clip)
        size = np.ptp(clip[:, 0], axis=1).max(axis=1, keepdims=True)
        way = clip[:, -1].mean(axis=1) - clip[:, 0].mean(axis=1)
        return (size, way), (0 * size, 0 * way)

    def encode(params, inputs):
        return (np.zeros((len(inputs), 0)),) * 2 if latent_size else posterior(params, inputs)[0]

    def bind(params, cond, latent=None):
        ((size,),) = codes(cond, latent)[0]
        return lambda points: 20 * (1 - np.linalg.norm(np.asarray(points) / (AXES / 0.8 * size), axis=-1))

    def advect(params, points, times, cond, latent=None, *, backward=False, num_points=None):
        _, way = codes(cond, latent)
        return np.asarray(points)[:, None] + np.asarray(times)[None, :, None, None] * way[:, None, None]

    def interpolate(params, start, end, num_times, cond, latent=None):
        shares = np.linspace(0, 1, num_times)[None, :, None, None]
        return (1 - shares) * np.asarray(start)[:, None] + shares * np.asarray(end)[:, None]

    def prior(key, rows):
        draws = [np.asarray(jax.random.uniform(jax.random.fold_in(key, int(row)), (4,))) for row in rows]
        return np.stack([[0.5 + 0.5 * d[0]] for d in draws]), np.stack([0.5 * d[1:] for d in draws])

    return EggModel(encode, advect, interpolate, bind, prior, posterior, latent_size)
