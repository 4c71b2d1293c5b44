"""NeRF (Mildenhall et al., ECCV 2020): one scene as a radiance field, rendered along rays and fitted to posed pictures.

F(x, d) -> (rgb, density); no condition: the weights are the scene. A coarse network says where along a ray a fine one is asked.

R rays, N samples of a ray, T points; [...] any axes. `params` are all variables of a network, {'params': {'coarse', 'fine'}}.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.conventions import Array
from onet_jax.data.fields import check_inputs
from onet_jax.errors import InputError
from onet_jax.geometry.field import evaluate, for_backend
from onet_jax.geometry.views import Pictures
from onet_jax.geometry.volume_rendering import (
    BACKGROUNDS,
    Rays,
    Rendering,
    composite,
    points_on,
    sample_again,
    stratify,
)
from onet_jax.models.method import Aux, Compiled, Method, Signature, apply, check_names, keywords_of
from onet_jax.networks.radiance import RadianceField

# A density of exactly zero has no gradient: a scene whose densities are all negative at some time stays empty. Softplus has one
# everywhere; the shift starts it at a density of 0.3 per unit of length (Barron et al., mip-NeRF, ICCV 2021).
DENSITIES = {'relu': nn.relu, 'softplus': lambda x: nn.softplus(x - 1)}
RAY_CHUNK, ACCELERATOR_RAY_CHUNK = 512, 8192  # rays at a time


class NeRF(NamedTuple):
    """What the paper defines, as pure functions of the parameters."""

    init: Callable  # (key, rays) -> params
    radiance: (
        Callable  # (params, points [T, 3], directions [T, 3] of any length) -> rgb [T, 3] in [0, 1], density [T] >= 0
    )
    density: Callable  # (params, points [T, 3]) -> density [T], of which the surface is a level set
    # (params, rays) -> `Rendering` without weights, without random numbers: of numpy, of any number of rays, which are halved
    # where the device runs out of memory; and of JAX, jitted and differentiable
    render: Callable
    render_jitted: Callable
    # (params, rays, rgb [R, 3], key, rows=None) -> (scalar, Aux): mean squared errors of both networks (eq. 6)
    loss: Callable


class Settings(NamedTuple):
    """How a ray is sampled and what is behind it."""

    num_samples: int
    num_fine_samples: int
    density: str
    noise_std: float
    background: str
    in_disparity: bool


class Draws(NamedTuple):
    """The random numbers of some rays; None is none."""

    jitter: jax.Array | None = None  # [R, N] in [0, 1): the place of a sample in its interval
    noise: jax.Array | None = None  # [R, N] normal, of the density before its activation
    places: jax.Array | None = None  # [R, K] in [0, 1): places of the further samples in the cumulative distribution
    fine_noise: jax.Array | None = None  # [R, N + K]


class Networks(nn.Module):
    """The coarse and the fine network, or one that is both."""

    coarse: RadianceField
    fine: RadianceField | None

    def __call__(self, points: jax.Array, directions: jax.Array, use_fine: bool = True) -> jax.Array:
        return (self.fine if use_fine and self.fine is not None else self.coarse)(points, directions)

    def both(self, points: jax.Array, directions: jax.Array) -> None:
        for use_fine in (False, True):
            self(points, directions, use_fine)


def make_model(
    *,
    width: int = 256,
    depth: int = 8,
    skips: tuple[int, ...] = (4,),
    bottleneck_size: int = 256,
    num_frequencies: int = 10,
    num_direction_frequencies: int = 4,
    view_directions: bool = True,
    num_samples: int = 64,
    num_fine_samples: int = 128,
    two_networks: bool = True,
    density: str = 'softplus',
    noise_std: float = 0.0,
    background: str = 'white',
    in_disparity: bool = False,
    train_dtype: jnp.dtype | None = None,
) -> NeRF:
    """The functions of a network, without weights.

    width, depth: of the layers; the position is seen again after those of `skips`. bottleneck_size: features of a point that
    the colour sees. num_frequencies: of the positional encoding, num_direction_frequencies of that of directions.
    view_directions: whether the colour depends on them. num_samples: of a ray. num_fine_samples: further ones; 0 is a coarse
    network alone. two_networks: False lets one network be both. density: activation, 'relu' as in the paper or 'softplus'.
    noise_std: of the density before it, in training (regularisation of the paper for real scenes). background: 'white' or
    'black'. in_disparity: samples are even in 1 / distance. train_dtype: of the features in a training step. Raises InputError
    for an unknown name, and for fewer than 3 samples.
    """
    check_names(locals(), density=DENSITIES, background=BACKGROUNDS)
    if num_samples < 3:
        raise InputError(f'config.model.num_samples: expected at least 3, found {num_samples}')
    settings = Settings(num_samples, num_fine_samples, density, noise_std, background, in_disparity)

    def build_module(dtype):
        field = partial(
            RadianceField,
            width,
            depth,
            tuple(skips),
            bottleneck_size,
            num_frequencies,
            num_direction_frequencies,
            view_directions,
            dtype=dtype,
        )
        return Networks(field(), field() if two_networks and num_fine_samples else None)

    module = build_module(None)
    see = Compiled(_see, (module, settings))
    return NeRF(
        Compiled(_init, module),
        Compiled(_radiance, (module, settings)),
        Compiled(_density, (module, settings)),
        partial(render, see),
        Compiled(_render_jitted, see),
        partial(loss_of, build_module(train_dtype), settings),
    )


def render_rays(
    module: Networks, settings: Settings, params: dict, rays: Rays, draws: Draws
) -> tuple[Rendering, Rendering | None]:
    """Render rays with the coarse network, and with the fine one where it samples again (sections 4 and 5.2)."""
    distances = stratify(rays, settings.num_samples, draws.jitter, settings.in_disparity)
    coarse = _render_at(module, settings, params, rays, distances, draws.noise, use_fine=False)
    if not settings.num_fine_samples:
        return coarse, None
    places = draws.places
    if places is None:
        even = jnp.linspace(0.0, 1.0, settings.num_fine_samples, dtype=distances.dtype)
        places = jnp.broadcast_to(even, (len(distances), settings.num_fine_samples))
    distances = sample_again(distances, coarse.weights, places)
    return coarse, _render_at(module, settings, params, rays, distances, draws.fine_noise, use_fine=True)


def _render_at(module, settings, params, rays, distances, noise, use_fine):
    raw = apply(module, params, points_on(rays, distances), rays.view_directions, use_fine)
    density = raw[..., 3] if noise is None else raw[..., 3] + noise
    return composite(
        nn.sigmoid(raw[..., :3]),
        DENSITIES[settings.density](density),
        distances,
        rays.directions,
        BACKGROUNDS[settings.background],
    )


def draw(settings: Settings, key: jax.Array, rows: jax.Array) -> Draws:
    """The random numbers of a training step: each ray has its own key, so that a part of a batch has those of the whole."""
    counts = (settings.num_samples, settings.num_samples + settings.num_fine_samples)

    def draw_row(row):
        keys = jax.random.split(jax.random.fold_in(key, row), 4)
        places = [
            jax.random.uniform(k, (n,)) for k, n in zip(keys, (counts[0], settings.num_fine_samples), strict=False)
        ]
        if settings.noise_std == 0:
            return Draws(places[0], None, places[1], None)
        noise = [settings.noise_std * jax.random.normal(k, (n,)) for k, n in zip(keys[2:], counts, strict=True)]
        return Draws(places[0], noise[0], places[1], noise[1])

    return jax.vmap(draw_row)(rows)


def loss_of(
    module: Networks,
    settings: Settings,
    params: dict,
    rays: Rays,
    rgb: Array,
    key: jax.Array,
    rows: jax.Array | None = None,
    draws: Draws | None = None,
) -> tuple[jax.Array, Aux]:
    """Mean squared errors of the coarse and of the fine colours (eq. 6), and the PSNR of the latter.

    rows: the numbers of the rays in the whole batch, which choose their random numbers. draws: instead of those of the key.
    """
    if draws is None:
        draws = draw(settings, key, jnp.arange(len(rgb)) if rows is None else rows)
    rendered = filter(None, render_rays(module, settings, params, rays, draws))
    errors = [jnp.square(each.rgb - rgb).mean() for each in rendered]
    return jnp.sum(jnp.stack(errors)), Aux({}, {'psnr': to_psnr(errors[-1])})


def to_psnr(mean_squared_error: Array) -> jax.Array:
    """Peak signal-to-noise ratio of colours in [0, 1], in dB."""
    return -10 * jnp.log10(jnp.maximum(mean_squared_error, 1e-10))


def _radiance(module_and_settings, params, points, directions):
    module, settings = module_and_settings
    directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    raw = apply(module, params, points[:, None], directions)[:, 0]
    return nn.sigmoid(raw[:, :3]), DENSITIES[settings.density](raw[:, 3])


def _density(module_and_settings, params, points):
    # It does not depend on the direction.
    return _radiance(module_and_settings, params, points, jnp.ones_like(points))[1]


def _init(module, key, rays):
    points = jnp.zeros((1, 1, 3), rays.origins.dtype)
    return module.init(key, points, rays.view_directions[:1], method='both')


def render(compiled: Callable, params: dict, rays: Rays, chunk_size: int | None = None) -> Rendering:
    """Render any number of rays, some at a time; fewer of them where the device runs out of memory. Without random numbers."""
    chunk_size = chunk_size or for_backend(RAY_CHUNK, ACCELERATOR_RAY_CHUNK)
    seen = evaluate(partial(compiled, params), np.asarray(pack(rays)), chunk_size=chunk_size)
    return Rendering(seen[:, :3], seen[:, 3], seen[:, 4], seen[:, 5])


def _see(module_and_settings, params, packed):
    """[R, 11] -> rgb, depth, disparity, opacity [R, 6]."""
    module, settings = module_and_settings
    coarse, fine = render_rays(module, settings, params, unpack(packed), Draws())
    seen = coarse if fine is None else fine
    return jnp.concatenate([seen.rgb, *(part[:, None] for part in seen[1:4])], axis=-1)


def _render_jitted(see, params, rays):
    chunk_size = for_backend(RAY_CHUNK, ACCELERATOR_RAY_CHUNK)
    seen = jax.lax.map(lambda ray: see(params, ray[None])[0], pack(rays), batch_size=chunk_size)
    return Rendering(seen[:, :3], seen[:, 3], seen[:, 4], seen[:, 5])


def pack(rays: Rays) -> jax.Array:
    """Rays [..., 3] or [...] as one array [R, 11]."""
    return jnp.concatenate([jnp.reshape(part, (rays.near.size, -1)) for part in rays], axis=-1)


def unpack(packed: jax.Array) -> Rays:
    """The rays of `pack`."""
    return Rays(packed[:, :3], packed[:, 3:6], packed[:, 6:9], packed[:, 9], packed[:, 10])


def build(config: ConfigDict) -> Method:
    """The method of a config. A training example is a ray, one of an evaluation a view; predictions are `Pictures`."""
    model = make_model(**keywords_of(config, make_model))
    check_inputs(config, 'rays')

    def rays_of(inputs):
        return Rays(*(inputs[name] for name in Rays._fields))

    def init(key, batch):
        return model.init(key, rays_of(batch['inputs']))

    def loss(variables, batch, key, axis_name):
        return model.loss(variables, rays_of(batch['inputs']), batch['targets']['rgb'], key, batch['row'])

    def metrics(variables, batch):
        """The PSNR of each view, in dB."""
        rgb = batch['targets']['picture']
        seen = model.render_jitted(variables, rays_of(batch['inputs'])).rgb.reshape(rgb.shape)
        return {'psnr': to_psnr(jnp.square(seen - rgb).mean(axis=(1, 2, 3, 4)))}

    def predict(params, inputs, key, workspace=None):
        rays = Rays(*map(np.asarray, rays_of(inputs)))
        rgb = model.render(params, rays).rgb.reshape(rays.origins.shape)
        return [Pictures(view[None]) for view in rgb]

    rays = {'points': ('T', 3), 'directions': ('T', 3)}
    signatures = {'radiance': Signature(rays, ('rgb', 'density'))}
    return Method(init, loss, metrics, predict, model, signatures=signatures)
