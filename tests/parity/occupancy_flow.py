"""Occupancy Flow beside the official code: velocity field, solver, the whole network and its loss, meshes that move."""

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onet_jax import losses
from onet_jax.convert import names, official
from onet_jax.geometry.ode import Solver
from onet_jax.models import occupancy_flow, velocity_field
from onet_jax.models.velocity_field import Flow, FlowModule, find_velocity
from onet_jax.networks.decoders import VelocityField
from parity.deviation import Deviations, compare, compare_by_name
from parity.flow import cancelled
from parity.golden import read_golden, under
from parity.modules import load_bare

LAYOUTS = {
    'decoder': names.PLAIN,
    'encoder': names.PLAIN,
    'encoder_temporal': names.PLAIN,
    **dict.fromkeys(('encoder_latent', 'encoder_latent_temporal', 'vector_field'), names.LISTS),
}
SOLVERS = {'default': Solver(), 'tight': Solver(1e-7, 1e-9, 512)}


@contextmanager
def fixed_noise() -> Iterator[None]:
    """Within it the rows of a batch are the noise of its latent codes."""
    original, occupancy_flow._prior = occupancy_flow._prior, lambda latent_size, key, rows: rows
    try:
        yield
    finally:
        occupancy_flow._prior = original


def out_of(dtype) -> str:
    return 'out64' if dtype == np.float64 else 'out'


def arrays_of(data: dict, dtype, *keys: str) -> list[jax.Array]:
    return [jnp.asarray(data[f'in/{key}'], dtype) for key in keys]


def velocity_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/velocity_field/*: the field forwards, with a time for each sequence, and backwards."""
    out, state = out_of(dtype), under(data, 'param/')
    points, cond, latent, now, later = (
        jnp.asarray(data.get(f'in/{key}', np.zeros((3, 0))), dtype) for key in ('p', 'c', 'z', 's', 'T_batch')
    )
    module = VelocityField(state['fc_p.bias'].size, count_blocks(state), 'leaky' in name)
    field = load_bare(module, names.LISTS, state, dtype, points, later, cond, latent)

    found = {}
    for key, time, sign in (('nobatch', now, 1), ('forward', later + now, 1), ('invert', later - now, -1)):
        time = jnp.broadcast_to(time, (len(points),))
        velocities = sign * field.module.apply(field.variables, points, time, cond, latent)
        found[f'outputs, {key}'] = compare((velocities, data[f'{out}/{key}/v']))
    return found


def count_blocks(state: dict) -> int:
    return 1 + max(int(key.split('blocks.')[1].split('.')[0]) for key in state if 'blocks.' in key)


def load_field(data: dict, dtype, solver: Solver, shared_steps: bool = True) -> tuple[Flow, dict]:
    """The velocity field of a file of flow/ode/, and how it is solved."""
    state = under(data, 'param/vector_field.')
    module = VelocityField(state['fc_p.bias'].size, count_blocks(state))
    points, cond, latent, times = solve_inputs(data, dtype)
    field = load_bare(module, names.LISTS, state, dtype, points, times[:1].repeat(len(points)), cond, latent)
    return Flow(FlowModule(module), solver, shared_steps), {'params': {'vector_field': field.variables['params']}}


def solve_inputs(data: dict, dtype) -> tuple:
    """Points, motion code, motion latent and times of a file of flow/ode/."""
    empty = np.zeros((len(data['in/p']), 0))
    points, times = arrays_of(data, dtype, 'p', 't_seq')
    return points, *(jnp.asarray(data.get(f'in/{key}', empty), dtype) for key in ('c_t', 'z_t')), times


def solver_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/ode/*: positions at times, forwards, backwards and at time 0, with the steps that the official solver takes."""
    out, found = out_of(dtype), {}
    has_inputs = 'in/p' in data  # else those of another file, solved more accurately
    source = data if has_inputs else read_golden('flow/ode/flow_cz.npz')
    points, motion, motion_latent, times = solve_inputs(source, dtype)
    cond, latent = (motion, motion), (motion_latent, motion_latent)
    if not has_inputs:
        rtol = float(name.split('rtol')[1])
        flow, params = load_field(source, dtype, Solver(rtol, rtol / 100, 512))
        path = jax.jit(velocity_field.forwards, static_argnums=0)(flow, params, points, times[1:], cond, latent)
        return {'solved' if rtol > 1e-6 else 'tightly solved': compare((path.points, data[f'{out}/transform_to_t']))}
    for settings in ('default', 'tight') if dtype == np.float64 else ('default',):
        flow, params = load_field(data, dtype, SOLVERS[settings])
        solved = {
            'transform_to_t': (velocity_field.forwards, times[1:]),
            'transform_to_t_with0': (velocity_field.forwards, times),
            'transform_to_t_backward': (velocity_field.backwards, times[1:]),
            'transform_to_t_backward_with0': (velocity_field.backwards, times),
            'transform_to_t0': (velocity_field.pull_back, jnp.asarray(data['in/t_batch'], dtype)),
            'transform_to_t0_b': (velocity_field.pull_back, jnp.asarray(data['in/t_batch2'], dtype)),
        }
        kind = 'solved' if settings == 'default' else 'tightly solved'
        for key, (function, when) in solved.items():
            if f'{out}/{settings}/{key}' in data:
                path = jax.jit(function, static_argnums=0)(flow, params, points, when, cond, latent)
                found[f'{kind}, {key}'] = compare((path.points, data[f'{out}/{settings}/{key}']))
                steps = data.get(f'{out}/{settings}/steps_{key}')
                if steps is not None and settings == 'default':
                    assert path.num_steps.tolist() == [len(steps)] * len(points), (key, path.num_steps, len(steps))
    return found | fixed_step_deviations(data, dtype)


def take_fixed_steps(velocity, points, times, size) -> jax.Array:
    """Points [B, T, 3] at times [S], rising: Runge-Kutta of order 4 (the 3/8 rule) in steps of a size, or between the times.

    As in the official solver, a time has the state at the end of its step.
    """
    end = times[-1]
    ends = times if size is None else np.minimum(np.arange(1, np.ceil(end / size) + 1) * size, end)
    states, now = {0.0: points}, 0.0
    for later in ends[ends > 0]:
        h, y = later - now, states[now]
        a = velocity(now, y)
        b = velocity(now + h / 3, y + h * a / 3)
        c = velocity(now + 2 * h / 3, y + h * (b - a / 3))
        d = velocity(later, y + h * (a - b + c))
        states[later], now = y + h * (a + 3 * b + 3 * c + d) / 8, later
    known = np.array(list(states))
    return jnp.stack([states[known[np.searchsorted(known, time)]] for time in times], axis=1)


def fixed_step_deviations(data: dict, dtype) -> Deviations:
    """The velocity field in a solver of fixed steps, which has no tolerance: forwards, backwards and to time 0."""
    flow, params = load_field(data, dtype, Solver())
    points, motion, motion_latent, times = solve_inputs(data, dtype)
    found, code = {}, ((motion, motion), (motion_latent, motion_latent))

    @partial(jax.jit, static_argnums=0)
    def velocity(sign, elapsed, state):
        time = jnp.full(len(points), elapsed if sign > 0 else 1 - elapsed, points.dtype)
        return sign * find_velocity(flow, params, state, time, *code)

    for size, name in ((0.05, 'rk4_h0.05'), (0.3, 'rk4_h0.3'), (None, 'rk4_nostep')):
        for key, sign in (('transform_to_t', 1), ('transform_to_t_backward', -1)):
            expected = data.get(f'out64/{name}/{key}')
            # The result is the end of the step that holds a time: in float32 rounding decides which one that is.
            if dtype == np.float64 and expected is not None:
                moved = take_fixed_steps(partial(velocity, sign), points, np.asarray(times[1:], np.float64), size)
                found[f'points, {name}, {key}'] = compare((moved, expected))
    return found


def load_network(name: str, data: dict, dtype, **keywords) -> tuple[occupancy_flow.FlowNetwork, dict, dict]:
    """The network of a file of flow/oflow/, its weights and the layouts of their names."""
    state, cfg = under(data, 'param/'), ast.literal_eval(str(data['meta/cfg']))
    has = {child: any(key.startswith(f'{child}.') for key in state) for child in LAYOUTS}
    two_streams = any('resnet_pointnet' in key for key in state)

    def width(key):
        return state[key].shape[0] if key in state else 1

    temporal = 'encoder_temporal.resnet_pointnet' if two_streams else 'encoder_temporal'
    pointnet = temporal if has['encoder_temporal'] else 'encoder_latent'
    has_cbn = 'decoder.block0.bn_0.conv_gamma.weight' in state
    model = occupancy_flow.make_model(
        encoder='pointnet_resnet' if has['encoder'] else 'none',
        encoder_temporal='pointnet_2stream'
        if two_streams
        else 'pointnet_resnet'
        if has['encoder_temporal']
        else 'none',
        decoder='none' if not has['decoder'] else 'cbatchnorm' if has_cbn else 'simple',
        cond_size=width(f'{temporal}.fc_c.bias') * (2 if two_streams else 1),
        encoder_hidden_size=width(f'{pointnet}.fc_pos.bias') // 2,
        decoder_hidden_size=width('decoder.fc_p.bias'),
        velocity_hidden_size=width('vector_field.fc_p.bias'),
        velocity_blocks=count_blocks(under(state, 'vector_field.')),
        latent_size=cfg['z_dim'],
        backward=cfg.get('loss_corr_bw', False),
        shared_steps=True,
        **keywords,
    )
    layouts = LAYOUTS | ({'decoder': names.FAMILIES['onet'].decoders['cbatchnorm']} if has_cbn else {})
    inputs = jnp.asarray(data['in/inputs']) if has['encoder_temporal'] else jnp.zeros((3, 0))
    shapes = jax.eval_shape(model.init, jax.random.key(0), inputs, jnp.asarray(data['in/inputs']))
    params = official.read_weights(state, shapes, layouts)
    return model, jax.tree.map(lambda x: jnp.asarray(x, dtype), params), layouts


def network_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/oflow/*: codes, occupancies, the validation step, the loss, and its gradient beside that of a dense integrator."""
    out = out_of(dtype)
    model, params, layouts = load_network(name, data, dtype)
    clip, pointcloud = arrays_of(data, dtype, 'inputs', 'pointcloud')
    inputs = clip if model.encode is not None and 'encoder_temporal' in params['params'] else jnp.zeros((3, 0), dtype)
    has_decoder, cfg = 'decoder' in params['params'], ast.literal_eval(str(data['meta/cfg']))
    cond, found = jax.jit(model.encode)(params, inputs), {}
    latent = None
    if model.latent_size:
        latent = tuple(jnp.zeros((len(clip), model.latent_size), dtype) for _ in range(2))
        means, log_stds = model.posterior(params, clip, cond)
        pairs = zip(means, log_stds, ('q_z', 'q_z_t'), strict=True)
        found['posterior'] = compare(
            *(
                pair
                for m, s, key in pairs
                for pair in ((m, data[f'{out}/eval/{key}_mean']), (jnp.exp(s), data[f'{out}/eval/{key}_std']))
            )
        )
    else:
        found['condition'] = compare(
            *((c, data[f'{out}/eval/{key}']) for c, key in zip(cond, ('c_s', 'c_t'), strict=True) if c.size)
        )
    if has_decoder:
        points, time = arrays_of(data, dtype, 'points_t', 'points_t.time')
        at_start = jax.jit(model.pull_back)(params, points, time, cond, latent)
        logits = jax.jit(model.occupancy)(params, at_start, cond, latent)
        found['solved, points at time 0'] = compare((at_start, data[f'{out}/eval/forward/points_at_t0']))
        found['solved, logits'] = compare((logits, data[f'{out}/eval/forward/logits']))

    if not model.latent_size:  # the official validation samples them
        found['solved, validation step'] = compare(*validate(model, params, data, out, dtype))

    targets = {}
    if cfg.get('loss_recon', True):
        names_of = {
            'points': 'points',
            'occ': 'points.occ',
            'later_points': 'points_t',
            'later_occ': 'points_t.occ',
            'time': 'points_t.time',
        }
        targets = {ours: jnp.asarray(data[f'in/{theirs}'], dtype) for ours, theirs in names_of.items()}
    if cfg.get('loss_corr'):
        targets['trajectories'] = pointcloud
    if model.latent_size:
        targets['clip'] = clip
    noises = [
        tuple(jnp.asarray(data[f'in/{key}_{i}'], dtype) for key in ('eps_z', 'eps_zt')) if model.latent_size else None
        for i in range(2)
    ]
    with fixed_noise():
        for settings, reference in (('default', 'adjoint_default'), ('tight', 'rk4dense')):
            if f'{out}/train/{reference}/loss' not in data:
                continue
            model = load_network(
                name, data, dtype, rtol=SOLVERS[settings].rtol, atol=SOLVERS[settings].atol, max_steps=512
            )[0]

            def loss_of(weights, statistics, noise, model=model):
                return model.loss({**statistics, 'params': weights}, targets, inputs, jax.random.key(0), noise)

            differentiate = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
            (loss, aux), gradients = differentiate(params['params'], params, noises[0])
            kind = 'solved' if settings == 'default' else 'tightly solved'
            found[f'{kind}, loss'] = compare((loss, data[f'{out}/train/{reference}/loss']))
            if settings == 'default':  # the official adjoint is up to 6 % off the gradient
                adam = optax.adam(1e-4)
                updates, _ = adam.update(gradients, adam.init(params['params']))
                after = optax.apply_updates(params['params'], updates)
                (second, _), _ = differentiate(after, {**params, **aux.mutated}, noises[1])
                losses_of_both = jnp.stack([loss, second])
                found['Adam, losses of 2 steps'] = compare((losses_of_both, data[f'{out}/adam/losses']))
                continue
            expected = under(data, f'{out}/train/{reference}/grad/')
            by_name = official.write_weights({'params': gradients}, layouts)
            found['gradients'] = compare_by_name(by_name, expected, cancelled(expected))
    return found


def validate(model: occupancy_flow.FlowNetwork, params: dict, data: dict, out: str, dtype) -> list[tuple]:
    """Pairs of the official validation of one sequence: IoU at the times, or distances of points from where they should be."""
    inputs, true = arrays_of(data, dtype, 'val/inputs', 'val/points_mesh')
    cond, expected = model.encode(params, inputs), under(data, f'{out}/eval_step/')
    times = np.linspace(0, 1, true.shape[1])
    if 'iou' in expected:
        points, occ = arrays_of(data, dtype, 'val/points', 'val/points.occ')
        found = occupancy_flow.mean_iou(model, params, times, 0.3, cond, points, occ)
        return [(found[0], expected['iou'])]
    if model.loss.args[1]:  # both ways
        moved = model.interpolate(params, true[:, 0], true[:, -1], len(times), cond, as_official=False)
    else:
        moved = model.advect(params, true[:, 0], jnp.asarray(times, dtype), cond)
    l2 = losses.distances(moved, true).mean(axis=(0, 2))
    return [(l2[i], expected[f'l2_{i + 1}']) for i in range(len(l2))]


def mesh_deviations(name: str, data: dict, dtype) -> Deviations:
    """flow/generation/*: vertices of a mesh that moves, and their interpolation, with the mistake of the official code."""
    source = read_golden('flow/ode/flow_cz.npz')
    flow, params = load_field(source, dtype, Solver())
    model = occupancy_flow.flow_network(flow, None, 0)
    motion, vertices = arrays_of(data, dtype, 'c_t', 'mesh_vertices')
    latent = (jnp.zeros((1, source['in/z_t'].shape[1]), dtype),) * 2
    times, code = jnp.linspace(0, 1, 5, dtype=dtype), ((motion, motion), latent)
    moved = model.advect(params, vertices[:1], times, *code)
    back = model.advect(params, vertices[1:], times[1:], *code, backward=True)
    blended = model.interpolate(params, vertices[:1], vertices[1:], 5, *code, as_official=True)
    return {
        'solved, flow': compare((moved[0], data['out/flow/vertices'])),
        'solved, forwards': compare((moved[0, 1:], data['out/forward_t'])),
        'solved, backwards': compare((back[0], data['out/backward_s'])),
        'solved, interpolation': compare((blended[0], data['out/interpolate/vertices'])),
    }
