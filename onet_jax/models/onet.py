"""Occupancy Networks (Mescheder et al., CVPR 2019): one code for the whole shape conditions every point through batch norm.

What sees the input is an encoder of `networks/encoders/`, what answers at a point the decoder of `networks/decoders.py`, what
is learned from is `losses.py`; `occupancy.py` puts the three together, as Convolutional Occupancy Networks do too.
"""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from onet_jax.models import occupancy
from onet_jax.models.auto_decoding import fit_codes
from onet_jax.models.method import Method, check_names, keywords_of
from onet_jax.models.occupancy import Encoder, OccupancyModule, OccupancyNetwork
from onet_jax.networks.decoders import DECODER_OPTIONS, Decoder
from onet_jax.networks.encoders.image import STAGES, ConvEncoder, ResNet
from onet_jax.networks.encoders.latent import IndexEmbedding, LatentEncoder
from onet_jax.networks.encoders.points import Pointnet
from onet_jax.networks.encoders.voxels import VoxelEncoder

# By their official names, from the keywords of `make_model`.
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

    encoder, decoder: official names, of `ENCODERS` and `DECODER_OPTIONS`; cond_size is C, latent_size Z, the hidden sizes are
    the widths of encoder (of points and voxels and of `simple_conv`) and decoder. num_shapes is the number of codes of the
    encoder `idx`, code_std their spread at first. leaky: slope 0.2 in the decoder's last activation and in the latent encoder;
    free_bits: of the loss of latent codes (see `negative_elbo`). train_dtype: of features and their products in the loss, by
    default float32; all else, from parameters to logits, stays float32. Raises InputError for an unknown name.
    """
    keywords = locals()
    check_names(keywords, encoder=ENCODERS, decoder=DECODER_OPTIONS)

    def build_module(dtype):
        options = {'leaky': leaky, 'dtype': dtype}
        return OccupancyModule(
            decoder=Decoder(decoder_hidden_size, latent_size, **options, **DECODER_OPTIONS[decoder]),
            encoder=ENCODERS[encoder].build(SimpleNamespace(**keywords, dtype=dtype)),
            encoder_latent=LatentEncoder(latent_size, **options) if latent_size else None,
        )

    return occupancy.occupancy_network(build_module(None), trained=build_module(train_dtype), free_bits=free_bits)


def build(config: ConfigDict) -> Method:
    """The method of a config."""
    model = make_model(**keywords_of(config))
    if config.model.encoder == 'idx':
        model = model._replace(encode=partial(encode_or_fit, model))
    return occupancy.method(config, model, ENCODERS[config.model.encoder].reads)


def encode_or_fit(model: OccupancyNetwork, params: dict, inputs: jax.Array) -> jax.Array:
    """Codes [B, C] of an embedding: learned ones of numbers of training shapes [B] int, or fitted to labelled points [B, T,
    4]."""
    return fit_codes(jax.random.key(0), model, params, inputs) if inputs.ndim == 3 else model.encode(params, inputs)
