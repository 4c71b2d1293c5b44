"""Initial value problems of points in a velocity field: the Dormand-Prince method (dopri5) with adaptive steps.

Steps, error control and dense output (a quartic interpolant) are those of the solver in the official code of Occupancy Flow:
the first step is chosen as in Hairer, Norsett and Wanner (Solving Ordinary Differential Equations I, section II.4), and the
last one is not cut to the end time, so that the field is evaluated a little beyond it. Written here because the loops of
diffrax cannot be traced inside `pmap` and `shard_map` with gradients (their constants have other types there).

B problems, T points, S times, K stages of a step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onet_jax.errors import InputError

ADJOINTS = ('backpropagation', 'continuous')
# The Butcher tableau: the last row is also the step of order 5, whose end is the first stage of the next one (FSAL).
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
EMBEDDED = (
    1951 / 21600,
    0,
    22642 / 50085,
    451 / 720,
    -12231 / 42400,
    649 / 6300,
    1 / 60,
)  # of order 4 (Shampine, 1986)
ERROR = tuple(np.subtract((*STAGES[-1], 0), EMBEDDED).tolist())
MIDDLE = tuple(
    (
        np.array(
            [
                6025192743 / 30085553152,
                0,
                51252292925 / 65400821598,
                -2691868925 / 45128329728,
                187940372067 / 1594534317056,
                -1776094331 / 19743644256,
                11237099 / 235043384,
            ]
        )
        / 2
    ).tolist()
)  # of the state halfway through a step
SAFETY, SMALLEST, LARGEST = 0.9, 0.2, 10.0  # of the factor from a step to the next


class Solver(NamedTuple):
    """How accurately, and how gradients are found."""

    rtol: float = 1e-3
    atol: float = 1e-5
    max_steps: int = 128
    # 'backpropagation' through the steps, exact for the solver, which keeps the state before each of them; 'continuous' solves
    # the adjoint equation backwards in time (Chen et al., NeurIPS 2018): no state is kept, gradients have the solver's error.
    adjoint: str = 'backpropagation'


class Path(NamedTuple):
    """The solution of B initial value problems."""

    points: jax.Array  # [B, S, T, 3]; NaN where the solver gave up before that time
    num_steps: jax.Array  # [B] int, those that were rejected included
    end: jax.Array  # [B], the last time that was reached


class Problem(NamedTuple):
    """What is solved: static, all but the arrays of a call."""

    velocity: Any  # a hashable callable, (times [B], points [B, T, 3], args) -> [B, T, 3]
    solver: Solver
    shared_steps: bool = False  # all problems take the same steps, and their error is that of all together
    ends_exactly: bool = False  # the last step is cut to the end time


class _State(NamedTuple):
    time: jax.Array  # [B], here and below
    step: jax.Array
    points: jax.Array  # [B, T, 3]
    slope: jax.Array  # [B, T, 3], the velocity there
    saved: jax.Array  # [B, S, T, 3]
    num_steps: jax.Array
    num_accepted: jax.Array
    noted: Any  # what `note` makes of the accepted steps


def rows(scalars: jax.Array) -> jax.Array:
    """[B] -> [B, 1, 1]."""
    return scalars[:, None, None]


def combine(weights: tuple, slopes: list) -> jax.Array:
    """The weighted sum of stages."""
    return sum(w * k for w, k in zip(weights, slopes, strict=False) if w)


def take_step(
    velocity: Callable, args: Any, time: jax.Array, step: jax.Array, points: jax.Array, slope: jax.Array
) -> list:
    """The stages of a step, slopes [B, T, 3]: the first is given."""
    slopes = [slope]
    for node, weights in zip(NODES, STAGES, strict=True):
        slopes.append(velocity(time + node * step, points + rows(step) * combine(weights, slopes), args))
    return slopes


def interpolate(times: jax.Array, time: jax.Array, step: jax.Array, points: jax.Array, slopes: list) -> jax.Array:
    """The quartic interpolant of a step at times [B, S]: [B, S, T, 3]."""
    x = ((times - time[:, None]) / step[:, None])[:, :, None, None]
    end, middle = (points + rows(step) * combine(weights, slopes) for weights in (STAGES[-1], MIDDLE))
    first, last = rows(step) * slopes[0], rows(step) * slopes[-1]
    a = 2 * (last - first) - 8 * (end + points) + 16 * middle
    b = 5 * first - 3 * last + 18 * points + 14 * end - 32 * middle
    c = last - 4 * first - 11 * points - 5 * end + 16 * middle
    a, b, c, first, points = (array[:, None] for array in (a, b, c, first, points))
    return (((a * x + b) * x + c) * x + first) * x + points


def is_within(times: jax.Array, time: jax.Array, step: jax.Array) -> jax.Array:
    """Which of the times [B, S] lie in the step from `time`, [B, S, 1, 1] bool: its end does, and 0 does in the first."""
    times, time, step = times[:, :, None, None], time[:, None, None, None], step[:, None, None, None]
    return ((times > time) | (time == 0)) & (times <= time + step)


def measure(problem: Problem, count: Any, values: jax.Array, more: Any = 0.0) -> jax.Array:
    """Root mean square of values [B, T, 3] in each problem, or in all together: [B]. more: squares [B] of other coordinates."""
    squares, number = jnp.square(values).sum(axis=(1, 2)) + more, jnp.broadcast_to(count, len(values))
    if problem.shared_steps:
        squares, number = (jnp.broadcast_to(array.sum(), array.shape) for array in (squares, number))
    return jnp.sqrt(squares / number)


def find_first_step(
    problem: Problem, args: Any, points: jax.Array, slope: jax.Array, count: Any, constants: tuple
) -> jax.Array:
    """The first step [B]: one in which an explicit Euler step would change little, for a method of order 5."""
    solver, time = problem.solver, jnp.zeros(len(points), points.dtype)
    scale = solver.atol + solver.rtol * jnp.abs(points)
    still = sum((jnp.square(c / (solver.atol + solver.rtol * jnp.abs(c))).sum(axis=1) for c in constants), time)
    d0, d1 = measure(problem, count, points / scale, still), measure(problem, count, slope / scale)
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    guess = jnp.where(tiny, 1e-6, 0.01 * d0 / jnp.where(tiny, 1, d1))
    later = problem.velocity(time + guess, points + rows(guess) * slope, args)
    steepest = jnp.maximum(d1, measure(problem, count, (later - slope) / scale) / guess)
    at_rest = steepest <= 1e-15
    step = jnp.where(at_rest, jnp.maximum(1e-6, 1e-3 * guess), (0.01 / jnp.where(at_rest, 1, steepest)) ** 0.2)
    return jnp.minimum(100 * guess, step)


def _run(
    problem: Problem,
    args: Any,
    points: jax.Array,
    times: jax.Array,
    count: Any,
    constants: tuple,
    note: Callable = lambda noted, state, slopes, accepted: noted,
    noted: Any = (),
) -> _State:
    """Solve. note: (noted, state before a step, its stages, which problems accept it [B]) -> noted."""
    solver, end = problem.solver, times.max(axis=1)
    if problem.shared_steps:
        end = jnp.broadcast_to(end.max(), end.shape)
    zero = jnp.zeros_like(end)
    slope, number = problem.velocity(zero, points, args), zero.astype(jnp.int32)
    step = find_first_step(problem, args, points, slope, count, constants)
    saved = jnp.broadcast_to(jnp.nan * points[:, None], (*times.shape, *points.shape[1:]))

    def is_running(state):  # to time 0 in one step
        before = state.time < end
        return (before if problem.ends_exactly else before | (state.num_accepted == 0)) & (
            state.num_steps < solver.max_steps
        )

    def advance(state):
        running = is_running(state)
        if problem.ends_exactly:
            state = state._replace(step=jnp.minimum(state.step, jnp.where(running, end - state.time, 1)))
        slopes = take_step(problem.velocity, args, state.time, state.step, state.points, state.slope)
        new = state.points + rows(state.step) * combine(STAGES[-1], slopes)
        scale = solver.atol + solver.rtol * jnp.maximum(jnp.abs(state.points), jnp.abs(new))
        error = measure(problem, count, rows(state.step) * combine(ERROR, slopes) / scale)
        accepted = running & (error <= 1)
        # A step that was accepted does not shrink.
        factor = jnp.clip(SAFETY / jnp.maximum(error, 1e-10) ** 0.2, jnp.where(error < 1, 1.0, SMALLEST), LARGEST)
        within = is_within(times, state.time, state.step) & accepted[:, None, None, None]
        found = interpolate(times, state.time, state.step, state.points, slopes)
        return _State(
            jnp.where(accepted, state.time + state.step, state.time),
            jnp.where(running, state.step * factor, state.step),
            jnp.where(rows(accepted), new, state.points),
            jnp.where(rows(accepted), slopes[-1], state.slope),
            jnp.where(within, found, state.saved),
            state.num_steps + running,
            state.num_accepted + accepted,
            note(state.noted, state, slopes, accepted),
        )

    start = _State(zero, step, points, slope, saved, number, number, noted)
    return jax.lax.while_loop(lambda state: is_running(state).any(), advance, start)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _solve(problem, args, points, times, count, constants):
    state = _run(problem, args, points, times, count, constants)
    return Path(state.saved, state.num_steps, state.time)


def _solve_forwards(problem, args, points, times, count, constants):
    if problem.solver.adjoint == 'continuous':
        path = _solve(problem, args, points, times, count, constants)
        return path, (args, points, times, count, constants, path.points)
    num_rows, size = len(points), problem.solver.max_steps

    def keep(kept, state, slopes, accepted):
        starts, sizes, states = kept
        problems, place = jnp.arange(num_rows), jnp.where(accepted, state.num_accepted, size)  # beyond the end: dropped
        return (
            starts.at[problems, place].set(state.time, mode='drop'),
            sizes.at[problems, place].set(state.step, mode='drop'),
            states.at[place, problems].set(state.points, mode='drop'),
        )

    empty = (*(jnp.zeros((num_rows, size), times.dtype),) * 2, jnp.zeros((size, *points.shape), points.dtype))
    state = _run(problem, args, points, times, count, constants, keep, empty)
    residuals = (args, points, times, count, constants, (state.noted, state.num_accepted))
    return Path(state.saved, state.num_steps, state.time), residuals


def _solve_backwards(problem, residuals, cotangents):
    back = _solve_adjoint if problem.solver.adjoint == 'continuous' else _backpropagate
    count, constants = residuals[3:5]
    return *back(problem, residuals, cotangents.points), *jax.tree.map(jnp.zeros_like, (count, constants))


def _backpropagate(problem, residuals, by_saved):
    """Reverse mode through the accepted steps, from the last to the first: each is computed again from its first points."""
    args, points, times, _, _, ((starts, sizes, states), num_accepted) = residuals
    problems = jnp.arange(len(points))

    def redo(time, step, args, points, times):
        slopes = take_step(problem.velocity, args, time, step, points, problem.velocity(time, points, args))
        return points + rows(step) * combine(STAGES[-1], slopes), interpolate(times, time, step, points, slopes)

    def retreat(carry):
        place, (by_args, by_points, by_times) = carry
        running, last = place >= 0, jnp.maximum(place, 0)
        time, step = starts[problems, last], jnp.where(running, sizes[problems, last], 1)
        _, pull = jax.vjp(partial(redo, time, step), args, states[last, problems], times)
        within = is_within(times, time, step) & running[:, None, None, None]
        by_step = (jnp.where(rows(running), by_points, 0), jnp.where(within, by_saved, 0))
        from_args, from_points, from_times = pull(by_step)
        by_points = jnp.where(rows(running), from_points, by_points)
        return place - running, (jax.tree.map(jnp.add, by_args, from_args), by_points, by_times + from_times)

    zeros = jax.tree.map(jnp.zeros_like, (args, points, times))
    return jax.lax.while_loop(lambda carry: (carry[0] >= 0).any(), retreat, (num_accepted - 1, zeros))[1]


def _solve_adjoint(problem, residuals, by_saved):
    """The adjoint equation da/dt = -a dv/dp, from each of the times back to the one before; with it the points themselves.

    The gradient of the arguments is the integral of a dv/dargs, a sum over the stages of the steps.
    """
    args, points, times, count, _, saved = residuals
    num_points = points.shape[1]

    def velocity(elapsed, both, args_and_stop):
        args, stop = args_and_stop
        points, adjoint = jnp.split(both, [num_points], axis=1)
        velocities, pull = jax.vjp(lambda points: problem.velocity(stop - elapsed, points, args), points)
        return jnp.concatenate([-velocities, *pull(adjoint)], axis=1)

    def go_back(carry, at):
        by_args, by_points = carry
        stop, start, here, by_here = at
        both = jnp.concatenate([here, by_points + by_here], axis=1)

        def add_integral(by_args, state, slopes, accepted):
            for i, (node, weight) in enumerate(zip((0, *NODES), STAGES[-1], strict=False)):
                if weight:
                    inner = state.points + (rows(state.step) * combine(STAGES[i - 1], slopes) if i else 0)
                    points, adjoint = jnp.split(inner, [num_points], axis=1)
                    time = stop - state.time - node * state.step
                    _, pull = jax.vjp(lambda args, time=time, points=points: problem.velocity(time, points, args), args)
                    share = rows(jnp.where(accepted, weight * state.step, 0))
                    by_args = jax.tree.map(jnp.add, by_args, *pull(share * adjoint))
            return by_args

        backwards = problem._replace(velocity=velocity, ends_exactly=True)
        state = _run(backwards, (args, stop), both, (stop - start)[:, None], 2 * count, (), add_integral, by_args)
        by_time = (by_here * problem.velocity(stop, here, args)).sum(axis=(1, 2))
        return (state.noted, state.points[:, num_points:]), by_time

    starts = jnp.concatenate([jnp.zeros_like(times[:, :1]), times[:, :-1]], axis=1)
    steps = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), (times, starts, saved, by_saved))
    zeros = jax.tree.map(jnp.zeros_like, (args, points))
    (by_args, by_points), by_times = jax.lax.scan(go_back, zeros, steps, reverse=True)
    return by_args, by_points, by_times.T


_solve.defvjp(_solve_forwards, _solve_backwards)


def integrate(
    problem: Problem,
    args: Any,
    points: jax.Array,
    times: jax.Array,
    *,
    count: jax.Array | None = None,
    constants: tuple[jax.Array, ...] = (),
) -> Path:
    """Points [B, T, 3] at times [B, S], rising from 0 or more, of dp/dt = velocity(t, p, args) from p at time 0.

    args: a tree of arrays, in floating point, that the velocity is differentiated by. A step is accepted where the root mean
    square of its error over the coordinates of a problem is within the tolerances. count: of these coordinates [B], where some
    of the points are padding, which lie at the origin and do not move. constants: arrays [B, K] that also count as
    coordinates, as codes of shapes in the official code. Gradients flow to args, points and times.
    """
    size = points[0].size + sum(array[0].size for array in constants)
    count = jnp.full(len(points), size, points.dtype) if count is None else count
    constants = jax.lax.stop_gradient(constants)
    return _solve(problem, args, points, times, count, constants)


def check_solver(solver: Solver) -> None:
    """Raises InputError for an unknown way to gradients and for tolerances that are not positive."""
    if solver.adjoint not in ADJOINTS:
        raise InputError(f'config.model.adjoint: expected one of {ADJOINTS}, found {solver.adjoint!r}')
    for name in ('rtol', 'atol', 'max_steps'):
        if not getattr(solver, name) > 0:
            raise InputError(f'config.model.{name}: expected a positive number, found {getattr(solver, name)}')
