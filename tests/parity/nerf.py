"""NeRF beside the official code: encoding, network, sampling, compositing, normalised device coordinates, the whole step."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onet_jax.convert import official
from onet_jax.convert.names import NERF
from onet_jax.geometry.volume_rendering import Rays, composite, invert_cdf, points_on, sample_again, stratify, to_ndc
from onet_jax.models import nerf
from onet_jax.networks.radiance import RadianceField, encode_positions
from onet_jax.training.optim import keras_adam
from parity.deviation import Deviations, compare, compare_by_name
from parity.golden import under
from parity.modules import load_bare
from parity.occupancy_flow import arrays_of, out_of

LAYOUTS = {'coarse': NERF, 'fine': NERF}


def encoding_deviations(name: str, data: dict, dtype) -> Deviations:
    """encoding: of 1, 4 and 10 frequencies."""
    (x,) = arrays_of(data, dtype, 'x')
    pairs = [(encode_positions(x, n), data[f'{out_of(dtype)}/L{n}']) for n in (1, 4, 10)]
    return {'outputs': compare(*pairs)}


def network_deviations(name: str, data: dict, dtype) -> Deviations:
    """mlp_*: outputs, and gradients of a weighted sum of them."""
    state, out = under(data, 'param/'), out_of(dtype)
    points, directions = arrays_of(data, dtype, 'pts', 'viewdirs')
    directions = directions if directions.shape[1] else None
    module = make_field(state, skips=(1,) if 'skip1' in name else (4,))
    bare = load_bare(module, NERF, state, dtype, points[:, None], directions)

    @jax.jit
    def differentiate(variables):
        def weighted_sum(variables):
            raw = module.apply(variables, points[:, None], directions)[:, 0]
            return (raw * jnp.asarray(data.get('in/cotangent', 0), dtype)).sum(), raw

        return jax.grad(weighted_sum, has_aux=True)(variables)

    gradients, raw = differentiate(bare.variables)
    found = {'outputs': compare((raw, data[f'{out}/raw']))}
    if 'in/cotangent' in data:
        by_name = bare.by_name('params', gradients['params'])
        found['gradients'] = compare_by_name(by_name, under(data, 'out/grad/'))
    return found


def make_field(state: dict, skips: tuple[int, ...] = (4,)) -> RadianceField:
    """The network of some official weights."""
    depth = sum(name.startswith('pts_linears') and name.endswith('bias') for name in state)
    return RadianceField(len(state['pts_linears.0.bias']), depth, skips, view_directions='rgb_linear.bias' in state)


def ray_deviations(name: str, data: dict, dtype) -> Deviations:
    """rays: normalised device coordinates of the rays of a camera."""
    out, (height, width) = out_of(dtype), (6, 8)
    origins, directions = (jnp.asarray(data[f'{out}/ndc_in_rays_{kind}'], dtype).reshape(-1, 3) for kind in ('o', 'd'))
    ends = jnp.ones(len(origins), dtype)
    focal, pairs = jnp.asarray(data['in/focal'], dtype) * ends, []
    for near in (1.0, 1.7):
        rays = to_ndc(Rays(origins, directions, directions, ends, ends), focal, height, width, near)
        pairs += [
            (rays.origins, data[f'{out}/ndc_near{near}_rays_o'].reshape(-1, 3)),
            (rays.directions, data[f'{out}/ndc_near{near}_rays_d'].reshape(-1, 3)),
        ]
    return {'outputs': compare(*pairs)}


def sampling_deviations(name: str, data: dict, dtype) -> Deviations:
    """sample_pdf: inverse transform sampling, also of degenerate densities."""
    out, (bins, weights, places) = out_of(dtype), arrays_of(data, dtype, 'bins', 'weights', 'u')
    found = invert_cdf(bins, weights, places)
    even = jnp.broadcast_to(jnp.linspace(0.0, 1.0, places.shape[1], dtype=dtype), places.shape)
    kept = np.arange(places.shape[1]) != 1  # just below 1: where a float32 distribution ends decides
    return {
        'outputs': compare(
            (found[:, kept], data[f'{out}/sample_pdf'][:, kept]),
            (invert_cdf(bins, weights, even)[:, :-1], data[f'{out}/sample_pdf_det'][:, :-1]),
        )
    }


def rendering_deviations(name: str, data: dict, dtype) -> Deviations:
    """render_rays_stored_raw: sampling and compositing around stored outputs of the networks, in all modes."""
    out, (packed, raw_coarse, raw_fine) = out_of(dtype), arrays_of(data, dtype, 'ray_batch', 'raw_coarse', 'raw_fine')
    jitter, places, *noises = arrays_of(data, dtype, 't_rand', 'u', 'noise_coarse', 'noise_fine')
    rays = Rays(packed[:, :3], packed[:, 3:6], packed[:, 8:], packed[:, 6], packed[:, 7])
    even, pairs = jnp.broadcast_to(jnp.linspace(0.0, 1.0, places.shape[1], dtype=dtype), places.shape), []
    disparities, chosen = [], []
    for case, options in json.loads(str(data['meta/cases'])).items():

        def see(raw, distances, noise, options=options):
            density = jax.nn.relu(raw[..., 3] + options.get('raw_noise_std', 0.0) * noise)
            background = float(options.get('white_bkgd', False))
            return composite(jax.nn.sigmoid(raw[..., :3]), density, distances, rays.directions, background)

        perturbed = options['perturb'] > 0
        distances = stratify(rays, raw_coarse.shape[1], jitter if perturbed else None, options.get('lindisp', False))
        coarse = see(raw_coarse, distances, noises[0])
        more = sample_again(distances, coarse.weights, places if perturbed else even)
        fine = see(raw_fine, more, noises[1])
        for kind, seen, at, suffix in (
            ('coarse', coarse, distances, ''), ('hier', fine, more, ''), ('hier', coarse, None, '0')
        ):  # fmt: skip
            key = f'{out}/{case}/{kind}'
            names = {'rgb': seen.rgb, 'acc': seen.opacity}
            ending = suffix or '_map'
            pairs += [(value, data[f'{key}/{what}{ending}']) for what, value in names.items()]
            disparities.append((seen.disparity, data[f'{key}/disp{ending}']))
            if at is not None:
                chosen.append((points_on(rays, at), data[f'{key}/pts']))
    # Where the distribution is flat, its rounding moves a sample.
    return {'outputs': compare(*pairs, *disparities), 'chosen points': compare(*chosen)}


def step_deviations(name: str, data: dict, dtype) -> Deviations:
    """train_*, render_*: colours of both networks, the loss and its gradients, three steps of the official Adam."""
    out, cfg = out_of(dtype), json.loads(str(data['meta/cfg']))
    origins, directions = jnp.asarray(data['in/rays'], dtype)
    ends = jnp.ones(len(origins), dtype)
    view = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    rays = Rays(origins, directions, view, cfg['near'] * ends, cfg['far'] * ends)
    if cfg['ndc']:
        rays = to_ndc(rays, jnp.asarray(data['in/focal'], dtype) * ends, int(data['in/H']), int(data['in/W']))
    module, params = load_networks(under(data, 'param/'), dtype)
    settings = nerf.Settings(
        cfg['N_samples'], cfg['N_importance'], 'relu', cfg['raw_noise_std'],
        'white' if cfg['white_bkgd'] else 'black', cfg['lindisp'],
    )  # fmt: skip
    (target,) = arrays_of(data, dtype, 'target')

    def draws(step):
        noise_std = cfg['raw_noise_std']
        given = {key: jnp.asarray(value, dtype) for key, value in under(data, f'in/step{step}/').items()}
        noises = [noise_std * given[key] if noise_std else None for key in ('noise_coarse', 'noise_fine')]
        return nerf.Draws(given.get('t_rand'), noises[0], given.get('u'), noises[1])

    @jax.jit
    def render(params, draws):
        return nerf.render_rays(module, settings, params, rays, draws)

    @jax.jit
    def differentiate(weights, draws):
        def loss(weights):
            return nerf.loss_of(module, settings, {'params': weights}, rays, target, jax.random.key(0), draws=draws)

        return jax.value_and_grad(loss, has_aux=True)(weights)

    coarse, fine = render(params, draws(0))
    pairs = [
        (seen, data[f'{out}/step0/{what}'])
        for what, seen in {
            'rgb': fine.rgb, 'disp': fine.disparity, 'acc': fine.opacity,
            'rgb0': coarse.rgb, 'disp0': coarse.disparity, 'acc0': coarse.opacity,
        }.items()
    ]  # fmt: skip
    weights, losses, tx = (
        params['params'],
        [],
        keras_adam(lambda n: cfg['lrate'] * 0.1 ** (n / (1000 * cfg['lrate_decay']))),
    )
    state, found = tx.init(weights), {'outputs': compare(*pairs)}
    update = jax.jit(tx.update)
    for step in range(max(cfg['steps'], 1)):
        (loss, aux), gradients = differentiate(weights, draws(step))
        losses += [
            (loss, data[f'{out}/step{step}/loss']), (aux.scalars['psnr'], data[f'{out}/step{step}/psnr'])
        ]  # fmt: skip
        if step == 0:
            by_name = official.write_weights({'params': gradients}, LAYOUTS)
            expected = {key.replace('/', '.', 1): value for key, value in under(data, 'out/step0/grad/').items()}
            found['gradients'] = compare_by_name(by_name, expected)
        updates, state = update(gradients, state, weights)
        weights = optax.apply_updates(weights, updates)
    found['loss'] = compare(*losses[:2])
    found['later losses'] = compare(*losses)
    after = {key.replace('/', '.', 1): value for key, value in under(data, 'out/after_step3/').items()}
    if after:
        found['later weights'] = compare_by_name(official.write_weights({'params': weights}, LAYOUTS), after)
    return found


def load_networks(state: dict, dtype) -> tuple[nerf.Networks, dict]:
    """Networks with the official weights 'coarse/...' and 'fine/...'."""
    coarse, fine = under(state, 'coarse/'), under(state, 'fine/')
    module = nerf.Networks(make_field(coarse), make_field(fine) if fine else None)
    shapes = jax.eval_shape(
        partial(module.init, method='both'), jax.random.key(0), jnp.zeros((1, 1, 3)), jnp.zeros((1, 3))
    )
    by_name = {key.replace('/', '.', 1): value for key, value in state.items()}
    return module, jax.tree.map(lambda x: jnp.asarray(x, dtype), official.read_weights(by_name, shapes, LAYOUTS))
