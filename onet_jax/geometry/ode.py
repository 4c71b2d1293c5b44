"""Initial value problems of points in a velocity field: the Dormand-Prince method (dopri5) with adaptive steps, by diffrax.

Steps, error control and dense output (a quartic interpolant) are those of the solver in the official code of Occupancy Flow:
the first step is chosen as in Hairer, Norsett and Wanner (Solving Ordinary Differential Equations I, section II.4), and the
last one is not cut to the end time, so that the field is evaluated a little beyond it.

T points, S times.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onet_jax.errors import InputError

ADJOINTS = ('backpropagation', 'continuous')
FAR = 1e6  # end of an integration that its event ends; no time of a shape comes near
CHECKPOINTS = 16  # steps whose state is kept for backpropagation; of a longer solve the others are computed again


class Solver(NamedTuple):
    """How accurately, and how gradients are found."""

    rtol: float = 1e-3
    atol: float = 1e-5
    max_steps: int = 256
    # 'backpropagation' through the steps, exact for the solver; 'continuous' solves the adjoint equation backwards in time
    # (Chen et al., NeurIPS 2018): memory does not grow with the steps, and gradients have the error of the solver.
    adjoint: str = 'backpropagation'


class Path(NamedTuple):
    """The solution of an initial value problem."""

    points: jax.Array  # [S, ...]; infinite where the solver gave up before that time
    num_steps: jax.Array  # int, those that were rejected included
    end: jax.Array  # the last time that was reached


def integrate(
    velocity: Callable,
    args: Any,
    points: jax.Array,
    times: jax.Array,
    solver: Solver,
    *,
    count: Any = None,
    constants: tuple[jax.Array, ...] = (),
) -> Path:
    """Points [..., 3] at times [S], rising from 0 or more, of dp/dt = velocity(t, p, args) from p at time 0.

    The size of a step is that of all the points together: the error is their root mean square. count: of the coordinates in
    this mean, where some of the points are padding, which lie at the origin and do not move. constants: arrays that also count
    as coordinates, as codes of shapes in the official code. Gradients flow to `args` and `points`. Raises ModuleNotFoundError
    without diffrax.
    """
    diffrax = import_diffrax()
    start = (points, *constants)
    total = sum(leaf.size for leaf in jax.tree.leaves(start)) if count is None else count

    def norm(tree):
        return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)) / total)

    def derivative(time, state, args):
        return velocity(time, state[0], args), *map(jnp.zeros_like, state[1:])

    first_step = find_first_step(derivative, *jax.lax.stop_gradient((start, args)), norm, solver)
    end = jnp.maximum(times[-1], jnp.finfo(times.dtype).tiny)
    at_times, at_end = diffrax.SubSaveAt(ts=times), diffrax.SubSaveAt(t1=True)
    if solver.adjoint == 'continuous':  # which neither ends by an event nor saves twice
        mode = {'adjoint': diffrax.BacksolveAdjoint(), 'saveat': diffrax.SaveAt(ts=times)}
        stop = end
    else:
        adjoint = diffrax.RecursiveCheckpointAdjoint(checkpoints=min(CHECKPOINTS, solver.max_steps))
        event = diffrax.Event(lambda t, y, args, **others: t >= end)
        mode = {'adjoint': adjoint, 'saveat': diffrax.SaveAt(subs=(at_times, at_end)), 'event': event}
        stop = FAR
    found = diffrax.diffeqsolve(
        diffrax.ODETerm(derivative),
        diffrax.Dopri5(),
        t0=0.0,
        t1=stop,
        dt0=first_step,
        y0=start,
        args=args,
        stepsize_controller=diffrax.PIDController(
            solver.rtol, solver.atol, norm=norm, safety=0.9, factormin=0.2, factormax=10.0
        ),
        max_steps=solver.max_steps,
        throw=False,
        **mode,
    )
    if solver.adjoint == 'continuous':
        return Path(found.ys[0], found.stats['num_steps'], found.ts[-1])
    return Path(found.ys[0][0], found.stats['num_steps'], found.ts[1][-1])


def find_first_step(derivative: Callable, start: Any, args: Any, norm: Callable, solver: Solver) -> jax.Array:
    """The first step (Hairer et al., section II.4): one in which an explicit Euler step would change little, for order 5."""

    def scaled(tree):
        return norm(jax.tree.map(lambda x, y: x / (solver.atol + solver.rtol * jnp.abs(y)), tree, start))

    slope = derivative(0.0, start, args)
    d0, d1 = scaled(start), scaled(slope)
    tiny = (d0 < 1e-5) | (d1 < 1e-5)
    guess = jnp.where(tiny, 1e-6, 0.01 * d0 / jnp.where(tiny, 1.0, d1))
    later = derivative(guess, jax.tree.map(lambda y, f: y + guess * f, start, slope), args)
    d2 = scaled(jax.tree.map(jnp.subtract, later, slope)) / guess
    steepest = jnp.maximum(d1, d2)
    still = steepest <= 1e-15
    step = jnp.where(still, jnp.maximum(1e-6, 1e-3 * guess), (0.01 / jnp.where(still, 1.0, steepest)) ** 0.2)
    return jnp.minimum(100 * guess, step)


def import_diffrax() -> ModuleType:
    """The package diffrax. Raises ModuleNotFoundError that says what to install."""
    try:
        import diffrax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'expected the package {error.name}, which solves differential equations, found none; install it with '
            "`pip install 'onet_jax[flow]'`"
        ) from error
    return diffrax


def check_solver(solver: Solver) -> None:
    """Raises InputError for an unknown way to gradients and for tolerances that are not positive."""
    if solver.adjoint not in ADJOINTS:
        raise InputError(f'config.model.adjoint: expected one of {ADJOINTS}, found {solver.adjoint!r}')
    for name in ('rtol', 'atol', 'max_steps'):
        if not getattr(solver, name) > 0:
            raise InputError(f'config.model.{name}: expected a positive number, found {getattr(solver, name)}')
