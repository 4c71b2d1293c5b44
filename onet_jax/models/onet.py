"""Occupancy Networks (Mescheder et al., CVPR 2019): f(point, code) -> occupancy, by conditional batch normalisation.

An encoder of `networks/encoders/` turns the input into a code for the whole shape; the decoder of `networks/decoders.py` turns
a point and the code into a logit. The loss is `occupancy.negative_elbo`, from the terms in `losses.py`.

B batch, T query points, C condition, Z latent.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from onet_jax.models import occupancy
from onet_jax.models.auto_decoding import fit_codes
from onet_jax.models.method import Encoder, Method, check_names, keywords_of
from onet_jax.models.occupancy import OccupancyModule, OccupancyNetwork
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder
from onet_jax.networks.encoders.image import STAGES, ConvEncoder, ResNet
from onet_jax.networks.encoders.latent import IndexEmbedding, LatentEncoder
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.voxels import VoxelEncoder

# Official name, for `config.model.encoder` -> the field that the encoder reads (`data/field_table.py`), and its module from the
# keywords `k` of `make_model`: module(inputs [B, ...], *, train, axis_name) -> cond [B, C]. A new encoder is a line here.
ENCODERS = {
    'none': Encoder('none', lambda k: None),
    'pointnet_resnet': Encoder('cloud', lambda k: Pointnet(k.cond_size, k.encoder_hidden_size, dtype=k.dtype)),
    'pointnet_simple': Encoder('cloud', lambda k: Pointnet(k.cond_size, k.encoder_hidden_size, False, k.dtype)),
    'simple_conv': Encoder('image', lambda k: ConvEncoder(k.cond_size, k.encoder_hidden_size, k.dtype)),
    **{f'resnet{n}': Encoder('image', lambda k, n=n: ResNet(k.cond_size, n, k.dtype)) for n in STAGES},
    'voxel_simple': Encoder('voxels', lambda k: VoxelEncoder(k.cond_size, k.encoder_hidden_size, k.dtype)),
    'idx': Encoder('index', lambda k: IndexEmbedding(k.cond_size, k.num_shapes, k.code_std)),
}


def make_model(
    *,
    encoder: str = 'pointnet_resnet',
    decoder: str = 'cbatchnorm',
    cond_size: int = 512,
    encoder_hidden_size: int = 512,
    decoder_hidden_size: int = 256,
    latent_size: int = 0,
    leaky: bool = False,
    free_bits: float = 0.0,
    num_shapes: int = 0,
    code_std: float = 1.0,
    train_dtype: jnp.dtype | None = None,
) -> OccupancyNetwork:
    """The functions of a network, without weights.

    encoder, decoder      official names, of `ENCODERS` and `DECODER_OPTIONS`
    cond_size             C
    encoder_hidden_size   width of the encoder; ResNets and the encoder `idx` ignore it
    decoder_hidden_size   width of the decoder
    latent_size           Z; 0 is a network without latent code
    leaky                 leaky ReLU (slope 0.2) as the last activation of the decoder, and in the latent encoder
    free_bits             nats of KL divergence of each latent dimension that cost nothing (see `occupancy.negative_elbo`)
    num_shapes, code_std  of the encoder `idx`: the number of its codes, and their standard deviation before training
    train_dtype           mixed precision: type of the features in the loss. Parameters, code and logits stay float32

    Raises InputError for an unknown name.
    """
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, decoder=DECODER_OPTIONS)

    def build_module(dtype):
        options = {'leaky': leaky, 'dtype': dtype}
        return OccupancyModule(
            decoder=Decoder(decoder_hidden_size, latent_size, **options, **DECODER_OPTIONS[decoder]),
            encoder=ENCODERS[encoder].build(SimpleNamespace(**keywords, dtype=dtype)),
            encoder_latent=LatentEncoder(latent_size, **options) if latent_size else None,
            reads=ENCODERS[encoder].reads,
        )

    return occupancy.occupancy_network(build_module(None), trained=build_module(train_dtype), free_bits=free_bits)


def build(config: ConfigDict) -> Method:
    """The method of a config."""
    model = make_model(**keywords_of(config, make_model))
    if config.model.encoder == 'idx':
        model = model._replace(encode=partial(encode_or_fit, model))
    return occupancy.method(config, model, ENCODERS[config.model.encoder].reads)


def encode_or_fit(model: OccupancyNetwork, params: dict, inputs: jax.Array) -> jax.Array:
    """Codes [B, C]: learned ones, for indices of training shapes [B] int, or ones fitted to labelled points [B, T, 4]."""
    return (
        fit_codes(jax.random.key(0), model, params, inputs) if jnp.ndim(inputs) == 3 else model.encode(params, inputs)
    )
