"""Points that move in a learned velocity field: the networks of Occupancy Flow, and the paths of points through time.

B batch, L frames, T points, S times in [0, 1], P points of a cloud, C condition, Z latent. Two codes belong to a sequence, of
its shape and of its motion: cond = (shape [B, C], motion [B, C]), latent = (shape [B, Z], motion [B, Z]).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import trimesh

from onet_jax.errors import InputError, PredictionError
from onet_jax.geometry.field import bucket_size
from onet_jax.geometry.ode import Path, Problem, Solver, integrate
from onet_jax.geometry.sequences import MeshSequence
from onet_jax.models.method import Compiled, Model, apply, as_array, as_floats, as_inputs
from onet_jax.models.occupancy import DECODED_POINTS, as_points, in_chunks


class FlowModule(nn.Module):
    """The networks of a sequence, under the names of the official checkpoints."""

    vector_field: nn.Module
    decoder: Any = None  # None: correspondences alone
    encoder: Any = None
    encoder_temporal: Any = None
    encoder_latent: Any = None
    encoder_latent_temporal: Any = None
    reads: str = ''  # the field of the inputs

    def __call__(self, inputs: jax.Array, clip: jax.Array | None) -> None:
        """Touches all parameters."""
        cond = self.encode(inputs)
        points, latent = jnp.zeros((len(inputs), 2, 3)), None
        if self.encoder_latent is not None:
            latent, _ = self.posterior(clip, cond)
        self.velocity(points, jnp.zeros(len(inputs)), cond, latent)
        if self.decoder is not None:
            self.decode(points, cond, latent)

    def encode(self, inputs: jax.Array, *, train: bool = False, axis_name: str | None = None) -> tuple:
        """inputs [B, ...] -> cond; codes of size 0 without encoders."""
        inputs = as_inputs(inputs, self.reads)
        mode: dict[str, Any] = {'train': train, 'axis_name': axis_name}
        shape = motion = jnp.zeros((len(inputs), 0))
        if self.encoder is not None:
            shape = self.encoder(inputs, **mode)
        if self.encoder_temporal is not None:
            motion = self.encoder_temporal(inputs, **mode)
        return shape, motion

    def decode(
        self,
        points: jax.Array,
        cond: tuple,
        latent: tuple | None = None,
        *,
        train: bool = False,
        axis_name: str | None = None,
    ) -> jax.Array:
        """Logits [B, T] of points [B, T, 3] at time 0."""
        if self.decoder is None:
            raise InputError('occupancy: expected a network with a decoder, found one of correspondences alone')
        return self.decoder(points, cond[0], None if latent is None else latent[0], train=train, axis_name=axis_name)

    def velocity(self, points: jax.Array, time: jax.Array, cond: tuple, latent: tuple | None = None) -> jax.Array:
        """Velocities [B, T, 3] of points [B, T, 3] at time [B], per duration of the sequence."""
        return self.vector_field(points, time, cond[1], None if latent is None else latent[1])

    def posterior(self, clip: jax.Array | None, cond: tuple) -> tuple:
        """Mean and log of the standard deviation of q(latent | clip [B, L, P, 3]): the shape's sees frame 0, as official."""
        if self.encoder_latent is None:
            raise InputError('posterior: expected a model with latent codes, found config.model.latent_size = 0')
        shape, motion = self.encoder_latent(clip, cond[0]), self.encoder_latent_temporal(clip, cond[1])
        means, log_stds = zip(shape, motion, strict=True)
        return means, log_stds


class Flow(NamedTuple):
    """The module and how its velocity field is integrated: frozen, so that one compilation serves all models of a config."""

    module: FlowModule
    solver: Solver
    shared_steps: bool  # all sequences of a batch take the same steps, as in the official code


def solve(
    flow: Flow,
    params: dict,
    points: jax.Array,
    origin: jax.Array,
    direction: int,
    times: jax.Array,
    cond: tuple,
    latent: tuple | None,
    num_points: jax.Array | None = None,
) -> Path:
    """Points [B, T, 3] of time `origin` [B] after the durations `times` [B, S], rising: positions [B, S, T, 3].

    direction: 1 is forwards in time, -1 backwards. num_points: the others are padding. Every sequence has steps of its own,
    unless they are shared.
    """
    origin, times = origin.astype(points.dtype), times.astype(points.dtype)
    zero, (_, motion) = jnp.zeros((len(points), 0), points.dtype), cond
    motion_latent = zero if latent is None else latent[1]
    real, count = jnp.ones((1, points.shape[1], 1), points.dtype), None
    if num_points is not None:
        real = (jnp.arange(points.shape[1]) < num_points).astype(points.dtype)[None, :, None]
        count = jnp.full(len(points), 3 * num_points, points.dtype)
    return integrate(
        Problem(Velocity(flow.module, direction), flow.solver, flow.shared_steps),
        (params, origin, motion, motion_latent, real),
        points,
        times,
        count=count,
        constants=(motion, motion_latent) if flow.shared_steps else (),
    )


class Velocity(NamedTuple):
    """The velocity field of a batch as a function for the solver, forwards or backwards in time."""

    module: FlowModule
    direction: int  # 1 or -1

    def __call__(self, elapsed: jax.Array, points: jax.Array, args: tuple) -> jax.Array:
        """elapsed [B], points [B, T, 3] -> velocities [B, T, 3]; points that are not real do not move."""
        params, origin, motion, motion_latent, real = args
        nothing = jnp.zeros((len(points), 0), points.dtype)
        cond, latent = (nothing, motion), (nothing, motion_latent)

        def move(points):
            return apply(
                self.module, params, points, origin + self.direction * elapsed, cond, latent, method='velocity'
            )

        return self.direction * real * in_chunks(move, points)


def _advect(
    direction: int,
    flow: Flow,
    params: dict,
    points: jax.Array,
    times: jax.Array,
    cond: tuple,
    latent: tuple | None = None,
    num_points: jax.Array | None = None,
) -> Path:
    times = jnp.broadcast_to(times, (len(points), len(times)))
    origin = jnp.full(len(points), 0.0 if direction == 1 else 1.0, times.dtype)
    return solve(flow, params, points, origin, direction, times, cond, latent, num_points)


# (flow, params, points [B, T, 3], times [S] rising, cond, latent=None, num_points=None) -> Path, [B, S, T, 3]: where points of
# time 0 are at the times, and where points of time 1 are at 1 - times.
forwards, backwards = partial(_advect, 1), partial(_advect, -1)


def pull_back(
    flow: Flow, params: dict, points: jax.Array, time: jax.Array, cond: tuple, latent: tuple | None = None
) -> Path:
    """Where points [B, T, 3] of the time of each sequence [B] were at time 0: [B, T, 3]."""
    path = solve(flow, params, points, time, -1, time[:, None], cond, latent)
    return path._replace(points=path.points[:, 0])


def find_velocity(
    flow: Flow, params: dict, points: jax.Array, time: jax.Array, cond: tuple, latent: tuple | None = None
) -> jax.Array:
    """Velocities [B, T, 3] of points [B, T, 3] at time [B]."""
    return apply(flow.module, params, points, time, cond, latent, method='velocity')


class Solved:
    """A function of a `Flow` that solves, jitted; it raises PredictionError where the solver gives up, unless it is traced."""

    def __init__(self, function: Callable, flow: Flow):
        self.compiled, self.flow = Compiled(function, flow), flow

    def __call__(
        self, params: dict, points: Any, times: Any, cond: tuple, latent: tuple | None = None, **options: Any
    ) -> Any:
        points, _ = as_points(points, cond=cond, latent=latent)
        times = as_floats(as_array(times, 'times'), 'times')
        path = self.compiled(params, points, times, cond, latent, **options)
        if not isinstance(path.points, jax.core.Tracer):
            lost = ~np.isfinite(np.asarray(path.points)).all(axis=tuple(range(1, path.points.ndim)))
            if lost.any():
                raise PredictionError(self.explain(params, points, cond, latent, path, int(np.argmax(lost))))
        return path.points

    def explain(self, params: dict, points: jax.Array, cond: tuple, latent: tuple | None, path: Path, lost: int) -> str:
        """Which sequence is too stiff for the solver, when, and how fast its points move there."""
        num_steps, end = path.num_steps[lost], path.end[lost]
        time = jnp.full(len(points), end, points.dtype)
        velocities = Compiled(find_velocity, self.flow)(params, points, time, cond, latent)
        speeds = np.linalg.norm(np.asarray(velocities[lost]), axis=-1)
        return (
            f'sequence {lost} of the batch: expected to integrate its velocity field in at most {self.flow.solver.max_steps} '
            f'steps, found {end:.3g} of its duration done after {num_steps}; there its points move by {speeds.min():.3g} to '
            f'{speeds.max():.3g} units per sequence; allow more steps or a larger error (--config.model.max_steps, '
            '--config.model.rtol), or train with a smaller learning rate'
        )


def interpolate(
    advect: Callable,
    params: dict,
    start: jax.Array,
    end: jax.Array,
    num_times: int,
    cond: tuple,
    latent: tuple | None = None,
    *,
    as_official: bool = False,
) -> jax.Array:
    """The way of points from `start` to `end`, both [B, T, 3], that the field shows, exact at both ends: [B, S, T, 3].

    Forwards from the start and backwards from the end, blended linearly by the time (supplementary of the paper). as_official:
    the backward positions are those of one frame earlier, as in the official code by mistake.
    """
    start, end = as_points(start)[0], as_points(end)[0]
    times = jnp.linspace(0, 1, num_times, dtype=start.dtype)
    forward = advect(params, start, times, cond, latent)
    backward = advect(params, end, times, cond, latent, backward=True)[:, ::-1]
    if as_official:
        backward = jnp.concatenate([backward[:, :1], backward[:, :-1]], axis=1)
    share = times[:, None, None]
    blended = (1 - share) * forward + share * backward
    return blended.at[:, 0].set(start).at[:, -1].set(end)


def move_mesh(
    model: Model, params: dict, times: np.ndarray, mesh: trimesh.Trimesh, cond: tuple, latent: tuple | None = None
) -> MeshSequence:
    """A mesh of time 0, moved by the velocity field of one sequence to the times [L]: its faces stay."""
    vertices, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces)
    if not len(vertices):
        return MeshSequence(np.zeros((len(times), 0, 3), np.float32), faces)
    size = bucket_size(len(vertices), DECODED_POINTS)  # few programs are compiled
    padded = np.zeros((1, size, 3), np.float32)
    padded[0, : len(vertices)] = vertices
    moved = model.advect(params, padded, times, cond, latent, num_points=len(vertices))
    return MeshSequence(np.asarray(moved)[0, :, : len(vertices)], faces)
