import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from onet_jax.errors import InputError
from onet_jax.geometry.ode import ADJOINTS, Problem, Solver, check_solver, integrate

# B problems that differ in how fast they turn, T points; padding lies at the origin.
SPEEDS = np.array([0.5, 2.0, 6.0])
POINTS = np.random.default_rng(0).normal(size=(3, 4, 3))
TIMES = np.array([[0.0, 0.3, 1.0], [0.2, 0.2, 0.9], [0.1, 0.5, 0.7]])


def swirl(time, points, args):
    """A smooth field that turns points around a moving axis."""
    speeds, mix = args
    bent = jnp.tanh(points @ mix + jnp.sin(3 * time)[:, None, None])
    return speeds[:, None, None] * jnp.cross(bent, jnp.array([0.0, 1.0, 0.5]))


ARGS = (SPEEDS, np.random.default_rng(1).normal(size=(3, 3)))


compiled = jax.jit(integrate, static_argnums=0)


def solve(solver, args=ARGS, points=POINTS, times=TIMES, shared_steps=False, **options):
    return compiled(Problem(swirl, solver, shared_steps), args, points, times, **options)


@pytest.fixture
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.usefixtures('_float64')
def test_positions_are_those_of_scipy():
    path, velocity = solve(Solver(1e-8, 1e-10)), jax.jit(swirl)
    for b in range(3):

        def slope(time, flat, b=b):
            args = (SPEEDS[b : b + 1], ARGS[1])
            return np.asarray(velocity(np.full(1, time), flat.reshape(1, 4, 3), args)).ravel()

        found = solve_ivp(slope, (0, 1), POINTS[b].ravel(), 'DOP853', rtol=1e-11, atol=1e-12, dense_output=True)
        expected = found.sol(TIMES[b]).T.reshape(3, 4, 3)
        assert np.abs(path.points[b] - expected).max() < 1e-6
    assert path.points[0, 0].tolist() == POINTS[0].tolist()


@pytest.mark.usefixtures('_float64')
def test_other_problems_do_not_change_a_result():
    solver, whole = Solver(), solve(Solver())
    assert len(set(whole.num_steps.tolist())) > 1
    for b in range(3):
        rows = slice(b, b + 1)
        alone = solve(solver, (SPEEDS[rows], ARGS[1]), POINTS[rows], TIMES[rows])
        # Batches of another size round otherwise, and steps follow what they round; a step taken otherwise is far above this.
        np.testing.assert_allclose(alone.points[0], whole.points[b], rtol=0, atol=1e-11)
        assert alone.num_steps[0] == whole.num_steps[b]
    shared = solve(solver, shared_steps=True)
    assert len(set(shared.num_steps.tolist())) == 1


@pytest.mark.parametrize('adjoint', ADJOINTS)
@pytest.mark.usefixtures('_float64')
def test_gradients_are_those_of_finite_differences(adjoint):
    solver = Solver(1e-9, 1e-11, 512, adjoint)
    weights = np.random.default_rng(2).normal(size=(3, 3, 4, 3))
    count = jnp.full(3, 12.0)

    @jax.jit
    def total(args, points, times):
        return (solve(solver, args, points, times, count=count).points * weights).sum()

    times = TIMES.copy()
    times[0, 0] = 0.05  # not 0: a time cannot become negative
    inputs = (ARGS, POINTS, times)
    gradients = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*inputs)
    leaves, tree = jax.tree.flatten(inputs)
    for i, gradient in enumerate(jax.tree.leaves(gradients)):
        change = 1e-5 * np.random.default_rng(i).normal(size=leaves[i].shape)
        ends = [
            total(*jax.tree.unflatten(tree, [*leaves[:i], leaves[i] + sign * change, *leaves[i + 1 :]]))
            for sign in (1, -1)
        ]
        assert abs((ends[0] - ends[1]) / 2 - (gradient * change).sum()) <= 1e-5 * abs((gradient * change).sum())


@pytest.mark.slow
def test_gradients_pass_through_pmap():
    """Loops whose constants have other types there cannot be traced."""

    def total(points):
        points = points[None].astype(jnp.float32)
        args = jax.tree.map(jnp.float32, (SPEEDS[:1], ARGS[1]))
        return solve(Solver(), args, points, jnp.ones((1, 1), jnp.float32)).points.sum()

    gradient = jax.jit(jax.grad(total))
    expected = np.stack([gradient(points) for points in POINTS[:2]])
    found = jax.pmap(jax.grad(total))(POINTS[:2])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures('_float64')
def test_a_solver_that_gives_up_says_where():
    path = solve(Solver(1e-6, 1e-8, max_steps=3))
    assert path.num_steps.tolist() == [3, 3, 3]
    assert (path.end < 1).all()
    assert bool(jnp.isnan(path.points[2, -1]).all())


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match=r"config.model.adjoint: expected one of .*, found 'none'"):
        check_solver(Solver(adjoint='none'))
    with pytest.raises(InputError, match=r'config.model.rtol: expected a positive number, found 0'):
        check_solver(Solver(rtol=0))
