"""Texture Fields (Oechsle et al., ICCV 2019): the colour of any point of a shape, from one picture of it or a latent code.

A function t(point, geometry, appearance) -> colour. The shape is given: a geometry encoder sees points of its surface with
their normals. Depth maps say which points the pixels of a view show, so that pictures supervise the field. Four networks:

    conditional   the appearance is the code of a picture
    VAE           it is a latent code, whose posterior sees a view (variational autoencoder)
    GAN           it is a latent code; a discriminator tells rendered views from real ones
    NVS           the baseline of novel view synthesis, without a field: a U-Net from depth maps and a code to pictures

B batch, V views, S pixels along each side of them, T points, P oriented points, C code of the geometry, Z of the appearance.
`inputs` are arrays by name, as of the fields of a config: 'image' [B, S', S', 3], 'oriented_cloud' [B, P, 6], 'view_depth'
[B, V, S, S], 'view_world_mat' [B, V, 3, 4] and 'view_camera_mat' [B, V, 3, 3]. Depth is 0 in the background.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from ml_collections import ConfigDict

from onet_jax import losses
from onet_jax.data.fields import check_inputs
from onet_jax.errors import InputError
from onet_jax.geometry.cameras import Camera
from onet_jax.geometry.field import check_finite
from onet_jax.geometry.views import Pictures, draw_pixels, on_white, unproject_depth
from onet_jax.models import adversarial, method, onet
from onet_jax.models.method import Aux, Compiled, Method, apply, as_array, as_inputs, check_names, keywords_of
from onet_jax.models.occupancy import as_points, in_chunks
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.texture import AppearanceEncoder, Discriminator, TextureDecoder, TextureModule, ViewUNet


def _make_decoder(k, num_blocks):
    return TextureDecoder(k.decoder_hidden_size, num_blocks, k.leaky, k.leaky_blocks, k.dtype, k.num_frequencies)


# Official names; 'none' is a part that a network does not have. The decoder 'unet' makes the baseline.
ENCODERS = {name: onet.ENCODERS[name] for name in ('none', 'resnet18', 'simple_conv')}
DECODERS: dict[str, Callable] = {
    'each_layer_c': lambda k: _make_decoder(k, 5),
    'each_layer_c_larger': lambda k: _make_decoder(k, 7),
    'unet': lambda k: ViewUNet(k.decoder_hidden_size, k.dtype),
}
GEOMETRY_ENCODERS: dict[str, Callable] = {
    'none': lambda k: None,
    'resnet': lambda k: Pointnet(k.geometry_size, k.geometry_hidden_size, True, k.dtype),
    'simple': lambda k: Pointnet(k.geometry_size, k.geometry_hidden_size, False, k.dtype, leaky=True),
}
VAE_ENCODERS: dict[str, Callable] = {
    'none': lambda k: None,
    'resnet': lambda k: AppearanceEncoder(k.cond_size, k.picture_hidden_size, dtype=k.dtype),
}
DISCRIMINATORS: dict[str, Callable] = {
    'none': lambda k: None,
    'resnet_conditional': lambda k: Discriminator(
        k.picture_hidden_size
    ),  # squares of its gradients are a loss: in float32
}
VIEWS = ('view_depth', 'view_world_mat', 'view_camera_mat')
VAE_WEIGHT = 10.0  # of the loss of the VAE
PENALTY_WEIGHT = 10.0  # of the R1 penalty


class TextureField(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters. One of a part that is missing raises InputError."""

    init: Callable  # (key, inputs, rgb [B, V, S, S, 3]) -> params
    encode: Callable  # (params, image [B, S', S', 3]) -> cond [B, Z]
    encode_geometry: Callable  # (params, oriented_cloud [B, P, 6]) -> geometry [B, C]
    color: Callable  # (params, points [B, T, 3], geometry, cond) -> RGB [B, T, 3] in [0, 1]
    bind: Callable  # (params, geometry [1, C], cond [1, Z]) -> colours of one shape, points [T, 3] -> RGB [T, 3]
    # (params, depth [B, V, S, S], world_mat, camera_mat, geometry, cond) -> RGB [B, V, S, S, 3] on white; NVS ignores geometry
    render: Callable
    prior: Callable  # (key, rows [B] int) -> latent codes [B, Z] from N(0, 1), each row from its own key
    posterior: Callable  # (params, rgb [B, S, S, 3], geometry) -> mean [B, Z], standard deviation [B, Z]
    loss: Callable  # (params, inputs, rgb, key=None, rows=None, axis_name=None) -> (scalar, Aux), see `texture_loss`
    discriminator_loss: Callable  # the same, of the discriminator of a GAN
    latent_size: int  # Z of the VAE and the GAN, whose condition is a latent code; 0: it is the code of a picture


def _init(module, key, inputs, rgb):
    return module.init(key, inputs, rgb)


def _encode(module, params, image):
    return apply(module, params, as_inputs(image, 'image'), method='encode')


def _encode_geometry(module, params, oriented_cloud):
    return apply(module, params, as_inputs(oriented_cloud, 'oriented_cloud'), method='encode_geometry')


def _encode_finite(function, name, module, params, array):
    if not isinstance(array, jax.core.Tracer):
        check_finite(np.asarray(as_array(array, name)), name)
    return Compiled(function, module)(params, array)


def _color(module, params, points, geometry, cond):
    points, _ = as_points(points, geometry=geometry, cond=cond)
    return in_chunks(lambda chunk: apply(module, params, chunk, geometry, cond, method='decode'), points)


def _color_one(module, params, geometry, cond, points):
    return _color(module, params, points[None], geometry, cond)[0]


def _render(module, params, depth, world_mat, camera_mat, geometry, cond):
    depth = as_array(depth, 'depth')
    if jnp.ndim(depth) != 4:
        raise InputError(f'depth: expected an array [B, V, S, S], found the shape {list(jnp.shape(depth))}')
    if module.is_baseline:
        rgb = _decode_views(lambda view: apply(module, params, view, cond, method='decode_view'), depth)
    else:
        points = jnp.asarray(unproject_depth(Camera(world_mat, camera_mat), depth), depth.dtype)
        rgb = _color(module, params, points.reshape(len(depth), -1, 3), geometry, cond).reshape(points.shape)
    return on_white(rgb, depth)


def _decode_views(decode, depth):
    """decode: [B, S, S] -> [B, S, S, 3], called with one view of each shape at a time, which bounds the memory."""
    if depth.shape[1] == 1:
        return decode(depth[:, 0])[:, None]
    return jnp.moveaxis(jax.lax.map(decode, jnp.moveaxis(depth, 1, 0)), 0, 1)


def _prior(latent_size, key, rows):
    return jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), (latent_size,)))(rows)


def _posterior(module, params, rgb, geometry):
    mean, log_std = apply(module, params, rgb, geometry, method='posterior')
    return mean, jnp.exp(log_std)


def texture_loss(
    module: TextureModule,
    num_pixels: int,
    params: dict,
    inputs: dict,
    rgb: jax.Array,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The loss of the paper, a mean over the batch, and the updated running statistics; rgb [B, V, S, S, 3] on white.

    conditional, NVS   the mean absolute difference of the pictures (L1), over all pixels and channels
    VAE                10 times the mean squared difference + the divergence of the posterior, a sum over the latent
                       dimensions, by the number of values of a picture
    GAN                of the generator, the non-saturating loss

    num_pixels: 0, or so many random pixels of the object stand for all, which gives an unbiased estimate of the first two; the
    background is white in both pictures. key: of them and of the latent codes; row i draws from fold_in(key, rows[i]), rows [B]
    int being 0 to B - 1 by default. axis_name: of the devices that share the batch. Raises InputError where a key is missing.
    """
    is_latent = module.encoder is None
    if key is None and (is_latent or num_pixels):
        raise InputError('loss: expected a key for the latent codes or the pixels, found None')
    rows, mutated = jnp.arange(len(rgb)) if rows is None else rows, {}
    pixel_key, latent_key = jax.random.split(jax.random.key(0) if key is None else key)  # in the first case not used
    geometry = _geometry_of(module, params, inputs)
    if is_latent:
        cond = _prior(module.cond_size, latent_key, rows).astype(rgb.dtype)
    else:
        cond, mutated = apply(
            module, params, inputs['image'], train=True, axis_name=axis_name, mutable=['batch_stats'], method='encode'
        )
    if module.discriminator is not None:
        rendered = render_all(module, params, inputs, geometry, cond)
        logits = apply(module, params, rendered, inputs['view_depth'], method='judge')
        return adversarial.generator_loss(logits).mean(), Aux({}, {})

    divergence = None
    if module.vae_encoder is not None:
        mean, log_std = apply(module, params, rgb[:, 0], geometry, method='posterior')
        cond = mean + jnp.exp(log_std) * cond
        divergence = losses.kl_to_standard_normal(mean, log_std).sum(axis=1).mean() / rgb[0, 0].size
    error = jnp.abs if divergence is None else jnp.square
    if num_pixels:
        keys = jax.vmap(partial(jax.random.fold_in, pixel_key))(rows)
        differences, share = _differences_of_some(module, num_pixels, params, inputs, rgb, geometry, cond, keys)
        reconstruction = (share * error(differences).mean(axis=(1, 2))).mean()
    else:
        reconstruction = error(render_all(module, params, inputs, geometry, cond) - rgb).mean()
    if divergence is None:
        return reconstruction, Aux(mutated, {})
    terms = {'reconstruction': VAE_WEIGHT * reconstruction, 'kl': VAE_WEIGHT * divergence}
    return terms['reconstruction'] + terms['kl'], Aux(mutated, terms)


def _geometry_of(module, params, inputs):
    """The code of the geometry [B, C]; None for the baseline, which has none."""
    if module.geometry_encoder is None:
        return None
    return apply(module, params, inputs['oriented_cloud'], method='encode_geometry')


def render_all(module: TextureModule, params: dict, inputs: dict, geometry: Any, cond: jax.Array) -> jax.Array:
    """The pictures [B, V, S, S, 3] of all views of the inputs."""
    depth, world_mat, camera_mat = (inputs[name] for name in VIEWS)
    return _render(module, params, depth, world_mat, camera_mat, geometry, cond)


def _differences_of_some(module, num_pixels, params, inputs, rgb, geometry, cond, keys):
    """Of some pixels of the object the difference of their colours [B, num_pixels, 3], and the share [B] that it has of all."""
    camera = Camera(inputs['view_world_mat'], inputs['view_camera_mat'])
    batch, depth = len(rgb), inputs['view_depth']
    points = jnp.asarray(unproject_depth(camera, depth), rgb.dtype).reshape(batch, -1, 3)
    depth, true = depth.reshape(batch, -1), rgb.reshape(batch, -1, 3)
    numbers = jax.vmap(partial(draw_pixels, num_pixels=num_pixels))(keys, depth)
    points, true = losses.take(points, numbers), losses.take(true, numbers)
    colours = apply(module, params, points, geometry, cond, method='decode')
    shown = jnp.take_along_axis(depth, numbers, axis=1)
    return on_white(colours, shown) - true, (depth > 0).mean(axis=1)


def texture_discriminator_loss(
    module: TextureModule,
    params: dict,
    inputs: dict,
    rgb: jax.Array,
    key: jax.Array,
    rows: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The loss of the discriminator, the cross-entropy plus 10 times the R1 penalty, means over the pictures.

    Arguments as of `texture_loss`; the generator has no gradient. The scalar 'discriminator' is without the penalty.
    """
    rows = jnp.arange(len(rgb)) if rows is None else rows
    cond = _prior(module.cond_size, key, rows).astype(rgb.dtype)
    rendered = render_all(module, params, inputs, _geometry_of(module, params, inputs), cond)

    def judge(pictures):
        return apply(module, params, pictures, inputs['view_depth'], method='judge')

    real, penalty = adversarial.with_penalty(judge, rgb)
    loss = adversarial.discriminator_loss(real, judge(jax.lax.stop_gradient(rendered))).mean()
    penalty = PENALTY_WEIGHT * penalty.mean() / rgb.shape[1]
    return loss + penalty, Aux({}, {'discriminator': loss, 'penalty': penalty})


def make_model(
    *,
    encoder: str = 'resnet18',
    decoder: str = 'each_layer_c_larger',
    geometry_encoder: str = 'resnet',
    vae_encoder: str = 'none',
    discriminator: str = 'none',
    cond_size: int = 512,
    geometry_size: int = 512,
    encoder_hidden_size: int = 32,
    decoder_hidden_size: int = 128,
    geometry_hidden_size: int = 128,
    picture_hidden_size: int = 32,
    num_frequencies: int = 0,
    leaky: bool = True,
    leaky_blocks: bool = False,
    num_pixels: int = 0,
    train_dtype: jnp.dtype | None = None,
) -> TextureField:
    """The functions of a network, without weights.

    encoder, decoder, geometry_encoder,    official names, of the tables above; the baseline has the decoder 'unet' and no
    vae_encoder, discriminator             geometry encoder. A network without encoder is a VAE or a GAN
    cond_size, geometry_size               Z and C
    encoder_hidden_size                    features of the first convolution of 'simple_conv'
    decoder_hidden_size                    width of the decoder, of 'unet' features of its first convolution
    geometry_hidden_size                   width of the geometry encoder
    picture_hidden_size                    features of the first convolution of the posterior, or of the discriminator
    num_frequencies                        of a positional encoding of points; 0 is none, as in the paper
    leaky, leaky_blocks                    leaky ReLUs (slope 0.2) as the last activation of the decoder, and in its blocks
    num_pixels                             random pixels of a view in the loss; 0 is all of them, as in the paper
    train_dtype                            mixed precision: type of the features in the loss

    Raises InputError for an unknown name, and for parts that do not go together.
    """
    keywords = locals()
    check_names(
        keywords,
        encoder=ENCODERS,
        decoder=DECODERS,
        geometry_encoder=GEOMETRY_ENCODERS,
        vae_encoder=VAE_ENCODERS,
        discriminator=DISCRIMINATORS,
    )
    is_baseline = decoder == 'unet'
    sources = [name for name in ('encoder', 'vae_encoder', 'discriminator') if keywords[name] != 'none']
    if len(sources) != 1 or is_baseline != (geometry_encoder == 'none') or (is_baseline and sources != ['encoder']):
        raise InputError(
            'config.model: expected one of encoder, vae_encoder and discriminator, and a geometry_encoder, or encoder and the '
            f"decoder 'unet' alone, found {sources}, geometry_encoder {geometry_encoder!r} and decoder {decoder!r}"
        )
    if num_pixels and (is_baseline or discriminator != 'none'):
        raise InputError(
            f'config.model.num_pixels: expected 0 of a network that needs whole pictures, found {num_pixels}'
        )

    def build_module(dtype):
        k = SimpleNamespace(**keywords, dtype=dtype)
        return TextureModule(
            decoder=DECODERS[decoder](k),
            cond_size=cond_size,
            geometry_encoder=GEOMETRY_ENCODERS[geometry_encoder](k),
            encoder=ENCODERS[encoder].build(k),
            vae_encoder=VAE_ENCODERS[vae_encoder](k),
            discriminator=DISCRIMINATORS[discriminator](k),
        )

    return functions_of(build_module(None), build_module(train_dtype), num_pixels)


def functions_of(module: TextureModule, trained: TextureModule, num_pixels: int = 0) -> TextureField:
    """The functions of a network. trained: the module of the losses, which may differ in its precision."""

    def bind(params, geometry, cond):
        return Partial(Compiled(_color_one, module), params, geometry, cond)

    return TextureField(
        init=Compiled(_init, module),
        encode=partial(_encode_finite, _encode, 'image', module),
        encode_geometry=partial(_encode_finite, _encode_geometry, 'oriented_cloud', module),
        color=Compiled(_color, module),
        bind=bind,
        render=Compiled(_render, module),
        prior=partial(_prior, module.cond_size),
        posterior=Compiled(_posterior, module),
        loss=partial(texture_loss, trained, num_pixels),
        discriminator_loss=partial(texture_discriminator_loss, trained),
        latent_size=0 if module.encoder is not None else module.cond_size,
    )


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are pictures of the views of the inputs."""
    model = make_model(**keywords_of(config, make_model))
    is_baseline, is_vae = config.model.decoder == 'unet', config.model.get('vae_encoder', 'none') != 'none'
    image, cloud = () if model.latent_size else ('image',), () if is_baseline else ('oriented_cloud',)
    check_inputs(config, *image, *cloud, 'depth_views')

    def init(key, batch):
        return model.init(key, batch['inputs'], batch['targets']['rgb'])

    def loss(variables, batch, key, axis_name):
        return model.loss(variables, batch['inputs'], batch['targets']['rgb'], key, batch['row'], axis_name)

    def discriminator_loss(variables, batch, key, axis_name):
        rgb = batch['targets']['rgb']
        return model.discriminator_loss(variables, batch['inputs'], rgb, key, batch['row'], axis_name)

    def render(params, inputs, latent=None):
        """The views of the inputs; latent: a function of the geometry that gives the codes of a VAE or a GAN."""
        geometry = None if is_baseline else model.encode_geometry(params, inputs['oriented_cloud'])
        cond = model.encode(params, inputs['image']) if latent is None else latent(geometry)
        return model.render(params, *(inputs[name] for name in VIEWS), geometry, cond)

    def validation_metrics(params, batch):
        """L1 of the views; a VAE has the mean of its posterior for the first of them, a GAN the mean of its prior."""
        inputs, rgb = batch['inputs'], batch['targets']['rgb']

        def latent(geometry):
            return model.posterior(params, rgb[:, 0], geometry)[0] if is_vae else _no_latents(rgb)

        found = render(params, inputs, latent if model.latent_size else None)
        return {'l1': jnp.abs(found - rgb).mean(axis=(1, 2, 3, 4))}

    def predict(params, inputs, key, workspace=None):
        """key: of the latent codes, where they are sampled; else they are the mean of the prior."""

        def latent(geometry):
            sampled = config.eval.get('sample')
            return model.prior(key, jnp.arange(len(geometry))) if sampled else _no_latents(geometry)

        rgb = render(params, inputs, latent if model.latent_size else None)
        return [Pictures(views) for views in np.asarray(rgb)]

    def _no_latents(like):
        return jnp.zeros((len(like), model.latent_size), like.dtype)

    code = ('B', model.latent_size) if model.latent_size else None
    signatures = {
        'encode': method.Signature({'image': None}, ('cond',)),
        'encode_geometry': method.Signature({'oriented_cloud': None}, ('geometry',)),
        'color': method.Signature({'points': method.POINTS, 'geometry': None, 'cond': code}, ('rgb',)),
    }
    is_gan = config.model.get('discriminator', 'none') != 'none'
    make_step = partial(adversarial.make_adversarial_step, discriminator_loss) if is_gan else None
    return Method(init, loss, validation_metrics, predict, model, make_step, signatures)
