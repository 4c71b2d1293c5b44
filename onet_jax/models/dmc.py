"""Deep Marching Cubes (Liao et al., CVPR 2018): a point cloud to the occupancies and offsets of marching cubes.

It is trained with points of the surface alone. As the baseline in the paper of Occupancy Networks: 32^3 cells in a cube of edge
1.2, in object coordinates. The mathematics is in `geometry/dmc.py`.

B batch, P points of a cloud, S surface samples, N cells along an axis, M = N + 1, F features.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from onet_jax.data.fields import check_inputs
from onet_jax.errors import InputError
from onet_jax.geometry.dmc import BOX, Terms, extract_mesh, find_cells, loss_terms, to_grid
from onet_jax.models.encoder_decoder import EncoderDecoder, functions_of, signatures_of
from onet_jax.models.method import Aux, Method, as_array, check_names, encode, keywords_of
from onet_jax.networks.dmc import LocalPointnet, UNetDecoder

LEAST_CELLS = 3  # along an axis: with fewer nothing is left after three poolings


class MarchingCubesNetwork(NamedTuple):
    """What the paper defines, as pure jitted functions of the parameters."""

    init: Callable  # (key, cloud [B, P, 3]) -> params
    # (params, cloud [B, P, 3]) -> cond [B, M, M, M, F]; points outside of the cube are left out, and printed how many
    encode: Callable
    surface: Callable  # (params, cond) -> occupancy [B, M, M, M] in [0, 1], offsets [B, M, M, M, 3] in [-1/2, 1/2]
    # (occupancy, offsets, surface [B, S, 3]) -> terms of the loss, weighted: four of [B]
    terms: Callable
    loss: Callable  # (params, surface [B, S, 3], cloud [B, P, 3], axis_name=None) -> (scalar, Aux)


def weighted_terms(weight_prior: float, occupancy: jax.Array, offset: jax.Array, surface: jax.Array) -> Terms:
    """The terms of the loss [B], weighted; one shape after another, which bounds memory."""
    terms = jax.lax.map(jax.checkpoint(lambda shape: loss_terms(*shape)), (surface, occupancy, offset))
    return Terms(*(weight * term for weight, term in zip((5.0, weight_prior, 3.0, 3.0), terms, strict=True)))


def loss_of(
    module: EncoderDecoder,
    terms_of: Callable,
    params: dict,
    surface: jax.Array,
    cloud: jax.Array,
    axis_name: str | None = None,
) -> tuple[jax.Array, Aux]:
    """The loss in train mode, the mean over the batch, its terms, and the updated running statistics."""
    outputs, mutated = module.apply(params, cloud, train=True, axis_name=axis_name, mutable=['batch_stats'])
    terms = {f'loss_{name}': term.mean() for name, term in terms_of(*outputs, surface)._asdict().items()}
    return sum(terms.values()), Aux(mutated, terms)


def encode_cloud(module: EncoderDecoder, params: dict, cloud: jax.Array) -> jax.Array:
    """As `method.encode`; prints how many points are outside of the cube, unless a transformation of JAX is tracing them."""
    cond = encode(module, params, cloud)
    if not isinstance(cloud, jax.core.Tracer):
        cloud, n = as_array(cloud), module.encoder.num_cells
        outside = np.asarray(find_cells(to_grid(jnp.asarray(cloud), n), n)) == n**3
        if outside.any():
            print(
                f'{outside.sum()} of {outside.size} points left out: outside of [-{BOX / 2}, {BOX / 2})^3', flush=True
            )
    return cond


def make_model(
    *,
    encoder: str = 'pointnet_local',
    decoder: str = 'unet',
    cond_size: int = 16,
    encoder_hidden_size: int = 256,
    grid_resolution: int = 32,
    unet_size: int = 16,
    weight_prior: float = 10.0,
    train_dtype: jnp.dtype | None = None,
) -> MarchingCubesNetwork:
    """The functions of a network, without weights.

    cond_size: features of a cell; grid_resolution: cells along an axis; unet_size: features of the U-Net at its finest level;
    weight_prior: of the term of the occupancies. Raises InputError for an unknown name and for fewer than `LEAST_CELLS`.
    """
    check_names(locals(), encoder=('pointnet_local',), decoder=('unet',))
    if grid_resolution < LEAST_CELLS:
        raise InputError(f'config.model.grid_resolution: expected at least {LEAST_CELLS}, found {grid_resolution}')
    module, trained = (
        EncoderDecoder(
            LocalPointnet(grid_resolution, cond_size, encoder_hidden_size), UNetDecoder(unet_size, dtype), 'cloud'
        )
        for dtype in (None, train_dtype)
    )
    init, _, surface = functions_of(module)
    terms = partial(weighted_terms, weight_prior)
    return MarchingCubesNetwork(
        init, partial(encode_cloud, module), surface, jax.jit(terms), partial(loss_of, trained, terms)
    )


def build(config: ConfigDict) -> Method:
    """The method of a config. Predictions are meshes."""
    model = make_model(**keywords_of(config, make_model))
    check_inputs(config, 'cloud')

    def init(key, batch):
        return model.init(key, batch['inputs']['cloud'])

    def loss(variables, batch, key, axis_name):
        return model.loss(variables, batch['targets']['surface'], batch['inputs']['cloud'], axis_name)

    def predict_surface(params, inputs):
        return model.surface(params, model.encode(params, inputs['cloud']))

    def validation_metrics(params, batch):
        """The loss, of all surface samples."""
        return {'loss': sum(model.terms(*predict_surface(params, batch['inputs']), batch['targets']['surface']))}

    def predict(params, inputs, key, workspace=None):
        surfaces = zip(*map(np.asarray, predict_surface(params, inputs)), strict=True)
        return [extract_mesh(occupancy, offset) for occupancy, offset in surfaces]

    signatures = signatures_of(config, 'surface', returns=('occupancy', 'offsets'))
    return Method(init, loss, validation_metrics, predict, model, signatures=signatures)
