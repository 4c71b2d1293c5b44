"""AtlasNet (Groueix et al., CVPR 2018): a surface as the images of 25 squares, or of a sphere, under learned maps.

Encoders of pictures (single view) and of point clouds (autoencoder), which share the decoder. In object coordinates.

B batch, K patches, N points of a template, d its dimension (2 or 3), M surface samples, F faces, C condition.
"""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import trimesh
from ml_collections import ConfigDict

from onet_jax import losses
from onet_jax.data.fields import check_inputs
from onet_jax.errors import InputError
from onet_jax.geometry.meshes import OpenSurface
from onet_jax.models import onet
from onet_jax.models.encoder_decoder import EncoderDecoder, functions_of, loss_of, signatures_of
from onet_jax.models.method import Aux, Encoder, Method, as_array, check_names, keywords_of
from onet_jax.networks.atlasnet import TEMPLATES, CloudEncoder, ImageEncoder, PatchDecoder, Template, around_one

ENCODERS = onet.ENCODERS | {
    'atlasnet_pointnet': Encoder('cloud', lambda k: CloudEncoder(k.cond_size, k.encoder_hidden_size, k.dtype)),
    'atlasnet_resnet18': Encoder('image', lambda k: ImageEncoder(k.cond_size, k.dtype)),
}


class AtlasNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, inputs [B, ...]) -> params
    encode: Callable  # (params, inputs [B, ...]) -> cond [B, C]
    # (params, cond, template [K, N, d], by default the regular one) -> points [B, K, N, 3] in object coordinates
    points: Callable
    # (params, surface [B, M, 3], inputs [B, ...], template [K, N, d], axis_name=None) -> (scalar, Aux), see `chamfer_loss`
    loss: Callable
    draw: Callable  # (key) -> template [K, N, d], random points of each patch, for the loss
    template: Template  # the regular one, the same for all patches: vertices [N, d] and faces [F, 3]


def points_on(decode: Callable, regular: np.ndarray, params: dict, cond: jax.Array, template: Any = None) -> jax.Array:
    """The points of the surface at points of the templates: see `AtlasNetwork`. Raises InputError for another template."""
    cond = jnp.asarray(as_array(cond, 'cond'))
    template = jnp.asarray(as_array(regular if template is None else template, 'template'), cond.dtype)
    num_patches, _, dimension = regular.shape
    if template.ndim != 3 or (template.shape[0], template.shape[2]) != (num_patches, dimension):
        raise InputError(
            f'template: expected an array [{num_patches}, N, {dimension}], found the shape {list(template.shape)}'
        )
    return decode(params, cond, template)


def chamfer_loss(
    module: EncoderDecoder,
    params: dict,
    surface: jax.Array,
    inputs: jax.Array,
    template: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The loss of the paper: the squared Chamfer distance to surface samples, mean plus mean, averaged over the shapes.

    surface [B, M, 3], inputs [B, ...], template [K, N, d], of `AtlasNetwork.draw` in training: as in the official code each
    patch has its own points, and all shapes have the same. axis_name: of the devices that share the batch. With the updated
    running statistics.
    """

    def error(points, surface):
        return losses.chamfer_distance(points.reshape(len(points), -1, 3), surface)

    return loss_of(module, error, params, surface, inputs, axis_name, more=(jnp.asarray(template, surface.dtype),))


def make_model(
    *,
    encoder: str = 'atlasnet_resnet18',
    decoder: str = 'squares',
    cond_size: int = 1024,
    encoder_hidden_size: int = 64,
    decoder_hidden_size: int = 512,
    num_patches: int = 25,
    num_predicted_points: int = 2500,
    num_mesh_points: int = 2500,
    train_dtype: jnp.dtype | None = None,
) -> AtlasNetwork:
    """The functions of a network, without weights.

    encoder               of `ENCODERS`
    decoder               the template of a patch, 'squares' or 'sphere'
    cond_size             C, also the width of the first layer of each patch
    encoder_hidden_size   width of the encoder of clouds; ResNets ignore it
    decoder_hidden_size   width of the other layers of each patch
    num_patches           K; 1 with a sphere
    num_predicted_points  random points of all patches in the loss, the same number in each
    num_mesh_points       vertices of all patches at evaluation and of meshes: the largest grids of at most so many, or the
                          coarsest icosphere of at least so many
    train_dtype           mixed precision: type of the features in the loss

    Raises InputError for an unknown name, and for numbers that do not go together.
    """
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, decoder=TEMPLATES)
    if num_patches < 1 or (decoder == 'sphere' and num_patches != 1):
        wanted = "1 with the decoder 'sphere'" if decoder == 'sphere' else 'at least 1'
        raise InputError(f'config.model.num_patches: expected {wanted}, found {num_patches}')
    if num_predicted_points < num_patches:
        raise InputError(
            f'config.model.num_predicted_points: expected at least one for each of {num_patches} patches, '
            f'found {num_predicted_points}'
        )
    if num_mesh_points < 4 * num_patches:
        raise InputError(
            f'config.model.num_mesh_points: expected at least 2 x 2 for each of {num_patches} patches, '
            f'found {num_mesh_points}'
        )
    make_template, draw_points = TEMPLATES[decoder]
    template = make_template(num_mesh_points // num_patches)
    regular = np.broadcast_to(np.float32(template.vertices), (num_patches, *template.vertices.shape))
    # The official autoencoder initialises its batch normalisations at random, the network of pictures does not.
    scale_init = around_one if encoder == 'atlasnet_pointnet' else nn.initializers.ones

    def build_module(dtype):
        k = SimpleNamespace(**keywords, dtype=dtype)
        patches = PatchDecoder(decoder_hidden_size, scale_init, dtype)
        return EncoderDecoder(ENCODERS[encoder].build(k), patches, ENCODERS[encoder].reads)

    init, encode, decode = functions_of(build_module(None))
    return AtlasNetwork(
        init=lambda key, inputs: init(key, inputs, regular),
        encode=encode,
        points=partial(points_on, decode, regular),
        loss=partial(chamfer_loss, build_module(train_dtype)),
        draw=partial(draw_points, shape=(num_patches, num_predicted_points // num_patches)),
        template=template,
    )


def make_surface(points: np.ndarray, template: Template) -> trimesh.Trimesh:
    """The surface through points [K, N, 3] at the vertices of a template: closed of a sphere, with the faces outwards."""
    numbers = len(template.vertices) * np.arange(len(points))[:, None, None] + template.faces
    kind = trimesh.Trimesh if template.vertices.shape[1] == 3 else OpenSurface
    surface = kind(points.reshape(-1, 3), numbers.reshape(-1, 3), process=False)
    if kind is trimesh.Trimesh and surface.volume < 0:  # the map has turned the sphere inside out
        surface.invert()
    return surface


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are open surfaces of squares, and closed meshes of the sphere."""
    model = make_model(**keywords_of(config, make_model))
    check_inputs(config, ENCODERS[config.model.encoder].reads)

    def init(key, batch):
        return model.init(key, *batch['inputs'].values())

    def loss(variables, batch, key, axis_name):
        (inputs,) = batch['inputs'].values()
        return model.loss(variables, batch['targets']['surface'], inputs, model.draw(key), axis_name)

    def predict_points(params, inputs):
        return model.points(params, model.encode(params, *inputs.values()))

    def validation_metrics(params, batch):
        """The Chamfer distance of the loss at the vertices of the regular template, to all surface samples."""
        points = predict_points(params, batch['inputs'])
        return {'chamfer': losses.chamfer_distance(points.reshape(len(points), -1, 3), batch['targets']['surface'])}

    def predict(params, inputs, key, workspace=None):
        return [make_surface(points, model.template) for points in np.asarray(predict_points(params, inputs))]

    return Method(init, loss, validation_metrics, predict, model, signatures=signatures_of(config, 'points'))
